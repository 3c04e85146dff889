import hashlib
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facellava_jax import media
from facellava_jax.config import MediaConfig
from facellava_jax.media import MediaError
from facellava_jax.pixels import preprocess_image, preprocess_video

TOLERANCE = 2e-5
FRAMES = 12
CONTAINERS = {
    **{".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264"},
    **{".avi": "mpeg4", ".flv": "flv", ".webm": "libvpx"},
}


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """Smooth colour with an edge; 42 x 60, so that no turn of it is taken for another."""
    y, x = np.mgrid[:42, :60]
    return np.stack([4 * x, 6 * y, 255 * (x + y > 50)], axis=-1).astype(np.uint8)


@pytest.fixture
def images(golden_case: Callable[[str], Path]) -> Path:
    return golden_case("preprocess")


def encode(pixels: np.ndarray, form: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels)
    image = image.quantize(16) if mode == "P" else image.convert(mode) if mode else image
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """What the original sees: PIL's pixels, without orientation."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_clip(path: Path, frames: int = FRAMES, size: tuple[int, int] = (64, 48), **options: str) -> Path:
    """A clip whose frame i is grey of level 20 i, every one a key frame; an MP4's index is at its beginning."""
    import av

    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(CONTAINERS[path.suffix], rate=24, options={"g": "1", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            pixels = np.full((size[1], size[0], 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def levels(clip: media.Clip) -> list[int]:
    """The numbers that `write_clip` gave to a clip's frames."""
    return [round(float(frame.mean()) / 20) for frame in clip.frames]


# Against the original


def statistics(pixels: np.ndarray, axis: tuple[int, int]) -> dict[str, np.ndarray]:
    exact = pixels.astype(np.float64)
    std = exact.std(axis, ddof=1)  # torch's
    return {"mean": exact.mean(axis), "std": std, "min": exact.min(axis), "max": exact.max(axis)}


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", ["demo", "landscape", "portrait", "small_up", "large_odd", "exact224"])
def test_pictures_equal_the_original(images: Path, name: str, pad: bool) -> None:
    expected = np.load(images / "images.npz")
    pixels = media.load_image(images / "media" / f"{name}.png")
    actual = preprocess_image(pixels, 224, MediaConfig(pad_to_square=pad))
    assert actual.dtype == np.float32
    channels_first = actual.transpose(2, 0, 1)
    case = f"{name}_{'pad' if pad else 'nopad'}"
    np.testing.assert_allclose(channels_first.ravel()[expected[f"{case}/idx"]], expected[f"{case}/val"], 0, TOLERANCE)
    np.testing.assert_allclose(channels_first[:, 100], expected[f"{case}/row100"], 0, TOLERANCE)
    for statistic, value in statistics(channels_first, (1, 2)).items():
        np.testing.assert_allclose(value, expected[f"{case}/{statistic}"], 0, TOLERANCE)
    if f"{case}/full" in expected:
        np.testing.assert_allclose(channels_first, expected[f"{case}/full"], 0, TOLERANCE)


@pytest.mark.parametrize("name, num_frames", [("demo", 8), ("demo", 4), ("landscape", 8), ("portrait_short", 8)])
def test_clips_equal_the_original(images: Path, name: str, num_frames: int) -> None:
    expected = np.load(images / "videos.npz")
    case = f"{name}_f{num_frames}"
    index = json.loads((images / "index.json").read_text())["videos"][f"{case}_decord"]
    clip = media.load_video(images / "media" / f"{name}.mp4", num_frames)
    assert clip.length == index["n_frames"]
    assert clip.frame_ids.tolist() == index["frame_ids"] == expected[f"{case}_decord/frame_ids"].tolist()
    assert hashlib.sha256(clip.frames.tobytes()).hexdigest() == index["raw_sha256"]
    actual = preprocess_video(clip.frames, 224, MediaConfig()).transpose(3, 0, 1, 2)
    for reader in ("decord", "opencv"):
        samples = expected[f"{case}_{reader}/idx"], expected[f"{case}_{reader}/val"]
        np.testing.assert_allclose(actual.ravel()[samples[0]], samples[1], 0, TOLERANCE)
    for statistic, value in statistics(actual, (2, 3)).items():
        np.testing.assert_allclose(value, expected[f"{case}_decord/{statistic}"], 0, TOLERANCE)
    if f"{case}_decord/frame3_full" in expected:
        np.testing.assert_allclose(actual[:, 3], expected[f"{case}_decord/frame3_full"], 0, TOLERANCE)


def test_frame_ids_equal_the_original(images: Path) -> None:
    table = json.loads((images / "index.json").read_text())["frame_id_table"]
    assert len(table) > 20
    for case, expected in table.items():
        length, num_frames = map(int, case.split(","))
        assert media.sample_frame_ids(length, num_frames).tolist() == expected


def test_landmarks_equal_the_original(images: Path) -> None:
    clip = media.load_video(images / "media" / "demo.mp4", 8)
    points = media.load_landmarks(images / "media" / "video_landmarks.npy", clip)
    assert points.shape == (8, 68, 2)
    np.testing.assert_allclose(points.reshape(8, 136), np.load(images / "videos.npz")["demo_landmarks_out"], 0, 1e-7)
    point = media.load_landmarks(images / "media" / "image_landmarks.npy")
    np.testing.assert_allclose(point.ravel(), np.load(images / "images.npz")["image_landmarks_out"], 0, 1e-7)


# Against torch


def interpolate(pixels: np.ndarray, size: list[int], mode: str, antialias: bool) -> np.ndarray:
    """(T, Y, X, 3) of 0..1, resized by torch."""
    import torch

    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, size, mode=mode, align_corners=False, antialias=antialias)
    return resized.permute(0, 2, 3, 1).numpy()


def crop_and_normalise(resized: np.ndarray, size: int, config: MediaConfig) -> np.ndarray:
    top, left = (round((side - size) / 2) for side in resized.shape[1:3])
    centre = resized[:, top : top + size, left : left + size]
    return (centre - np.float32(config.mean)) / np.float32(config.std)


SIZES = [(1, 1, 56), (7, 5, 56), (300, 31, 56), (57, 230, 56), (480, 641, 224), (100, 101, 224), (225, 450, 224)]


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("height, width, size", SIZES)
def test_bicubic_is_torchs(height: int, width: int, size: int, pad: bool) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    canvas = pixels
    if pad:
        side = max(height, width)
        canvas = np.tile(np.uint8([122, 116, 104]), (side, side, 1))
        top, left = (side - height) // 2, (side - width) // 2
        canvas[top : top + height, left : left + width] = pixels
    short = min(canvas.shape[:2])
    resized = [int(size * side / short) for side in canvas.shape[:2]]
    config = MediaConfig(pad_to_square=pad)
    oracle = interpolate(canvas[None] / np.float32(255), resized, "bicubic", antialias=True)
    actual = preprocess_image(pixels, size, config)
    assert actual.shape == (size, size, 3)
    np.testing.assert_allclose(actual, crop_and_normalise(oracle, size, config)[0], 0, 5e-6)


@pytest.mark.parametrize("height, width, size", SIZES)
def test_bilinear_is_torchs(height: int, width: int, size: int) -> None:
    frames = np.random.default_rng(width).integers(0, 256, (3, height, width, 3), np.uint8)
    short = min(height, width)
    resized = [int(side / short * size) for side in (height, width)]
    oracle = interpolate(frames / np.float32(255), resized, "bilinear", antialias=False)
    actual = preprocess_video(frames, size, MediaConfig())
    np.testing.assert_allclose(actual, crop_and_normalise(oracle, size, MediaConfig()), 0, 5e-6)


def test_mean_std_and_padding_come_from_the_config() -> None:
    pixels = np.full((8, 4, 3), 200, np.uint8)
    config = MediaConfig(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), pad_to_square=True)
    actual = preprocess_image(pixels, 16, config)
    inside = (np.full(3, 200 / 255) - config.mean) / config.std
    border = (np.floor(np.multiply(config.mean, 255)) / 255 - config.mean) / config.std
    np.testing.assert_allclose(actual[8, 8], inside, 0, 1e-6)
    np.testing.assert_allclose(actual[8, 0], border, 0, 1e-6)


# Pictures


ALPHA = np.arange(42 * 60).reshape(42, 60, 1).astype(np.uint8)
ENCODINGS = {
    "png": {},
    "palette": {"mode": "P"},
    "palette with transparency": {"mode": "P", "transparency": 3},
    "one bit": {"mode": "1"},
    "grey": {"mode": "L"},
    "grey with alpha": {"mode": "LA"},
    "jpeg": {"form": "JPEG"},
    "progressive jpeg": {"form": "JPEG", "progressive": True},
    "grey jpeg": {"form": "JPEG", "mode": "L"},
    "webp": {"form": "WEBP"},
    "lossless webp": {"form": "WEBP", "lossless": True},
    "bmp": {"form": "BMP"},
    "palette bmp": {"form": "BMP", "mode": "P"},
}


@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_pictures_decode_as_the_original_does(tmp_path: Path, picture: np.ndarray, options: dict[str, object]) -> None:
    data = encode(picture, **options)
    (tmp_path / "picture").write_bytes(data)
    pixels = media.load_image(tmp_path / "picture")
    assert pixels.dtype == np.uint8 and pixels.shape == (42, 60, 3)
    np.testing.assert_array_equal(pixels, decode(data))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_alpha_is_dropped_not_blended(tmp_path: Path, picture: np.ndarray, form: str) -> None:
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    (tmp_path / "a").write_bytes(encode(np.dstack([picture, ALPHA]), form, **options))
    np.testing.assert_array_equal(media.load_image(tmp_path / "a"), picture)


@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, picture: np.ndarray, colour: bool) -> None:
    import cv2

    pixels = picture if colour else picture[:, :, :1]
    _, data = cv2.imencode(".png", pixels[:, :, ::-1].astype(np.uint16) * 256 + 77)
    (tmp_path / "a.png").write_bytes(data.tobytes())
    np.testing.assert_array_equal(media.load_image(tmp_path / "a.png"), np.broadcast_to(pixels, picture.shape))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray, orientation: int, form: str) -> None:
    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, form, exif=exif)
    (tmp_path / "a").write_bytes(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert orientation == 1 or upright.shape != picture.shape or (upright != decode(data)).any()
    np.testing.assert_array_equal(media.load_image(tmp_path / "a"), upright)


def test_content_decides_and_the_suffix_only_where_it_is_silent(tmp_path: Path, picture: np.ndarray) -> None:
    files = {
        "png.jpg": encode(picture),
        "jpeg.mp4": encode(picture, "JPEG"),
        "bare": encode(picture, "WEBP"),
        "empty.png": b"",
        "words.MKV": b"no clip at all",
        "words.txt": b"BMW is a car maker, and this is no picture",
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    write_clip(tmp_path / "clip.mp4", 1).rename(tmp_path / "clip.png")
    kinds = {path.name: media.find_kind(path) for path in tmp_path.iterdir()}
    image, video = "image", "video"
    assert kinds == dict(zip(files, [image, image, image, image, video, None, None], strict=True)) | {"clip.png": video}
    np.testing.assert_array_equal(media.load_image(tmp_path / "png.jpg"), picture)
    assert media.load_video(tmp_path / "clip.png", 2).length == 1
    assert media.find_kind(tmp_path) is media.find_kind(tmp_path / "absent.gif") is None


BAD_PICTURES = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "text": (b"<html>not found</html>", "not a picture.*PNG, JPEG, WebP or BMP"),
    "gif": (b"GIF89a" + bytes(20), "not a picture"),
    "a clip": (b"\0\0\0\x20ftypisom" + bytes(40), "holds no picture but MP4"),
    "an empty png": (png_of_size(4, 4), "damaged PNG"),
    "a png's signature": (b"\x89PNG\r\n\x1a\n", "cut short"),
    "a huge png": (png_of_size(60_000, 60_000), "60000 x 60000 pixels"),
    "a long png": (png_of_size(70_000, 1), "70000 x 1 pixels"),
    "a huge bmp": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 50_000, -50_000) + bytes(40), "50000 x 50000 pixels"),
    "a huge jpeg": (
        b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xc2\0\x11\x08" + struct.pack(">HH", 50_000, 40_000) + bytes(40),
        "40000 x 50000 pixels",
    ),
}


