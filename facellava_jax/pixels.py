"""From pixels as files hold them to those that the towers read: resized, cropped at the centre, normalised.

NumPy only, no JAX: data workers import this.
"""

import functools

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .config import MediaConfig
from .media import Kind

ROW_BAND = 32


def preprocess(
    frames: UInt8[np.ndarray, "T Y X 3"], kind: Kind, image_size: int, media: MediaConfig
) -> Float32[np.ndarray, "T size size 3"]:
    """A medium as the tower of its kind reads it; a picture is a single frame."""
    if kind == "video":
        return preprocess_video(frames, image_size, media)
    return preprocess_image(frames[0], image_size, media)[None]


def preprocess_image(
    pixels: UInt8[np.ndarray, "Y X 3"], image_size: int, media: MediaConfig
) -> Float32[np.ndarray, "size size 3"]:
    """The centre of a picture, its short side scaled to `image_size` (bicubic, antialiased), normalised.

    With `media.pad_to_square` the whole picture on a square of the mean colour. Neither clamped nor rounded.
    """
    height, width, _ = pixels.shape
    canvas = (max(height, width),) * 2 if media.pad_to_square else (height, width)
    resized = [int(image_size * side / min(canvas)) for side in canvas]
    rows, columns = (
        _place(_cubic_weights(padded, to, image_size), side)
        for side, padded, to in zip((height, width), canvas, resized, strict=True)
    )
    normalised: np.ndarray = _resample(pixels[None], rows, columns, media)[0]
    return normalised


def preprocess_video(
    frames: UInt8[np.ndarray, "T Y X 3"], image_size: int, media: MediaConfig
) -> Float32[np.ndarray, "T size size 3"]:
    """The centre of each frame, its short side scaled to `image_size` (bilinear, not antialiased), normalised."""
    _, height, width, _ = frames.shape
    short = min(height, width)
    rows, columns = (_linear_weights(side, int(side / short * image_size), image_size) for side in (height, width))
    return _resample(frames, rows, columns, media)


def _cut(length: int, resized: int, size: int) -> Float64[np.ndarray, "size 1"]:
    """Centres of the middle `size` of `resized` pixels, counted in the `length` pixels they are made of.

    The scale is a float32, and so are the positions made of it, as in the original: exact ones move pixels by 2e-5.
    """
    middle: np.ndarray = np.arange(size) + round((resized - size) / 2) + 0.5
    return np.float64(np.float32(length / resized)) * middle[:, None]


@functools.lru_cache(maxsize=32)
def _cubic_weights(length: int, resized: int, size: int) -> Float32[np.ndarray, "size Y"]:
    """What each of `length` pixels gives to each of the middle `size`, when they are resized to `resized` pixels.

    Keys' cubic kernel with a = -0.5, widened to the output's pixel pitch when that is the coarser one.
    """
    offset = np.arange(length, dtype=np.float32) - _cut(length, resized, size).astype(np.float32) + 0.5
    x = np.abs(offset / np.float32(max(length / resized, 1.0)))
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights: np.ndarray = np.select([x < 1, x < 2], [near, far], np.float32(0))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@functools.lru_cache(maxsize=32)
def _linear_weights(length: int, resized: int, size: int) -> Float32[np.ndarray, "size Y"]:
    """As `_cubic_weights`, by linear interpolation between the two nearest pixels."""
    at = np.clip((_cut(length, resized, size) - 0.5).astype(np.float32), 0, length - 1)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(np.arange(length, dtype=np.float32) - at))
    return weights


def _place(weights: Float32[np.ndarray, "size padded"], side: int) -> Float32[np.ndarray, "size Y"]:
    """The weights of the `side` pixels that stand in the middle of a padded axis."""
    before = (weights.shape[1] - side) // 2
    placed: np.ndarray = weights[:, before : before + side]
    return placed


def _resample(
    frames: UInt8[np.ndarray, "T Y X 3"],
    rows: Float32[np.ndarray, "size Y"],
    columns: Float32[np.ndarray, "size X"],
    media: MediaConfig,
) -> Float32[np.ndarray, "T size size 3"]:
    """Frames resized and normalised; what the weights leave uncovered is the padding, of the mean colour.

    Resizing is linear and keeps constants, so normalising before or after it is the same.
    """
    resized = _weigh_rows(frames, rows)
    resized = np.ascontiguousarray(_weigh_rows(resized.swapaxes(1, 2), columns).swapaxes(1, 2))
    uncovered = 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
    colour = np.floor(np.array(media.mean) * 255).astype(np.float32)
    # In place and on whole rows of pixels, which is several times faster than on three channels at a time.
    lines = resized.reshape(*resized.shape[:2], -1)
    lines += (uncovered[:, :, None] * colour).reshape(lines.shape[1:])
    lines /= 255
    lines -= np.tile(np.array(media.mean, np.float32), resized.shape[2])
    lines /= np.tile(np.array(media.std, np.float32), resized.shape[2])
    return resized


def _weigh_rows(frames: np.ndarray, weights: Float32[np.ndarray, "size Y"]) -> Float32[np.ndarray, "T size X 3"]:
    """`weights` times the rows of each frame, in bands of output rows: each needs only the input rows near it."""
    count, _, width, channels = frames.shape
    weighed = np.empty((count, len(weights), width * channels), np.float32)
    for start in range(0, len(weights), ROW_BAND):
        band = weights[start : start + ROW_BAND]
        used = np.flatnonzero(band.any(axis=0))
        near = slice(used[0], used[-1] + 1) if used.size else slice(0)
        rows = frames[:, near].astype(np.float32).reshape(count, -1, width * channels)
        np.matmul(band[:, near], rows, out=weighed[:, start : start + ROW_BAND])
    return weighed.reshape(count, len(weights), width, channels)
