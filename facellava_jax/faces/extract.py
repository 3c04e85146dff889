"""From a picture or clip to files: crops of its faces, landmarks, a drawing to look at, and rows of the face table."""

import contextlib
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..config import LANDMARK_POINTS
from ..extras import require
from ..media import Frame, Kind, find_kind, iterate_video, load_image
from .clips import (
    MAX_MISSING,
    ClipFaces,
    crop_landmarks,
    follow_faces,
    render_crop,
    write_clips,
)
from .crop import Mode, choose_window, cut_window, reference_window, to_crop
from .draft import Draft, InVainError
from .draw import draw_faces
from .face import Face, FaceError
from .find import FaceFinder, pick_face
from .mediapipe import SOURCE, MediaPipe
from .track import Track

# Boxes and points in pixels of the file. OpenFace's names; `frame` is the row of the landmark file, `face` counts from
# 1, and a confidence of 0 is that of a face which is not seen but bridged.
TABLE_COLUMNS = (
    *("file", "frame", "seconds", "face", "box_x", "box_y", "box_width", "box_height", "confidence"),
    *(f"{axis}_{point}" for axis in "xy" for point in range(LANDMARK_POINTS)),
)
SUFFIX_OF_KIND: dict[Kind, str] = {"image": ".png", "video": ".mp4"}


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """What is taken from a picture or clip."""

    mode: Mode = "reference"
    """reference: cut as FaceInstruct-1M is, clips at 24 frames a second. centered: a square with a margin, in which the
    face stays in the middle at the border too; clips keep their frames."""
    face: Literal["largest", "all"] = "largest"
    """Where there are several."""
    max_missing: float = MAX_MISSING
    """The share of a clip's frames that a face may be missing from; it is inferred there."""
    overlay: bool = True
    """Write the drawing of box and landmarks."""
    backend: Literal["litert", "mediapipe"] = "litert"
    """litert: the networks that ship with this package. mediapipe: MediaPipe's Tasks API, with the extra mediapipe: its
    release 0.10.31, as others bring an OpenCV that clashes with ours, and from 1.0 on send usage metrics home."""
    landmarker: Path | None = None
    """For the backend mediapipe: its face_landmarker.task, which no package has."""

    def __post_init__(self) -> None:
        if self.backend == "mediapipe" and not self.landmarker:
            raise FaceError(f"backend mediapipe: no landmarker: download face_landmarker.task ({SOURCE}) and name it")
        if self.backend != "mediapipe" and self.landmarker:
            raise FaceError(f"{self.landmarker}: backend {self.backend} has its own landmarker: leave it out")
        if not 0 <= self.max_missing < 1:
            raise FaceError(f"max_missing {self.max_missing}: use a share from 0 to below 1")


@contextlib.contextmanager
def open_finder(options: ExtractOptions) -> Iterator[FaceFinder]:
    """Of the backend that the options name. Raises FaceError and ImportError where it cannot be."""
    if options.landmarker:
        with contextlib.closing(MediaPipe(options.landmarker)) as backend:
            yield FaceFinder(look=backend.look)
    else:
        yield FaceFinder()


class Extracted(NamedTuple):
    """What was found in a file: `faces` in each of `frames` frames, of which `bridged` are inferred, of all faces.

    `csv` and `jsonl` are the lines of the face table, in columns TABLE_COLUMNS, without a header.
    """

    kind: Kind
    faces: int
    frames: int
    bridged: int
    csv: str
    jsonl: str


def extract_faces(source: Path, out: Path, finder: FaceFinder, options: ExtractOptions = ExtractOptions()) -> Extracted:
    """Writes what `list_outputs` names for the picture or clip `source`: all of it, or nothing where it fails.

    `out` has no suffix; its folder is made. Crops are 256 x 256. A picture's landmarks are 136 numbers, a clip's
    (n, 68, 2) with a row for each frame of the crop clip; both in pixels of the crop. Raises MediaError and FaceError.
    """
    return (_extract_clip if find_kind(source) == "video" else _extract_picture)(source, out, finder, options)


def list_outputs(out: Path, kind: Kind, faces: int, overlay: bool) -> list[Path]:
    """A crop of each face, then landmarks of each, then the drawing; `out` gets `_face1` ... where there are several.

    With `out` a/b: a/b.png, a/b.npy and a/b_overlay.png, with .mp4 for a clip.
    """
    suffix = SUFFIX_OF_KIND[kind]
    stems = [f"{out.name}_face{number}" for number in range(1, faces + 1)] if faces > 1 else [out.name]
    names = [f"{stem}{end}" for end in (suffix, ".npy") for stem in stems]
    return [out.with_name(name) for name in [*names, *[f"{out.name}_overlay{suffix}"] * overlay]]