@pytest.mark.parametrize("data, message", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures_are_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "face.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(MediaError, match=message) as caught:
        media.load_image(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_picture_is_refused(tmp_path: Path, picture: np.ndarray, form: str, share: float) -> None:
    data = encode(picture, form)
    (tmp_path / "a").write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match=r"cut short|damaged"):
        media.load_image(tmp_path / "a")


def test_a_flipped_bit_in_a_png_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    data = bytearray(encode(picture))
    data[data.index(b"IDAT") + 40] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(MediaError, match="wrong checksums"):
        media.load_image(tmp_path / "a.png")


def test_folders_and_devices_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="a folder, not a file"):
        media.load_image(tmp_path)
    with pytest.raises(MediaError, match="a device or pipe"):
        media.load_image(Path("/dev/null"))


# Clips


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_clips_of_every_container(tmp_path: Path, suffix: str) -> None:
    clip = media.load_video(write_clip(tmp_path / f"clip{suffix}"), 5)
    assert clip.length == FRAMES and clip.frames.shape == (5, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert clip.frame_ids.tolist() == [0, 2, 5, 8, 11] == levels(clip)


def test_clips_are_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    import cv2

    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 24, (64, 64))
    writer.write(np.tile(np.uint8([20, 100, 220]), (64, 64, 1)))
    writer.release()
    np.testing.assert_allclose(media.load_video(path, 1).frames[0, 32, 32], [220, 100, 20], atol=6)


