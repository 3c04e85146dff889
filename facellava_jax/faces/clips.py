"""The faces of a clip: one pass finds and follows them, a second one writes what is made of its frames.

Neither holds more than a frame or two; what is kept of a frame are boxes and points.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from ..media import FRAME_RATE, Frame, MediaError, iterate_video
from .crop import Mode, Window, choose_window, cut_window, reference_window, to_crop
from .encode import ClipWriter
from .face import Face, FaceError
from .find import FaceFinder
from .track import Track, Tracker

REFERENCE_RATE = 24.0  # frames per second of FaceInstruct-1M's crops
MAX_MISSING = 0.3
NAMED_GAPS = 5  # gaps that an error spells out

Render = Callable[[int, UInt8[np.ndarray, "Y X 3"]], UInt8[np.ndarray, "Y2 X2 3"]]
Watch = Callable[[UInt8[np.ndarray, "Y X 3"], list[Face], list[float]], None]


class ClipFaces(NamedTuple):
    """The faces of the clip that errors call `name`, the largest first, in each of its T output frames.

    Output frame t shows frame `source_ids[t]` of the file, from `seconds[t]` on. In mode `reference` these are 24
    frames a second, in mode `centered` the file's own.
    """

    tracks: list[Track]
    source_ids: Int64[np.ndarray, "T"]
    seconds: Float64[np.ndarray, "T"]
    height: int
    width: int
    mode: Mode
    name: object

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        intervals = len(self.seconds) - 1
        return intervals / float(self.seconds[-1]) if intervals else float(FRAME_RATE)


def find_clip_faces(
    path: Path, finder: FaceFinder, mode: Mode = "centered", max_missing: float = MAX_MISSING
) -> ClipFaces:
    """Follows each face of a clip that is missing from at most the share `max_missing` of its frames.

    Raises MediaError for a file that is no clip, and FaceError, with the frames, where there is no such face.
    """
    return follow_faces(iterate_video(path), path, finder, mode, max_missing)


def follow_faces(
    frames: Iterable[Frame],
    name: object,
    finder: FaceFinder,
    mode: Mode = "centered",
    max_missing: float = MAX_MISSING,
    watch: Watch | None = None,
) -> ClipFaces:
    """As `find_clip_faces`, of frames from anywhere; errors call them `name`. At least one frame.

    `watch` is told of each frame that counts: its pixels, its faces, and the seconds it is shown at.
    """
    tracker, source_ids, seconds = Tracker(), [], []
    for index, frame, times in choose_frames(frames, REFERENCE_RATE if mode == "reference" else None):
        height, width, _ = frame.pixels.shape
        faces = finder.find(frame.pixels)
        if mode == "reference":
            faces = [face for face in faces if not reference_window(face.box, height, width).empty]
        if watch:
            watch(frame.pixels, faces, times)
        for time in times:
            tracker.add(faces)
            source_ids.append(index)
            seconds.append(time)
    tracks = tracker.finish(max_missing)
    if not tracks:
        raise _no_face(name, tracker, source_ids, max_missing)
    return ClipFaces(tracks, np.array(source_ids), np.array(seconds), height, width, mode, name)


def choose_frames(frames: Iterable[Frame], rate: float | None) -> Iterator[tuple[int, Frame, list[float]]]:
    """The frames that are shown at `rate` frames per second: index, frame, and the seconds it is shown at.

    Each goes to the nearest tick; a tick shows the last that has come by then, as FFmpeg's filter `fps` does. So frames
    are left out or shown several times. Without a `rate` every frame is shown, once, in its own time.
    """
    if rate is None:
        yield from ((index, frame, [frame.seconds]) for index, frame in enumerate(frames))
        return
    tick, interval, shown = 0, 1 / FRAME_RATE, None
    for index, frame in enumerate(frames):
        if shown:
            interval = frame.seconds - shown[1].seconds
            until = _nearest_tick(frame.seconds, rate)
            if until > tick:
                yield *shown, [at / rate for at in range(tick, until)]
            tick = until
        shown = index, frame
    if shown:
        until = max(tick + (tick == 0), _nearest_tick(shown[1].seconds + interval, rate))
        if until > tick:
            yield *shown, [at / rate for at in range(tick, until)]


def list_windows(clip: ClipFaces, track: Track) -> list[Window]:
    """What is cut out of each frame for one face. Raises FaceError where the border leaves nothing of it."""
    return [
        choose_window(face.box, clip.height, clip.width, clip.mode, f"{clip.name}: frame {index}")
        for index, face in enumerate(track.faces)
    ]


def crop_landmarks(clip: ClipFaces, track: Track) -> Float32[np.ndarray, "T K 2"]:
    """A face's landmarks as a landmark file has them: in pixels of the 256 x 256 crop, a row for each of its frames."""
    windows = list_windows(clip, track)
    points = [to_crop(face.landmarks, window) for face, window in zip(track.faces, windows, strict=True)]
    return np.stack(points).astype(np.float32)


def render_crop(clip: ClipFaces, track: Track) -> Render:
    """For `write_clips`: the crop of one face."""
    windows = list_windows(clip, track)
    return lambda index, picture: cut_window(picture, windows[index], clip.mode)


def write_clips(source: Path, clip: ClipFaces, outputs: Mapping[Path, Render]) -> None:
    """Writes an H.264 clip for each of `outputs`: what its function makes of each output frame's index and pixels.

    One pass through `source`, for all of them; where a frame fails, none is written. Raises MediaError where `source`
    has changed since it was searched.
    """
    with contextlib.ExitStack() as stack:
        writers = [(stack.enter_context(ClipWriter(path, clip.rate)), render) for path, render in outputs.items()]
        for index, picture in _show_again(source, clip):
            for writer, render in writers:
                writer.add(render(index, picture), float(clip.seconds[index]))


def _show_again(source: Path, clip: ClipFaces) -> Iterator[tuple[int, UInt8[np.ndarray, "Y X 3"]]]:
    index = 0
    for source_id, frame in enumerate(iterate_video(source)):
        while index < len(clip.source_ids) and clip.source_ids[index] == source_id:
            yield index, frame.pixels
            index += 1
    if index < len(clip.source_ids):
        raise MediaError(f"{source}: ends sooner than before: read it when nothing writes to it")


def _nearest_tick(seconds: float, rate: float) -> int:
    # Times in milliseconds make 0.499999 of a half.
    return math.floor(round(seconds * rate, 6) + 0.5)


def _no_face(name: object, tracker: Tracker, source_ids: list[int], max_missing: float) -> FaceError:
    missing = tracker.find_missing()
    if len(missing) == tracker.length:
        return FaceError(f"{name}: no face found in any of its {tracker.length} frames: give a clip that shows one")
    frames = sorted({source_ids[index] for index in missing})
    gaps = [list(gap) for _, gap in groupby(frames, key=lambda frame: frame - frames.index(frame))]
    named = [f"{gap[0]}-{gap[-1]}" if len(gap) > 1 else f"{gap[0]}" for gap in gaps]
    more = f" and {len(named) - NAMED_GAPS} more gaps" if len(named) > NAMED_GAPS else ""
    return FaceError(
        f"{name}: {len(missing)} of {tracker.length} frames are without the face that is seen most often "
        f"({', '.join(named[:NAMED_GAPS])}{more}), more than {max_missing:.0%}: cut the clip to where it is seen, "
        "or let `facellava faces` crop it with a larger --max-missing"
    )
