"""How long each step of something takes."""

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds by step; what is timed twice adds up."""

    def __init__(self, *steps: str) -> None:
        self.seconds = dict.fromkeys(steps, 0.0)

    @contextlib.contextmanager
    def time(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - start
