"""The part of a picture that is cut out for a face, and points in it."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, UInt8

from ..extras import require
from ..media import LANDMARK_CROP
from .face import Box, FaceError

Mode = Literal["reference", "centered"]

MARGIN = 0.1  # around a centred face, on each side, in longer sides of its box


class Window(NamedTuple):
    """Pixels [top:bottom, left:right] of a picture; they may lie beyond its border."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def empty(self) -> bool:
        return self.right <= self.left or self.bottom <= self.top

    @property
    def size(self) -> Float64[np.ndarray, "2"]:
        return np.array([self.right - self.left, self.bottom - self.top], np.float64)

    @property
    def corner(self) -> Float64[np.ndarray, "2"]:
        return np.array([self.left, self.top], np.float64)


def choose_window(box: Box, height: int, width: int, mode: Mode, name: object) -> Window:
    """What is cut out for the face in `box` of the picture `name` of that size.

    `reference`: what FaceInstruct-1M is cut by, never beyond the border, where it moves, shrinks and is no square.
    `centered`: a square with the face in its middle and MARGIN around it, wherever that lies.

    Raises FaceError where the border cuts so much off that nothing is left for `reference`.
    """
    if mode == "centered":
        return centered_window(box)
    window = reference_window(box, height, width)
    if window.empty:
        raise FaceError(
            f"{name}: the face at ({box.x:.0f}, {box.y:.0f}) is cut off by the border: "
            "crop it in mode 'centered', or give a picture with the whole face"
        )
    return window


def reference_window(box: Box, height: int, width: int) -> Window:
    """The rule of Face-LLaVA's crop script; empty where the border cuts too much off."""
    x, y, w, h = whole_box(box, height, width)
    over = min(0, x, width - x - w, y, height - y - h)
    side = (w + h) / 2
    return Window(
        left=int(max(0, x - over)),
        top=int(max(0, y - over)),
        right=int(min(x + side + over, width - 1)),
        bottom=int(min(y + side + over, height - 1)),
    )


def whole_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """x, y, width and height in whole pixels as MediaPipe's FaceDetector task gives them.

    Fractions are dropped, and each of the four is kept between 0 and the picture's side.
    """
    x, y, w, h = (
        min(max(int(length), 0), side) for length, side in zip(box, (width, height, width, height), strict=True)
    )
    return x, y, w, h


def centered_window(box: Box, margin: float = MARGIN) -> Window:
    """A square around the middle of `box`, `margin` longer sides wider on each side."""
    side = max(1, round(box.longer * (1 + 2 * margin)))
    left, top = np.rint(box.centre - side / 2).astype(int).tolist()
    return Window(left, top, left + side, top + side)


def seen_window(height: int, width: int, *, padded: bool) -> Window:
    """The square of a frame of this size that a tower sees; with `padded` it reaches beyond the frame's border."""
    side = max(height, width) if padded else min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return Window(left, top, left + side, top + side)


def cut_window(picture: UInt8[np.ndarray, "Y X 3"], window: Window, mode: Mode) -> UInt8[np.ndarray, "256 256 3"]:
    """The face crop: a window of the picture at 256 x 256 pixels.

    The picture's border is repeated beyond it. `reference` is resized as the crop script does, bilinear at any scale;
    `centered` is averaged over areas where it shrinks.
    """
    cv2 = require("cv2", "faces")
    height, width, _ = picture.shape
    part = picture[max(0, window.top) : max(0, window.bottom), max(0, window.left) : max(0, window.right)]
    if part.shape[:2] != (window.bottom - window.top, window.right - window.left):
        rows = np.clip(np.arange(window.top, window.bottom), 0, height - 1)
        columns = np.clip(np.arange(window.left, window.right), 0, width - 1)
        part = picture[rows[:, None], columns]
    shrinks = mode == "centered" and part.shape[0] > LANDMARK_CROP
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(part, (LANDMARK_CROP, LANDMARK_CROP), interpolation=interpolation)


def to_crop(points: Float[np.ndarray, "*n 2"], window: Window) -> Float64[np.ndarray, "*n 2"]:
    """Points of the picture in pixels of its 256 x 256 crop, as landmark files have them."""
    return (points + 0.5 - window.corner) * (LANDMARK_CROP / window.size) - 0.5


def to_picture(points: Float[np.ndarray, "*n 2"], window: Window) -> Float64[np.ndarray, "*n 2"]:
    """Points of the 256 x 256 crop in pixels of the picture: the inverse of `to_crop`."""
    return (points + 0.5) * (window.size / LANDMARK_CROP) + window.corner - 0.5
