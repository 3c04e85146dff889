"""From a picture or clip to what the model is shown of it: cut to a face or whole, with the landmarks of that face."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .config import ModelConfig
from .faces import (
    Box,
    Face,
    FaceError,
    FaceFinder,
    Mode,
    Window,
    choose_window,
    cut_window,
    follow_faces,
    pick_face,
    seen_window,
    to_crop,
)
from .faces.crop import reference_window
from .media import (
    FRAME_RATE,
    LANDMARK_CROP,
    Clip,
    Frame,
    Kind,
    MediaError,
    find_kind,
    iterate_frames,
    iterate_video,
    load_frames,
    load_image,
    load_landmarks,
    load_video,
    sample_frame_ids,
)
from .request import Crop, Landmarks, MediaSource, PredictError, refuse_to_look
from .stopwatch import Stopwatch

Cut = Mode | Literal["none"]

MIN_SPAN = 0.6  # a face that spans this share of both sides needs no crop
WHOLE = "or ask about the whole with --crop none --landmarks none"


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the model is shown of a picture (T = 1) or of T frames of a clip, and the face that was found there.

    Windows, boxes and points are in pixels of the original, upright as it is read.
    """

    kind: Kind
    frame_ids: tuple[int, ...]
    """Which frames of the clip."""
    crop: Cut
    """How each frame is cut; none where it is shown whole."""
    why: str
    """The reason for that crop."""
    windows: tuple[Window, ...] = field(repr=False)
    """The part of each frame that the model sees: of a frame that is not cut, the square that its tower takes."""
    found: int | None = None
    """How many faces there are; None where none was looked for, and for what follows, too."""
    number: int | None = None
    """Which of them this is; 1 is the largest."""
    faces: tuple[Face, ...] | None = field(default=None, repr=False)
    """That face in each frame. A score of 0 is that of a frame in which it is not seen but inferred."""

    @property
    def boxes(self) -> tuple[Box, ...] | None:
        return None if self.faces is None else tuple(face.box for face in self.faces)

    @property
    def landmarks(self) -> Float64[np.ndarray, "T K 2"] | None:
        """The face's points, be they given to the model or not."""
        return None if self.faces is None else np.stack([face.landmarks for face in self.faces])


class Shown(NamedTuple):
    """The frames that the model is shown, 256 x 256 where they are cut, and landmarks as fractions of what it sees."""

    frames: UInt8[np.ndarray, "T Y X 3"]
    landmarks: Float32[np.ndarray, "T K 2"] | None
    view: View


class Medium(NamedTuple):
    """A picture or clip as it was given, its name in errors, and its frames: of a picture the only one."""

    source: MediaSource
    name: str
    kind: Kind
    clip: Clip

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        _, height, width, _ = self.clip.frames.shape
        return height, width


