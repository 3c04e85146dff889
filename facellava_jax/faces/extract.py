"""From a picture or clip to files: crops of its faces, landmarks, a drawing to look at, and rows of the face table."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..config import LANDMARK_POINTS
from ..extras import require
from ..media import Kind, find_kind, load_image
from .clips import MAX_MISSING, crop_landmarks, find_clip_faces, render_crop, write_clips
from .crop import Mode, choose_window, cut_window, reference_window, to_crop
from .draw import draw_faces
from .face import Face, FaceError
from .find import FaceFinder, pick_face

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

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing < 1:
            raise FaceError(f"max_missing {self.max_missing}: use a share from 0 to below 1")


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
    clip = find_clip_faces(source, finder, options.mode, options.max_missing)
    tracks = clip.tracks if options.face == "all" else clip.tracks[:1]
    frames = [[track.faces[index] for track in tracks] for index in range(len(clip.seconds))]
    renders = [render_crop(clip, track) for track in tracks]
    if options.overlay:
        renders.append(lambda index, picture: draw_faces(picture, frames[index], index))
    with _all_or_none(list_outputs(out, "video", len(tracks), options.overlay)) as paths:
        clips = [path for path in paths if path.suffix == SUFFIX_OF_KIND["video"]]
        write_clips(source, clip, dict(zip(clips, renders, strict=True)))
        for path, track in zip(paths[len(tracks) :], tracks, strict=False):
            _write(path, _encode_npy(crop_landmarks(clip, track)))
    bridged = sum(len(track.bridged) for track in tracks)
    return Extracted("video", len(tracks), len(frames), bridged, *_format_rows(source, frames, clip.seconds.tolist()))


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
