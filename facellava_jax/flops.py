"""Floating-point operations of a training step by formula, and what devices can do, for the model FLOPs utilisation."""

import math
from collections.abc import Collection

from .axes import Batch
from .config import REGION_PROJECTOR, REGIONS, DType, ModelConfig, TowerConfig
from .models.facellava import abstract_params

# Dense 16-bit operations a second of one device, by the beginning of its `device_kind`; the first that fits counts.
# NVIDIA's data sheets of A100, H100, H200; cloud.google.com/tpu/docs for TPUs (a device of v4 and v5p is a whole chip).
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}

# What gradients pass through on their way back to a part: the part itself, and what comes before it in the model.
TOWERS = ("image_tower", "video_tower")
BRANCH = ("landmarks_projector", "global_landmarks_projector")
BEFORE = {
    **{part: (part,) for part in (*TOWERS, *BRANCH)},
    "mm_projector": (*TOWERS, "mm_projector"),
    "landmarks_cross_attn": (*TOWERS, "mm_projector", *BRANCH, "landmarks_cross_attn"),
    "decoder": (*TOWERS, "mm_projector", *BRANCH, "landmarks_cross_attn", "decoder"),
}


def count_step_flops(config: ModelConfig, batch: Batch, trainable: Collection[str]) -> float:
    """Operations of one step over a batch of this shape: all rows, padding counted in.

    A matrix product of (n, a) and (a, b) takes 2 n a b forwards, 2 n a b for the gradient of its kernel if that trains,
    and 2 n a b for that of its input if anything of its part or before it trains. Attention of n queries and s keys of
    width d takes 4 n s d forwards, and twice that backwards where gradients pass; what a causal mask hides is counted
    in. Norms, activations and softmax are left out, and so is what rematerialisation computes again.
    """
    reached = {part: any(path.split("/")[0] in before for path in trainable) for part, before in BEFORE.items()}
    total = 0.0
    for path, abstract in abstract_params(config).items():
        part, leaf = path.split("/")[0], path.split("/")[-1]
        tied_head = path == "decoder/embed_tokens/embedding" and config.decoder.tie_word_embeddings
        if leaf in ("kernel", "lora_a", "lora_b") or tied_head:
            passes = 1 + (path in trainable) + reached[part]
            total += passes * 2 * math.prod(abstract.shape) * _count_rows(path, config, batch)
    attention = {
        "decoder": _count_decoder_attention(config, batch),
        "landmarks_cross_attn": 4 * _count_visual(config, batch) * _region_tokens(config) * config.decoder.hidden_size,
        **{part: _count_tower_attention(tower, _frames(part, batch)) for part, tower in _towers(config).items()},
    }
    return total + sum((1 + 2 * reached[part]) * count for part, count in attention.items())


def find_peak(device_kind: str, dtype: DType, devices: int = 1) -> float | None:
    """Operations a second that so many devices of a kind can do at most; None where that is not known."""
    if dtype == "float32":
        return None  # it depends on the precision asked for
    return next((devices * peak for kind, peak in PEAKS.items() if device_kind.startswith(kind)), None)


def _count_rows(path: str, config: ModelConfig, batch: Batch) -> int:
    """Rows of the matrix that a kernel is multiplied by."""
    part, *inner = path.split("/")
    if part == "decoder":
        return math.prod(batch.tokens.shape)
    if part in TOWERS:
        patches = _towers(config)[part].grid_size ** 2
        return math.prod(_frames(part, batch)) * (patches if inner[0] == "patch_embedding" else patches + 1)
    frames = sum(math.prod(_frames(tower, batch)) for tower in _towers(config))
    if part in BRANCH:
        return frames
    if inner[0] in ("k_proj", "v_proj"):
        return frames * _region_tokens(config)
    return _count_visual(config, batch)


def _count_visual(config: ModelConfig, batch: Batch) -> int:
    """Visual tokens of a batch, as the towers give them."""
    return sum(math.prod(_frames(part, batch)) * tower.tokens_per_frame for part, tower in _towers(config).items())


def _count_decoder_attention(config: ModelConfig, batch: Batch) -> int:
    rows, length = batch.tokens.shape
    decoder = config.decoder
    return 4 * rows * length**2 * decoder.num_attention_heads * decoder.head_dim * decoder.num_hidden_layers


def _count_tower_attention(tower: TowerConfig, shape: tuple[int, int]) -> int:
    media, frames = shape
    tokens = tower.grid_size**2 + 1
    over_time = frames if tower.add_time_attn else 0
    return 4 * media * frames * tokens * (tokens + over_time) * tower.hidden_size * tower.built_layers


def _region_tokens(config: ModelConfig) -> int:
    """Landmark tokens that each visual token of a frame looks at."""
    if config.landmarks is None:
        return 0
    kinds = (config.landmarks.landmarks_projector, config.landmarks.global_landmarks_projector)
    return len(REGIONS) if REGION_PROJECTOR in kinds else 1


def _towers(config: ModelConfig) -> dict[str, TowerConfig]:
    towers = {"image_tower": config.image_tower, "video_tower": config.video_tower}
    return {part: tower for part, tower in towers.items() if tower}


def _frames(part: str, batch: Batch) -> tuple[int, int]:
    """Media of a tower's kind in a batch, and frames of each."""
    media = batch.images if part == "image_tower" else batch.videos
    if media is None:
        return 0, 0
    rows, places, frames = media.pixels.shape[:3]
    return rows * places, frames
