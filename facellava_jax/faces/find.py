"""All faces of a picture with their landmarks, small ones too."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from .detect import MAX_OVERLAP, Detector
from .face import Box, Face, FaceError
from .landmarks import Landmarker

# What the detector takes for a face is none when the mesh does not find itself in it. In parts of a picture the
# detector takes much for a face that is none; of nearly every true one the mesh is sure (above 0.99).
MIN_PRESENCE = 0.5
MIN_PRESENCE_IN_PART = 0.9

# A picture where no face is seen is searched again in squares of a half, then of a quarter of its longer side.
PARTS = (2, 4)
MIN_PART = 128
# OpenCV reads single pixels of no larger picture.
MAX_SIDE = 32_766


# The faces of a picture as large as it is, of which the mesh is at least so sure (0..1).
Look = Callable[[UInt8[np.ndarray, "Y X 3"], float], list[Face]]


class LiteRT:
    """The detector and the landmark network, as LiteRT runs them. It takes 20 ms to make."""

    def __init__(self, threads: int = 1) -> None:
        """`threads`: those that each network computes with. Raises ImportError without the extra `faces`."""
        self._detector = Detector(threads)
        self._landmarker = Landmarker(threads)

    def look(self, picture: UInt8[np.ndarray, "Y X 3"], min_presence: float) -> list[Face]:
        """The faces of an RGB picture, small ones excepted."""
        located = [(found, *self._landmarker.locate(picture, found)) for found in self._detector.detect(picture)]
        return [Face(*found, points, presence) for found, points, presence in located if presence >= min_presence]


class FaceFinder:
    """Finds large faces and small ones. One thread at a time may use it."""

    def __init__(self, threads: int = 1, look: Look | None = None) -> None:
        """`look`: finds the large ones; by default our networks, on so many `threads`.

        Raises ImportError without the extra `faces`.
        """
        self._look = look or LiteRT(threads).look

    def find(self, picture: UInt8[np.ndarray, "Y X 3"]) -> list[Face]:
        """The faces of an RGB picture, the largest first; an empty list where there is none.

        Faces are found from an eighth of the picture's longer side; where none is as large, from a thirtieth.
        """
        height, width, _ = picture.shape
        longer = max(height, width)
        if longer > MAX_SIDE:
            step = -(-longer // MAX_SIDE)
            smaller = np.ascontiguousarray(picture[::step, ::step])
            return [_enlarge(face, step) for face in self.find(smaller)]
        faces = self._look(picture, MIN_PRESENCE)
        for parts in PARTS:
            if not faces and longer // parts >= MIN_PART:
                faces = self._look_at_parts(picture, longer // parts)
        return sorted(faces, key=lambda face: face.box.area, reverse=True)

    def _look_at_parts(self, picture: UInt8[np.ndarray, "Y X 3"], side: int) -> list[Face]:
        """The faces in overlapping squares; a face seen in several of them as the one that is surest."""
        height, width, _ = picture.shape
        seen = [
            _move(face, x, y)
            for y in spread_starts(height, side)
            for x in spread_starts(width, side)
            for face in self._look(np.ascontiguousarray(picture[y : y + side, x : x + side]), MIN_PRESENCE_IN_PART)
        ]
        faces: list[Face] = []
        for face in sorted(seen, key=lambda face: face.score, reverse=True):
            if all(face.box.overlap(other.box) <= MAX_OVERLAP for other in faces):
                faces.append(face)
        return faces


def pick_face(faces: list[Face], name: object, only: bool = False) -> Face:
    """The largest face of those that `FaceFinder.find` gave for the picture `name`.

    Raises FaceError where there is none, and with `only` where there are several.
    """
    if not faces:
        raise FaceError(
            f"{name}: no face found: give a picture in which a face is whole, upright, sharp, "
            "and at least a thirtieth of the longer side"
        )
    if only and len(faces) > 1:
        raise FaceError(f"{name}: {len(faces)} faces where one is needed: cut the picture to one, or take the largest")
    return faces[0]


def spread_starts(length: int, part: int) -> list[int]:
    """Where parts begin that cover `length` pixels, each overlapping the next by at least half."""
    count = 1 + max(0, -(-2 * (length - part) // part))
    return np.linspace(0, max(0, length - part), count).astype(int).tolist()


def _move(face: Face, x: int, y: int) -> Face:
    box, by = face.box._replace(x=face.box.x + x, y=face.box.y + y), np.array([x, y])
    return face._replace(box=box, key_points=face.key_points + by, landmarks=face.landmarks + by)


def _enlarge(face: Face, step: int) -> Face:
    """A face of every `step`-th pixel in pixels of the whole."""
    box = Box(*(side * step for side in face.box))
    return face._replace(box=box, key_points=face.key_points * step, landmarks=face.landmarks * step)
