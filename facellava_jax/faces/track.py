"""The same face from frame to frame of a clip, and its place in frames where it is not seen."""

import itertools
from typing import NamedTuple

import numpy as np

from .face import Box, Face

MAX_STEP = 0.7  # how far a face moves between two frames, in its own sides
MAX_GROWTH = 2.0  # how much its side grows or shrinks
LOST_FRAMES = 24


class Track(NamedTuple):
    """One face through a clip: `faces[t]` in each frame t; those of the frames `bridged` are not seen but inferred.

    A bridged face lies between the faces around its frame, or is the nearest one at either end of the clip; its score
    and presence are 0.
    """

    faces: list[Face]
    bridged: list[int]


class Tracker:
    """Follows the faces of a clip, frame by frame."""

    def __init__(self) -> None:
        self.length = 0
        self._tracks: list[dict[int, Face]] = []
        self._ended: list[dict[int, Face]] = []

    def add(self, faces: list[Face]) -> None:
        """The faces of the next frame.

        Each goes to the nearest track, one to one, if it lies where that may have moved to. A face that is alone in its
        frame goes on with the only track there is wherever it lies, over cuts and fast pans. Others begin a track.
        """
        frame, self.length = self.length, self.length + 1
        self._end_lost_tracks(frame)
        steps = sorted(
            (measure_step(track[next(reversed(track))].box, face.box), row, column)
            for row, track in enumerate(self._tracks)
            for column, face in enumerate(faces)
        )
        alone = len(faces) == len(self._tracks) == 1
        placed: dict[int, int] = {}
        for step, row, column in steps:
            if (step <= MAX_STEP or alone) and column not in placed and row not in placed.values():
                placed[column] = row
        for column, face in enumerate(faces):
            if column not in placed:
                placed[column] = len(self._tracks)
                self._tracks.append({})
            self._tracks[placed[column]][frame] = face

    def finish(self, max_missing: float) -> list[Track]:
        """The faces that are missing from at most this share of the frames; by area and time seen, the most first."""
        seen = [track for track in self._all_tracks if self.length - len(track) <= max_missing * self.length]
        seen.sort(key=lambda track: sum(face.box.area for face in track.values()), reverse=True)
        return [bridge_gaps(track, self.length) for track in seen]

    def find_missing(self) -> list[int]:
        """The frames without the face that is seen most often."""
        seen = max(self._all_tracks, key=len, default={})
        return sorted(set(range(self.length)) - seen.keys())

    @property
    def _all_tracks(self) -> list[dict[int, Face]]:
        return self._tracks + self._ended

    def _end_lost_tracks(self, frame: int) -> None:
        """What is unseen for longer than it was seen, and for a second, takes no part any more."""
        lost = [frame - next(reversed(track)) > len(track) + LOST_FRAMES for track in self._tracks]
        self._ended += itertools.compress(self._tracks, lost)
        self._tracks = [track for track, ended in zip(self._tracks, lost, strict=True) if not ended]


def measure_step(before: Box, now: Box) -> float:
    """How far a face would have moved, in sides; infinite where its size rules out that it is the same."""
    if not 1 / MAX_GROWTH <= now.longer / before.longer <= MAX_GROWTH:
        return np.inf
    return float(np.hypot(*(now.centre - before.centre))) * 2 / (before.longer + now.longer)


def bridge_gaps(seen: dict[int, Face], length: int) -> Track:
    """A track of `length` frames from the faces of some of them."""
    frames = sorted(seen)
    faces = dict(seen)
    bridged = sorted(set(range(length)) - seen.keys())
    for frame, at in zip(bridged, np.interp(bridged, frames, np.arange(len(frames))).tolist(), strict=True):
        before = int(at)
        after = min(before + 1, len(frames) - 1)
        faces[frame] = _blend(seen[frames[before]], seen[frames[after]], at - before)
    return Track([faces[frame] for frame in range(length)], bridged)


def _blend(first: Face, second: Face, part: float) -> Face:
    """`part` of the way from the first to the second."""
    box, key_points, landmarks = (
        (1 - part) * np.asarray(old) + part * np.asarray(new)
        for old, new in (
            (first.box, second.box),
            (first.key_points, second.key_points),
            (first.landmarks, second.landmarks),
        )
    )
    return Face(Box(*box.tolist()), 0.0, key_points, landmarks, 0.0)
