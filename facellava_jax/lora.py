"""LoRA after training: adapters added into the kernels that they adapt. (`models` computes with them apart.)"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .config import LoraConfig, ModelConfig

# The paths of adapters.
ADAPTERS = ("decoder/layers/*/lora_[ab]",)


def without_lora(config: ModelConfig) -> ModelConfig:
    """The model that merged parameters are of."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, lora=None))


def merge_adapter(
    path: str, array: np.ndarray, lora: LoraConfig | None, read: Callable[[str], np.ndarray]
) -> np.ndarray:
    """An array of one layer; a kernel that has an adapter as W + alpha / rank * A B, summed in float32, in W's dtype.

    Args:
        path: as it is on disk, `decoder/layers/7/q_proj/kernel`.
        array: what the path names.
        lora: the model's; None where it has none, or where adapters stay apart.
        read: gives what stands beside a kernel, `lora_a` (inputs, rank) and `lora_b` (rank, outputs).
    """
    *parents, module, leaf = ("", *path.split("/"))
    if lora is None or leaf != "kernel" or parents[1:3] != ["decoder", "layers"] or module not in lora.targets:
        return array
    a, b = (jnp.asarray(read(name), jnp.float32) for name in ("lora_a", "lora_b"))
    merged = jnp.asarray(array, jnp.float32) + lora.alpha / lora.rank * jnp.matmul(a, b, precision="highest")
    return np.asarray(merged.astype(array.dtype))