class Framer:
    """Decides what a model is shown of its media. Threads may share it."""

    def __init__(self, config: ModelConfig, num_frames: int, pad_to_square: bool = False) -> None:
        """`num_frames` are taken from each clip; `pad_to_square` is that of the model's `MediaConfig`."""
        self._config, self._num_frames, self._pad_to_square = config, num_frames, pad_to_square
        self._finder: FaceFinder | None = None
        self._lock = threading.Lock()

    def show(
        self, source: MediaSource, landmarks: Landmarks, crop: Crop, watch: Stopwatch, every: bool = False
    ) -> list[Shown]:
        """The medium or the largest face in it, as `Request` says; with `every`, each face, the largest first.

        `landmarks` are those of `pair_media`. Steps of the watch: read, faces (of a clip: decoding every frame, too),
        preprocess. Raises MediaError for what cannot be read, PredictError for what this model does not take, FaceError
        where there is no face, and with `every` PredictError where none is to be looked for.
        """
        medium, points = self._read(source, landmarks, watch)
        if why := self._refuse_to_look(medium, landmarks, crop, every):
            if every:
                raise PredictError(f"{medium.name}: no face is looked for, as {why}: ask about it as a whole")
            return [_show_whole(medium, points, why, self._find_seen(medium))]
        tracks = self._find(medium, watch)
        with watch.time("preprocess"):
            cut: Cut = "none"
            why = "crop is none"
            if crop == "auto":
                cut, why = choose_crop(medium, tracks, every)
            chosen = range(len(tracks) if every else 1)
            seen = self._find_seen(medium)
            return [_show_face(medium, tracks, index, cut, why, seen, landmarks is not None) for index in chosen]

    def _read(
        self, source: MediaSource, landmarks: Landmarks, watch: Stopwatch
    ) -> tuple[Medium, Float32[np.ndarray, "T K 2"] | None]:
        """A medium, and the landmarks of its file, if there is one."""
        with watch.time("read"):
            medium = read_medium(source, self._num_frames)
            tower = self._config.image_tower if medium.kind == "image" else self._config.video_tower
            if tower is None:
                raise PredictError(
                    f"{medium.name}: this checkpoint has no {medium.kind} tower: import one with --{medium.kind}-tower"
                )
            if landmarks in ("auto", None):
                return medium, None
            if self._config.landmarks is None:
                raise PredictError(f"{landmarks}: this checkpoint has no landmark modules: ask without landmarks")
            return medium, load_landmarks(Path(landmarks), medium.clip if medium.kind == "video" else None)

    def _refuse_to_look(self, medium: Medium, landmarks: Landmarks, crop: Crop, every: bool) -> str | None:
        """Why no face is looked for; None where it is."""
        if self._config.landmarks is None:
            return "this checkpoint has no landmark modules"
        if why := refuse_to_look(landmarks, crop):
            return why
        return "it is 256 x 256 already" if landmarks is None and not every and _is_crop(medium) else None

    def _find_seen(self, medium: Medium) -> Window:
        """What the tower sees of a frame that is not cut."""
        return seen_window(*medium.size, padded=self._pad_to_square and medium.kind == "image")

    def _find(self, medium: Medium, watch: Stopwatch) -> list[list[Face]]:
        """Each face in every frame, sampled or not, the largest first."""
        with watch.time("faces"), self._lock:
            self._finder = self._finder or FaceFinder()
            try:
                if medium.kind == "image":
                    faces = self._finder.find(medium.clip.frames[0])
                    pick_face(faces, medium.name)
                    return [[face] for face in faces]
                followed = follow_faces(iterate_medium(medium.source), medium.name, self._finder)
            except FaceError as error:
                raise FaceError(f"{error}, {WHOLE}") from None
        if len(followed.source_ids) != medium.clip.length:
            raise MediaError(
                f"{medium.name}: has {len(followed.source_ids)} frames after {medium.clip.length} before: "
                "read it when nothing writes to it"
            )
        return [track.faces for track in followed.tracks]


def choose_crop(medium: Medium, tracks: Sequence[Sequence[Face]], every: bool = False) -> tuple[Cut, str]:
    """How a medium is cut to the first of the faces in it, each given in every frame, or to `every` face; and why.

    What is a face crop already, by its size of 256 x 256 or by the share that the face takes, is shown whole. Else the
    only face is cut out as FaceInstruct-1M's are, and the largest of several in the middle of a square, as is each
    where every face is asked about.
    """
    if every and len(tracks) > 1:
        return "centered", f"one of {len(tracks)} faces"
    if _is_crop(medium):
        return "none", "it is 256 x 256 already"
    height, width = medium.size
    faces = tracks[0]
    across, down = np.median([(face.box.width / width, face.box.height / height) for face in faces], axis=0)
    spans = f"spans {across:.0%} of the width and {down:.0%} of the height"
    if min(across, down) >= MIN_SPAN:
        return "none", f"the face {spans}"
    if len(tracks) > 1:
        return "centered", f"the largest of {len(tracks)} faces {spans}"
    only = "the only face" if medium.kind == "image" else "the only face that is seen throughout"
    if any(reference_window(faces[index].box, height, width).empty for index in medium.clip.frame_ids):
        return "centered", f"the border cuts off too much of {only}"
    return "reference", f"{only} {spans}"