def test_more_frames_than_the_clip_has(tmp_path: Path) -> None:
    assert levels(media.load_video(write_clip(tmp_path / "one.mp4", 1), 8)) == [0] * 8
    clip = media.load_video(write_clip(tmp_path / "five.mp4", 5), 8)
    assert clip.frame_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 4] == levels(clip)
    with pytest.raises(MediaError, match="num_frames 0"):
        media.load_video(tmp_path / "five.mp4", 0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_clip_has_the_frames_that_decode(tmp_path: Path, suffix: str) -> None:
    import cv2

    data = write_clip(tmp_path / f"whole{suffix}", size=(320, 240)).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(0.8 * len(data))])
    clip = media.load_video(path, 4)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert 4 <= clip.length < FRAMES
    assert clip.frame_ids.tolist() == media.sample_frame_ids(clip.length, 4).tolist() == levels(clip)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_containers_claim_is_not_believed(tmp_path: Path, factor: float) -> None:
    import cv2

    path = write_clip(tmp_path / "clip.webm")
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3
    struct.pack_into(">d", data, duration, factor * struct.unpack_from(">d", data, duration)[0])
    path.write_bytes(data)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == factor * FRAMES
    clip = media.load_video(path, 4)
    assert clip.length == FRAMES and clip.frame_ids.tolist() == [0, 3, 7, 11] == levels(clip)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_recorded_rotation_is_applied(tmp_path: Path, turns: int) -> None:
    import cv2

    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 24, (96, 64))
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32, :32] = 255  # the upper left corner
    writer.write(frame)
    writer.release()
    data = bytearray(path.read_bytes())
    sine, cosine = {1: (1, 0), 2: (0, -1), 3: (-1, 0)}[turns]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 16384]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *(value << 16 for value in matrix))
    path.write_bytes(data)
    pixels = media.load_video(path, 1).frames[0]
    np.testing.assert_allclose(pixels, np.rot90(frame, -turns), atol=40)


