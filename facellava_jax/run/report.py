"""What a run tells of its steps: to its log, to a progress bar, and in plain lines where there is no terminal."""

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
from tqdm import tqdm

from ..data import LoadedBatch
from ..data.plan import EMPTY
from ..program import say
from ..step import Metrics
from .metrics import MetricsLog

SECONDS_BETWEEN_LINES = 1.0


class TakenStep(NamedTuple):
    """A step that was handed to the devices; `metrics` are on their way."""

    step: int
    metrics: Metrics
    samples: list[int]
    """The numbers of its records."""
    skipped: int
    positions: int
    """Of the whole batch, padding counted in."""
    flops: float
    waiting: float
    """Seconds until its batch was there."""

    @classmethod
    def of(cls, step: int, loaded: LoadedBatch, metrics: Metrics, positions: int, flops: float, waiting: float) -> Self:
        samples = loaded.records[loaded.records != EMPTY].tolist()
        return cls(step, metrics, samples, len(loaded.skipped), positions, flops, waiting)


class StepReport:
    """The numbers of each step, in order, as they arrive."""

    def __init__(self, run: Path, done: int, steps: int, peak: float | None) -> None:
        """For a run of `steps` of which some are done, on devices that do `peak` operations a second together.

        Of several processes the first one reports.
        """
        self._run, self._steps, self._peak = run, steps, peak
        self._log = MetricsLog(run) if jax.process_index() == 0 else None
        quiet = None if self._log else True
        self._bar = tqdm(total=steps, initial=done, unit="step", desc=run.name, disable=quiet, dynamic_ncols=True)
        self._finished = time.perf_counter()
        self._said = -math.inf

    def write(self, taken: TakenStep) -> None:
        """Waits for a step's numbers, and writes them down."""
        loss, grad_norm, learning_rate = (float(taken.metrics[name]) for name in ("loss", "grad_norm", "learning_rate"))
        seconds, self._finished = time.perf_counter() - self._finished, time.perf_counter()
        tokens = int(taken.metrics["length"])
        row = {
            "step": taken.step,
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "tokens": tokens,
            "targets": int(taken.metrics["tokens"]),
            "samples": taken.samples,
            "skipped": taken.skipped,
            "tokens_per_second": tokens / seconds,
            "samples_per_second": len(taken.samples) / seconds,
            "seconds": seconds,
            "waiting": min(1.0, taken.waiting / seconds),
            "mfu": taken.flops / seconds / self._peak if self._peak else None,
            "padding": 1 - tokens / taken.positions,
        }
        if self._log:
            self._log.write(row)
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        self._bar.update(row["step"] - self._bar.n)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {row['loss']:.4f}, lr {row['learning_rate']:.2e}")
        elif row["step"] == self._steps or self._finished - self._said > SECONDS_BETWEEN_LINES:
            self._said = self._finished
            say(
                f"{self._run.name}: step {row['step']} of {self._steps}, loss {row['loss']:.4f}, "
                f"lr {row['learning_rate']:.2e}, {row['samples_per_second']:.1f} samples/s"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._log:
            self._log.close()
