"""The Llama decoder: grouped-query attention, rotary positions, SwiGLU, RMSNorm, and a KV cache."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ..axes import KVCache
from ..config import DecoderConfig, DecoderKernel
from .layers import ACTIVATIONS, Init, Scan, scan_layers

PADDING_TOKEN = 0


class Decoder(nnx.Module):
    """Llama (Touvron et al. 2023): embeddings in, hidden states out; `logits` reads them."""

    def __init__(self, config: DecoderConfig, init: Init) -> None:
        self.config = config
        self.scan = Scan()
        self.embed_tokens = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            embedding_init=nnx.initializers.normal(init.stddev),
            dtype=init.dtype,
            rngs=init.rngs,
        )
        self.layers = init.stack(lambda init: DecoderLayer(config, init), config.num_hidden_layers)
        self.norm = init.rms_norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = (
            None if config.tie_word_embeddings else init.linear(config.hidden_size, config.vocab_size, bias=False)
        )

    def __call__(
        self,
        h_BLD: Float[Array, "B L D"],
        positions_BL: Int[Array, "B L"],
        mask_BLS: Bool[Array, "B L S"],
        cache: KVCache | None = None,
        slot: int | Int[Array, ""] = 0,
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """Final hidden states, and the cache with the new keys and values written from `slot` on.

        `mask_BLS` says which keys a query sees: the L of this call, or with a cache its S slots.
        """
        rotary = rotary_angles(positions_BL, self.config)

        def step(
            layer: DecoderLayer, carry: tuple[Array, KVCache | None, Array]
        ) -> tuple[Array, KVCache | None, Array]:
            h_BLD, cache, index = carry
            h_BLD, cache = layer(h_BLD, rotary, mask_BLS, cache, index, slot)
            return h_BLD, cache, index + 1

        h_BLD, cache, _ = scan_layers(self.layers, step, (h_BLD, cache, jnp.int32(0)), self.scan)
        return self.norm(h_BLD), cache

    def embed(self, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Embeddings of tokens; that of the padding token learns nothing from them, as in the original."""
        # Cast after the gather: the gradient of a frequent token is a long sum, which bfloat16 would cut short.
        embeds_BLD = self.embed_tokens.embedding[...][tokens_BL].astype(self.embed_tokens.dtype)
        return jnp.where((tokens_BL == PADDING_TOKEN)[..., None], jax.lax.stop_gradient(embeds_BLD), embeds_BLD)

    def logits(self, h_BLD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Float32 logits of final hidden states."""
        table_DV = self.embed_tokens.embedding[...].T if self.lm_head is None else self.lm_head.kernel[...]
        return jnp.einsum("BLD,DV->BLV", h_BLD, table_DV.astype(h_BLD.dtype), preferred_element_type=jnp.float32)

    def make_cache(self, batch: int, slots: int) -> KVCache:
        """An empty cache in the compute dtype."""
        config = self.config
        shape = (config.num_hidden_layers, batch, slots, config.num_key_value_heads, config.head_dim)
        return KVCache(jnp.zeros(shape, self.embed_tokens.dtype), jnp.zeros(shape, self.embed_tokens.dtype))


class DecoderLayer(nnx.Module):
    def __init__(self, config: DecoderConfig, init: Init) -> None:
        width, keys = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.config = config

        def linear(name: DecoderKernel, inputs: int, outputs: int) -> nnx.Linear:
            if config.lora and name in config.lora.targets:
                return init.adapted_linear(inputs, outputs, config.lora)
            return init.linear(inputs, outputs, bias=False)

        self.input_layernorm = init.rms_norm(width, config.rms_norm_eps)
        self.q_proj = linear("q_proj", width, width)
        self.k_proj = linear("k_proj", width, keys)
        self.v_proj = linear("v_proj", width, keys)
        self.o_proj = linear("o_proj", width, width)
        self.post_attention_layernorm = init.rms_norm(width, config.rms_norm_eps)
        self.gate_proj = linear("gate_proj", width, config.intermediate_size)
        self.up_proj = linear("up_proj", width, config.intermediate_size)
        self.down_proj = linear("down_proj", config.intermediate_size, width)

    def __call__(
        self,
        h_BLD: Float[Array, "B L D"],
        rotary: tuple[Float[Array, "B L 1 half"], Float[Array, "B L 1 half"]],
        mask_BLS: Bool[Array, "B L S"],
        cache: KVCache | None,
        index: Int[Array, ""],
        slot: int | Int[Array, ""],
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """`index` is the layer's own, `slot` the first cache slot to write."""
        b, length, _ = h_BLD.shape
        x_BLD = self.input_layernorm(h_BLD)
        q_BLNH = rotate(self.q_proj(x_BLD).reshape(b, length, -1, self.config.head_dim), rotary)
        k_BSGH = rotate(self.k_proj(x_BLD).reshape(b, length, -1, self.config.head_dim), rotary)
        v_BSGH = self.v_proj(x_BLD).reshape(b, length, -1, self.config.head_dim)
        if cache is not None:
            # Written in place in the scan's carry: as scan inputs and outputs the cache would be copied every step.
            cache = KVCache(
                *(
                    jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), (index, 0, slot, 0, 0))
                    for old, new in zip(cache, (k_BSGH, v_BSGH), strict=True)
                )
            )
            k_BSGH, v_BSGH = (jax.lax.dynamic_index_in_dim(array, index, keepdims=False) for array in cache)
        a_BLNH = jax.nn.dot_product_attention(q_BLNH, k_BSGH, v_BSGH, mask=mask_BLS[:, None])
        h_BLD = h_BLD + self.o_proj(a_BLNH.reshape(b, length, -1))
        x_BLD = self.post_attention_layernorm(h_BLD)
        x_BLF = ACTIVATIONS[self.config.hidden_act](self.gate_proj(x_BLD)) * self.up_proj(x_BLD)
        return h_BLD + self.down_proj(x_BLF), cache


def rotary_angles(
    positions_BL: Int[Array, "B L"], config: DecoderConfig
) -> tuple[Float[Array, "B L 1 half"], Float[Array, "B L 1 half"]]:
    """Cosines and sines of RoPE (Su et al. 2021, equation 34), positions divided by the linear scaling factor."""
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    scaled_BL = positions_BL.astype(jnp.float32) / config.rope_scaling_factor
    angles = scaled_BL[..., None, None] / config.rope_theta**exponent
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x_BLNH: Float[Array, "B L N H"], rotary: tuple[Float[Array, "B L 1 half"], Float[Array, "B L 1 half"]]
) -> Float[Array, "B L N H"]:
    """Rotates pairs (i, i + H/2), the layout of Llama checkpoints in the Hugging Face format; in float32."""
    cos, sin = rotary
    first, second = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BLNH.dtype)
