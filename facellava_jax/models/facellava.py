"""Face-LLaVA, as in figure 2 of the paper: towers, projector, landmark branch, splice, decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from ..axes import Batch, KVCache, Media
from ..config import ModelConfig
from .landmarks import LandmarkCrossAttention, landmark_projector
from .layers import Init, Projector
from .llama import Decoder
from .vit import VisionTower


class FaceLlava(nnx.Module):
    """media -> tower -> projector -> h_v; landmarks -> FRLP -> h_l; FRGCA(h_v, h_l) -> splice -> Llama -> logits."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        init = Init(rngs, config.initializer_range, config.dtype)
        width = config.decoder.hidden_size
        self.config = config
        self.image_tower = VisionTower(config.image_tower, init) if config.image_tower else None
        self.video_tower = VisionTower(config.video_tower, init) if config.video_tower else None
        inputs = config.tower_width
        self.mm_projector = Projector(config.mm_projector, inputs, width, init) if inputs else None
        if config.landmarks:
            self.landmarks_projector = landmark_projector(config.landmarks.landmarks_projector, width, init)
            self.global_landmarks_projector = landmark_projector(
                config.landmarks.global_landmarks_projector, width, init
            )
            self.landmarks_cross_attn = LandmarkCrossAttention(config.landmarks, width, init)
        self.decoder = Decoder(config.decoder, init)

    def __call__(self, batch: Batch, cache: KVCache | None = None) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """Final hidden states of whole prompts, from position 0 on; `cache`, where given, is filled from slot 0."""
        return self.read(self.splice(batch, self.encode(batch)), jnp.asarray(batch.lengths), cache)

    def read(
        self, embeds_BLD: Float[Array, "B L D"], lengths_B: Int[Array, " B"], cache: KVCache | None = None
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """The decoder over spliced prompts of these lengths."""
        b, length, _ = embeds_BLD.shape
        mask_BLS = causal_mask(lengths_B, length, length if cache is None else cache.k.shape[2])
        return self.decoder(embeds_BLD, jnp.broadcast_to(jnp.arange(length), (b, length)), mask_BLS, cache)

    def encode(self, batch: Batch) -> Float[Array, "B E D"] | None:
        """Visual tokens of each sample: those of its images, then those of its clips; None without any."""
        parts = [
            self.encode_media(tower, media)
            for tower, media in ((self.image_tower, batch.images), (self.video_tower, batch.videos))
            if tower is not None and media is not None
        ]
        return jnp.concatenate(parts, axis=1) if parts else None

    def encode_media(self, tower: VisionTower, media: Media) -> Float[Array, "B E D"]:
        """The visual tokens of every medium, frame after frame."""
        b, *_ = media.pixels.shape
        h_BTPD, z_BTK2 = self.project_media(tower, media)
        h_BTPD = self.guide(h_BTPD, z_BTK2, jnp.reshape(media.has_landmarks, -1))
        return h_BTPD.reshape(b, -1, h_BTPD.shape[-1])

    def project_media(
        self, tower: VisionTower, media: Media
    ) -> tuple[Float[Array, "B T P D"], Float[Array, "B T K 2"]]:
        """The projected features h_v of every medium, and its landmarks: all media of the batch on one axis."""
        b, m, *_ = media.pixels.shape
        pixels_BTYX3, z_BTK2 = (jnp.reshape(x, (b * m, *x.shape[2:])) for x in (media.pixels, media.landmarks))
        assert self.mm_projector is not None  # it is there wherever a tower is
        return self.mm_projector(tower(pixels_BTYX3)), z_BTK2

    def weigh_regions(self, tower: VisionTower, media: Media) -> Float32[Array, "B M T P R"]:
        """What the visual tokens look at: FRGCA's weights (paper section 3.3), averaged over its heads.

        They sum to 1 over R. P is as the tower gives it: the CLS token comes first where the config keeps it. Media
        without landmarks have weights as well, which nothing uses. Needs a model with landmark modules.
        """
        h_BTPD, z_BTK2 = self.project_media(tower, media)
        tokens_BTRD, _ = self.landmark_tokens(z_BTK2)
        weights_BTNPR = self.landmarks_cross_attn.weigh_regions(h_BTPD, tokens_BTRD, z_BTK2)
        weights_BTPR = weights_BTNPR.mean(axis=2)
        return weights_BTPR.reshape(*media.pixels.shape[:2], *weights_BTPR.shape[1:])

    def guide(
        self, h_BTPD: Float[Array, "B T P D"], z_BTK2: Float[Array, "B T K 2"], has_B: Bool[Array, " B"]
    ) -> Float[Array, "B T slots D"]:
        """The landmark branch on projected features; those of media without landmarks stay as they are."""
        if not self.config.landmarks:
            return h_BTPD
        tokens_BTRD, global_BTRD = self.landmark_tokens(z_BTK2)
        guided_BTPD = self.landmarks_cross_attn(h_BTPD, tokens_BTRD, z_BTK2)
        h_BTPD = jnp.where(has_B[:, None, None, None], guided_BTPD, h_BTPD)
        if not self.config.landmarks.use_landmark_tokens:
            return h_BTPD
        return jnp.concatenate([h_BTPD, global_BTRD.astype(h_BTPD.dtype)], axis=2)

    def landmark_tokens(
        self, z_BTK2: Float[Array, "B T K 2"]
    ) -> tuple[Float[Array, "B T R D"], Float[Array, "B T _ D"]]:
        """FRLP: the landmark tokens h_l = local + global, and the global ones alone (paper section 3.2)."""
        global_BTRD = self.global_landmarks_projector(z_BTK2)
        return self.landmarks_projector(z_BTK2) + global_BTRD, global_BTRD

    def splice(self, batch: Batch, visual_BED: Float[Array, "B E D"] | None) -> Float[Array, "B L D"]:
        """The decoder's input: a token's embedding, or the visual token that the position points at."""
        embeds_BLD = self.decoder.embed(jnp.asarray(batch.tokens))
        if visual_BED is None:
            return embeds_BLD
        index_BL1 = jnp.asarray(batch.visual_index)[..., None]
        gathered_BLD = jnp.take_along_axis(visual_BED, jnp.maximum(index_BL1, 0), axis=1)
        return jnp.where(index_BL1 >= 0, gathered_BLD.astype(embeds_BLD.dtype), embeds_BLD)


def causal_mask(lengths_B: Int[Array, " B"], length: int, slots: int) -> Bool[Array, "B L S"]:
    """Queries at positions 0 to L - 1 see the keys up to their own, of the prompt's true length."""
    query_L1, key_S = jnp.arange(length)[:, None], jnp.arange(slots)
    return (key_S <= query_L1) & (key_S < lengths_B[:, None, None])


def abstract_model(config: ModelConfig) -> FaceLlava:
    """The model with shapes for arrays: nothing is allocated, whatever the size."""
    return nnx.eval_shape(lambda: FaceLlava(config, nnx.Rngs(0)))


def abstract_params(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of every parameter, in float32; `layers` in a path stands for a leading layer axis."""
    # The compute dtype changes no parameter: configs that differ in it share one trace.
    _, state = _split_abstract(dataclasses.replace(config, dtype="float32"))
    return {
        "/".join(map(str, path)): jax.ShapeDtypeStruct(param.shape, param.dtype)
        for path, param in nnx.to_flat_state(state)
    }


def build_model(config: ModelConfig, params: dict[str, jax.Array]) -> FaceLlava:
    """The model with these parameters, by path; the paths must be those of `abstract_params`."""
    graphdef, state = _split_abstract(config)
    filled = [(path, param.replace(params["/".join(map(str, path))])) for path, param in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


@functools.lru_cache(maxsize=8)
def _split_abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The abstract model's two halves, not to be changed. Loading asks for them several times, and tracing is slow."""
    return nnx.split(abstract_model(config), nnx.Param)
