"""From picture, clip or folder of frames to pixels; from landmark file to fractions of the face crop.

NumPy and OpenCV only, no JAX: data workers import this. What a file holds is told by its first bytes; its name decides
only where those say nothing, so that a damaged picture is still reported as a picture.
"""

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from .config import LANDMARK_POINTS
from .errors import FaceLlavaError
from .extras import require
from .headers import claimed_size, keep_essential_png

if TYPE_CHECKING:
    import cv2

Kind = Literal["image", "video"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "video": (".mp4", ".m4v", ".mov", ".avi", ".flv", ".mkv", ".webm"),
}
# Format -> how its files begin. HEIC and AVIF pictures begin like MP4, but for the brand.
SIGNATURES: dict[Kind, dict[str, re.Pattern[bytes]]] = {
    "image": {
        "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
        "JPEG": re.compile(rb"\xff\xd8\xff"),
        "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
        "BMP": re.compile(rb"BM....\0\0\0\0", re.DOTALL),
    },
    "video": {
        "MP4 or MOV": re.compile(rb"....(ftyp(?!hei|hev|mif|msf|avi)|moov|mdat|wide|free|skip)", re.DOTALL),
        "AVI": re.compile(rb"RIFF....AVI ", re.DOTALL),
        "FLV": re.compile(rb"FLV\x01"),
        "MKV or WebM": re.compile(rb"\x1a\x45\xdf\xa3"),
    },
}
SIGNATURE_BYTES = 12

# Beyond this a file is a mistake or an attack: 13,377 pixels squared, half a gigabyte decoded.
MAX_PIXELS = 178_956_970
MAX_SIDE = 65_535
FRAME_RATE = 24  # where a clip does not say
LAST_FRAMES = 24  # decoded to see where a clip ends

LANDMARK_CROP = 256  # side of the face crop whose pixels landmark files count in
FARTHEST_LANDMARK = 100  # crops away: beyond that a point is a mistake


class MediaError(FaceLlavaError):
    """A file that no pixels or landmarks can be read from; one line that names the file and the remedy."""


class Clip(NamedTuple):
    """Frames sampled from a clip: `frames[t]` is the one at `frame_ids[t]` of the `length` frames that decode."""

    frames: UInt8[np.ndarray, "T Y X 3"]
    frame_ids: Int64[np.ndarray, "T"]
    length: int


def find_kind(path: Path) -> Kind | None:
    """What a file holds by its first bytes, else by its suffix; None for other things, folders included."""
    try:
        kind, _ = _recognise(_read(path, SIGNATURE_BYTES))
    except MediaError:
        kind = None
    if kind or path.is_dir():
        return kind
    return next((kind for kind, suffixes in SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def list_media(source: Path) -> list[Path]:
    """The file `source`, or the pictures and clips of a folder or of a glob such as `faces/**/*.png`.

    In natural order (2 before 10), without hidden files; a folder's own subfolders are not entered. Raises MediaError
    where there is nothing.
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        found: Iterable[Path] = source.iterdir()
    elif set(str(source)) & set("*?["):
        try:
            found = list(Path(source.anchor).glob(str(source.relative_to(source.anchor))))
        except ValueError as error:
            raise MediaError(f"{source}: {error}: write it as folder/**/*.png") from None
    else:
        raise MediaError(f"{source}: no such file or folder: check the path")
    media = [path for path in found if not path.name.startswith(".") and path.is_file() and find_kind(path)]
    if not media:
        raise MediaError(f"{source}: no picture or clip there: {_supported('image')}, {_supported('video')} are read")
    return sorted(media, key=_natural_key)


def load_image(path: Path) -> UInt8[np.ndarray, "Y X 3"]:
    """A PNG, JPEG, WebP or BMP picture in RGB.

    Alpha is dropped and never blended, as the original does; 16-bit values keep their upper eight bits; the first
    frame of an animation counts. An EXIF orientation is applied, so that faces stand upright; the original ignores it.
    Raises MediaError for a file that is no such picture, is damaged or cut short, or is larger than MAX_PIXELS.
    """
    return decode_image(_read(path), path)


def decode_image(data: bytes, path: Path) -> UInt8[np.ndarray, "Y X 3"]:
    """The picture that a file's bytes hold, as `load_image` gives it; errors name `path`."""
    form = _expect("image", data, path)
    _check_size(path, *claimed_size(data, form))
    if form == "PNG":
        try:
            data = keep_essential_png(data)
        except ValueError as error:
            raise MediaError(f"{path}: a PNG picture {error}: copy or save it again") from None
    cv2 = _load_cv2()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise MediaError(f"{path}: a damaged {form} picture: copy or save it again")
    _check_size(path, *pixels.shape[:2])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def load_video(path: Path, num_frames: int) -> Clip:
    """`num_frames` frames of an MP4, MOV, AVI, FLV, MKV or WebM clip, in RGB and evenly spaced over those that decode.

    The container's claim of a length is a guess that saves a pass when it is right. A clip that is cut short or damaged
    ends at its last good frame. The rotation that phones record is applied. Raises MediaError for a file that is no
    clip, or of which no frame decodes.
    """
    _expect("video", _read(path, SIGNATURE_BYTES), path)
    frames, claimed, length = _read_frames(path, num_frames)
    if length != claimed:
        frames, expected, length = _read_frames(path, num_frames, length)
        if length != expected:
            raise MediaError(f"{path}: has {length} frames after {expected} before: read it when nothing writes to it")
    return Clip(frames, sample_frame_ids(length, num_frames), length)


class Frame(NamedTuple):
    """A frame of a clip, in RGB, and when it is shown: seconds after the first."""

    pixels: UInt8[np.ndarray, "Y X 3"]
    seconds: float


def iterate_video(path: Path) -> Iterator[Frame]:
    """Every frame that `load_video` counts, in order, in one pass of flat memory.

    Raises as `load_video` does.
    """
    _expect("video", _read(path, SIGNATURE_BYTES), path)
    with _open_clip(path) as capture:
        interval = 1 / (capture.get(_load_cv2().CAP_PROP_FPS) or FRAME_RATE)
        start, seconds, first = 0.0, -interval, None
        for decoded in itertools.count():
            if not capture.grab():
                break
            stamp = capture.get(_load_cv2().CAP_PROP_POS_MSEC) / 1000
            if not decoded:
                start = stamp
            # A clip that is put together wrongly may have no times, or some that go back.
            seconds = stamp - start if stamp - start > seconds else seconds + interval
            pixels = _retrieve(capture, decoded, path)
            first = pixels if first is None else first
            _check_same_size(f"{path}: frame {decoded}", pixels, first)
            yield Frame(pixels, seconds)
    if first is None:
        raise _nothing_decodes(path)


def count_frames(path: Path) -> int:
    """How many frames of a clip decode, told from its last ones where its container can be sought in.

    Raises as `load_video` does.
    """
    _expect("video", _read(path, SIGNATURE_BYTES), path)
    with _open_clip(path) as capture:
        cv2 = _load_cv2()
        late = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) - LAST_FRAMES)
        for start in (late, 0):
            capture.set(cv2.CAP_PROP_POS_FRAMES, start)
            if length := sum(1 for _ in iter(capture.grab, False)):
                return start + length
    raise _nothing_decodes(path)


