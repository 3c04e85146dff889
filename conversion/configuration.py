"""The original's `config.json` and LanguageBind's, to our Config and back."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from facellava_jax.config import (
    LANDMARK_POINTS,
    Activation,
    Config,
    ConfigError,
    DecoderConfig,
    DType,
    LandmarkConfig,
    ModelConfig,
    TextConfig,
    TowerConfig,
)

from .rules import TOWER_FOLDERS, Part
from .source import Json, LazyTensor, SourceError

MODEL_TYPES = ("llava", "llama")
LANDMARK_FIELDS = ("landmarks_projector_type", "global_landmarks_projector_type", "cross_attn_type")
CONFIG = "config.json"
# The class defaults of the original's CLIPVisionConfig, which are not the sizes of the released towers.
TOWER_DEFAULTS: Json = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_frames": 1,
    "add_time_attn": False,
    "lora_r": 2,
    "lora_alpha": 16.0,
    "num_channels": 3,
}
# Those of transformers 4.31's LlamaConfig, and of the original's additions to it.
DEFAULTS: Json = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_layer": -2,
    "use_landmark_tokens": False,
    "landmarks_hidden_size": 2 * LANDMARK_POINTS,
    "tokenizer_model_max_length": 3072,
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TOWER_PRESETS: dict[Part, TowerConfig] = {
    "image_tower": TowerConfig(),
    "video_tower": TowerConfig(num_frames=8, add_time_attn=True, keep_cls=True),
}


@dataclass(frozen=True)
class SourceTower:
    """What is known of a tower before it is read: LanguageBind's config where there is one, and its tensors' shapes."""

    config: Json | None
    tensors: Mapping[str, LazyTensor]


def read_config(raw: Json, towers: Mapping[Part, SourceTower], dtype: DType, *, new_landmarks: bool) -> Config:
    """Our configuration of a checkpoint.

    Args:
        raw: the checkpoint's `config.json`.
        towers: the towers it comes with.
        dtype: of the model's weights.
        new_landmarks: the landmark modules are to be initialised, not imported.

    Raises SourceError for a field that asks for what is not supported, with what is.
    """
    _require(CONFIG, "model_type", raw.get("model_type"), MODEL_TYPES)
    for name in ("mm_use_im_start_end", "attention_bias", "mlp_bias"):
        _require(CONFIG, name, _field(raw, name), (False,))
    projector = _projector_name(raw, "mm_projector_type", "linear" if "mm_hidden_size" in raw else "mlp2x_gelu")
    try:
        model = ModelConfig(
            image_tower=_tower("image_tower", raw, towers),
            video_tower=_tower("video_tower", raw, towers),
            mm_projector=projector,
            landmarks=_landmarks(raw, new=new_landmarks),
            decoder=_decoder(raw),
            initializer_range=_field(raw, "initializer_range"),
            dtype=dtype,
        )
        if model.tower_width and model.tower_width != raw.get("mm_hidden_size", model.tower_width):
            raise SourceError(
                f"config.json: mm_hidden_size {raw['mm_hidden_size']} is not the towers' hidden_size "
                f"{model.tower_width}: give the towers that the checkpoint was trained with"
            )
        return Config(model=model, text=TextConfig(max_length=_size(raw, "tokenizer_model_max_length")))
    except ConfigError as error:
        raise SourceError(f"{CONFIG}: {error}") from None


def lora_of(tower: Json | None) -> tuple[int | None, float]:
    """`lora_r` (None where no config tells) and `lora_alpha` of a LanguageBind config."""
    file = f"{TOWER_FOLDERS['image_tower']}/{CONFIG}"
    vision = (tower or {}).get("vision_config") or {}
    rank = _field(vision, "lora_r", TOWER_DEFAULTS, file) if tower else None
    return rank, _field(vision, "lora_alpha", TOWER_DEFAULTS, file)


def original_config(config: Config, kept: Json) -> Json:
    """The original's `config.json` for a model of ours: `kept`, the one that it came with, brought up to date."""
    model, decoder = config.model, config.model.decoder
    fields: Json = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "bos_token_id": kept.get("bos_token_id", 1),
        "eos_token_id": kept.get("eos_token_id", 2),
        "pad_token_id": kept.get("pad_token_id", 0),
        "hidden_act": decoder.hidden_act,
        "hidden_size": decoder.hidden_size,
        "initializer_range": model.initializer_range,
        "intermediate_size": decoder.intermediate_size,
        "max_position_embeddings": decoder.max_position_embeddings,
        "mm_projector_type": model.mm_projector,
        "mm_use_im_patch_token": kept.get("mm_use_im_patch_token", False),
        "mm_use_im_start_end": False,
        "num_attention_heads": decoder.num_attention_heads,
        "num_hidden_layers": decoder.num_hidden_layers,
        "num_key_value_heads": decoder.num_key_value_heads,
        "rms_norm_eps": decoder.rms_norm_eps,
        "rope_scaling": None
        if decoder.rope_scaling_factor == 1
        else {"factor": decoder.rope_scaling_factor, "type": "linear"},
        "tie_word_embeddings": decoder.tie_word_embeddings,
        "tokenizer_model_max_length": config.text.max_length,
        "torch_dtype": model.dtype,
        "use_cache": kept.get("use_cache", True),
        "vocab_size": decoder.vocab_size,
    }
    # transformers 4.31 has no such field: it is written only where it says something.
    if decoder.rope_theta != DEFAULTS["rope_theta"] or "rope_theta" in kept:
        fields["rope_theta"] = decoder.rope_theta
    if tower := model.image_tower or model.video_tower:
        fields |= {
            "mm_hidden_size": tower.hidden_size,
            "mm_vision_select_feature": "cls_patch" if model.image_tower and tower.keep_cls else "patch",
            "mm_vision_select_layer": tower.select_layer,
            "use_mm_proj": True,
        }
    for part, folder in TOWER_FOLDERS.items():
        if getattr(model, part):
            fields[f"mm_{part}"] = kept.get(f"mm_{part}") or f"LanguageBind/{folder}"
    if landmarks := model.landmarks:
        fields |= {
            "cross_attn_type": landmarks.cross_attn,
            "global_landmarks_projector_type": landmarks.global_landmarks_projector,
            "landmarks_hidden_size": 2 * LANDMARK_POINTS,
            "landmarks_projector_type": landmarks.landmarks_projector,
            "use_landmark_tokens": landmarks.use_landmark_tokens,
        }
    return {name: value for name, value in {**kept, **fields}.items() if name != "rope_parameters"}


