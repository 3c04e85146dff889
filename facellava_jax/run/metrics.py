"""What a run reports of each step: a line of `metrics.jsonl`, TensorBoard events."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..extras import require
from ..folders import read_whole_lines
from .folder import METRICS, RunError


class MetricsLog:
    """`metrics.jsonl` and `tensorboard/` of a run. Steps that are there already stay as they are."""

    def __init__(self, folder: Path) -> None:
        """Goes on after the last whole line. Raises RunError for a file that is no log of steps."""
        self._path = folder / METRICS
        self._last = _find_last_step(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._events = require("tensorboardX", "train").SummaryWriter(str(folder / "tensorboard"))

    def write(self, row: Mapping[str, Any]) -> None:
        """One step; its line is on its way to the disk on return. Raises RunError where the disk does not take it."""
        if row["step"] <= self._last:
            return
        # Events first: a process killed in between writes these again, and a curve bears a point twice, not a gap.
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(name, value, row["step"])
        try:
            self._events.flush()
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._path}: {error.strerror}: the run goes on from its last checkpoint when that is mended"
            ) from None
        self._last = row["step"]

    def close(self) -> None:
        # Every line is flushed; what could fail here is one that `write` has raised for.
        with contextlib.suppress(OSError):
            self._file.close()
        self._events.close()


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, in order; one that is cut short is left out."""
    with (folder / METRICS).open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _find_last_step(file: Path) -> int:
    """That of the last line, 0 where there is none."""
    try:
        lines = read_whole_lines(file)
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{file} ends in a line that is no step of a run: remove the file, or that line") from None
