"""Face crops and landmarks of a data set's media: made once, and kept beside it. No JAX: workers import this.

Faces are cut out as FaceInstruct-1M's are, of several the largest; what is 256 x 256 already is a crop. Of a medium
`a/b.jpg` the cache holds `a/b.jpg.png` (or .mp4, of a clip) and, written after it, `a/b.jpg.npy`, its landmarks; or
`a/b.jpg.none`, which says why there is no face. Where it has no crop, the medium itself is shown.
"""

import contextlib
import functools
import json
import secrets
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import FaceLlavaError
from ..extraction import choose_workers
from ..faces import (
    ClipFaces,
    FaceError,
    FaceFinder,
    Mode,
    choose_window,
    crop_landmarks,
    cut_window,
    follow_faces,
    pick_face,
    render_crop,
    to_crop,
)
from ..faces.crop import reference_window
from ..faces.encode import ClipWriter
from ..faces.extract import decode_ahead
from ..framing import iterate_medium
from ..media import LANDMARK_CROP, MediaError, find_kind, load_image
from ..overlay import write_picture
from ..workers import count_workers, run_jobs
from .benchmark import Medium

MARK, FORMAT = "faces.json", {"format": 1}
PICTURE, CLIP, POINTS, FACELESS = ".png", ".mp4", ".npy", ".none"


class CacheError(FaceLlavaError):
    """A folder that faces cannot be kept in; the message names it and the remedy."""


class Shown(NamedTuple):
    """What stands for a medium: its face crop with the landmarks, or without a face the whole of it."""

    path: Path
    landmarks: Path | None


class Job(NamedTuple):
    """What a worker does: a picture, a clip, a folder of frames, or some frames of a video, that are decoded once."""

    source: Path
    frames: tuple[int, ...] | None
    out: Path
    """Where outputs go but for their suffix, or the folder of those of the frames."""

    @property
    def media(self) -> list[Medium]:
        frames: tuple[int | None, ...] = (None,) if self.frames is None else self.frames
        return [Medium(path=self.source, frame=frame) for frame in frames]


class FaceCache:
    """A folder with the faces of the media of the data set in `data`."""

    def __init__(self, folder: Path, data: Path) -> None:
        """Raises CacheError for a folder that holds something else. Writes nothing yet."""
        self.folder, self._data = folder, data
        self._errors: dict[Medium, str] = {}
        mark = folder / MARK
        try:
            if mark.is_file():
                own = json.loads(mark.read_text()) == FORMAT
            else:
                own = not folder.exists() or all(path.name.startswith(f".{MARK}.") for path in folder.iterdir())
        except (OSError, ValueError):
            own = False
        if not own:
            raise CacheError(f"{folder} holds no faces of this release: remove it, or name another place with --cache")

    def list_missing(self, media: Iterable[Medium]) -> list[Medium]:
        """Those of the media whose faces are not there, or are older than the medium."""
        return [medium for medium in dict.fromkeys(media) if not _is_done(medium, self._place(medium))]

    def fill(self, media: Iterable[Medium], workers: int | None = None) -> Generator[int, None, None]:
        """Looks for the faces of the media; yields how many media each step has dealt with.

        `workers` processes do, by default one for each core, or fewer for few media. What is wrong with a medium `find`
        will say. Raises CacheError where the folder cannot be written to, and WorkerError where a worker is killed.
        """
        jobs = self._plan(media)
        if not jobs:
            return
        self._claim()
        count = choose_workers([job.source for job in jobs]) if workers is None else count_workers(workers)
        with run_jobs(crop_faces, jobs, min(count, len(jobs))) as outcomes:
            for job, errors in zip(jobs, outcomes, strict=True):
                self._errors |= errors
                yield len(job.media)

    def find(self, medium: Medium) -> Shown:
        """Raises MediaError for a medium that could not be read."""
        if medium in self._errors:
            raise MediaError(self._errors[medium])
        place = self._place(medium)
        crop = next((file for suffix in (PICTURE, CLIP) if (file := _add(place, suffix)).exists()), medium.path)
        points = _add(place, POINTS)
        return Shown(crop, points if points.exists() else None)

    def _place(self, medium: Medium) -> Path:
        path = medium.path
        if path.is_relative_to(self._data) and ".." not in (below := path.relative_to(self._data)).parts:
            place = self.folder / below
        else:
            place = self.folder.joinpath("elsewhere", *path.resolve().parts[1:])
        return place if medium.frame is None else place / f"{medium.frame:06}"

    def _plan(self, media: Iterable[Medium]) -> list[Job]:
        frames: dict[Path, list[int]] = {}
        jobs = []
        for medium in media:
            if medium.frame is None:
                jobs.append(Job(medium.path, None, self._place(medium)))
            else:
                frames.setdefault(medium.path, []).append(medium.frame)
        jobs += [Job(path, tuple(sorted(some)), self._place(Medium(path=path))) for path, some in frames.items()]
        return jobs

    def _claim(self) -> None:
        # Other hosts may do so at once, and a kill at any time.
        aside = self.folder / f".{MARK}.{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / MARK).exists():
                aside.write_text(json.dumps(FORMAT) + "\n")
                aside.replace(self.folder / MARK)
        except OSError as error:
            raise CacheError(
                f"{self.folder}, where face crops go, cannot be written to ({error.strerror}): "
                "name another place with --cache"
            ) from None