def load_frames(folder: Path, num_frames: int) -> Clip:
    """The pictures of a folder as one clip, names in natural order; only sampled ones are decoded.

    Raises MediaError for a folder without pictures, a bad picture, and pictures of different sizes.
    """
    pictures = _list_frames(folder)
    frame_ids = sample_frame_ids(len(pictures), num_frames)
    frames = {index: load_image(pictures[index]) for index in frame_ids.tolist()}
    for index, frame in frames.items():
        _check_same_size(pictures[index], frame, frames[0])
    return Clip(np.stack([frames[index] for index in frame_ids.tolist()]), frame_ids, len(pictures))


def iterate_frames(folder: Path) -> Iterator[Frame]:
    """Every picture of a folder, as those of a clip of FRAME_RATE; raises as `load_frames` does."""
    first = None
    for index, path in enumerate(_list_frames(folder)):
        pixels = load_image(path)
        first = pixels if first is None else first
        _check_same_size(path, pixels, first)
        yield Frame(pixels, index / FRAME_RATE)


def _list_frames(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder: name one that holds a clip's frames")
    pictures = [path for path in list_media(folder) if find_kind(path) == "image"]
    if not pictures:
        raise MediaError(f"{folder}: no picture there: frames are {_supported('image')}")
    return pictures


def sample_frame_ids(length: int, num_frames: int) -> Int64[np.ndarray, "T"]:
    """Indices of `num_frames` frames evenly spaced from the first of `length` to the last; short clips repeat some."""
    if num_frames < 1:
        raise MediaError(f"num_frames {num_frames}: ask for at least 1")
    return np.linspace(0, length - 1, num_frames, dtype=np.int64)


def load_landmarks(path: Path, clip: Clip | None = None) -> Float32[np.ndarray, "T K 2"]:
    """Landmarks from a `.npy` file in pixels of the 256 x 256 face crop, as fractions of it: (x, y) / 256.

    A picture (`clip` None) has 136 numbers, flat or (68, 2), and gives T = 1. A clip has (n, 68, 2) or (n, 136) with
    n its length, and gives those of the sampled frames. Raises MediaError for any other file.
    """
    _read(path, SIGNATURE_BYTES)
    try:
        # Mapped: a header that lies about the size is an error and no allocation, and no pickle is read.
        points = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # its reader of headers raises whatever Python's own parser and tokenizer do
        points = None
    if points is None or points.dtype.kind not in "fiu":
        raise MediaError(f"{path}: no array of numbers: save one with numpy.save")
    expected = clip.length if clip else 1
    faces = ((2 * LANDMARK_POINTS,), (LANDMARK_POINTS, 2))
    if points.shape not in faces and points.shape[1:] not in faces:
        raise MediaError(f"{path}: shape {points.shape}: save landmarks as ({expected}, {LANDMARK_POINTS}, 2)")
    with np.errstate(over="ignore"):  # what float32 cannot hold is too far away
        fractions: np.ndarray = points.reshape(-1, LANDMARK_POINTS, 2).astype(np.float32) / LANDMARK_CROP
    if len(fractions) != expected:
        raise MediaError(
            f"{path}: landmarks of {len(fractions)} frames where the {'clip' if clip else 'picture'} has {expected}: "
            "save one row for each frame that decodes"
        )
    if not (np.abs(fractions) <= FARTHEST_LANDMARK).all():  # NaN is not, either
        raise MediaError(f"{path}: a landmark is not finite, or not near the face crop: find the landmarks again")
    return fractions[clip.frame_ids] if clip else fractions


@functools.cache
def _load_cv2() -> ModuleType:
    """OpenCV, silent in this process unless its own environment variables ask for its log."""
    cv2 = require("cv2", "predict")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    level = "OPENCV_FFMPEG_LOGLEVEL"
    if level not in os.environ:
        # FFmpeg's level is read from here alone, when a process opens its first clip: this one, which is none.
        os.environ[level] = "-8"
        cv2.VideoCapture(os.devnull, cv2.CAP_FFMPEG).release()
        del os.environ[level]
    return cv2


def _read(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes of a file (-1: all). Raises MediaError for what is no file, unreadable or empty."""
    if path.is_dir():
        raise MediaError(f"{path}: a folder, not a file: name a file in it, or read its pictures as one clip's frames")
    if not path.exists():
        raise MediaError(f"{path}: no such file: check the path")
    if not path.is_file():
        raise MediaError(f"{path}: a device or pipe: copy what it gives to a file")
    try:
        with path.open("rb") as file:
            data = file.read(size)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}: check the file and its permissions") from None
    if not data:
        raise MediaError(f"{path}: empty: copy or save it again")
    return data


def _recognise(head: bytes) -> tuple[Kind, str] | tuple[None, None]:
    for kind, signatures in SIGNATURES.items():
        for form, signature in signatures.items():
            if signature.match(head):
                return kind, form
    return None, None


def _expect(kind: Kind, head: bytes, path: Path) -> str:
    """The format of a file that holds a `kind`; MediaError for one that does not."""
    found, form = _recognise(head)
    if form and found == kind:
        return form
    noun = {"image": "picture", "video": "clip"}[kind]
    if found:
        raise MediaError(f"{path}: holds no {noun} but {form}: give the {found} where one is expected")
    raise MediaError(f"{path}: not a {noun} that can be read: convert it to {_supported(kind)}")


def _supported(kind: Kind) -> str:
    *first, last = SIGNATURES[kind]
    return f"{', '.join(first)} or {last}"


def _natural_key(path: Path) -> tuple[list[list[str | int]], str]:
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return [[int(text) if index % 2 else text for index, text in enumerate(part)] for part in parts], str(path)


def _check_size(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise MediaError(
            f"{path}: {width} x {height} pixels: scale it down, "
            f"at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} on a side are read"
        )


def _check_same_size(name: object, frame: np.ndarray, first: np.ndarray) -> None:
    if frame.shape != first.shape:
        (height, width), (first_height, first_width) = frame.shape[:2], first.shape[:2]
        raise MediaError(
            f"{name}: {width} x {height} pixels in a clip that begins with {first_width} x {first_height}: "
            "scale its frames to one size"
        )


def _read_frames(
    path: Path, num_frames: int, length: int | None = None
) -> tuple[UInt8[np.ndarray, "T Y X 3"], int, int]:
    """One pass through a clip: its frames sampled as if it had `length`, that length, and how many decoded.

    Without a `length` the container's claim is taken. Where the two lengths differ, the frames are not to be used.
    """
    with _open_clip(path) as capture:
        if length is None:
            length = max(1, int(capture.get(_load_cv2().CAP_PROP_FRAME_COUNT)))
        frame_ids = sample_frame_ids(length, num_frames).tolist()
        kept: dict[int, np.ndarray] = {}
        decoded = 0
        while capture.grab():
            if decoded in frame_ids:
                kept[decoded] = _retrieve(capture, decoded, path)
                _check_same_size(f"{path}: frame {decoded}", kept[decoded], kept[0])
            decoded += 1
    if not decoded:
        raise _nothing_decodes(path)
    return np.stack([kept.get(index, kept[0]) for index in frame_ids]), length, decoded


@contextlib.contextmanager
def _open_clip(path: Path) -> Iterator["cv2.VideoCapture"]:
    cv2 = _load_cv2()
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    try:
        _check_size(path, int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        yield capture
    finally:
        capture.release()


def _retrieve(capture: "cv2.VideoCapture", index: int, path: Path) -> UInt8[np.ndarray, "Y X 3"]:
    """The frame just grabbed, in RGB."""
    ok, pixels = capture.retrieve()
    if not ok:
        raise MediaError(f"{path}: frame {index} cannot be turned into pixels: encode the clip again")
    cv2 = _load_cv2()
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _nothing_decodes(path: Path) -> MediaError:
    return MediaError(f"{path}: no frame of it decodes: copy it again, or encode it as H.264 in MP4")
