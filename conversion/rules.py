"""The tables between the original's tensors and our parameters; the same rows run forwards (import) and backwards.

Each table lists every tensor that the original saves, in its order: where it goes, or why it is dropped.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from facellava_jax.config import REGION_PROJECTOR, REGIONS, Config, ModelConfig, TowerConfig, projector_depth
from facellava_jax.models.facellava import abstract_params

# How a tensor becomes a parameter: unchanged; (out, in) -> (in, out); a convolution over patches -> (in, out); a
# leading axis of one removed.
Form = Literal["same", "kernel", "patches", "squeezed"]
Part = Literal["decoder", "image_tower", "video_tower", "projector", "landmarks"]

# LanguageBind's names for its folders, as the original's default configuration has them.
TOWER_FOLDERS: dict[Part, str] = {"image_tower": "LanguageBind_Image", "video_tower": "LanguageBind_Video_merge"}


class Row(NamedTuple):
    """One tensor: its name, our paths (several: stacked along its first axis; none: dropped), and its form."""

    key: str
    paths: tuple[str, ...]
    form: Form = "same"
    # For dropped tensors: the axes as letters (C tower width, D decoder width, V vocabulary, H head size), and why.
    axes: str = ""
    reason: str = ""


class Block(NamedTuple):
    """Rows under common prefixes; `{i}` in these counts the layers, of which the first `built` are ours."""

    part: Part
    key: str
    path: str
    rows: tuple[Row, ...]
    layers: int = 1
    built: int = 1


class Entry(NamedTuple):
    """One tensor of the original for one configuration, `shape` as the original holds it."""

    part: Part
    key: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]
    form: Form
    reason: str


def _linear(key: str, path: str, *, bias: bool = True) -> tuple[Row, ...]:
    weight = Row(f"{key}.weight", (f"{path}/kernel",), "kernel")
    return (weight, Row(f"{key}.bias", (f"{path}/bias",))) if bias else (weight,)


def _norm(key: str, path: str) -> tuple[Row, ...]:
    return Row(f"{key}.weight", (f"{path}/scale",)), Row(f"{key}.bias", (f"{path}/bias",))


DECODER_EMBEDDING = (Row("embed_tokens.weight", ("embed_tokens/embedding",)),)
DECODER_LAYER = (
    *_linear("self_attn.q_proj", "q_proj", bias=False),
    *_linear("self_attn.k_proj", "k_proj", bias=False),
    *_linear("self_attn.v_proj", "v_proj", bias=False),
    *_linear("self_attn.o_proj", "o_proj", bias=False),
    Row("self_attn.rotary_emb.inv_freq", (), axes="H/2", reason="computed from rope_theta"),
    *_linear("mlp.gate_proj", "gate_proj", bias=False),
    *_linear("mlp.up_proj", "up_proj", bias=False),
    *_linear("mlp.down_proj", "down_proj", bias=False),
    Row("input_layernorm.weight", ("input_layernorm/scale",)),
    Row("post_attention_layernorm.weight", ("post_attention_layernorm/scale",)),
)
DECODER_NORM = (Row("norm.weight", ("norm/scale",)),)
TIED = "tied to embed_tokens"
DECODER_HEAD = {
    False: _linear("lm_head", "lm_head", bias=False),
    True: (Row("lm_head.weight", (), axes="VD", reason=TIED),),
}
TOWER_EMBEDDINGS = (
    Row("embeddings.class_embedding", ("class_embedding",)),
    Row("embeddings.patch_embedding.weight", ("patch_embedding/kernel",), "patches"),
    Row("embeddings.position_embedding.weight", ("position_embedding",)),
    *_norm("pre_layrnorm", "pre_layrnorm"),
)
# By whether the tower has more than one frame.
TEMPORAL_EMBEDDING = {
    True: (Row("temporal_embedding", ("temporal_embedding",), "squeezed"),),
    False: (Row("temporal_embedding", (), axes="11C", reason="added only to clips of more than one frame"),),
}
TOWER_LAYER = (
    *_linear("self_attn.k_proj", "self_attn/k_proj"),
    *_linear("self_attn.v_proj", "self_attn/v_proj"),
    *_linear("self_attn.q_proj", "self_attn/q_proj"),
    *_linear("self_attn.out_proj", "self_attn/out_proj"),
    *_norm("layer_norm1", "layer_norm1"),
    *_linear("mlp.fc1", "fc1"),
    *_linear("mlp.fc2", "fc2"),
    *_norm("layer_norm2", "layer_norm2"),
)
TEMPORAL_ATTENTION = (
    *_linear("temporal_attn.k_proj", "temporal_attn/k_proj"),
    *_linear("temporal_attn.v_proj", "temporal_attn/v_proj"),
    *_linear("temporal_attn.q_proj", "temporal_attn/q_proj"),
    *_linear("temporal_attn.out_proj", "temporal_attn/out_proj"),
    *_norm("temporal_layer_norm1", "temporal_layer_norm1"),
)
TOWER_END = (
    Row("post_layernorm.weight", (), axes="C", reason="features are taken before it"),
    Row("post_layernorm.bias", (), axes="C", reason="features are taken before it"),
)
UNREACHED_LAYER = "beyond the selected layer"
CROSS_ATTENTION = {
    "simple": (
        Row("attn.in_proj_weight", ("q_proj/kernel", "k_proj/kernel", "v_proj/kernel"), "kernel"),
        Row("attn.in_proj_bias", ("q_proj/bias", "k_proj/bias", "v_proj/bias")),
        *_linear("attn.out_proj", "out_proj"),
        *_norm("ln", "ln"),
    ),
    "masked": (
        *_linear("q_proj", "q_proj"),
        *_linear("k_proj", "k_proj"),
        *_linear("v_proj", "v_proj"),
        *_norm("ln", "ln"),
    ),
}
CROSS_ATTENTION_END = (
    *_linear("linear_proj", "linear_proj"),
    Row("ln.weight", (), axes="D", reason="the original never applies it"),
    Row("ln.bias", (), axes="D", reason="the original never applies it"),
)
# Tensors of other files and releases, by pattern, that no part of this model has a use for.
DROPPED = (
    (r"text_model\..+", "LanguageBind's text tower"),
    (r"(visual|text)_projection\.weight", "LanguageBind's contrastive head"),
    (r"logit_scale", "LanguageBind's contrastive head"),
    (r"model\.(image|video)_tower\.\1_tower\.embeddings\.position_ids", "a count from zero, saved by older releases"),
)
# What a file calls a tensor -> what a whole checkpoint calls it; every pattern is applied, in order.
LORA = (r"(.+\.lora_[AB])\.default(\.weight)", r"\1\2")
IMAGE_LORA = (r"(model\.image_tower\.image_tower\.encoder)\.base_model\.model(\..+)", r"\1\2")
ALIASES = {
    "checkpoint": (IMAGE_LORA, LORA),
    "image_tower": ((r"vision_model\.(.+)", r"model.image_tower.image_tower.\1"), IMAGE_LORA, LORA),
    "video_tower": ((r"vision_model\.(.+)", r"model.video_tower.video_tower.\1"),),
    "projector": ((r"(?:model\.)?(?:mm_projector\.)?((?:\d+\.)?(?:weight|bias))", r"model.mm_projector.\1"),),
    "adapter": ((r"base_model\.model\.(.+)", r"\1"), LORA),
}


def canonical(key: str, file: str) -> str:
    """The name that a whole checkpoint gives to the tensor that a file of kind `file` (see ALIASES) calls `key`."""
    for pattern, replacement in ALIASES[file]:
        if match := re.fullmatch(pattern, key):
            key = match.expand(replacement)
    return key


def dropped_reason(key: str) -> str | None:
    """Why a tensor that no table lists is dropped; None where nothing says that it may be."""
    return next((reason for pattern, reason in DROPPED if re.fullmatch(pattern, key)), None)


def blocks(model: ModelConfig) -> list[Block]:
    """The tables of one configuration, in the original's order."""
    decoder = model.decoder
    result = [
        Block("decoder", "model.", "decoder/", DECODER_EMBEDDING),
        _layers("decoder", "model.layers.{i}.", DECODER_LAYER, decoder.num_hidden_layers, decoder.num_hidden_layers),
        Block("decoder", "model.", "decoder/", DECODER_NORM),
    ]
    for part in TOWER_FOLDERS:
        if tower := getattr(model, part):
            result += _tower(part, tower)
    if model.tower_width:
        result.append(_projector("projector", "mm_projector", model.mm_projector))
    if landmarks := model.landmarks:
        key, path = "model.landmarks_cross_attn.", "landmarks_cross_attn/"
        result += [
            _projector("landmarks", "landmarks_projector", landmarks.landmarks_projector),
            _projector("landmarks", "global_landmarks_projector", landmarks.global_landmarks_projector),
            Block("landmarks", f"{key}cross_attn.", path, CROSS_ATTENTION[landmarks.cross_attn]),
            Block("landmarks", key, path, CROSS_ATTENTION_END),
        ]
    return [*result, Block("decoder", "", "decoder/", DECODER_HEAD[decoder.tie_word_embeddings])]