BAD_CLIPS = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "text": (b"hello\n" * 50, "not a clip.*MP4 or MOV, AVI, FLV or MKV"),
    "a picture": (png_of_size(4, 4), "holds no clip but PNG"),
    "an mp4's signature": (b"\0\0\0\x20ftypisom" + bytes(40), "no frame of it decodes"),
    "a playlist": (b"#EXTM3U\n#EXTINF:1\n/etc/passwd\n", "not a clip"),
}


@pytest.mark.parametrize("data, message", BAD_CLIPS.values(), ids=BAD_CLIPS)
def test_bad_clips_are_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "clip.mp4"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(MediaError, match=message) as caught:
        media.load_video(path, 8)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"clip\.mp4: no frame of it decodes"):
        media.load_video(path, 8)


def test_nothing_but_our_error_reaches_stderr(tmp_path: Path, picture: np.ndarray) -> None:
    data = encode(picture, icc_profile=b"no profile")
    (tmp_path / "profile.png").write_bytes(data)
    (tmp_path / "cut.png").write_bytes(data[:-30])
    (tmp_path / "cut.bmp").write_bytes(encode(picture, "BMP")[:-30])
    (tmp_path / "cut.jpg").write_bytes(encode(picture, "JPEG")[:-30])
    whole = write_clip(tmp_path / "whole.mp4", size=(320, 240)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(0.8 * len(whole))])
    (tmp_path / "bad.mp4").write_bytes(whole[:60])
    script = """
import os, sys
from facellava_jax import media
for path in media.list_media(media.Path(sys.argv[1])):
    try:
        media.load_image(path) if media.find_kind(path) == "image" else media.load_video(path, 4)
        print("ok", path.name)
    except media.MediaError as error:
        print("MediaError", path.name)
assert not any(name.startswith("OPENCV") for name in os.environ)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    expected = "MediaError bad.mp4, MediaError cut.bmp, MediaError cut.jpg, ok cut.mp4, MediaError cut.png"
    assert done.stdout.splitlines() == [*expected.split(", "), "ok profile.png", "ok whole.mp4"]


# Folders


def write_frames(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / f"frame{index}.png").write_bytes(encode(np.full((8, 6, 3), 20 * index, np.uint8)))
    return folder


def test_a_folder_of_frames_is_a_clip_in_natural_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", FRAMES)
    (folder / "landmarks.npy").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"no picture")
    clip = media.load_frames(folder, 5)
    assert clip.length == FRAMES and clip.frames.shape == (5, 8, 6, 3)
    assert clip.frame_ids.tolist() == [0, 2, 5, 8, 11] == levels(clip)
    assert media.load_frames(folder, 20).frame_ids.tolist() == media.sample_frame_ids(FRAMES, 20).tolist()


def test_bad_folders_of_frames_are_named(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 3)
    (folder / "frame1.png").write_bytes(b"text")
    with pytest.raises(MediaError, match=r"frame1\.png: not a picture"):
        media.load_frames(folder, 3)
    (folder / "frame1.png").write_bytes(encode(np.zeros((8, 7, 3), np.uint8)))
    with pytest.raises(MediaError, match=r"frame1\.png: 7 x 8 pixels in a clip that begins with 6 x 8"):
        media.load_frames(folder, 3)
    with pytest.raises(MediaError, match=r"frame0\.png: no such folder"):
        media.load_frames(folder / "frame0.png", 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="empty: no picture or clip there"):
        media.load_frames(tmp_path / "empty", 3)
    write_clip(tmp_path / "empty" / "clip.mp4", 1)
    with pytest.raises(MediaError, match="empty: no picture there"):
        media.load_frames(tmp_path / "empty", 3)


def test_listing_in_natural_order(tmp_path: Path) -> None:
    for folder in ("2", "10"):
        (tmp_path / folder).mkdir()
        for name in ("b10.png", "b2.png", "B1.jpg", "a.txt", ".c.png"):
            (tmp_path / folder / name).write_bytes(b"x")
    in_order = ["B1.jpg", "b2.png", "b10.png"]
    assert [path.name for path in media.list_media(tmp_path / "2")] == in_order
    everything = media.list_media(tmp_path / "*" / "*")
    assert [path.relative_to(tmp_path) for path in everything] == [Path(f) / n for f in ("2", "10") for n in in_order]
    assert media.list_media(tmp_path / "**" / "*2.png") == [tmp_path / "2" / "b2.png", tmp_path / "10" / "b2.png"]
    assert media.list_media(tmp_path / "2" / "a.txt") == [tmp_path / "2" / "a.txt"]
    with pytest.raises(MediaError, match="no such file or folder"):
        media.list_media(tmp_path / "absent")
    for nothing in (tmp_path, tmp_path / "*.gif"):
        with pytest.raises(MediaError, match="no picture or clip there"):
            media.list_media(nothing)


# Landmarks


POINTS = np.random.default_rng(0).uniform(0, 256, (FRAMES, 68, 2))


def clip_of(length: int, num_frames: int) -> media.Clip:
    return media.Clip(np.zeros((num_frames, 1, 1, 3), np.uint8), media.sample_frame_ids(length, num_frames), length)


@pytest.mark.parametrize("shape", [(136,), (68, 2), (1, 136), (1, 68, 2)])
def test_landmarks_of_a_picture(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", POINTS[0].reshape(shape))
    points = media.load_landmarks(tmp_path / "a.npy")
    assert points.shape == (1, 68, 2) and points.dtype == np.float32
    np.testing.assert_allclose(points[0], POINTS[0] / 256, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
@pytest.mark.parametrize("flat", [False, True])
def test_landmarks_of_a_clip_follow_its_frames(tmp_path: Path, flat: bool, dtype: type) -> None:
    stored = POINTS.astype(dtype)
    np.save(tmp_path / "a.npy", stored.reshape(FRAMES, 136) if flat else stored)
    points = media.load_landmarks(tmp_path / "a.npy", clip_of(FRAMES, 5))
    np.testing.assert_allclose(points, stored[[0, 2, 5, 8, 11]] / np.float64(256), rtol=1e-6)


def npy(array: object) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def npz(array: np.ndarray) -> bytes:
    np.savez(buffer := io.BytesIO(), array)
    return buffer.getvalue()


BAD_LANDMARKS = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "text": (b"1 2 3", "no array of numbers"),
    "objects": (npy(np.array([{}, []], dtype=object)), "no array of numbers"),
    "strings": (npy(np.full((FRAMES, 136), "1")), "no array of numbers"),
    "several arrays": (npz(POINTS), "no array of numbers"),
    "cut": (npy(POINTS)[:-8], "no array of numbers"),
    "a lying header": (npy(POINTS).replace(b"(12, 68, 2)", b"(99999999999, 68, 2)"[:11]), "no array of numbers"),
    "points in space": (npy(np.zeros((FRAMES, 68, 3))), r"shape \(12, 68, 3\).*\(12, 68, 2\)"),
    "one number": (npy(np.float64(3)), r"shape \(\)"),
    "another clip": (npy(POINTS[1:]), "of 11 frames where the clip has 12"),
    "one face": (npy(POINTS[0]), "of 1 frames where the clip has 12"),
    "not a number": (npy(np.full_like(POINTS, np.nan)), "not finite, or not near the face crop"),
    "beyond float32": (npy(np.full(POINTS.shape, 1e300)), "not finite, or not near the face crop"),
    "far off": (npy(np.where(np.arange(2) == 1, -1e5, POINTS)), "not finite, or not near the face crop"),
}


@pytest.mark.parametrize("data, message", BAD_LANDMARKS.values(), ids=BAD_LANDMARKS)
def test_bad_landmarks_are_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "a.npy"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(MediaError, match=message) as caught:
        media.load_landmarks(path, clip_of(FRAMES, 5))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_landmarks_of_a_clip_are_refused_for_a_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    with pytest.raises(MediaError, match="of 12 frames where the picture has 1"):
        media.load_landmarks(tmp_path / "a.npy")
