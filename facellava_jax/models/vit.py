"""The vision tower: a CLIP vision transformer, with temporal attention where its config asks for it."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..config import TowerConfig
from .layers import ACTIVATIONS, Attention, Init, Scan, scan_layers


class VisionTower(nnx.Module):
    """One class for both towers (Dosovitskiy et al. 2021; CLIP, Radford et al. 2021; LanguageBind, Zhu et al. 2024).

    The features are the hidden state that `select_layer` names, before any post layer norm; an image is a clip of one
    frame. CLS is dropped unless the config keeps it.
    """

    def __init__(self, config: TowerConfig, init: Init) -> None:
        self.config = config
        self.scan = Scan()
        width = config.hidden_size
        self.class_embedding = init.normal(width)
        self.patch_embedding = init.linear(3 * config.patch_size**2, width, bias=False)
        self.position_embedding = init.normal(config.grid_size**2 + 1, width)
        self.pre_layrnorm = init.layer_norm(width, config.layer_norm_eps)
        self.layers = init.stack(lambda init: VisionLayer(config, init), config.built_layers)

    def __call__(self, pixels_BTYX3: Float[Array, "B T Y X 3"]) -> Float[Array, "B T P C"]:
        """Normalised pixels to features; T is at most the config's num_frames."""
        h_BTPC = scan_layers(self.layers, lambda layer, h: layer(h), self.embed(pixels_BTYX3), self.scan)
        return h_BTPC if self.config.keep_cls else h_BTPC[:, :, 1:]

    def embed(self, pixels_BTYX3: Float[Array, "B T Y X 3"]) -> Float[Array, "B T P C"]:
        """The first layer's input: CLS and patches with their positions, normalised."""
        patches_BTPC = self.patch_embedding(cut_patches(pixels_BTYX3, self.config.patch_size))
        cls_BT1C = jnp.broadcast_to(
            self.class_embedding[...].astype(patches_BTPC.dtype), (*patches_BTPC.shape[:2], 1, patches_BTPC.shape[-1])
        )
        h_BTPC = jnp.concatenate([cls_BT1C, patches_BTPC], axis=2)
        return self.pre_layrnorm(h_BTPC + self.position_embedding[...].astype(h_BTPC.dtype))


class VisionLayer(nnx.Module):
    """Temporal attention over the frames of each patch position (LanguageBind), then a pre-norm transformer layer."""

    def __init__(self, config: TowerConfig, init: Init) -> None:
        width, eps = config.hidden_size, config.layer_norm_eps
        self.hidden_act = config.hidden_act
        self.add_time_attn = config.add_time_attn
        # With one frame LanguageBind adds no temporal embedding, though it still runs the temporal attention.
        self.temporal_embedding = (
            init.normal(config.num_frames, width) if config.add_time_attn and config.num_frames > 1 else None
        )
        if config.add_time_attn:
            self.temporal_layer_norm1 = init.layer_norm(width, eps)
            self.temporal_attn = Attention(width, config.num_attention_heads, init)
        self.layer_norm1 = init.layer_norm(width, eps)
        self.self_attn = Attention(width, config.num_attention_heads, init)
        self.layer_norm2 = init.layer_norm(width, eps)
        self.fc1 = init.linear(width, config.intermediate_size)
        self.fc2 = init.linear(config.intermediate_size, width)

    def __call__(self, h_BTPC: Float[Array, "B T P C"]) -> Float[Array, "B T P C"]:
        if self.temporal_embedding is not None:
            frames = h_BTPC.shape[1]
            h_BTPC = h_BTPC + self.temporal_embedding[:frames, None].astype(h_BTPC.dtype)
        if self.add_time_attn:
            x_BPTC = self.temporal_layer_norm1(h_BTPC).swapaxes(1, 2)
            h_BTPC = h_BTPC + self.temporal_attn.attend(x_BPTC, x_BPTC).swapaxes(1, 2)
        x_BTPC = self.layer_norm1(h_BTPC)
        h_BTPC = h_BTPC + self.self_attn.attend(x_BTPC, x_BTPC)
        x_BTPF = ACTIVATIONS[self.hidden_act](self.fc1(self.layer_norm2(h_BTPC)))
        return h_BTPC + self.fc2(x_BTPF)


def cut_patches(pixels_BTYX3: Float[Array, "B T Y X 3"], size: int) -> Float[Array, "B T P patch"]:
    """Square patches of `size` pixels, row by row, each flattened as (row, column, colour).

    In this order a float32 sum over a patch rounds as PyTorch's convolution on CPU does, to the last bit.
    """
    b, t, y, x, _ = pixels_BTYX3.shape
    patches = pixels_BTYX3.reshape(b, t, y // size, size, x // size, size, 3)
    return patches.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, (y // size) * (x // size), 3 * size**2)
