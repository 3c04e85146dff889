"""Eyes, brows, nose and mouth, painted from the landmarks outwards."""

import numpy as np
from jaxtyping import Float64

from .canvas import FINE, MIDDLE, SOFT, Canvas, curve, ellipse, mix, shift
from .geometry import BROWS, LOWER_LIDS, SIDES, UPPER_LIDS
from .person import Colour, Number, Person
from .wrinkles import Landmarks, Units, wrinkle_face

SCLERA, PUPIL, HIGHLIGHT = (236, 230, 226), (14, 11, 10), (255, 255, 255)
LASH, CAVITY, TEETH, TONGUE = (34, 24, 22), (58, 16, 18), (238, 232, 220), (176, 84, 84)
LIP_RED = (186, 70, 74)
IRIS = 0.092  # radius


Gaze = tuple[Number, Number]  # how far the irises are to the right, and down
Lid = Float64[np.ndarray, "4 3"]  # from the inner corner of the eye to the outer one


def paint_features(canvas: Canvas, person: Person, landmarks: Landmarks, units: Units, gaze: Gaze) -> None:
    """All of the face within its outline, but for beard and glasses."""
    _model_face(canvas, person, landmarks, units)
    wrinkle_face(canvas, person, landmarks, units)
    _paint_nose(canvas, person, landmarks, units)
    for side, upper, lower in zip(SIDES, UPPER_LIDS, LOWER_LIDS, strict=True):
        _paint_eye(canvas, person, landmarks[list(upper)], landmarks[list(lower)], side, gaze)
    _paint_mouth(canvas, person, landmarks, units)
    for side, brow in zip(SIDES, BROWS, strict=True):
        _paint_brow(canvas, person, landmarks[list(brow)], side)