def _extract_picture(source: Path, out: Path, finder: FaceFinder, options: ExtractOptions) -> Extracted:
    picture = load_image(source)
    height, width, _ = picture.shape
    found = finder.find(picture)
    if options.mode == "reference":  # whose rule leaves nothing of some faces at the border
        found = [face for face in found if not reference_window(face.box, height, width).empty] or found
    largest = pick_face(found, source)
    faces = found if options.face == "all" else [largest]
    windows = [choose_window(face.box, height, width, options.mode, source) for face in faces]
    contents = [_encode_png(cut_window(picture, window, options.mode)) for window in windows]
    contents += [
        _encode_npy(to_crop(face.landmarks, window).reshape(-1)) for face, window in zip(faces, windows, strict=True)
    ]
    if options.overlay:
        contents.append(_encode_png(draw_faces(picture, faces)))
    with _all_or_none(list_outputs(out, "image", len(faces), options.overlay)) as paths:
        for path, data in zip(paths, contents, strict=True):
            _write(path, data)
    return Extracted("image", len(faces), 1, 0, *_format_rows(source, [faces], [0.0]))


def _extract_clip(source: Path, out: Path, finder: FaceFinder, options: ExtractOptions) -> Extracted:
    out.parent.mkdir(parents=True, exist_ok=True)
    clip, written = _search_clip(source, out, finder, options)
    tracks = _choose_tracks(clip, options)
    frames = [[track.faces[index] for track in tracks] for index in range(len(clip.seconds))]
    with _all_or_none(list_outputs(out, "video", len(tracks), options.overlay)) as paths:
        if not written:
            renders = [render_crop(clip, track) for track in tracks]
            if options.overlay:
                renders.append(lambda index, picture: draw_faces(picture, frames[index], index))
            write_clips(source, clip, dict(zip(_choose_clips(paths), renders, strict=True)))
        for path, track in zip(paths[len(tracks) :], tracks, strict=False):
            _write(path, _encode_npy(crop_landmarks(clip, track)))
    bridged = sum(len(track.bridged) for track in tracks)
    return Extracted("video", len(tracks), len(frames), bridged, *_format_rows(source, frames, clip.seconds.tolist()))


def _search_clip(source: Path, out: Path, finder: FaceFinder, options: ExtractOptions) -> tuple[ClipFaces, bool]:
    """The faces of a clip, and whether its clips are written already: mostly there is one face, and it has no gaps."""
    frames = decode_ahead(iterate_video(source))
    if options.mode != "reference":  # whose clips have a rate that is known before
        return follow_faces(frames, source, finder, options.mode, options.max_missing), False
    paths = _choose_clips(list_outputs(out, "video", 1, options.overlay))
    with contextlib.suppress(InVainError), contextlib.ExitStack() as stack:
        draft = Draft(paths, stack)
        clip = follow_faces(frames, source, finder, options.mode, options.max_missing, draft.add)
        draft.check(_choose_tracks(clip, options))
        return clip, True
    return clip, False


def decode_ahead(frames: Iterator[Frame], count: int = 4) -> Iterator[Frame]:
    """The same frames, up to `count` of them decoded, by a thread, before they are asked for."""
    with ThreadPoolExecutor(1) as decoder:
        coming = deque(decoder.submit(next, frames, None) for _ in range(count))
        while frame := coming.popleft().result():
            coming.append(decoder.submit(next, frames, None))
            yield frame


def _choose_tracks(clip: ClipFaces, options: ExtractOptions) -> list[Track]:
    return clip.tracks if options.face == "all" else clip.tracks[:1]


def _choose_clips(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.suffix == SUFFIX_OF_KIND["video"]]


def _format_rows(source: Path, frames: Sequence[Sequence[Face]], seconds: Sequence[float]) -> tuple[str, str]:
    """The faces of each frame as lines of CSV and of JSONL."""
    table, lines = [], []
    for index, (faces, second) in enumerate(zip(frames, seconds, strict=True)):
        for number, face in enumerate(faces, start=1):
            box = [round(side, 3) for side in face.box]
            points = np.round(face.landmarks, 3).T.reshape(-1).tolist()
            row = [str(source), index, round(second, 4), number, *box, round(face.score, 4), *points]
            table.append(format_csv_row(row))
            lines.append(json.dumps(dict(zip(TABLE_COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")
    return "".join(table), "".join(lines)


def format_csv_row(row: Sequence[object]) -> str:
    """A line of the face table. Names are always quoted: csv leaves some bare that a reader takes for two lines."""
    name = str(row[0]).replace('"', '""')
    return ",".join([f'"{name}"', *map(str, row[1:])]) + "\n"


def _encode_png(picture: UInt8[np.ndarray, "Y X 3"]) -> bytes:
    cv2 = require("cv2", "faces")
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _encode_npy(points: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, points.astype(np.float32))
    return data.getvalue()


@contextlib.contextmanager
def _all_or_none(paths: list[Path]) -> Iterator[list[Path]]:
    """Files in one folder, which is made; none of them stays where the block fails."""
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        yield paths
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