def read_medium(source: MediaSource, num_frames: int) -> Medium:
    """A picture, or `num_frames` frames of a clip. Raises MediaError, and PredictError for an array of another form."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (3, 4) or source.shape[-1] != 3 or not source.size:
            raise PredictError(
                f"an array of shape {source.shape} and type {source.dtype}: give uint8 RGB, (Y, X, 3) for an image "
                "and (T, Y, X, 3) for a clip"
            )
        name = f"array {source.shape}"
        if source.ndim == 3:
            return Medium(source, name, "image", _hold_picture(source))
        frame_ids = sample_frame_ids(len(source), num_frames)
        return Medium(source, name, "video", Clip(source[frame_ids], frame_ids, len(source)))
    path = Path(source)
    if path.is_dir():
        return Medium(source, str(source), "video", load_frames(path, num_frames))
    # A file that is neither is reported by the reader of images, by what is wrong with it.
    if find_kind(path) == "video":
        return Medium(source, str(source), "video", load_video(path, num_frames))
    return Medium(source, str(source), "image", _hold_picture(load_image(path)))


def read_again(source: MediaSource, view: View) -> Medium:
    """The medium that a view is of. Raises MediaError where it has another length since."""
    medium = read_medium(source, len(view.frame_ids))
    if tuple(medium.clip.frame_ids.tolist()) != view.frame_ids:
        raise MediaError(f"{medium.name}: has another length than before: read it when nothing writes to it")
    return medium


def cut_frames(frames: UInt8[np.ndarray, "T Y X 3"], view: View) -> UInt8[np.ndarray, "T Y2 X2 3"]:
    """The frames as a view shows them: cut to its windows, or whole."""
    if view.crop == "none":
        return frames
    return np.stack([cut_window(frame, window, view.crop) for frame, window in zip(frames, view.windows, strict=True)])


def iterate_medium(source: MediaSource) -> Iterator[Frame]:
    """Every frame of a clip."""
    if isinstance(source, np.ndarray):
        return (Frame(pixels, index / FRAME_RATE) for index, pixels in enumerate(source))
    path = Path(source)
    return iterate_frames(path) if path.is_dir() else iterate_video(path)


def _hold_picture(picture: UInt8[np.ndarray, "Y X 3"]) -> Clip:
    return Clip(picture[None], sample_frame_ids(1, 1), 1)


def _is_crop(medium: Medium) -> bool:
    return medium.size == (LANDMARK_CROP, LANDMARK_CROP)


def _show_whole(medium: Medium, points: Float32[np.ndarray, "T K 2"] | None, why: str, seen: Window) -> Shown:
    frame_ids = tuple(medium.clip.frame_ids.tolist())
    view = View(kind=medium.kind, frame_ids=frame_ids, crop="none", why=why, windows=(seen,) * len(frame_ids))
    return Shown(medium.clip.frames, points, view)


def _show_face(
    medium: Medium, tracks: Sequence[Sequence[Face]], index: int, crop: Cut, why: str, seen: Window, guided: bool
) -> Shown:
    """One of the faces, with its landmarks where the model is `guided` by them; `seen` is what it sees uncut."""
    frame_ids = tuple(medium.clip.frame_ids.tolist())
    faces = tuple(tracks[index][frame_id] for frame_id in frame_ids)
    if crop == "none":
        windows = (seen,) * len(faces)
    else:
        windows = tuple(choose_window(face.box, *medium.size, crop, medium.name) for face in faces)
    view = View(
        kind=medium.kind,
        frame_ids=frame_ids,
        crop=crop,
        why=why,
        windows=windows,
        found=len(tracks),
        number=index + 1,
        faces=faces,
    )
    points = [to_crop(face.landmarks, window) for face, window in zip(faces, windows, strict=True)]
    fractions = np.stack(points).astype(np.float32) / LANDMARK_CROP
    return Shown(cut_frames(medium.clip.frames, view), fractions if guided else None, view)
