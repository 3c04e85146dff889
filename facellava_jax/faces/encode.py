"""Frames to an H.264 clip that browsers play."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from ..extras import require
from .face import FaceError

TICKS = 90_000  # a second: whole numbers to a frame at 24, 25, 30, 50, 60 and 30000 / 1001 frames per second
# No difference is seen at rate factor 18. With B-frames a clip of uneven times would claim too short a duration.
OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0"}
BT_601, LIMITED_RANGE = 5, 1  # how PyAV turns RGB into YUV, and the numbers by which players are told


class ClipWriter:
    """Writes an MP4 clip under another name beside `path`; it gets its own when the `with` block ends well."""

    def __init__(self, path: Path, rate: float) -> None:
        """`rate`: frames per second, about; each frame says itself when it is shown.

        Raises ImportError without the extra `faces`, and FaceError where there is no folder to write to.
        """
        self._av = require("av", "faces")
        self._path, self._aside = path, path.with_name(f".{path.name}.part")
        if not path.parent.is_dir():
            raise FaceError(f"{path}: no folder {path.parent}: make it first")
        self._rate = Fraction(rate).limit_denominator(1001)
        self._stream: Any = None

    def __enter__(self) -> Self:
        self._container = self._av.open(str(self._aside), "w", format="mp4", options={"movflags": "faststart"})
        return self

    def add(self, picture: UInt8[np.ndarray, "Y X 3"], seconds: float) -> None:
        """The next frame, in RGB, shown from `seconds` on; all are of one size. Odd sides grow by a pixel."""
        height, width, _ = picture.shape
        if height % 2 or width % 2:
            picture = np.pad(picture, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        if not self._stream:
            self._start_stream(*picture.shape[:2])
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def _start_stream(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=OPTIONS)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = Fraction(1, TICKS)
        codec.colorspace, codec.color_range = BT_601, LIMITED_RANGE

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if not kind and self._stream:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if not kind and self._stream:
                self._aside.replace(self._path)
        finally:
            self._aside.unlink(missing_ok=True)
