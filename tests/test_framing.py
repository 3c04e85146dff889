"""framing.py: what a model is shown of raw pictures and clips, when it is cut to the face, and why."""

import dataclasses
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pytest

from facellava_jax import framing
from facellava_jax.config import tiny
from facellava_jax.errors import FaceLlavaError
from facellava_jax.faces import (
    Box,
    Face,
    FaceError,
    FaceFinder,
    Window,
    choose_window,
    cut_window,
    find_clip_faces,
    to_crop,
)
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.framing import Framer, Medium, Shown, choose_crop, read_medium
from facellava_jax.media import Clip, MediaError, iterate_video, load_landmarks, load_video
from facellava_jax.request import PredictError
from facellava_jax.stopwatch import Stopwatch

MODEL = tiny().model  # with landmark modules, for images and clips
UNGUIDED = dataclasses.replace(MODEL, landmarks=None)
SAMPLED = 4
FRAMES = 11
FRAME_IDS = (0, 3, 6, 10)


@pytest.fixture(scope="session")
def framer() -> Framer:
    return Framer(MODEL, SAMPLED)


def watch() -> Stopwatch:
    return Stopwatch("read", "faces", "preprocess")


def show(framer: Framer, source: Any, landmarks: Any = "auto", crop: Any = "auto") -> Shown:
    (shown,) = framer.show(source, landmarks, crop, watch())
    return shown


