"""The lines of a face: of age, and of what it does."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from .canvas import FINE, MIDDLE, Canvas, curve, ellipse, shift
from .geometry import SIDES
from .person import Number, Person

Units = Mapping[int, Number]
Landmarks = Float64[np.ndarray, "K 3"]

LEAST_DEPTH, MOST_DEPTH = 0.03, 1.2  # of a line that is drawn; 1 is that of an action unit at full strength
THIN, WIDE = 0.022, 0.03


def wrinkle_face(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    """Furrows in the relief where age or action units have them. Each line is as deep as the stronger of the two."""
    _wrinkle_forehead(canvas, person, points, units)
    for side in SIDES:
        right = side > 0
        _wrinkle_eye(canvas, person, units, side, points[42 if right else 39], points[45 if right else 36])
        _wrinkle_cheek(canvas, person, units, side, points[35 if right else 31], points[54 if right else 48])
    _wrinkle_mouth(canvas, person, points, units)


def _crease(canvas: Canvas, line: Sequence[Sequence[Number] | np.ndarray], depth: Number, width: Number = THIN) -> None:
    if depth > LEAST_DEPTH:
        canvas.crease(curve(np.array(line)), min(depth, MOST_DEPTH), width)


def _wrinkle_forehead(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    """Across the forehead: in its middle for raised inner brows, at its sides for outer ones. Upright between brows."""
    age, inner, outer, lowered = person.ageing(27), units.get(1, 0), units.get(2, 0), units.get(4, 0)
    lift = 0.03 * (inner + outer)
    for row in range(4):
        y = -0.5 - 0.115 * row - lift
        middle = max(1.1 * age, inner - 0.5 * lowered) * (1 - 0.12 * row)
        _crease(canvas, [[-0.33, y, 0], [0, y - 0.015, 0], [0.33, y, 0]], middle)
        for side in SIDES:
            ends = [[side * 0.33, y, 0], [side * 0.48, y - 0.01, 0], [side * 0.64, y + 0.04, 0]]
            _crease(canvas, ends, max(age, outer) * (1 - 0.15 * row))
    brow = points[[21, 22], 1].mean()
    for x in (-0.065, 0.065):
        frown = [[1.25 * x, brow - 0.16, 0.1], [x, brow - 0.02, 0.1], [1.2 * x, brow + 0.1, 0.1]]
        _crease(canvas, frown, max(1.2 * lowered, 0.7 * person.ageing(40)), WIDE)
    for row in range(3):
        y = points[27, 1] + 0.03 + 0.09 * row
        for side in SIDES:
            across = [[side * 0.02, y, 0.25], [side * 0.09, y + 0.025, 0.2], [side * 0.16, y + 0.1, 0.1]]
            _crease(canvas, across, 1.1 * units.get(9, 0))


def _wrinkle_eye(canvas: Canvas, person: Person, units: Units, side: int, inner: np.ndarray, outer: np.ndarray) -> None:
    """Crow's feet from the outer corner, and a bag below the lid."""
    raised, tight = units.get(6, 0), units.get(7, 0)
    for lean in (-0.1, 0.0, 0.1):
        foot = [shift(outer, side * 0.05, 0.5 * lean), shift(outer, side * 0.13, 1.1 * lean)]
        _crease(canvas, [*foot, shift(outer, side * 0.23, 2 * lean)], 1.1 * max(person.ageing(32), raised))
    drop = 0.12 + 0.03 * person.ageing(40)
    middle = shift((inner + outer) / 2, 0, drop + 0.06)
    under = [shift(inner, side * 0.02, 0.08), middle, shift(outer, 0, drop - 0.02)]
    depth = max(person.ageing(25), 0.8 * raised, 0.7 * tight)
    _crease(canvas, under, depth, WIDE)
    path = curve(np.array(under))
    canvas.raise_line(shift(path, 0, -0.045), 0.03 * depth, 0.05, MIDDLE)
    canvas.shade_line(path, 0.15 + 0.25 * person.ageing(30), 0.06, MIDDLE)


def _wrinkle_cheek(
    canvas: Canvas, person: Person, units: Units, side: int, wing: np.ndarray, corner: np.ndarray
) -> None:
    """The fold from nose to mouth, what hangs below it, and what a stretched or pressed mouth folds beside itself."""
    smile, stretched, pressed = units.get(12, 0), units.get(20, 0), units.get(24, 0)
    fold = [
        shift(wing, side * 0.03, -0.1),
        shift(wing, side * 0.1, 0.04),
        shift((wing + corner) / 2, side * (0.09 + 0.05 * smile), 0.02),
        shift(corner, side * 0.11, 0.02 + 0.03 * smile),
    ]
    pulled = max(smile, 0.9 * units.get(9, 0), 0.5 * stretched, 0.35 * units.get(15, 0))
    _crease(canvas, fold, max(0.95 * person.ageing(22), pulled), WIDE)
    below = [shift(corner, side * 0.02, 0.02), shift(corner, side * 0.06, 0.12), shift(corner, side * 0.05, 0.24)]
    _crease(canvas, below, max(1.1 * person.ageing(42), 1.2 * units.get(15, 0)), WIDE)
    for x in (0.1, 0.17):
        beside = [shift(corner, side * x, -0.13), shift(corner, side * x * 1.15, 0), shift(corner, side * x, 0.14)]
        _crease(canvas, beside, 0.7 * stretched)
    if pressed:
        canvas.raise_shape(ellipse(shift(corner, side * 0.09, 0.02), 0.06, 0.1), 0.09 * pressed, MIDDLE)
        dent = [shift(corner, side * 0.03, -0.06), shift(corner, side * 0.05, 0), shift(corner, side * 0.03, 0.07)]
        _crease(canvas, dent, pressed)
    for row in range(3):
        x, y = side * (0.5 + 0.13 * row), corner[1] - 0.14 + 0.05 * row
        furrow = [[x, y - 0.1, 0], [x * 1.06, y + 0.08, 0], [x * 1.04, y + 0.26, 0]]
        _crease(canvas, furrow, 0.7 * person.ageing(58))


def _wrinkle_mouth(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    """Lines that run to the lips, and a chin that is pushed up."""
    tight, chin_up = units.get(23, 0), units.get(17, 0)
    for index, x in enumerate(np.linspace(-0.18, 0.18, 6).tolist()):
        above, below = shift(points[51], x, 0.01), shift(points[57], x, -0.01)
        up = [above, shift(above, 0.2 * x, -0.05), shift(above, 0.35 * x, -0.1)]
        _crease(canvas, up, max(0.8 * tight, 0.7 * person.ageing(60)))
        if index % 2:
            _crease(canvas, [below, shift(below, 0.2 * x, 0.04), shift(below, 0.3 * x, 0.08)], 0.8 * tight)
    if chin_up:
        chin = shift(points[8], 0, -0.2)
        _crease(canvas, [shift(chin, -0.2, -0.06), shift(chin, 0, -0.13), shift(chin, 0.2, -0.06)], 1.1 * chin_up, WIDE)
        for x, y in ((-0.1, 0), (0.02, -0.03), (0.1, 0.02), (-0.04, 0.06), (0.06, 0.09)):
            canvas.raise_shape(ellipse(shift(chin, x, y), 0.02, 0.02), -0.025 * chin_up, FINE)
