"""What a benchmark is: where its examples lie, what is asked about them, and what is true of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..answers import Label, Task
from ..errors import FaceLlavaError


class BenchmarkError(FaceLlavaError):
    """A data set's folder that is not laid out as published; the message shows what is expected and what was found."""


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A picture, a clip, a folder of frames, or one frame of a video."""

    path: Path
    frame: int | None = None
    """The number of one frame of a video, from 0; None for the whole file."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question about a face, and its true answer."""

    name: str
    """Tells it from the other examples of its benchmark."""
    task: Task
    truth: Label
    """As `answers.parse` returns it."""
    media: tuple[Medium, ...]
    prompt: str | None = None
    """What is asked; by default the question of the task."""
    landmarks: tuple[Path | None, ...] = ()
    """Landmark files of media that are face crops already; by default the face is looked for."""


class Selection(NamedTuple):
    """The examples of a split, and how many records of it are none, by the reason."""

    examples: list[Example]
    left_out: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set as its authors publish it."""

    name: str
    title: str
    task: Task | None
    """None where each record names its own."""
    splits: tuple[str, ...]
    """What `read` takes; the first is the default, that of the paper."""
    layout: str
    """A drawing of the folder, for those who have unpacked it elsewhere."""
    source: str
    """Where layout, labels and splits are described."""
    read: Callable[..., Selection]
    """Takes the folder and a split; and, where records name their tasks, the one that is asked about, or None.

    Raises BenchmarkError for a split that is none, and for data that are not laid out so.
    """
    classes: tuple[str, ...] = ()
    """The labels that occur, in the data set's order: emotions, or attributes."""
    units: tuple[int, ...] = ()
    """The action units that are scored."""
    paper: Mapping[str, Mapping[str, float]] | None = None
    """By metric: the numbers of Face-LLaVA's paper, `zero_shot` and `fine_tuned`."""