@pytest.fixture
def no_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without the extra `faces`: whatever looks for a face fails."""

    def fail() -> None:
        raise ImportError("a face was looked for")

    monkeypatch.setattr(framing, "FaceFinder", fail)


def pan(astronaut: np.ndarray) -> np.ndarray:
    """Frames of 192 x 256 that move right and down over the astronaut."""
    return np.stack([astronaut[20 + k : 212 + k, 60 + 4 * k : 316 + 4 * k] for k in range(FRAMES)])


def write_clip(path: Path, frames: np.ndarray) -> Path:
    with ClipWriter(path, 24.0) as writer:
        for index, frame in enumerate(frames):
            writer.add(frame, index / 24)
    return path


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    import cv2

    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame[..., ::-1])
    return folder


def decode(clip: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in iterate_video(clip)])


@pytest.fixture
def clip(astronaut: np.ndarray, tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", pan(astronaut))


# Pictures


def test_the_only_face_is_cut_out_as_in_the_training_data(framer: Framer, astronaut: np.ndarray, face: Face) -> None:
    shown = show(framer, astronaut)
    window = choose_window(face.box, 512, 512, "reference", "astronaut")
    np.testing.assert_array_equal(shown.frames, cut_window(astronaut, window, "reference")[None])
    np.testing.assert_array_equal(shown.landmarks, to_crop(face.landmarks, window).astype(np.float32)[None] / 256)
    view = shown.view
    assert (view.kind, view.crop, view.windows, view.frame_ids) == ("image", "reference", (window,), (0,))
    assert (view.found, view.number, view.boxes) == (1, 1, (face.box,))
    assert view.why == "the only face spans 19% of the width and 19% of the height"
    np.testing.assert_array_equal(view.landmarks, face.landmarks[None])


def test_what_is_256_x_256_is_a_crop_already(framer: Framer, astronaut: np.ndarray, finder: FaceFinder) -> None:
    picture = astronaut[:256, 96:352]
    shown = show(framer, picture)
    np.testing.assert_array_equal(shown.frames[0], picture)
    np.testing.assert_allclose(shown.landmarks[0] * 256, finder.find(picture)[0].landmarks, atol=1e-4)
    assert (shown.view.crop, shown.view.why) == ("none", "it is 256 x 256 already")
    assert shown.view.windows == (Window(0, 0, 256, 256),)


@pytest.mark.parametrize("rows", [slice(79, 182), slice(55, 205)])
def test_a_face_that_fills_the_picture_is_not_cut_out(framer: Framer, astronaut: np.ndarray, rows: slice) -> None:
    picture = astronaut[rows, 150:300]
    height, width, _ = picture.shape
    shown = show(framer, picture)
    side, (left, top) = min(height, width), np.array([width - min(height, width), height - min(height, width)]) // 2
    assert (shown.view.crop, shown.view.windows) == ("none", (Window(left, top, left + side, top + side),))
    assert shown.view.why.startswith("the face spans 6")
    np.testing.assert_array_equal(shown.frames[0], picture)
    # The model counts in pixels of the middle square, which is what its tower sees, at 256 x 256.
    assert shown.view.landmarks is not None
    expected = (shown.view.landmarks[0] + 0.5 - [left, top]) * 256 / side - 0.5
    np.testing.assert_allclose(shown.landmarks[0] * 256, expected, atol=1e-4)


def test_a_picture_that_is_stored_sideways(framer: Framer, astronaut: np.ndarray, face: Face, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    picture = astronaut[:400]
    Image.fromarray(np.rot90(picture)).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    shown = show(framer, tmp_path / "turned.jpg")
    assert shown.view.landmarks is not None
    np.testing.assert_allclose(shown.view.landmarks[0], face.landmarks, atol=3)
    expected = cut_window(picture, shown.view.windows[0], "reference").astype(int)
    assert np.abs(shown.frames[0] - expected).mean() < 3


def test_the_largest_of_several_is_centred(framer: Framer, astronaut: np.ndarray, finder: FaceFinder) -> None:
    other = np.ascontiguousarray(astronaut[20:276, 96:352])
    picture = np.hstack([other[::2, ::2].repeat(1, axis=0), np.zeros((128, 40, 3), np.uint8), other[64:192, 64:192]])
    largest, smaller = finder.find(picture)
    assert largest.box.x > 168 > smaller.box.x
    shown = show(framer, picture)
    window = choose_window(largest.box, *picture.shape[:2], "centered", "two")
    assert (shown.view.crop, shown.view.windows, shown.view.boxes) == ("centered", (window,), (largest.box,))
    assert (shown.view.found, shown.view.number) == (2, 1)
    assert shown.view.why.startswith("the largest of 2 faces spans ")
    np.testing.assert_array_equal(shown.frames[0], cut_window(picture, window, "centered"))
    both = framer.show(picture, "auto", "auto", watch(), every=True)
    assert [each.view.boxes for each in both] == [(largest.box,), (smaller.box,)]
    assert [(each.view.number, each.view.crop, each.view.why) for each in both] == [
        (1, "centered", "one of 2 faces"),
        (2, "centered", "one of 2 faces"),
    ]
    for each, found in zip(both, (largest, smaller), strict=True):
        window = choose_window(found.box, *picture.shape[:2], "centered", "two")
        np.testing.assert_array_equal(each.frames[0], cut_window(picture, window, "centered"))
        np.testing.assert_array_equal(each.landmarks[0], to_crop(found.landmarks, window).astype(np.float32) / 256)


def test_every_face_of_one_is_that_one(framer: Framer, astronaut: np.ndarray) -> None:
    (alone,) = framer.show(astronaut, "auto", "auto", watch(), every=True)
    assert (alone.view.crop, alone.view.number, alone.view.found) == ("reference", 1, 1)
    np.testing.assert_array_equal(alone.frames, show(framer, astronaut).frames)


def test_landmarks_and_crop_go_without_each_other(framer: Framer, astronaut: np.ndarray) -> None:
    both, cut, guided = (show(framer, astronaut, *how) for how in (("auto", "auto"), (None, "auto"), ("auto", "none")))
    np.testing.assert_array_equal(cut.frames, both.frames)
    assert cut.landmarks is None and cut.view.crop == "reference"
    np.testing.assert_array_equal(guided.frames[0], astronaut)
    assert (guided.view.crop, guided.view.why, guided.view.boxes) == ("none", "crop is none", both.view.boxes)
    assert guided.landmarks is not None and guided.view.landmarks is not None
    np.testing.assert_allclose((guided.landmarks * 256 + 0.5) * 2 - 0.5, guided.view.landmarks, atol=1e-3)


def test_pixels_may_lie_in_any_order(framer: Framer, astronaut: np.ndarray) -> None:
    mirrored = show(framer, astronaut[:, ::-1])
    np.testing.assert_array_equal(mirrored.frames, show(framer, astronaut[:, ::-1].copy()).frames)


# The rule


def place(box: Box) -> Face:
    return Face(box, 1.0, np.zeros((6, 2)), np.zeros((68, 2)), 1.0)


def choose(height: int, width: int, *tracks: list[Box], every: bool = False) -> tuple[str, str]:
    length = len(tracks[0])
    clip = Clip(np.zeros((length, height, width, 3), np.uint8), np.arange(length), length)
    return choose_crop(Medium("x", "x", "video", clip), [[place(box) for box in boxes] for boxes in tracks], every)


@pytest.mark.parametrize(
    ("width", "height", "crop"),
    [(120, 60, "none"), (119.9, 60, "reference"), (120, 59.9, "reference"), (200, 59, "reference"), (200, 100, "none")],
)
def test_sixty_percent_of_both_sides(width: float, height: float, crop: str) -> None:
    assert choose(100, 200, [Box(0, 0, width, height)])[0] == crop


@pytest.mark.parametrize(("sides", "crop"), [([50, 61, 70], "none"), ([70, 59, 50], "reference"), ([60], "none")])
def test_a_clip_is_judged_by_its_median(sides: list[int], crop: str) -> None:
    assert choose(100, 100, [Box(10, 10, side, side) for side in sides])[0] == crop


def test_what_goes_before_what() -> None:
    small, large = [Box(20, 20, 40, 40)], [Box(70, 70, 170, 180)]
    assert choose(256, 256, small, small) == ("none", "it is 256 x 256 already")
    assert choose(256, 256, small, small, every=True) == ("centered", "one of 2 faces")
    assert choose(250, 250, large, small)[0] == "none"
    assert choose(250, 250, large, small, every=True)[0] == "centered"
    assert choose(400, 400, large, small)[0] == "centered"
    assert choose(400, 400, large, every=True)[0] == "reference"


def test_a_face_that_the_border_cuts_off_is_centred() -> None:
    assert choose(400, 400, [Box(380, 150, 100, 100)]) == (
        "centered",
        "the border cuts off too much of the only face that is seen throughout",
    )


# Clips


def expect_pan(shown: Shown, path: Path, frames: np.ndarray, finder: FaceFinder) -> None:
    """What is shown of the pan: its sampled frames, each cut to the face where it lies there."""
    (track,) = find_clip_faces(path, finder).tracks
    faces = [track.faces[index] for index in FRAME_IDS]
    windows = tuple(choose_window(face.box, 192, 256, "reference", "pan") for face in faces)
    view = shown.view
    assert (view.kind, view.crop, view.frame_ids) == ("video", "reference", FRAME_IDS)
    assert (view.windows, view.boxes, view.found, view.number) == (windows, tuple(face.box for face in faces), 1, 1)
    for index, (frame_id, face, window) in enumerate(zip(FRAME_IDS, faces, windows, strict=True)):
        np.testing.assert_array_equal(shown.frames[index], cut_window(frames[frame_id], window, "reference"))
        np.testing.assert_array_equal(shown.landmarks[index], to_crop(face.landmarks, window).astype(np.float32) / 256)
        np.testing.assert_array_equal(view.landmarks[index], face.landmarks)


def test_a_clip_is_cut_where_the_face_is_in_each_frame(framer: Framer, clip: Path, finder: FaceFinder) -> None:
    frames = decode(clip)
    shown = show(framer, clip)
    expect_pan(shown, clip, frames, finder)
    # The view moves 4 pixels to the right in each frame, so that the face moves to the left.
    assert shown.view.boxes is not None
    assert [round((shown.view.boxes[0].x - box.x) / 4) for box in shown.view.boxes] == pytest.approx(FRAME_IDS, abs=1)
    # An array of the same frames, and a folder of them, are the same clip.
    for source in (frames, write_frames(clip.parent / "frames", frames)):
        expect_pan(show(framer, source), clip, frames, finder)


def test_a_clip_that_is_stored_sideways(framer: Framer, astronaut: np.ndarray, clip: Path, tmp_path: Path) -> None:
    turned = write_clip(tmp_path / "turned.mp4", np.rot90(pan(astronaut), axes=(1, 2)))
    data = bytearray(turned.read_bytes())
    clockwise = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # the matrix in the header of the track
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *clockwise)
    turned.write_bytes(data)
    shown, upright = show(framer, turned), show(framer, clip)
    assert shown.view.landmarks is not None
    np.testing.assert_allclose(shown.view.landmarks, upright.view.landmarks, atol=1.5)
    assert shown.view.crop == upright.view.crop == "reference"


def test_a_gap_is_bridged(framer: Framer, astronaut: np.ndarray) -> None:
    frames = pan(astronaut).copy()
    frames[6] = 0
    shown = show(framer, frames)
    assert shown.view.faces is not None
    assert [face.score > 0 for face in shown.view.faces] == [True, True, False, True]
    assert shown.view.faces[2].box.x == pytest.approx(show(framer, pan(astronaut)).view.faces[2].box.x, abs=2)
    frames[:4] = 0
    with pytest.raises(FaceError, match=r"5 of 11 frames are without .* \(0-3, 6\), more than 30%: .*, or ask about"):
        show(framer, frames)


def test_each_face_is_followed(framer: Framer, astronaut: np.ndarray) -> None:
    moving = pan(astronaut)
    small = np.pad(moving[:, ::2, ::2], [(0, 0), (0, 96), (0, 0), (0, 0)])
    first, second = framer.show(np.concatenate([small, moving], axis=2), "auto", "auto", watch(), every=True)
    assert min(box.x for box in first.view.boxes or ()) > 128 > max(box.x for box in second.view.boxes or ())
    assert first.view.crop == second.view.crop == "centered"
    assert first.landmarks.shape == second.landmarks.shape == (SAMPLED, 68, 2)
    (largest,) = framer.show(np.concatenate([small, moving], axis=2), "auto", "auto", watch())
    np.testing.assert_array_equal(largest.frames, first.frames)
    assert largest.view.why.startswith("the largest of 2 faces")


def test_a_clip_that_is_cut_short_ends_at_its_last_frame(framer: Framer, clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 9 // 10])
    length = load_video(clip, 1).length
    assert SAMPLED < length < FRAMES
    assert show(framer, clip).view.frame_ids[-1] == length - 1


def test_a_clip_that_changes_between_the_passes(
    framer: Framer, clip: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = write_clip(clip.parent / "shorter.mp4", pan(astronaut)[:7])
    monkeypatch.setattr(framing, "iterate_video", lambda path: iterate_video(shorter))
    with pytest.raises(MediaError, match=r"clip\.mp4: has 7 frames after 11 before: read it when nothing writes"):
        show(framer, clip)


# Where no face is looked for


@pytest.mark.parametrize("crop", ["auto", "none"])
def test_a_landmark_file_is_of_a_crop(
    crop: Any, framer: Framer, astronaut: np.ndarray, clip: Path, no_finder: None, tmp_path: Path
) -> None:
    points = np.random.default_rng(0).uniform(0, 256, (FRAMES, 68, 2)).astype(np.float32)
    np.save(tmp_path / "clip.npy", points)
    np.save(tmp_path / "face.npy", points[0].reshape(-1))
    fresh = Framer(MODEL, SAMPLED)
    shown = show(fresh, clip, tmp_path / "clip.npy", crop)
    np.testing.assert_array_equal(shown.landmarks, points[list(FRAME_IDS)] / 256)
    np.testing.assert_array_equal(shown.frames, load_video(clip, SAMPLED).frames)
    shown = show(fresh, astronaut, str(tmp_path / "face.npy"), crop)
    np.testing.assert_array_equal(shown.landmarks, load_landmarks(tmp_path / "face.npy"))
    np.testing.assert_array_equal(shown.frames[0], astronaut)
    view = shown.view
    assert (view.crop, view.why) == ("none", "its landmark file says where the face is")
    assert view.found is view.number is view.faces is view.boxes is view.landmarks is None


@pytest.mark.parametrize(
    ("model", "picture", "landmarks", "crop", "why"),
    [
        (MODEL, (300, 200), None, "none", "crop and landmarks are none"),
        (MODEL, (256, 256), None, "auto", "it is 256 x 256 already"),
        (UNGUIDED, (300, 200), "auto", "auto", "this checkpoint has no landmark modules"),
    ],
)
def test_nothing_is_looked_for(
    model: Any, picture: tuple[int, int], landmarks: Any, crop: Any, why: str, no_finder: None
) -> None:
    fresh, pixels = Framer(model, SAMPLED), np.random.default_rng(0).integers(0, 256, (*picture, 3), np.uint8)
    shown = show(fresh, pixels, landmarks, crop)
    np.testing.assert_array_equal(shown.frames[0], pixels)
    assert (shown.landmarks, shown.view.crop, shown.view.why, shown.view.faces) == (None, "none", why, None)


@pytest.mark.parametrize(
    ("model", "landmarks", "why"),
    [
        (MODEL, "none", "crop and landmarks are none"),
        (MODEL, "face.npy", "its landmark file says where the face is"),
        (UNGUIDED, "auto", "this checkpoint has no landmark modules"),
    ],
)
def test_every_face_needs_faces(
    model: Any, landmarks: str, why: str, astronaut: np.ndarray, tmp_path: Path, no_finder: None
) -> None:
    np.save(tmp_path / "face.npy", np.zeros((68, 2), np.float32))
    given = {"none": None, "face.npy": tmp_path / "face.npy"}.get(landmarks, landmarks)
    with pytest.raises(PredictError, match=rf"\(512, 512, 3\): no face is looked for, as {why}: ask about it as a who"):
        Framer(model, SAMPLED).show(astronaut, given, "none", watch(), every=True)


# Errors, threads, time


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("shape", [(90, 90, 3), (3, 90, 90, 3)])
def test_no_face(framer: Framer, shape: tuple[int, ...], every: bool) -> None:
    with pytest.raises(FaceError, match=r"^array \(.*\): no face found.*--crop none --landmarks none$") as raised:
        framer.show(np.zeros(shape, np.uint8), "auto", "auto", watch(), every)
    assert isinstance(raised.value, FaceLlavaError) and "\n" not in str(raised.value)


def test_threads_share_one_finder(astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    made, busy, start = [], Lock(), Barrier(4)

    class Guarded(FaceFinder):
        def __init__(self) -> None:
            made.append(self)
            super().__init__()

        def find(self, picture: np.ndarray) -> list[Face]:
            assert busy.acquire(blocking=False), "two threads at a time"
            try:
                return super().find(picture)
            finally:
                busy.release()

    monkeypatch.setattr(framing, "FaceFinder", Guarded)
    fresh = Framer(MODEL, SAMPLED)
    assert not made

    def work(_: int) -> Window:
        start.wait()
        return show(fresh, astronaut).view.windows[0]

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(4)))) == 1
    assert len(made) == 1


def test_each_step_takes_time(framer: Framer, clip: Path) -> None:
    timed = watch()
    framer.show(clip, "auto", "auto", timed)
    assert all(seconds > 0 for seconds in timed.seconds.values())
    assert timed.seconds["faces"] > timed.seconds["preprocess"]
    whole = watch()
    framer.show(clip, None, "none", whole)
    assert whole.seconds["faces"] == 0 < whole.seconds["read"]


READ: dict[str, Callable[[Path], object]] = {
    "a name": str,
    "a path": Path,
    "a folder": lambda clip: write_frames(clip.parent / "frames", decode(clip)),
    "an array": decode,
}


@pytest.mark.parametrize("kind", READ)
def test_a_clip_is_read_from_anywhere(kind: str, clip: Path) -> None:
    medium = read_medium(READ[kind](clip), SAMPLED)  # type: ignore[arg-type]
    assert (medium.kind, medium.size, medium.clip.length) == ("video", (192, 256), FRAMES)
    assert medium.clip.frame_ids.tolist() == list(FRAME_IDS)
    np.testing.assert_array_equal(medium.clip.frames, decode(clip)[list(FRAME_IDS)])
