"""Where a face is painted: colour, a relief that the light falls on, and shadows, all given in points of the head."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from ..extras import require
from ..media import LANDMARK_CROP
from .geometry import Pose
from .person import Colour, Number

OVERSAMPLING = 2  # colour is painted at twice the picture's side and averaged
SIDE = LANDMARK_CROP * OVERSAMPLING
FRACTION_BITS = 4  # OpenCV's coordinates below a pixel
CURVE_STEPS = 5  # points of a curve between two that are given

# How soft a relief or shadow is: the spread of its edge, in units of the head.
FINE, MIDDLE, SOFT = range(3)
SPREADS = (0.011, 0.035, 0.11)

BASE_CENTRE, BASE_RADII = (0.0, 0.22, -0.7), (1.2, 1.95)  # the ellipsoid that the relief lies on

LEAST_DEPTH = 0.35  # of the ellipsoid
WAYS = ((1, 0), (0, 1))  # along x and y
LEAST_LAMP = 0.35  # of the lamp's light that reaches what faces the viewer; exposure makes up for the rest
GLOSS_DOUBLINGS = 4  # the shine is the cosine to the power of 16

Shape = Float[np.ndarray, "n 3"]


class Light(NamedTuple):
    """A lamp far away, and what comes from everywhere."""

    direction: tuple[float, float, float]
    """Towards the lamp, of length 1."""
    colour: Colour
    """Of the lamp, around (1, 1, 1)."""
    ambient: float
    """The share of the light that comes from everywhere."""
    gloss: float
    """How much the skin shines."""


class Canvas:
    """A picture in the making. Every shape is given in the head's units and drawn where `pose` has it."""

    def __init__(self, background: UInt8[np.ndarray, "256 256 3"], pose: Pose) -> None:
        self.cv2 = require("cv2", "train")
        self.pose = pose
        self._axes = pose.scale * pose.rotation[:2].T
        self.colour = self.cv2.resize(background, (SIDE, SIDE), interpolation=self.cv2.INTER_LINEAR)
        self._relief = [self._plane() for _ in SPREADS]
        self._shadow = [self._plane() for _ in SPREADS]
        self._blush = self._plane()
        self._lit, self._skin = (np.zeros((LANDMARK_CROP, LANDMARK_CROP), np.uint8) for _ in range(2))

    def project(self, shape: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """Where points are, in pixels of the finished picture."""
        return shape @ self._axes + self.pose.centre

    def _plane(self) -> Float32[np.ndarray, "256 256"]:
        return np.zeros((LANDMARK_CROP, LANDMARK_CROP), np.float32)

    def fill(self, shape: Shape, colour: Colour, skin: bool = False) -> None:
        """Paints a surface, and takes away what relief and shadow were there."""
        points = self.project(shape)
        self.cv2.fillPoly(self.colour, [_fixed(points, OVERSAMPLING)], colour, self.cv2.LINE_AA, FRACTION_BITS)
        outline = [_fixed(points, 1)]
        for plane in (*self._relief, *self._shadow, self._blush):
            self.cv2.fillPoly(plane, outline, 0.0, self.cv2.LINE_8, FRACTION_BITS)
        self.cv2.fillPoly(self._lit, outline, 255, self.cv2.LINE_AA, FRACTION_BITS)
        self.cv2.fillPoly(self._skin, outline, 255 if skin else 0, self.cv2.LINE_AA, FRACTION_BITS)

    def paint(self, shape: Shape, colour: Colour) -> None:
        """Colours a part of what is there already."""
        points = _fixed(self.project(shape), OVERSAMPLING)
        self.cv2.fillPoly(self.colour, [points], colour, self.cv2.LINE_AA, FRACTION_BITS)

    def matt(self, shape: Shape) -> None:
        """Takes the shine of skin from a part."""
        points = _fixed(self.project(shape), 1)
        self.cv2.fillPoly(self._skin, [points], 0, self.cv2.LINE_AA, FRACTION_BITS)

    def stroke(self, line: Shape, colour: Colour, width: Number, closed: bool = False) -> None:
        """Paints a line `width` units wide."""
        self.strokes(line[None], colour, width, closed)

    def strokes(self, lines: Float[np.ndarray, "n s 3"], colour: Colour, width: Number, closed: bool = False) -> None:
        """Paints `n` lines."""
        points = list(_fixed(self.project(lines), OVERSAMPLING))
        thickness = max(1, round(width * self.pose.scale * OVERSAMPLING))
        self.cv2.polylines(self.colour, points, closed, colour, thickness, self.cv2.LINE_AA, FRACTION_BITS)

    def glaze(self, shape: Shape, colour: Colour, strength: Number, spread: Number) -> None:
        """Tints a part, fading over `spread` units at its edge."""
        points = self.project(shape)
        sigma = spread * self.pose.scale * OVERSAMPLING
        window = _window((points + 0.5) * OVERSAMPLING, 2 * sigma)
        part = self.colour[window]
        if not part.size:
            return
        # Soft edges are computed at a quarter of the size.
        step = 4 if sigma > 6 else 1
        mask = np.zeros((-(-part.shape[0] // step), -(-part.shape[1] // step)), np.float32)
        corner = np.array([window[1].start, window[0].start])
        inside = ((points + 0.5) * OVERSAMPLING - corner) / step - 0.5
        self.cv2.fillPoly(mask, [_fixed(inside, 1)], strength, self.cv2.LINE_8, FRACTION_BITS)
        mask = self.cv2.GaussianBlur(mask, (0, 0), max(0.3, sigma / step))
        mask = self.cv2.resize(mask, part.shape[1::-1], interpolation=self.cv2.INTER_LINEAR)
        tint = np.empty_like(part)
        tint[:] = np.array(colour, np.float32).clip(0, 255).astype(np.uint8)
        part[:] = self.cv2.blendLinear(part, tint, 1 - mask, mask)

    def inset(self, frame: Shape) -> "Inset":
        """A part of the picture to paint in, that shows through the outline `frame` alone."""
        return Inset(self, frame)

    def raise_shape(self, shape: Shape, height: Number, softness: int) -> None:
        """Raises a part of the surface, or sinks it where `height` is negative."""
        self._draw(self._relief[softness], shape, height, None)

    def raise_line(self, line: Shape, height: Number, width: Number, softness: int) -> None:
        self._draw(self._relief[softness], line, height, width)

    def shade_shape(self, shape: Shape, darkness: Number, softness: int) -> None:
        self._draw(self._shadow[softness], shape, darkness, None)

    def shade_line(self, line: Shape, darkness: Number, width: Number, softness: int) -> None:
        self._draw(self._shadow[softness], line, darkness, width)

    def crease(self, line: Shape, depth: float, width: Number) -> None:
        """A furrow, `width` units wide in its middle, with a shadow at its ground."""
        points = self.project(line)
        along = np.gradient(points, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=-1) / np.linalg.norm(along, axis=1, keepdims=True)
        half = 0.5 * width * self.pose.scale * np.sin(np.linspace(0.15, np.pi - 0.15, len(points)))[:, None] * across
        outline = [_fixed(np.concatenate([points - half, (points + half)[::-1]]), 1)]
        for plane, value in ((self._relief[FINE], -0.028 * depth), (self._shadow[FINE], 0.35 * depth)):
            self.cv2.fillPoly(plane, outline, value, self.cv2.LINE_8, FRACTION_BITS)

    def blush(self, shape: Shape, strength: Number) -> None:
        """Reddens a part, softly."""
        self._draw(self._blush, shape, strength, None)

    def _draw(self, plane: np.ndarray, shape: Shape, value: Number, width: Number | None) -> None:
        points = [_fixed(self.project(shape), 1)]
        if width is None:
            self.cv2.fillPoly(plane, points, value, self.cv2.LINE_8, FRACTION_BITS)
        else:
            pixels = width * self.pose.scale
            # What is thinner than a pixel is drawn one wide, and weaker.
            thickness, value = max(1, round(pixels)), value * min(1.0, pixels)
            self.cv2.polylines(plane, points, False, value, thickness, self.cv2.LINE_8, FRACTION_BITS)

    def finish(self, light: Light, texture: Float32[np.ndarray, "256 256"]) -> Float32[np.ndarray, "256 256 3"]:
        """The picture in the light, colours from 0 to 255 and beyond. `texture` is the skin's, as a factor less 1."""
        size = (LANDMARK_CROP, LANDMARK_CROP)
        colour = self.cv2.resize(self.colour, size, interpolation=self.cv2.INTER_AREA).astype(np.float32)
        skin = self._skin.astype(np.float32) / 255
        shade, shine = self._illuminate(light)
        shadow = sum(self._blur(plane, softness) for softness, plane in enumerate(self._shadow))
        shade *= 1 + skin * texture
        lamp = np.array(light.colour, np.float32)
        lit = np.empty_like(colour)
        redness = self._blur(self._blush, SOFT)
        # Shadows on skin are warm, and so is the edge of the light.
        for channel, (warmth, paleness) in enumerate(((0.86, 0.02), (1.05, 0.3), (1.1, 0.26))):
            lit[..., channel] = np.exp(-warmth * shadow - paleness * redness) * shade * lamp[channel]
        lit = colour * lit + (255 * light.gloss) * (shine * skin)[..., None]
        cover = (self._lit.astype(np.float32) / 255)[..., None]
        return colour + cover * (lit - colour)

    def _blur(self, plane: np.ndarray, softness: int) -> Float32[np.ndarray, "256 256"]:
        sigma = SPREADS[softness] * self.pose.scale
        step = 4 if softness == SOFT else 1
        small = (
            plane
            if step == 1
            else self.cv2.resize(plane, None, fx=1 / step, fy=1 / step, interpolation=self.cv2.INTER_AREA)
        )
        small = self.cv2.GaussianBlur(small, (0, 0), max(0.4, sigma / step))
        if step == 1:
            return small
        # Enlarged, it has ripples that the light would show.
        return self.cv2.blur(self.cv2.resize(small, plane.shape[::-1]), (2 * step + 1, 2 * step + 1))

    def _illuminate(self, light: Light) -> tuple[Float32[np.ndarray, "256 256"], Float32[np.ndarray, "256 256"]]:
        """How much light comes from each point of the surface, 1 where it faces the viewer; and how it shines."""
        relief = sum(self._blur(plane, softness) for softness, plane in enumerate(self._relief))
        slope_x, slope_y = (self.cv2.Sobel(relief, self.cv2.CV_32F, *way, scale=self.pose.scale / 8) for way in WAYS)
        # The ellipsoid leans with the head; at its edge, where it would be upright, and beyond, it stays steep.
        (left, top), (across, down) = self.project(np.array(BASE_CENTRE)).tolist(), self.pose.rotation[:2, 0].tolist()
        turn = np.hypot(across, down).item()
        cosine, sine = across / turn, down / turn
        at = np.arange(LANDMARK_CROP, dtype=np.float32)
        x, y = (at[None] - left) / self.pose.scale, (at[:, None] - top) / self.pose.scale
        u, v = (x * cosine + y * sine) / BASE_RADII[0], (y * cosine - x * sine) / BASE_RADII[1]
        steep = 1 / np.sqrt(np.maximum(1 - u * u - v * v, LEAST_DEPTH**2))
        normal_x = (u * cosine - v * sine) * steep - slope_x
        normal_y = (u * sine + v * cosine) * steep - slope_y
        length = 1 / np.sqrt(1 + normal_x * normal_x + normal_y * normal_y)
        half = shift(np.array(light.direction), 0, 0, 1)
        facing, shine = (
            np.maximum((normal_x * x + normal_y * y + z) * length, 0)
            for x, y, z in (light.direction, (half / np.linalg.norm(half)).tolist())
        )
        for _ in range(GLOSS_DOUBLINGS):
            shine *= shine
        lamp = (1 - light.ambient) / max(LEAST_LAMP, light.direction[2])
        return light.ambient * (0.75 + 0.25 * length) + lamp * facing, shine


class Inset:
    """A part of a canvas that is painted aside and shown through an outline: an eye between its lids."""

    def __init__(self, canvas: Canvas, frame: Shape) -> None:
        self._canvas, self._cv2 = canvas, canvas.cv2
        outline = (canvas.project(frame) + 0.5) * OVERSAMPLING
        self._window = _window(outline, 2)
        self._corner = np.array([self._window[1].start, self._window[0].start])
        self._colour = canvas.colour[self._window].copy()
        self._mask = np.zeros(self._colour.shape[:2], np.uint8)
        points = _fixed(outline - self._corner - 0.5, 1)
        if self._mask.size:
            self._cv2.fillPoly(self._mask, [points], 255, self._cv2.LINE_AA, FRACTION_BITS)

    def paint(self, shape: Shape, colour: Colour) -> None:
        if self._mask.size:
            self._cv2.fillPoly(self._colour, [self._place(shape)], colour, self._cv2.LINE_AA, FRACTION_BITS)

    def stroke(self, line: Shape, colour: Colour, width: Number) -> None:
        if self._mask.size:
            thickness = max(1, round(width * self._canvas.pose.scale * OVERSAMPLING))
            points = [self._place(line)]
            self._cv2.polylines(self._colour, points, False, colour, thickness, self._cv2.LINE_AA, FRACTION_BITS)

    def darken(self, line: Shape, darkness: Number, width: Number) -> None:
        """A soft shadow along a line."""
        if not self._mask.size:
            return
        shadow = np.zeros(self._mask.shape, np.float32)
        pixels = width * self._canvas.pose.scale * OVERSAMPLING
        points = [self._place(line)]
        self._cv2.polylines(shadow, points, False, darkness, max(1, round(pixels)), self._cv2.LINE_8, FRACTION_BITS)
        shadow = self._cv2.GaussianBlur(shadow, (0, 0), max(0.5, pixels / 2))
        self._colour = (self._colour * (1 - shadow)[..., None]).astype(np.uint8)

    def show(self) -> None:
        part = self._canvas.colour[self._window]
        if part.size:
            mask = self._mask.astype(np.float32) / 255
            part[:] = self._cv2.blendLinear(part, self._colour, 1 - mask, mask)

    def _place(self, shape: Shape) -> np.ndarray:
        return _fixed((self._canvas.project(shape) + 0.5) * OVERSAMPLING - self._corner - 0.5, 1)


def curve(
    points: Float[np.ndarray, "n d"], closed: bool = False, steps: int = CURVE_STEPS
) -> Float64[np.ndarray, "m d"]:
    """A smooth line through points (Catmull and Rom's)."""
    smooth: np.ndarray = _curve_weights(len(points), closed) @ points
    return smooth


@cache
def _curve_weights(count: int, closed: bool) -> Float64[np.ndarray, "m n"]:
    spans, steps = count if closed else count - 1, CURVE_STEPS
    rows = np.zeros((spans * steps + (not closed), count))
    for row in range(len(rows)):
        span = min(row // steps, spans - 1)
        t = row / steps - span
        weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
        for offset, weight in zip(range(-1, 3), weights, strict=True):
            index = (span + offset) % count if closed else min(max(span + offset, 0), count - 1)
            rows[row, index] += weight / 2
    return rows


def ellipse(
    centre: Float[np.ndarray, "3"], radius_x: Number, radius_y: Number, lean: Number = 0.0
) -> Float64[np.ndarray, "24 3"]:
    """A flat ellipse that faces the front of the head, turned by `lean` radians."""
    ring = _RING * [radius_x, radius_y, 0]
    cosine, sine = np.cos(lean), np.sin(lean)
    turned: np.ndarray = ring @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) + centre
    return turned


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_RING = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.zeros(24)], axis=-1)


def shift(points: Float[np.ndarray, "*n 3"], x: Number, y: Number, z: Number = 0.0) -> Float64[np.ndarray, "*n 3"]:
    """Points moved to the right, down and to the viewer."""
    return points + np.array([x, y, z])


def mix(first: Colour, second: Colour, share: Number) -> Colour:
    """A colour between two: `share` of the second."""
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _window(points: Float64[np.ndarray, "n 2"], margin: Number) -> tuple[slice, slice]:
    """The part of the painted pixels (rows, columns) that holds points, which are measured from the outer corner."""
    left, top = np.clip(np.floor(points.min(axis=0) - margin), 0, SIDE).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0) + margin), 0, SIDE).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def _fixed(points: Float64[np.ndarray, "*n 2"], oversampling: int) -> np.ndarray:
    scaled = (points + 0.5) * oversampling - 0.5
    return np.rint(scaled * 2**FRACTION_BITS).astype(np.int32)