def original_tower_config(tower: TowerConfig, kept: Json | None) -> Json:
    """LanguageBind's `config.json` for a tower of ours, of its full depth; LoRA has been merged."""
    vision = {name: getattr(tower, name) for name in TOWER_DEFAULTS if hasattr(tower, name)}
    kept = kept or {"model_type": "LanguageBindVideo" if tower.num_frames > 1 else "LanguageBindImage"}
    return {**kept, "vision_config": {**kept.get("vision_config", {}), **vision, "lora_r": 0}}


def _decoder(raw: Json) -> DecoderConfig:
    theta, factor = _rope(raw)
    heads = _size(raw, "num_attention_heads")
    sizes: Json = {name: _size(raw, name) for name in (*SIZES, "vocab_size", "max_position_embeddings")}
    decoder = DecoderConfig(
        **sizes,
        num_key_value_heads=_size(raw, "num_key_value_heads", {"num_key_value_heads": heads}),
        hidden_act=_activation(raw, DEFAULTS, CONFIG),
        rms_norm_eps=_field(raw, "rms_norm_eps"),
        tie_word_embeddings=_field(raw, "tie_word_embeddings"),
        rope_theta=theta,
        rope_scaling_factor=factor,
    )
    _require(CONFIG, "head_dim", raw.get("head_dim"), (None, decoder.head_dim))
    return decoder


def _rope(raw: Json) -> tuple[float, float]:
    """Theta and the linear scaling factor, as transformers wrote them before and since release 5."""
    parameters = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or parameters
    if not isinstance(scaling, dict) or not isinstance(parameters, dict):
        raise SourceError("config.json: rope_scaling is not an object: use null or {type, factor}")
    theta = _field(parameters if "rope_theta" in parameters else raw, "rope_theta")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    _require(CONFIG, "rope_scaling type", kind, ("linear", "default"))
    return theta, _field(scaling, "factor", {"factor": 1.0}) if kind == "linear" else 1.0


def _landmarks(raw: Json, *, new: bool) -> LandmarkConfig | None:
    if not new and not any(raw.get(name) for name in LANDMARK_FIELDS):
        return None
    _require(CONFIG, "landmarks_hidden_size", _field(raw, "landmarks_hidden_size"), (2 * LANDMARK_POINTS,))
    default = LandmarkConfig()
    cross_attn = raw.get("cross_attn_type") or default.cross_attn
    _require(CONFIG, "cross_attn_type", cross_attn, ("simple", "masked"))
    return LandmarkConfig(
        landmarks_projector=_projector_name(raw, "landmarks_projector_type", default.landmarks_projector),
        global_landmarks_projector=_projector_name(
            raw, "global_landmarks_projector_type", default.global_landmarks_projector
        ),
        cross_attn=cross_attn,
        transposed_grid=cross_attn == "masked" and not new,
        use_landmark_tokens=_field(raw, "use_landmark_tokens"),
    )


def _projector_name(raw: Json, name: str, default: str) -> str:
    value = raw.get(name) or default
    if not isinstance(value, str):
        raise SourceError(f"{CONFIG}: {name} {value!r} is not a name: use one of linear, mlp2x_gelu")
    if "mask_adapter" in value:
        raise SourceError(
            f"{CONFIG}: {name} {value!r}: face-mask adapters are not supported: use a checkpoint without them"
        )
    return value


