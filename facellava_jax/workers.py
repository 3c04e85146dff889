"""Work beside the caller's, with results in order: jobs in worker processes, none of which outlives its parent, and
reading ahead in a thread. No JAX: workers import this.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import TypeVar

from .errors import FaceLlavaError

QUEUED = 4  # jobs under way for each worker
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerError(FaceLlavaError):
    """A number of workers that cannot be, or a worker that is killed; the message says what to do."""


def count_workers(asked: int | None) -> int:
    """`asked`, or one for each core. Raises WorkerError for less than 1."""
    workers = len(os.sched_getaffinity(0)) if asked is None else asked
    if workers < 1:
        raise WorkerError(f"workers {workers}: use at least 1")
    return workers


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that start in the block do matrix products on one core: there are as many of them as there is work for.

    NumPy's libraries read it from the environment when they are loaded, which is before a worker runs any of our code.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def run_jobs(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Iterator[Result]]:
    """The results of the jobs, in order. Workers that still run when the block fails are ended, and clean up before.

    Each does matrix products on one core; so does what else is started in the block. One worker is this process.
    Raises WorkerError where a worker is killed.
    """
    if workers == 1:
        yield map(function, jobs)
        return
    others = multiprocessing.active_children()
    # Forking a process that has threads, and many libraries make some, may hang it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, follow_parent)
    try:
        with one_thread_each():
            yield _collect(pool, function, jobs, QUEUED * workers)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise WorkerError(
                "a worker was killed, for memory perhaps: run this again, it goes on; with fewer --workers"
            ) from None
        raise
    finally:
        pool.shutdown()


def read_ahead(
    read: Callable[[Job], Result], inputs: Sequence[Job], batch_size: int
) -> Iterator[tuple[Sequence[Job], list[Result | Exception]]]:
    """Parts of `batch_size` inputs, each read while the one before is dealt with; errors in the places of the bad."""

    def read_part(part: Sequence[Job]) -> list[Result | Exception]:
        outcomes: list[Result | Exception] = []
        for each in part:
            try:
                outcomes.append(read(each))
            except (FaceLlavaError, OSError) as error:
                outcomes.append(error)
        return outcomes

    parts = [inputs[at : at + batch_size] for at in range(0, len(inputs), batch_size)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read_part, parts[0])
        for number, part in enumerate(parts, start=1):
            outcomes = ahead.result()
            if number < len(parts):
                ahead = reader.submit(read_part, parts[number])
            yield part, outcomes


def follow_parent() -> None:
    """In a worker: Ctrl-C is for the parent, SIGTERM takes back what is half written, the parent's end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_worker)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _collect(
    pool: ProcessPoolExecutor, function: Callable[[Job], Result], jobs: Iterable[Job], ahead: int
) -> Iterator[Result]:
    queue: deque[Future[Result]] = deque()
    for job in jobs:
        queue.append(pool.submit(_run_job, function, job))
        if len(queue) == ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _run_job(function: Callable[[Job], Result], job: Job) -> Result:
    try:
        return function(job)
    except SystemExit as ending:
        # The pool would take it for a result, and give the worker its next job.
        os._exit(ending.code)  # type: ignore[arg-type]


def _end_worker(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
