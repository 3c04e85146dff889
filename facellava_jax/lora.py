"""LoRA after training: adapters added into the kernels that they adapt. (`models` computes with them apart.)"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .config import ConfigError, LoraConfig, ModelConfig

# The paths of adapters.
ADAPTERS = ("decoder/layers/*/lora_[ab]",)


def merge_lora(params: Mapping[str, jax.Array], config: ModelConfig) -> dict[str, jax.Array]:
    """The parameters of `without_lora(config)` that compute the same, each kernel in the dtype that it has.

    Raises ConfigError for a model without adapters.
    """
    lora = config.decoder.lora
    if lora is None:
        raise ConfigError("decoder.lora is None: there are no adapters to merge")
    merged = dict(params)
    for name in lora.targets:
        kernel, a, b = (f"decoder/layers/{name}/{leaf}" for leaf in ("kernel", "lora_a", "lora_b"))
        merged[kernel] = _add_stacked(merged[kernel], merged.pop(a), merged.pop(b), lora)
    return merged


def without_lora(config: ModelConfig) -> ModelConfig:
    """The model that merged parameters are of."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, lora=None))


def add_adapter(
    kernel: Float[Array, "inputs outputs"],
    a: Float[Array, "inputs rank"],
    b: Float[Array, "rank outputs"],
    lora: LoraConfig,
) -> Float[Array, "inputs outputs"]:
    """W + alpha / rank * A B of one layer, summed in float32, in the dtype of W."""
    product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")
    return (kernel.astype(jnp.float32) + lora.alpha / lora.rank * product).astype(kernel.dtype)


@partial(jax.jit, static_argnames="lora")
def _add_stacked(kernel: jax.Array, a: jax.Array, b: jax.Array, lora: LoraConfig) -> jax.Array:
    """Layer by layer: a whole stack in float32 can be gigabytes."""
    return jax.lax.map(lambda layer: add_adapter(layer[0], layer[1], layer[2], lora), (kernel, a, b))
