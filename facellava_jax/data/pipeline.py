"""Batches one after another, read ahead by a thread or by worker processes, through Grain.

The position of a run in its data is the number of its next step, and nothing else.
"""

import contextlib
import sys
from collections.abc import Generator
from typing import Any

from ..extras import require
from ..workers import WorkerError, follow_parent, one_thread_each
from .loader import BatchLoader, LoadedBatch

AHEAD = 2  # batches that the thread reads before they are asked for
# Those that each worker does. It holds two more: one in its hands, and one on its way, all in shared memory.
WORKER_AHEAD = 1


def iterate_batches(loader: BatchLoader, *, start: int = 0, workers: int = 0) -> Generator[LoadedBatch, None, None]:
    """The batches of the steps from `start` to the plan's end; the same with any number of workers.

    Close it, or leave it to the end, and the workers end. Raises WorkerError where one is killed.
    """
    if start >= loader.plan.steps:
        return
    with contextlib.closing(_start(loader, start, workers)) as batches:
        try:
            with one_thread_each():
                ahead = [next(batches)]
            yield ahead.pop()
            yield from batches
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            raise WorkerError(
                "a worker that reads was killed, for memory perhaps: run this again with fewer data.workers, it goes on"
            ) from None


def _start(loader: BatchLoader, start: int, workers: int) -> Any:
    """Grain's iterator."""
    grain = require("grain", "train")
    steps = grain.MapDataset.range(start, loader.plan.steps).map(loader)
    if workers == 0:
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)))
    flags = require("absl.flags", "train").FLAGS
    if not flags.is_parsed():
        # Grain asks for flags of its own, which only programs built on absl parse.
        flags(sys.argv[:1])
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=WORKER_AHEAD)
    batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return iter(batches.mp_prefetch(options, worker_init_fn=_begin_worker))


def _begin_worker(number: int, count: int) -> None:
    follow_parent()