def _model_face(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    """The relief: sockets, cheekbones, nose, chin; and where blood shows."""
    child = 1 - person.growth
    wing = points[35, 0] - points[31, 0]
    canvas.raise_shape(ellipse(np.array([0, -0.62, 0]), 0.62, 0.34), 0.1, SOFT)
    smile = max(units.get(6, 0), units.get(12, 0))
    for side, corner, outer, brow in zip(SIDES, (39, 42), (36, 45), BROWS, strict=True):
        eye = (points[corner] + points[outer]) / 2
        canvas.raise_shape(ellipse(shift(eye, 0, 0.02), 0.3, 0.17), -0.13 + 0.04 * child, SOFT)
        canvas.raise_line(shift(curve(points[list(brow)]), 0, 0.02), 0.035 - 0.02 * child, 0.12, MIDDLE)
        cheek = shift(eye, side * 0.08, 0.52 - 0.08 * smile)
        canvas.raise_shape(ellipse(cheek, 0.27, 0.2, side * 0.3), 0.13 + 0.16 * smile + 0.05 * child, SOFT)
        strength = 0.3 + 0.3 * child + 0.75 * person.rosy
        canvas.blush(ellipse(shift(cheek, side * 0.05, 0.02), 0.26, 0.19), strength)
        if smile:
            edge = curve(np.stack([shift(cheek, -0.2, -0.16), shift(cheek, 0, -0.23), shift(cheek, 0.2, -0.17)]))
            canvas.raise_line(edge, 0.03 * smile, 0.07, MIDDLE)
    bridge, tip = points[27:31], points[30]
    for at, height in zip(np.linspace(0, 1, 5), (0.07, 0.1, 0.14, 0.18, 0.22), strict=True):
        centre = bridge[0] * (1 - at) + tip * at
        canvas.raise_shape(ellipse(centre, 0.07 + 0.1 * wing * at, 0.16), height * (1 - 0.3 * child), MIDDLE)
    canvas.raise_shape(ellipse(shift(tip, 0, 0.02), 0.27 * wing, 0.11), 0.24, MIDDLE)
    for side, index in zip(SIDES, (31, 35), strict=True):
        canvas.raise_shape(ellipse(shift(points[index], -side * 0.03, -0.045), 0.08, 0.075), 0.15, MIDDLE)
    canvas.blush(ellipse(tip, 0.14, 0.12), 0.25)
    mouth = points[[48, 54]].mean(axis=0)
    canvas.raise_shape(ellipse(mouth, 0.42, 0.34), 0.1, SOFT)
    canvas.raise_shape(ellipse(shift(points[8], 0, -0.2), 0.2, 0.15), 0.1 + 0.09 * units.get(17, 0), SOFT)
    groove = np.stack([shift(points[33], 0, 0.05), shift(points[51], 0, -0.02)])
    canvas.raise_line(groove, -0.02, 0.05, MIDDLE)
    below = np.stack([shift(points[57], x, y) for x, y in ((-0.16, 0.04), (0, 0.08), (0.16, 0.04))])
    canvas.shade_line(curve(below), 0.3, 0.07, MIDDLE)


def _paint_nose(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    dark = mix(person.skin, (40, 14, 10), 0.72)
    width = points[35, 0] - points[31, 0]
    flare = 1 + 0.25 * units.get(9, 0)
    for side, inner in zip(SIDES, (32, 34), strict=True):
        nostril = shift(points[inner], side * 0.02, -0.012)
        canvas.paint(ellipse(nostril, 0.135 * width * flare, 0.03 * flare, side * -0.25), dark)
        wing = points[35 if side > 0 else 31]
        edge = curve(
            np.stack([shift(wing, 0, -0.13), shift(wing, side * 0.05, -0.06), shift(wing, side * 0.005, 0.02)])
        )
        canvas.shade_line(edge, 0.55, 0.02, FINE)
        canvas.shade_line(shift(edge, side * 0.03, 0), 0.25, 0.06, MIDDLE)
    canvas.shade_line(curve(shift(points[31:36], 0, 0.02)), 0.4, 0.05, MIDDLE)
    canvas.shade_line(curve(points[31:36]), 0.3, 0.02, FINE)


def _paint_eye(
    canvas: Canvas,
    person: Person,
    upper_lid: Lid,
    lower_lid: Lid,
    side: int,
    gaze: Gaze,
) -> None:
    upper, lower = curve(upper_lid), curve(lower_lid)
    outline = np.concatenate([upper, lower[-2:0:-1]])
    inner, outer = upper_lid[0], upper_lid[3]
    lift = np.array([0.055, 0.095, 0.085, 0.03]) * (1 - 0.35 * person.ageing(50))
    crease = curve(upper_lid + np.stack([[0, 0, 0, side * 0.05], -lift, np.full(4, 0.02)], axis=-1))
    if person.eye_shadow:
        high = shift(crease, 0, -0.04)
        canvas.glaze(np.concatenate([upper, high[::-1]]), person.eye_shadow, 0.85, 0.025)
    canvas.shade_line(crease, 0.5, 0.022, FINE)
    canvas.shade_shape(np.concatenate([upper, crease[::-1]]), 0.12, MIDDLE)
    canvas.shade_shape(ellipse(shift(inner, -side * 0.03, -0.06), 0.07, 0.12), 0.3, MIDDLE)

    opening = np.linalg.norm(lower_lid[1:3] - upper_lid[1:3], axis=1).mean()
    if opening > 0.02:
        centre = shift((inner + outer) / 2, gaze[0], gaze[1] - 0.012, 0.03)
        radius = IRIS * (1 + 0.12 * (1 - person.growth))
        eye = canvas.inset(outline)
        eye.paint(outline, mix(SCLERA, (222, 196, 186), 0.25 + 0.35 * person.ageing(40)))
        eye.paint(ellipse(shift(inner, side * 0.015, 0.005), 0.035, 0.03), (214, 150, 142))
        eye.paint(ellipse(centre, radius, radius), mix(person.eyes, (10, 8, 8), 0.55))
        eye.paint(ellipse(centre, radius * 0.84, radius * 0.84), person.eyes)
        glow = ellipse(shift(centre, 0, radius * 0.3), radius * 0.6, radius * 0.45)
        eye.paint(glow, mix(person.eyes, (255, 240, 210), 0.2))
        eye.paint(ellipse(centre, radius * 0.42, radius * 0.42), PUPIL)
        eye.darken(upper, 0.75, 0.05)
        eye.paint(ellipse(shift(centre, 0.03, -0.03), radius * 0.2, radius * 0.2), HIGHLIGHT)
        eye.show()
        canvas.matt(outline)
    made_up = person.eye_shadow is not None
    dark = mix(LASH, (8, 6, 8), 0.8) if made_up else mix(mix(person.hair, LASH, 0.75), person.skin, 0.1)
    thickness = 0.05 if made_up else 0.026 if person.male else 0.034
    canvas.stroke(shift(upper, 0, -0.006), dark, thickness)
    canvas.stroke(lower, mix(person.skin, dark, 0.75 if made_up else 0.4), 0.024 if made_up else 0.014)
    lashes = 9 if made_up else 0 if person.male else 5
    if lashes:
        roots = np.linspace(len(upper) // 2, len(upper) - 1, lashes).astype(int)
        reach = 0.085 if made_up else 0.05
        tips = [
            np.stack([upper[root], shift(upper[root], side * reach * 0.7, -reach * (1.1 - 0.6 * at), 0.02)])
            for root, at in zip(roots, np.linspace(0, 1, lashes), strict=True)
        ]
        canvas.strokes(np.stack(tips), dark, 0.014)
    canvas.raise_line(shift(lower, 0, 0.025), 0.015, 0.03, FINE)


def _paint_mouth(canvas: Canvas, person: Person, points: Landmarks, units: Units) -> None:
    natural = mix(person.skin, LIP_RED, 0.42 if person.male else 0.55)
    natural = mix(natural, person.skin, 0.35 * person.ageing(45))
    colour: Colour = mix(natural, person.lipstick, 0.88) if person.lipstick else natural
    top, bottom = curve(points[48:55]), curve(points[[54, 55, 56, 57, 58, 59, 48]])
    inner_top, inner_bottom = curve(points[60:65]), curve(points[[64, 65, 66, 67, 60]])
    if not person.lipstick:
        canvas.glaze(np.concatenate([top, bottom]), colour, 0.85, 0.012)
    canvas.paint(np.concatenate([top, inner_top[::-1]]), mix(colour, (60, 10, 14), 0.2))
    canvas.paint(np.concatenate([inner_bottom, bottom[::-1]]), mix(colour, (255, 190, 180), 0.06))
    opening = points[66, 1] - points[62, 1]
    if opening > 0.02:
        hole = np.concatenate([inner_top, inner_bottom])
        mouth = canvas.inset(hole)
        mouth.paint(hole, CAVITY)
        if opening > 0.14:
            mouth.paint(ellipse(shift(points[66], 0, -0.02), 0.17, 0.35 * opening), TONGUE)
        teeth = min(0.1, 0.75 * opening)
        edge = curve(points[60:65] + np.array([0.15, 0.9, 1, 0.9, 0.15])[:, None] * [0, teeth, 0])
        row = np.concatenate([shift(inner_top, 0, -0.05), edge[::-1]])
        mouth.paint(row, mix(TEETH, (214, 190, 140), person.ageing(20)))
        for x in np.linspace(-0.24, 0.24, 9).tolist():
            middle = shift(points[62], x, 0)
            mouth.stroke(np.stack([shift(middle, 0, -0.06), shift(middle, 0, teeth)]), (200, 188, 172), 0.006)
        mouth.darken(inner_top, 0.5, 0.03)
        mouth.show()
        canvas.matt(hole)
    else:
        canvas.stroke((inner_top + inner_bottom[::-1]) / 2, mix(colour, (50, 14, 14), 0.65), 0.02)
    for corner in points[[48, 54]]:
        canvas.shade_shape(ellipse(corner, 0.03, 0.025), 0.7, FINE)
    full = float(np.clip((points[57, 1] - points[66, 1]) / 0.16, 0.15, 1.2))
    canvas.raise_line(curve((points[[67, 66, 65]] + points[[58, 57, 56]]) / 2), 0.06 * full, 0.1 * full, MIDDLE)
    canvas.raise_line(curve((points[[61, 62, 63]] + points[[50, 51, 52]]) / 2), 0.03 * full, 0.06, MIDDLE)
    if units.get(24):
        for y in (points[51, 1] - 0.05, points[57, 1] + 0.05):
            canvas.raise_line(np.array([[-0.25, y, 0], [0.25, y, 0]]), 0.06 * units[24], 0.07, MIDDLE)


def _paint_brow(canvas: Canvas, person: Person, spine: Float64[np.ndarray, "5 3"], side: int) -> None:
    rng = np.random.default_rng((person.number, 5))
    colour = mix(person.hair, (40, 28, 22), 0.45 - 0.35 * person.grey)
    half = 0.03 + 0.014 * person.male - 0.02 * (1 - person.growth)
    half, density = (half * 1.9, 90) if person.bushy else (half, round(46 * person.growth**0.5))
    path = curve(spine)
    along = np.linspace(0, 1, len(path))
    width = half * np.interp(along, [0, 0.15, 0.6, 1], [0.75, 1.05, 0.9, 0.25])[:, None] * [0, 1, 0]
    shape = np.concatenate([path - width, (path + width)[::-1]])
    canvas.glaze(shape, colour, 0.9 if person.bushy or person.eye_shadow else 0.62, 0.014)
    at, across = rng.random(density), rng.uniform(-1, 1, density)
    roots = np.stack([np.interp(at, along, path[:, axis]) for axis in range(3)], axis=-1)
    roots[:, 1] += across * half * np.interp(at, [0, 0.15, 0.6, 1], [0.75, 1.05, 0.9, 0.25])
    rise = -0.045 * (1 - at) + 0.02 * at + 0.012 * across + rng.normal(0, 0.008, density)
    lean = np.stack([side * (0.03 + 0.05 * at), rise, np.zeros(density)], axis=-1)
    reach = 1.1 if person.bushy else 0.85
    canvas.strokes(np.stack([roots, roots + reach * lean], axis=1), mix(colour, (20, 12, 10), 0.25), 0.012)
