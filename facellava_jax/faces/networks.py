"""MediaPipe's two face networks, shipped in `models/`, and LiteRT, which runs them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ..extras import require


class Network:
    """A network that reads a square picture of `side` pixels. One thread at a time may use it."""

    def __init__(self, name: str, threads: int = 1) -> None:
        """`threads`: those that it computes with. Raises ImportError, naming the extra, where LiteRT is absent."""
        litert = require("ai_edge_litert.interpreter", "faces")
        model = files(__package__).joinpath("models", name + ".tflite").read_bytes()
        with silent_stderr():
            self._interpreter = litert.Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        (given,) = self._interpreter.get_input_details()
        self.side = int(given["shape"][1])
        self._input: int = given["index"]
        # From the long output to the short one: what there is to know, then how sure it is.
        outputs = sorted(self._interpreter.get_output_details(), key=lambda output: -output["shape"].prod())
        self._outputs: list[int] = [output["index"] for output in outputs]

    def run(self, pixels: Float32[np.ndarray, "side side 3"]) -> tuple[Float32[np.ndarray, "..."], ...]:
        """What is known (boxes or points), and the logits of its truth."""
        self._interpreter.set_tensor(self._input, pixels[None])
        self._interpreter.invoke()
        return tuple(self._interpreter.get_tensor(output)[0] for output in self._outputs)


def sigmoid(logits: Float32[np.ndarray, "*n"]) -> np.ndarray:
    """In float64; logits beyond +-100 count as that."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """LiteRT and MediaPipe write to file descriptor 2 what they have made, and have no option against it."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
