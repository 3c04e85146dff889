"""The crop and the drawing of a clip's face, written while the clip is still searched, so that it is decoded once."""

import contextlib
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .clips import REFERENCE_RATE
from .crop import choose_window, cut_window
from .draw import draw_faces
from .encode import ClipWriter
from .face import Face
from .track import Track


class InVainError(Exception):
    """A draft that shows something else; raised where it is written, so that nothing of it stays."""


class Draft:
    """Clips of the largest face of each frame, in mode `reference`.

    A guess until all is searched: the clip may be about another face, and that may have gaps.
    """

    def __init__(self, paths: Sequence[Path], stack: contextlib.ExitStack) -> None:
        """`paths` of the crop and, if wanted, of the drawing; `stack` ends the writing, well or in vain."""
        self._paths, self._stack = paths, stack
        self._writers: list[ClipWriter] = []
        self._faces: list[Face] = []
        self._holds = True

    def add(self, picture: UInt8[np.ndarray, "Y X 3"], faces: list[Face], times: list[float]) -> None:
        """The next frame, its faces, and the seconds it is shown at: what `follow_faces` sees."""
        self._holds = self._holds and bool(faces)
        if not self._holds:
            return
        if not self._writers:
            self._writers = [self._stack.enter_context(ClipWriter(path, REFERENCE_RATE)) for path in self._paths]
        face, (height, width, _) = faces[0], picture.shape
        crop = cut_window(picture, choose_window(face.box, height, width, "reference", "face"), "reference")
        for seconds in times:
            self._writers[0].add(crop, seconds)
            for writer in self._writers[1:]:
                writer.add(draw_faces(picture, [face], len(self._faces)), seconds)
            self._faces.append(face)

    def check(self, tracks: Sequence[Track]) -> None:
        """Raises InVainError unless what is to be shown is one track, whose face is the one written in each frame."""
        if not (self._holds and len(tracks) == 1 and all(map(operator.is_, self._faces, tracks[0].faces))):
            raise InVainError
