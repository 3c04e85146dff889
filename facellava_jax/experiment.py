"""A training run as a value: where it starts, what trains, on which data, how, and on how many devices.

Each file of `configs/` binds one `Experiment` to the name `config`; the command line overrides its fields by dotted
names. Defaults are the recipe's of Face-LLaVA's first stage (paper, section 4).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .config import Config, ConfigError, DType

# What trains, as patterns of parameter paths; `*` stands for anything.
LANDMARK_BRANCH = ("landmarks_projector/*", "global_landmarks_projector/*", "landmarks_cross_attn/*")
PROJECTOR = ("mm_projector/*",)
DECODER = ("decoder/*",)


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
        if not self.weight > 0:
            raise ConfigError(f"{self.path}: weight {self.weight}: use a number above 0, or leave the source out")


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Faces that a run renders for itself, into its own folder, before it starts."""

    samples: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is shown, in which order and how much at once."""

    sources: tuple[Source, ...] = ()
    rendering: Rendering | None = None
    """Rendered faces as one more source."""
    batch_size: int = 168
    """Samples to a step of the optimizer, on all devices and accumulated parts together."""
    epochs: int = 1
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
        _at_least("data.workers", self.workers, 0)
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
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"optim.clip_norm {self.clip_norm}: use a number above 0, or None for no clipping")
        if not 0 <= self.warmup_ratio <= 1:
            raise ConfigError(f"optim.warmup_ratio {self.warmup_ratio}: use a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on the decoder's kernels: W + alpha / rank * A B, with A and B trained and W frozen."""

    rank: int = 128
    alpha: float = 256.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        _at_least("lora.rank", self.rank, 1)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all that are left."""

    data: int = 1
    """Replicas of the parameters."""
    fsdp: int = -1
    """Parts that the parameters and the batch are divided in."""
    tensor: int = 1
    """Parts that heads and feed-forward widths are divided in."""


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


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} {value}: use at least {least}")
