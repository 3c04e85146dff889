"""The landmark branch: face-region landmark projector (FRLP) and face-region guided cross-attention (FRGCA)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from ..config import LANDMARK_POINTS, REGION_PROJECTOR, REGIONS, LandmarkConfig
from .layers import Attention, Init, Projector, symmetric_uniform


class RegionProjector(nnx.Module):
    """One linear layer for each of the nine face regions: 68 points to 9 tokens (paper section 3.2, local part)."""

    def __init__(self, width: int, init: Init) -> None:
        self.region_layers = nnx.Dict(
            {name: init.linear(2 * (end - start), width) for name, (start, end) in REGIONS.items()}
        )

    def __call__(self, z_BTK2: Float[Array, "B T K 2"]) -> Float[Array, "B T R D"]:
        b, t, _, _ = z_BTK2.shape
        tokens = [
            self.region_layers[name](z_BTK2[:, :, start:end].reshape(b, t, -1))
            for name, (start, end) in REGIONS.items()
        ]
        return jnp.stack(tokens, axis=2)


class WholeFaceProjector(Projector):
    """All 136 numbers to one token (paper section 3.2, global part)."""

    def __init__(self, kind: str, width: int, init: Init) -> None:
        super().__init__(kind, 2 * LANDMARK_POINTS, width, init)

    def __call__(self, z_BTK2: Float[Array, "B T K 2"]) -> Float[Array, "B T 1 D"]:
        b, t, k, _ = z_BTK2.shape
        return super().__call__(z_BTK2.reshape(b, t, 1, 2 * k))


def landmark_projector(kind: str, width: int, init: Init) -> RegionProjector | WholeFaceProjector:
    """The module that a config's `landmarks_projector` or `global_landmarks_projector` names."""
    return RegionProjector(width, init) if kind == REGION_PROJECTOR else WholeFaceProjector(kind, width, init)


class LandmarkCrossAttention(Attention):
    """FRGCA: each visual token looks at the landmark tokens of its own frame (paper section 3.3).

    h' = h + s (W LayerNorm(h + MHA(h, tokens)) + b). `masked` adds `distance_mask` to the scores, and its attention
    has no output projection.
    """

    def __init__(self, config: LandmarkConfig, width: int, init: Init) -> None:
        self.config = config
        masked = config.cross_attn == "masked"
        super().__init__(
            width,
            config.num_attention_heads,
            init,
            output=not masked,
            # torch's MultiheadAttention holds q, k and v in one (3 width, width) matrix, drawn xavier-uniform.
            kernel_init=None if masked else symmetric_uniform((6 / (3 * width + width)) ** 0.5),
        )
        self.ln = init.layer_norm(width, config.layer_norm_eps)
        self.linear_proj = init.linear(width, width)

    def __call__(
        self,
        h_BTPD: Float[Array, "B T P D"],
        tokens_BTRD: Float[Array, "B T R D"],
        z_BTK2: Float[Array, "B T K 2"],
    ) -> Float[Array, "B T P D"]:
        a_BTPD = self.attend(h_BTPD, tokens_BTRD, self.score_bias(h_BTPD, z_BTK2))
        return h_BTPD + self.config.residual_scale * self.linear_proj(self.ln(h_BTPD + a_BTPD))

    def weigh_regions(
        self,
        h_BTPD: Float[Array, "B T P D"],
        tokens_BTRD: Float[Array, "B T R D"],
        z_BTK2: Float[Array, "B T K 2"],
    ) -> Float32[Array, "B T N P R"]:
        """How much of each landmark token every head mixes into each visual token: shares that sum to 1 over R."""
        return self.weigh(h_BTPD, tokens_BTRD, self.score_bias(h_BTPD, z_BTK2))

    def score_bias(
        self, h_BTPD: Float[Array, "B T P D"], z_BTK2: Float[Array, "B T K 2"]
    ) -> Float[Array, "B T P R"] | None:
        """What is added to the scores: the distance mask where the config asks for it."""
        if self.config.cross_attn != "masked":
            return None
        return distance_mask(z_BTK2, h_BTPD.shape[2], transposed=self.config.transposed_grid)


def distance_mask(z_BTK2: Float[Array, "B T K 2"], tokens: int, *, transposed: bool) -> Float[Array, "B T P R"]:
    """Nearness of every patch to every face region: softmax over regions of minus the distance of their centres.

    `tokens` is the number of visual tokens of a frame: a square number of patches, after a CLS token (whose row is
    1/9) where there is one more. `transposed` reads patch (row, column) as (x, y), as the released code does.
    """
    grid = math.isqrt(tokens)
    axis = (jnp.arange(grid) + 0.5) / grid
    rows_P, columns_P = (x.reshape(-1) for x in jnp.meshgrid(axis, axis, indexing="ij"))
    centres_P2 = jnp.stack([rows_P, columns_P] if transposed else [columns_P, rows_P], axis=-1)
    centroids_BTR2 = jnp.stack([z_BTK2[..., start:end, :].mean(axis=-2) for start, end in REGIONS.values()], axis=-2)
    offsets_BTPR2 = centres_P2[:, None] - centroids_BTR2[..., None, :, :]
    mask_BTPR = jax.nn.softmax(-jnp.linalg.norm(offsets_BTPR2, axis=-1), axis=-1)
    cls_BTpR = jnp.full((*mask_BTPR.shape[:2], tokens - grid**2, len(REGIONS)), 1 / len(REGIONS))
    return jnp.concatenate([cls_BTpR, mask_BTPR], axis=2)
