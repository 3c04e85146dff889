"""The records of a run that were skipped, in a file with their causes; too many of them end the run."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from ..folders import read_whole_lines
from .loader import BatchLoader, LoadedBatch, Skipped
from .plan import EMPTY
from .records import DataError, shorten_cause

FEWEST = 100  # samples to be met before their share counts


class Quarantine:
    """A JSONL file with one line for each damaged record, and the count of samples met and damaged so far.

    A run that goes on continues the file, one that begins anew empties it: a record has one line in it, however often
    it is met.
    """

    def __init__(
        self, file: Path, max_damaged: float, loader: BatchLoader, start: int = 0, steps: int | None = None
    ) -> None:
        """`start` is the next step of the run; what was met before it is counted from the plan.

        `steps` is how many it takes, by default all of the plan. Raises DataError for a file that is something else.
        """
        self.file, self.max_damaged = file, max_damaged
        self._rows = loader.rows
        self._steps = loader.plan.steps if steps is None else steps
        self._damaged = {skipped.record: skipped for skipped in _read(file)}
        if start == 0:
            file.unlink(missing_ok=True)
            self._damaged = {}
        if max(self._damaged, default=0) >= loader.plan.size:
            raise DataError(f"{file}: lists records of other data: move it away")
        shown = loader.plan.show(start, loader.rows)
        self.met, self.damaged = int(shown.sum()), int(shown[list(self._damaged)].sum())
        share = (loader.rows.stop - loader.rows.start) / loader.plan.batch_size
        self._fewest = min(FEWEST, int(len(loader.plan.select(0)) * share))

    def add(self, loaded: LoadedBatch) -> None:
        """Counts a step's samples and lists those skipped.

        Raises DataError where the share of damaged samples is above `max_damaged`, once enough were met, or all.
        """
        self.met += int(np.count_nonzero(loaded.records[self._rows] != EMPTY))
        self.damaged += len(loaded.skipped)
        new = [skipped for skipped in loaded.skipped if skipped.record not in self._damaged]
        if new:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(skipped._asdict()) + "\n" for skipped in new)
        self._damaged |= {skipped.record: skipped for skipped in new}
        enough = self.met >= self._fewest or loaded.step + 1 == self._steps
        if enough and self.damaged > self.max_damaged * self.met:
            cause, _ = Counter(shorten_cause(skipped.cause) for skipped in self._damaged.values()).most_common(1)[0]
            raise DataError(
                f"{self.damaged} of {self.met} samples are damaged, more than data.max_damaged {self.max_damaged} "
                f"allows, most often: {cause}; {self.file} lists them: mend them, or allow more"
            )


def _read(file: Path) -> list[Skipped]:
    """The lines of an earlier run."""
    try:
        return [Skipped(**json.loads(line)) for line in read_whole_lines(file)]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: is no list of skipped records ({error}): move it away") from None