def _tower(part: Part, raw: Json, towers: Mapping[Part, SourceTower]) -> TowerConfig | None:
    if part not in towers:
        return None
    source = towers[part]
    select = _field(raw, "mm_vision_select_layer")
    feature = raw.get("mm_vision_select_feature") or "patch"
    _require(CONFIG, "mm_vision_select_feature", feature, ("patch", "cls_patch"))
    # The original's video tower keeps the CLS token whatever the config says.
    keep_cls = part == "video_tower" or feature == "cls_patch"
    try:
        if source.config is None:
            tower = _tower_of_shapes(part, source.tensors)
            return replace(tower, select_layer=select, keep_cls=keep_cls)
        return _tower_of_config(part, source.config, select_layer=select, keep_cls=keep_cls)
    except ConfigError as error:
        raise SourceError(f"{TOWER_FOLDERS[part]}: {error}") from None


def _tower_of_config(part: Part, config: Json, **selection: Any) -> TowerConfig:
    file = f"{TOWER_FOLDERS[part]}/{CONFIG}"
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise SourceError(f"{file} has no vision_config: copy LanguageBind's own {CONFIG}")
    _require(file, "num_channels", _field(vision, "num_channels", TOWER_DEFAULTS, file), (3,))
    temporal = _field(vision, "add_time_attn", TOWER_DEFAULTS, file)
    if part == "image_tower" and temporal:
        raise SourceError(f"{file}: add_time_attn true is for clips: give the video tower with --video-tower")
    sizes: Json = {name: _size(vision, name, TOWER_DEFAULTS, file) for name in (*SIZES, "image_size", "patch_size")}
    return TowerConfig(
        **sizes,
        hidden_act=_activation(vision, TOWER_DEFAULTS, file),
        layer_norm_eps=_field(vision, "layer_norm_eps", TOWER_DEFAULTS, file),
        num_frames=1 if part == "image_tower" else _size(vision, "num_frames", TOWER_DEFAULTS, file),
        add_time_attn=temporal,
        **selection,
    )


def _tower_of_shapes(part: Part, tensors: Mapping[str, LazyTensor]) -> TowerConfig:
    """A tower of ViT-L/14's kind whose sizes are those of its tensors."""
    prefix = f"model.{part}.{part}."

    def shape(name: str) -> tuple[int, ...]:
        if prefix + name not in tensors:
            folder = TOWER_FOLDERS[part]
            raise SourceError(f"{prefix}{name} is missing, so the tower's size is unknown: add {folder}/config.json")
        return tensors[prefix + name].shape

    # Where it is absent, so may be the last layers: nothing then tells the depth that the select layer counts from.
    width = shape("post_layernorm.weight")[0]
    layers = [
        int(match[1]) for key in tensors if (match := re.match(rf"{re.escape(prefix)}encoder\.layers\.(\d+)\.", key))
    ]
    patch = shape("embeddings.patch_embedding.weight")[-1]
    temporal = f"{prefix}encoder.layers.0.temporal_embedding" in tensors
    preset = TOWER_PRESETS[part]
    return replace(
        preset,
        hidden_size=width,
        intermediate_size=shape("encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=max(layers, default=-1) + 1,
        patch_size=patch,
        image_size=patch * round((shape("embeddings.position_embedding.weight")[0] - 1) ** 0.5),
        add_time_attn=f"{prefix}encoder.layers.0.temporal_attn.q_proj.weight" in tensors,
        num_frames=shape("encoder.layers.0.temporal_embedding")[1] if temporal else preset.num_frames,
    )


def _activation(raw: Json, defaults: Json, file: str) -> Activation:
    value: Activation = raw.get("hidden_act") or defaults["hidden_act"]
    _require(file, "hidden_act", value, get_args(Activation))
    return value


def _require(file: str, name: str, value: Any, supported: Collection[Any]) -> None:
    if value not in supported:
        raise SourceError(f"{file}: {name} {value!r} is not supported: use {' or '.join(map(json.dumps, supported))}")


def _size(raw: Json, name: str, defaults: Json = DEFAULTS, file: str = CONFIG) -> int:
    value: int = _field(raw, name, defaults, file)
    if value < 1:
        raise SourceError(f"{file}: {name} {value} is not at least 1: correct it")
    return value


def _field(raw: Json, name: str, defaults: Json = DEFAULTS, file: str = CONFIG) -> Any:
    """A value of its default's type; null stands for the default."""
    default = defaults[name]
    value = default if raw.get(name) is None else raw[name]
    if type(value) is int and type(default) is float:
        return float(value)
    if type(value) is not type(default):
        raise SourceError(f"{file}: {name} {value!r} is no {type(default).__name__}: correct it")
    return value
