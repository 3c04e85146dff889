"""A training run as a value: where it starts, what trains, on which data, how, and on how many devices.

Each file of `configs/` binds one `Experiment` to the name `config`; the command line overrides its fields by dotted
names. Defaults are the recipe's of Face-LLaVA's first stage (paper, section 4).
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from .config import Config, ConfigError, DType, LoraConfig, build

# What trains, as patterns of parameter paths; `*` stands for anything.
LANDMARK_BRANCH = ("landmarks_projector/*", "global_landmarks_projector/*", "landmarks_cross_attn/*")
PROJECTOR = ("mm_projector/*",)
DECODER = ("decoder/*",)

# What may change when a run goes on: not what a step computes from which samples. (The schedule follows `steps`.)
CHANGEABLE = ("checkpoint_every", "keep", "data.workers", "mesh", "remat")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Records in FaceInstruct-1M's format: a list (.json), or a folder that `facellava data prepare` wrote."""

    path: Path
    """The list or the prepared folder."""
    image_root: Path | None = None
    """What pictures and their landmarks are relative to; by default the list's folder."""
    video_root: Path | None = None
    """What clips and their landmarks are relative to; by default the list's folder."""
    weight: float = 1.0
    """How often an epoch shows each record: 2 shows all twice, 0.5 a new half each time."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"{self.path}: weight {self.weight}: use a number above 0, or leave the source out")


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Faces that a run renders for itself, into its own folder, before it starts."""

    samples: int
    """How many records."""
    seed: int = 0
    """Of what is drawn."""
    frames: int = 8
    """Of each clip; the model may take fewer of them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is shown, in which order and how much at once."""

    sources: tuple[Source, ...] = ()
    rendering: Rendering | None = None
    """Rendered faces as one more source."""
    batch_size: int = 168
    """Samples to a step of the optimizer, on all devices and accumulated parts together."""
    epochs: int = 1
    template: Literal["v1", "llava_v1"] = "v1"
    """How conversations are written out: the original trains with one, and answers with the other."""
    pad_to_square: bool = True
    """Pictures are padded with the mean colour before they are scaled: the original does so in training alone."""
    max_text_length: int = 2048
    """Tokens of a conversation, each image or frame counted as one; longer ones are cut."""
    max_damaged: float = 0.01
    """The share of the samples met so far that may be damaged; beyond it the run stops."""
    workers: int = 0
    """Processes that read; 0 reads in the training process."""
    seed: int = 0
    """Of the order."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "max_text_length"):
            _at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("workers", "seed"):
            _at_least(f"data.{name}", getattr(self, name), 0)
        if not 0 <= self.max_damaged <= 1:
            raise ConfigError(f"data.max_damaged {self.max_damaged}: use a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = 1e-4
    projector_learning_rate: float | None = None
    """Of `mm_projector`, where it trains; by default as the rest."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    """On kernels and embeddings; never on biases and norms."""
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    """The share of the steps in which the learning rate rises from 0."""
    clip_norm: float | None = 1.0
    """Gradients of a larger global norm are scaled down to it; None leaves them."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after another; the result is that of the whole."""

    def __post_init__(self) -> None:
        _at_least("optim.accumulate", self.accumulate, 1)
        for name in ("learning_rate", "projector_learning_rate", "eps", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"optim.{name} {value}: use a number from 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name} {getattr(self, name)}: use a number from 0, and below 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"optim.clip_norm {self.clip_norm}: use a number above 0, or None for no clipping")
        if not 0 <= self.warmup_ratio <= 1:
            raise ConfigError(f"optim.warmup_ratio {self.warmup_ratio}: use a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all that are left."""

    data: int = 1
    """Replicas of the parameters."""
    fsdp: int = -1
    """Parts that the parameters and the batch are divided in."""
    tensor: int = 1
    """Parts that heads and feed-forward widths are divided in."""

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ConfigError(f"mesh {sizes}: use numbers from 1, and -1 at most once")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run of `facellava train`."""

    start: Path | None = None
    """The checkpoint folder that the run starts from; None draws every parameter."""
    model: Config | None = None
    """The model to train, by default that of `start`. Parameters that `start` lacks are drawn."""
    tokenizer: Path | None = None
    """A folder with a tokenizer, by default that of `start`."""
    trainable: tuple[str, ...] = LANDMARK_BRANCH
    """Patterns of the paths of the parameters that train; all others are frozen."""
    lora: LoraConfig | None = None
    """Adapters on the decoder, trained beside `trainable`."""
    merge_lora: bool = True
    """Add the adapters into the result's kernels; else they stay arrays of their own beside them."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    dtype: DType = "bfloat16"
    """Of arithmetic and of frozen parameters; what trains is kept in float32."""
    remat: bool = True
    """Compute activations again in the backward pass, which saves memory."""
    steps: int | None = None
    """Stop after so many; by default after the data's epochs."""
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints of the run that are kept, the newest."""
    seed: int = 0
    """Of the parameters that are drawn."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep"):
            _at_least(name, getattr(self, name), 1)
        if self.steps is not None:
            _at_least("steps", self.steps, 1)
        if self.data.batch_size % self.optim.accumulate:
            raise ConfigError(
                f"optim.accumulate {self.optim.accumulate} does not divide data.batch_size {self.data.batch_size}"
            )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises ConfigError for a file that `to_json` did not write, by the field that is wrong."""
        try:
            return build(cls, json.loads(file.read_text()))
        except (ConfigError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{file}: {error}; restore it, or choose another folder for the run") from None


def find_changes(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two experiments differ, with both values; those of CHANGEABLE left out."""
    yield from _compare("", dataclasses.asdict(old), dataclasses.asdict(new))


def _compare(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if name in CHANGEABLE or old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        parts: list[Any] = list(old)
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        parts = list(range(len(old)))
    else:
        yield name, old, new
        return
    for part in parts:
        yield from _compare(f"{name}.{part}" if name else str(part), old[part], new[part])


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} {value}: use at least {least}")