def entries(config: Config) -> Iterator[Entry]:
    """Every tensor of the original's checkpoint for this configuration, in its order."""
    model = config.model
    shapes = {path: abstract.shape for path, abstract in abstract_params(model).items()}
    sizes = {"C": model.tower_width or 0, "D": model.decoder.hidden_size, "V": model.decoder.vocab_size, "1": 1}
    for part, key, path, rows, layers, built in blocks(model):
        for layer in range(layers):
            for row in rows:
                stacked = [path.replace("/{i}", "") + name for name in row.paths]
                if not row.paths:
                    shape = (
                        (model.decoder.head_dim // 2,)
                        if row.axes == "H/2"
                        else tuple(sizes[letter] for letter in row.axes)
                    )
                else:
                    shape = shapes[stacked[0]]
                    shape = original_shape(row.form, shape[1:] if "{i}" in path else shape)
                    shape = (shape[0] * len(stacked), *shape[1:])
                paths = tuple(path.format(i=layer) + name for name in row.paths) if layer < built else ()
                reason = row.reason if layer < built else UNREACHED_LAYER
                yield Entry(part, key.format(i=layer) + row.key, shape, paths, row.form, reason)


def original_shape(form: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The original's shape of a parameter of ours."""
    if form == "kernel":
        return shape[::-1]
    if form == "patches":
        side = math.isqrt(shape[0] // 3)
        return shape[1], 3, side, side
    return (1, *shape) if form == "squeezed" else shape


def to_ours(form: Form, tensor: np.ndarray) -> np.ndarray:
    """A view of the original's tensor as our parameter."""
    if form == "patches":
        # (out, colour, row, column) -> (row, column, colour, out): the order of `cut_patches`.
        return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
    if form == "kernel":
        return tensor.T
    return tensor[0] if form == "squeezed" else tensor


def to_original(form: Form, array: np.ndarray) -> np.ndarray:
    """Our parameter as the original's tensor."""
    if form == "patches":
        side = math.isqrt(len(array) // 3)
        return array.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    if form == "kernel":
        return array.T
    return array[None] if form == "squeezed" else array


def _layers(part: Part, key: str, rows: tuple[Row, ...], layers: int, built: int) -> Block:
    return Block(part, key, f"{part}/layers/{{i}}/", rows, layers, built)


def _tower(part: Part, tower: TowerConfig) -> list[Block]:
    key = f"model.{part}.{part}."
    layer = TOWER_LAYER
    if tower.add_time_attn:
        layer = (*TEMPORAL_EMBEDDING[tower.num_frames > 1], *TOWER_LAYER, *TEMPORAL_ATTENTION)
    return [
        Block(part, key, f"{part}/", TOWER_EMBEDDINGS),
        _layers(part, key + "encoder.layers.{i}.", layer, tower.num_hidden_layers, tower.built_layers),
        Block(part, key, f"{part}/", TOWER_END),
    ]


def _projector(part: Part, name: str, kind: str) -> Block:
    """Linear layers, which `nn.Sequential` numbers with the activations counted in; or one for each face region."""
    if kind == REGION_PROJECTOR:
        pairs = [(f"region_layers.{region}", f"region_layers/{region}") for region in REGIONS]
    elif kind == "linear":
        pairs = [("", "linears/0")]
    else:
        pairs = [(str(2 * n), f"linears/{n}") for n in range(projector_depth(kind, name, also="identity"))]
    rows = tuple(row for key, path in pairs for row in _linear(f".{key}" if key else "", path))
    return Block(part, f"model.{name}", f"{name}/", rows)
