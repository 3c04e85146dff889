"""Every configuration of the package: frozen dataclasses, presets, and their JSON form.

Field names are those of the PyTorch checkpoint where it has one. Numbers are those of the paper (arXiv 2504.07198) and
of its released code.
"""

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from .errors import FaceLlavaError

Activation = Literal["gelu", "quick_gelu", "silu"]
DType = Literal["float32", "bfloat16", "float16"]
DecoderKernel = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# The nine face regions of the 68 iBUG points, in the order of the landmark tokens: name -> [first, past the last).
REGIONS = {
    "face": (0, 17),
    "eyebrow1": (17, 22),
    "eyebrow2": (22, 27),
    "nose": (27, 31),
    "nostril": (31, 36),
    "eye1": (36, 42),
    "eye2": (42, 48),
    "lips": (48, 60),
    "teeth": (60, 68),
}
LANDMARK_POINTS = 68
REGION_PROJECTOR = "landmarks_region_projector"


class ConfigError(FaceLlavaError):
    """A configuration that no model can be built from; the message names the field and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """A CLIP vision transformer, for images (one frame) or clips. Defaults: LanguageBind's ViT-L/14 for images."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-5
    num_frames: int = 1
    add_time_attn: bool = False
    select_layer: int = -2
    keep_cls: bool = False

    def __post_init__(self) -> None:
        _divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        _divides("patch_size", self.patch_size, "image_size", self.image_size)
        if not 1 <= self.built_layers <= self.num_hidden_layers:
            states = self.num_hidden_layers + 1
            raise ConfigError(
                f"select_layer {self.select_layer} does not exist in a tower of {self.num_hidden_layers} layers: "
                f"use {1 - states} to -1, or 1 to {states - 1}"
            )
        if self.num_frames < 1:
            raise ConfigError(f"num_frames {self.num_frames} is not at least 1")

    @property
    def built_layers(self) -> int:
        """Layers up to the selected hidden state; those beyond it are never computed and so not built."""
        return self.select_layer if self.select_layer >= 0 else self.num_hidden_layers + 1 + self.select_layer

    @property
    def grid_size(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens that a frame gives, the CLS token included where it is kept."""
        return self.grid_size**2 + self.keep_cls


@dataclass(frozen=True, kw_only=True)
class LandmarkConfig:
    """The face-region landmark projector (FRLP) and the face-region guided cross-attention (FRGCA) of the paper."""

    landmarks_projector: str = REGION_PROJECTOR
    global_landmarks_projector: str = "linear"
    cross_attn: Literal["simple", "masked"] = "simple"
    num_attention_heads: int = 8
    residual_scale: float = 0.1
    layer_norm_eps: float = 1e-5
    # The released code swaps rows and columns of the patch grid against the landmarks; its checkpoints expect that.
    transposed_grid: bool = False
    use_landmark_tokens: bool = False

    def __post_init__(self) -> None:
        for name in ("landmarks_projector", "global_landmarks_projector"):
            if getattr(self, name) != REGION_PROJECTOR:
                projector_depth(getattr(self, name), name, also=REGION_PROJECTOR)
        if self.cross_attn == "masked" and self.landmarks_projector != REGION_PROJECTOR:
            raise ConfigError(
                f"cross_attn 'masked' needs the nine tokens of landmarks_projector {REGION_PROJECTOR!r}, "
                f"not {self.landmarks_projector!r}"
            )

    @property
    def appended_tokens(self) -> int:
        """Landmark tokens that follow the visual tokens of each frame: the global projector's, where asked for."""
        if not self.use_landmark_tokens:
            return 0
        return len(REGIONS) if self.global_landmarks_projector == REGION_PROJECTOR else 1


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on the decoder's kernels: W + alpha / rank * A B, with A and B trained and W frozen."""

    rank: int = 128
    alpha: float = 256.0
    targets: tuple[DecoderKernel, ...] = typing.get_args(DecoderKernel)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank {self.rank}: use at least 1")
        if not self.targets or not set(self.targets) <= set(typing.get_args(DecoderKernel)):
            raise ConfigError(f"lora.targets {self.targets}: use some of {', '.join(typing.get_args(DecoderKernel))}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A Llama decoder. Defaults: Vicuna-7B v1.5."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    vocab_size: int = 32000
    hidden_act: Activation = "silu"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling_factor: float = 1.0
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = False
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        _divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        _divides("num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads)
        for name in ("rope_theta", "rope_scaling_factor"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} {getattr(self, name)}: use a number above 0")
        if self.head_dim % 2:
            raise ConfigError(
                f"hidden_size / num_attention_heads is {self.head_dim}: rotary embeddings need an even one"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def max_length(self) -> int:
        """Positions the decoder was made for, linear RoPE scaling counted in."""
        return int(self.max_position_embeddings * self.rope_scaling_factor)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole model: two towers, projector, landmark branch, decoder. A part that is None is not built."""

    image_tower: TowerConfig | None = field(default_factory=TowerConfig)
    video_tower: TowerConfig | None = field(
        default_factory=lambda: TowerConfig(num_frames=8, add_time_attn=True, keep_cls=True)
    )
    mm_projector: str = "mlp2x_gelu"
    landmarks: LandmarkConfig | None = field(default_factory=LandmarkConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    initializer_range: float = 0.02
    dtype: DType = "bfloat16"

    def __post_init__(self) -> None:
        depth = projector_depth(self.mm_projector, "mm_projector", also="identity")
        widths = {tower.hidden_size for tower in (self.image_tower, self.video_tower) if tower}
        if len(widths) > 1:
            raise ConfigError(f"the towers share one projector, but their hidden_size differs: {sorted(widths)}")
        if depth == 0 and widths and widths != {self.decoder.hidden_size}:
            raise ConfigError(
                f"mm_projector 'identity' needs towers of the decoder's hidden_size {self.decoder.hidden_size}, "
                f"not {widths.pop()}"
            )
        if self.landmarks:
            _divides(
                "landmarks.num_attention_heads",
                self.landmarks.num_attention_heads,
                "decoder.hidden_size",
                self.decoder.hidden_size,
            )

    @property
    def tower_width(self) -> int | None:
        """Width of the towers, None where there is no tower."""
        tower = self.image_tower or self.video_tower
        return tower.hidden_size if tower else None

    def slots_per_frame(self, tower: TowerConfig) -> int:
        """Visual tokens laid out for one frame of `tower`: its own, then the appended landmark tokens."""
        return tower.tokens_per_frame + (self.landmarks.appended_tokens if self.landmarks else 0)


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """From a picture or clip to pixels. Defaults: CLIP's mean and deviation, and no padding, as in the original."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    pad_to_square: bool = False


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """From a question to tokens."""

    template: Literal["llava_v1", "v1"] = "llava_v1"
    joint: Literal[" ", ""] = " "
    """What stands between the frames of a clip in a question: the original asks with a space and trains without."""
    max_length: int = 3072


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a checkpoint folder's `config.json` holds: all that is needed to answer with its weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ConfigError for text that is not JSON, and for an unknown, missing or mistyped field, by its name."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"not JSON: {error}") from None
        return build(cls, values)

    def save(self, path: Path) -> None:
        path.write_text(self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.from_json(path.read_text())
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}; mend it, or import the checkpoint again") from None


def facellava_7b() -> Config:
    """The released model: Vicuna-7B v1.5, LanguageBind towers, FRLP and simple FRGCA."""
    return Config()


def tiny() -> Config:
    """A model of every part and few numbers, for tests: 56-pixel frames, 4 of them in a clip, width 64."""
    tower = TowerConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    return Config(
        model=ModelConfig(
            image_tower=tower,
            video_tower=dataclasses.replace(tower, num_frames=4, add_time_attn=True, keep_cls=True),
            decoder=DecoderConfig(
                hidden_size=64,
                intermediate_size=112,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=600,
            ),
            dtype="float32",
        )
    )


def nano() -> Config:
    """The model in `NANO`: made for two CPU cores and three hours, with 96-pixel frames and width 192."""
    tower = TowerConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=96,
        patch_size=16,
        select_layer=-1,
    )
    return Config(
        model=ModelConfig(
            image_tower=tower,
            video_tower=dataclasses.replace(tower, num_frames=4, add_time_attn=True, keep_cls=True),
            # The global token through a small network, and in the prompt: what a width of 192 can tell of 68 points.
            landmarks=LandmarkConfig(
                global_landmarks_projector="mlp2x_gelu", residual_scale=1.0, use_landmark_tokens=True
            ),
            decoder=DecoderConfig(
                hidden_size=192,
                intermediate_size=512,
                num_hidden_layers=3,
                num_attention_heads=6,
                num_key_value_heads=6,
                vocab_size=1000,
                max_position_embeddings=1024,
            ),
            initializer_range=0.06,  # narrow as it is
            dtype="float32",
        ),
        # Asked as it was trained.
        text=TextConfig(template="v1", joint="", max_length=1024),
    )


PRESETS = {"facellava_7b": facellava_7b, "nano": nano, "tiny": tiny}
# The checkpoint that ships with the package.
NANO = Path(__file__).parent / "nano"


def projector_depth(kind: str, name: str = "projector", *, also: str = "") -> int:
    """Linear layers of a projector: 1 for `linear`, N for `mlpNx_gelu`, 0 for `identity` where `also` allows it.

    Raises ConfigError for a name of another form.
    """
    if kind == "linear":
        return 1
    if kind == "identity" and also == "identity":
        return 0
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if not match:
        supported = ", ".join(filter(None, ["linear", "mlp2x_gelu (any number for 2)", also]))
        raise ConfigError(f"{name} {kind!r} is not supported: use one of {supported}")
    return int(match[1])


def _divides(name: str, value: int, of: str, total: int) -> None:
    if value < 1 or total % value:
        raise ConfigError(f"{name} {value} does not divide {of} {total}")


def build(kind: typing.Any, value: typing.Any, path: str = "") -> typing.Any:
    """`value`, as JSON gives it, in the type that an annotation asks for.

    Raises ConfigError for an unknown, missing or mistyped field, by its name.
    """
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{path.removesuffix('.') or 'config'}: {value!r} is not an object")
        hints = typing.get_type_hints(kind)
        if wrong := value.keys() ^ hints.keys():
            name = sorted(wrong)[0]
            raise ConfigError(f"{path + name}: {'unknown field' if name in value else 'missing'}")
        return kind(**{name: build(hints[name], value[name], f"{path}{name}.") for name in hints})
    path = path.removesuffix(".")
    if origin is types.UnionType:
        first, _ = typing.get_args(kind)
        return None if value is None else build(first, value, path + ".")
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{path}: {value!r} is not one of {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        parts = typing.get_args(kind)
        if isinstance(value, list) and parts[-1] is Ellipsis:
            return tuple(build(parts[0], item, f"{path}.{number}.") for number, item in enumerate(value))
        if not isinstance(value, list) or len(value) != len(parts):
            raise ConfigError(f"{path}: {value!r} is not a list of {len(parts)} numbers")
        return tuple(build(part, item, path) for part, item in zip(parts, value, strict=True))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path}: {value!r} is not of type {kind.__name__}")
    return value
