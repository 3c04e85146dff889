"""The folder of a run: one process at a time, and from its first step on one experiment for good."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import FaceLlavaError
from ..experiment import Experiment, find_changes
from ..folders import LOCK, hold_folder

EXPERIMENT, METRICS, CHECKPOINTS, RENDERED = "experiment.json", "metrics.jsonl", "checkpoints", "rendered"


class RunError(FaceLlavaError):
    """A run that cannot start, go on or be written; the message names the folder, file or step, and the remedy."""


@contextlib.contextmanager
def claim_folder(folder: Path, experiment: Experiment) -> Iterator[None]:
    """Makes `folder` that of a run of `experiment`, or takes it up again; no other process has it meanwhile.

    Before the first step all may still change but faces that are rendered. Raises FolderError where another process has
    it; RunError where it holds something else, or a run that differs in more than `CHANGEABLE`; ConfigError for an
    `experiment.json` that is damaged.
    """
    with hold_folder(folder):
        file, aside = folder / EXPERIMENT, folder / f"{EXPERIMENT}.partial"
        if file.exists():
            begun, rendered = _has_begun(folder), (folder / RENDERED).exists()
            for name, old, new in find_changes(Experiment.load(file), experiment):
                if begun or (rendered and name.startswith("data.rendering")):
                    raise RunError(
                        f"{folder} holds a run with {name} {old}, not {new}: go on with that, or choose another folder"
                    )
        elif foreign := sorted({file.name for file in folder.iterdir()} - {LOCK, aside.name}):
            raise RunError(f"{folder} holds {foreign[0]} and no run: choose a new folder")
        aside.write_text(experiment.to_json())
        aside.replace(file)
        yield


def _has_begun(folder: Path) -> bool:
    """Whether a run has taken a step: there is a checkpoint, or a line of its log."""
    checkpoints, metrics = folder / CHECKPOINTS, folder / METRICS
    return (checkpoints.exists() and any(checkpoints.iterdir())) or (metrics.exists() and metrics.stat().st_size > 0)
