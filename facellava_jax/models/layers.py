"""Pieces that the towers, the landmark branch and the decoder share."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from ..config import Activation, LoraConfig, projector_depth

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


def symmetric_uniform(bound: float) -> nnx.Initializer:
    """Uniform numbers between -bound and bound."""
    return lambda key, shape, dtype=jnp.float32, out_sharding=None: jax.random.uniform(key, shape, dtype, -bound, bound)


class Init:
    """What building a module needs beside its config: random streams, initial deviation, compute dtype.

    Parameters are made in float32; loading gives them the dtype asked for. Arithmetic runs in `dtype`, with softmax,
    norms and logits in float32.
    """

    def __init__(self, rngs: nnx.Rngs, stddev: float, dtype: str) -> None:
        self.rngs = rngs
        self.stddev = stddev
        self.dtype = jnp.dtype(dtype)

    def linear(
        self, inputs: int, outputs: int, *, bias: bool = True, kernel_init: nnx.Initializer | None = None
    ) -> nnx.Linear:
        return nnx.Linear(
            inputs,
            outputs,
            use_bias=bias,
            kernel_init=kernel_init or nnx.initializers.normal(self.stddev),
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def adapted_linear(self, inputs: int, outputs: int, lora: LoraConfig) -> "AdaptedLinear":
        return AdaptedLinear(
            inputs,
            outputs,
            lora,
            use_bias=False,
            kernel_init=nnx.initializers.normal(self.stddev),
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def layer_norm(self, width: int, eps: float) -> nnx.LayerNorm:
        # The fast variance, E[x^2] - E[x]^2, cancels in float32: parity needs the two-pass one.
        return nnx.LayerNorm(width, epsilon=eps, dtype=self.dtype, use_fast_variance=False, rngs=self.rngs)

    def rms_norm(self, width: int, eps: float) -> nnx.RMSNorm:
        return nnx.RMSNorm(width, epsilon=eps, dtype=self.dtype, rngs=self.rngs)

    def normal(self, *shape: int) -> nnx.Param:
        return nnx.Param(self.stddev * jax.random.normal(self.rngs.params(), shape))

    def stack(self, layer: Callable[["Init"], nnx.Module], length: int) -> nnx.Module:
        """`length` layers as one module whose parameters have a leading layer axis, for `scan_layers`."""

        @nnx.split_rngs(splits=length)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> nnx.Module:
            return layer(Init(rngs, self.stddev, self.dtype.name))

        return make(self.rngs)


class Scan(NamedTuple):
    """How stacked layers run where a gradient is taken of them; the default is for answering."""

    remat: bool = False
    """The backward pass keeps each layer's input alone, and computes the rest again."""
    gather: Callable[[str, Array], Array] | None = None
    """Brings a parameter, given by path, together from the devices that hold its parts, before its layer runs."""


def scan_layers(layers: nnx.Module, step: Callable[[Any, Any], Any], carry: Any, scan: Scan) -> Any:
    """Runs stacked layers one after another, compiled once: carry = step(layer, carry)."""
    graphdef, params = nnx.split(layers)

    def body(carry: Any, params: nnx.State) -> tuple[Any, None]:
        if scan.gather:
            flat = nnx.to_flat_state(params)
            whole = [(path, p.replace(scan.gather("/".join(map(str, path)), p[...]))) for path, p in flat]
            params = nnx.from_flat_state(whole)
        return step(nnx.merge(graphdef, params), carry), None

    if scan.remat:
        # A scan keeps what is computed again apart from what was there: no barriers are needed.
        body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, carry, params)[0]