def crop_faces(job: Job) -> dict[Medium, str]:
    """Does a job, in a worker; returns what is wrong with those of its media that could not be read."""
    left = {medium.frame: medium for medium in job.media}
    try:
        finder = _load_finder()
        if job.frames is not None:
            for frame in _crop_frames(job.source, job.frames, job.out, finder):
                del left[frame]
        elif job.source.is_dir() or find_kind(job.source) == "video":
            _crop_clip(job.source, job.out, finder)
        else:
            _crop_picture(job.source, load_image(job.source), job.out, finder, keep=False)
    except (FaceLlavaError, OSError) as error:
        return dict.fromkeys(left.values(), str(error))
    return {}


@functools.cache
def _load_finder() -> FaceFinder:
    return FaceFinder()


def _crop_frames(source: Path, frames: tuple[int, ...], out: Path, finder: FaceFinder) -> Iterator[int]:
    """In one pass through a video, as far as the last of its frames that are asked for; gives the number of each."""
    wanted = set(frames)
    index = -1
    for index, frame in enumerate(decode_ahead(iterate_medium(source))):
        if index in wanted:
            _crop_picture(f"{source}: frame {index}", frame.pixels, out / f"{index:06}", finder, keep=True)
            yield index
        if index == frames[-1]:
            return
    raise MediaError(f"{source}: has {index + 1} frames, and frame {frames[-1]} is asked about: copy it again")


def _crop_picture(
    name: object, picture: UInt8[np.ndarray, "Y X 3"], out: Path, finder: FaceFinder, *, keep: bool
) -> None:
    """`keep`: what is shown is written even where it is the picture itself."""
    _begin(out)
    height, width, _ = picture.shape
    faces = finder.find(picture)
    try:
        face = pick_face(faces, name)
    except FaceError as error:
        if keep:
            write_picture(_add(out, PICTURE), picture)
        return _write_faceless(out, error)
    points = face.landmarks
    if (height, width) != (LANDMARK_CROP, LANDMARK_CROP):
        # Where the border cuts off so much that the rule leaves nothing, the face is taken with what is beyond.
        mode: Mode = "centered" if reference_window(face.box, height, width).empty else "reference"
        window = choose_window(face.box, height, width, mode, name)
        points = to_crop(points, window)
        picture = cut_window(picture, window, mode)
        keep = True
    if keep:
        write_picture(_add(out, PICTURE), picture)
    _write_points(out, points.reshape(-1))


def _crop_clip(source: Path, out: Path, finder: FaceFinder) -> None:
    _begin(out)
    whole = next(iterate_medium(source)).pixels.shape[:2] == (LANDMARK_CROP, LANDMARK_CROP)
    modes: tuple[Mode, ...] = ("centered",) if whole else ("reference", "centered")
    found: ClipFaces | FaceError | None = None
    for mode in modes:
        try:
            found = follow_faces(decode_ahead(iterate_medium(source)), source, finder, mode)
            break
        except FaceError as error:
            found = error
    if not isinstance(found, ClipFaces):
        return _write_faceless(out, found)
    track = found.tracks[0]
    if whole:
        return _write_points(out, np.stack([face.landmarks for face in track.faces]))
    render = render_crop(found, track)
    with ClipWriter(_add(out, CLIP), found.rate) as writer:
        for index, picture in _show_again(source, found):
            writer.add(render(index, picture), float(found.seconds[index]))
    _write_points(out, crop_landmarks(found, track))


def _show_again(source: Path, clip: ClipFaces) -> Iterator[tuple[int, UInt8[np.ndarray, "Y X 3"]]]:
    """The frames of a clip as its faces were found in them: some of them several times, some not at all."""
    index = 0
    for source_id, frame in enumerate(iterate_medium(source)):
        while index < len(clip.source_ids) and clip.source_ids[index] == source_id:
            yield index, frame.pixels
            index += 1


def _begin(out: Path) -> None:
    """Makes the folder, and removes what an earlier medium of that name has left."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (POINTS, FACELESS, PICTURE, CLIP):
        _add(out, suffix).unlink(missing_ok=True)


def _write_points(out: Path, points: Float[np.ndarray, "..."]) -> None:
    aside = _add(out, ".part")
    with aside.open("wb") as file:
        np.save(file, points.astype(np.float32))
    aside.replace(_add(out, POINTS))


def _write_faceless(out: Path, why: object) -> None:
    _add(out, FACELESS).write_text(f"{why}\n", encoding="utf-8")


def _is_done(medium: Medium, place: Path) -> bool:
    """Whether the last of a medium's outputs is there, and not older than it."""
    try:
        changed = medium.path.stat().st_mtime
    except OSError:
        return False  # whoever reads it says why
    for suffix in (POINTS, FACELESS):
        with contextlib.suppress(OSError):
            if _add(place, suffix).stat().st_mtime >= changed:
                return True
    return False


def _add(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)