class AdaptedLinear(nnx.Linear):
    """x W + alpha / rank * x A B (LoRA, Hu et al. 2021); B starts at 0, A uniform as its authors' code draws it."""

    def __init__(self, inputs: int, outputs: int, lora: LoraConfig, **linear: Any) -> None:
        super().__init__(inputs, outputs, **linear)
        self.scale = lora.alpha / lora.rank
        self.lora_a = nnx.Param(symmetric_uniform(inputs**-0.5)(linear["rngs"].params(), (inputs, lora.rank)))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, outputs)))

    def __call__(self, x: Float[Array, "*batch inputs"], out_sharding: None = None) -> Float[Array, "*batch outputs"]:
        a, b = (param[...].astype(self.dtype) for param in (self.lora_a, self.lora_b))
        return super().__call__(x) + self.scale * (x @ a @ b)


class Attention(nnx.Module):
    """Multi-head attention with biases, from `q` to `k = v`; `output` says whether an output projection follows."""

    def __init__(
        self, width: int, num_heads: int, init: Init, *, output: bool = True, kernel_init: nnx.Initializer | None = None
    ) -> None:
        self.num_heads = num_heads
        self.q_proj = init.linear(width, width, kernel_init=kernel_init)
        self.k_proj = init.linear(width, width, kernel_init=kernel_init)
        self.v_proj = init.linear(width, width, kernel_init=kernel_init)
        self.out_proj = init.linear(width, width) if output else None

    def attend(
        self,
        q: Float[Array, "*batch L C"],
        kv: Float[Array, "*batch S C"],
        bias: Float[Array, "*batch L S"] | None = None,
    ) -> Float[Array, "*batch L C"]:
        """`bias` is added to the scores of every head before the softmax."""
        q_BLNH = self.project_query(q)
        k_BSNH, v_BSNH = (self.split_heads(proj(kv)) for proj in (self.k_proj, self.v_proj))
        bias_B1LS = None if bias is None else bias.reshape(-1, 1, *bias.shape[-2:])
        out_BLNH = jax.nn.dot_product_attention(q_BLNH, k_BSNH, v_BSNH, bias=bias_B1LS, scale=1.0)
        out = out_BLNH.reshape(q.shape)
        return out if self.out_proj is None else self.out_proj(out)

    def weigh(
        self,
        q: Float[Array, "*batch L C"],
        kv: Float[Array, "*batch S C"],
        bias: Float[Array, "*batch L S"] | None = None,
    ) -> Float32[Array, "*batch N L S"]:
        """The softmax of the scores: what `attend`, which keeps it to itself, weighs the values with."""
        q_BLNH, k_BSNH = self.project_query(q), self.split_heads(self.k_proj(kv))
        scores_BNLS = jnp.einsum("BLNH,BSNH->BNLS", q_BLNH, k_BSNH, preferred_element_type=jnp.float32)
        scores = scores_BNLS.reshape(*q.shape[:-2], *scores_BNLS.shape[1:])
        return jax.nn.softmax(scores if bias is None else scores + bias[..., None, :, :], axis=-1)

    def project_query(self, q: Float[Array, "*batch L C"]) -> Float[Array, "B L N H"]:
        q_BLNH = self.split_heads(self.q_proj(q))
        # Scaled before the product with the keys, as in the original: float32 rounds the two orders differently.
        return q_BLNH * q_BLNH.shape[-1] ** -0.5

    def split_heads(self, x: Float[Array, "*batch L C"]) -> Float[Array, "B L N H"]:
        """One batch axis, and the width in heads."""
        return x.reshape(-1, x.shape[-2], self.num_heads, x.shape[-1] // self.num_heads)


class Projector(nnx.Module):
    """`linear`, `mlpNx_gelu` (N layers with exact GELU between them) or `identity`."""

    def __init__(self, kind: str, inputs: int, outputs: int, init: Init) -> None:
        depth = projector_depth(kind, also="identity")
        widths = [inputs] + [outputs] * depth
        self.linears = nnx.List([init.linear(a, b) for a, b in pairwise(widths)])

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for i, linear in enumerate(self.linears):
            x = linear(ACTIVATIONS["gelu"](x) if i else x)
        return x
