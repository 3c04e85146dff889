"""What the features lie on: shoulders, neck, ears, and the skin of the face; and what lies over them."""

import numpy as np
from jaxtyping import Float64

from .canvas import FINE, MIDDLE, SOFT, Canvas, curve, mix, shift
from .geometry import SIDES, Head, mirror_line, outline_skull
from .hair import hang_hair, paint_beard, paint_hair
from .person import Person
from .worn import paint_earring, paint_glasses, paint_hat

Landmarks = Float64[np.ndarray, "K 3"]

# An ear around its middle, for the right of the picture: its edge, and the fold within.
EAR = (
    *((-0.06, -0.3, 0), (0.05, -0.33, 0), (0.12, -0.22, 0), (0.1, 0.0, 0), (0.06, 0.22, 0), (-0.04, 0.33, 0)),
    (-0.12, 0.25, 0),
)
FOLD = ((-0.02, -0.2, 0), (0.07, -0.2, 0), (0.06, 0.0, 0), (0.0, 0.14, 0))


def paint_behind(canvas: Canvas, person: Person, head: Head, landmarks: Landmarks) -> None:
    """Hair that hangs behind, shoulders, neck, ears, and the skin of the face."""
    if person.hair_length in ("medium", "long"):
        hang_hair(canvas, person, head)
    _paint_body(canvas, person, landmarks)
    for side, index in zip(SIDES, (0, 16), strict=True):
        _paint_ear(canvas, person, landmarks[index], side)
    jaw = curve(landmarks[:17])
    for arc in (outline_skull(head, canvas.pose), head.hairline):
        canvas.fill(np.concatenate([jaw, curve(arc)[-2:0:-1]]), person.skin, skin=True)
    canvas.shade_line(jaw, 0.25, 0.09, MIDDLE)


def paint_front(canvas: Canvas, person: Person, head: Head, landmarks: Landmarks) -> None:
    """Beard, glasses, hair, hat."""
    if person.beard != "none":
        paint_beard(canvas, person, landmarks)
    if person.glasses:
        paint_glasses(canvas, person, landmarks)
    if person.hair_length != "bald":
        paint_hair(canvas, person, head)
    if person.hat:
        paint_hat(canvas, person, head)


def _paint_body(canvas: Canvas, person: Person, landmarks: Landmarks) -> None:
    chin, neck = landmarks[8, 1], 0.62 - 0.08 * (1 - person.growth) + 0.06 * person.male
    collar = [(0, chin + 0.85, -0.2), (neck, chin + 0.62, -0.5), (1.0, chin + 0.9, -0.6), (2.4, chin + 1.3, -0.6)]
    canvas.fill(curve(mirror_line([*collar, (2.4, 6.0, -0.6)]), closed=True), person.cloth)
    throat = mirror_line([(0, chin + 0.88, -0.25), (neck, chin + 0.65, -0.55), (neck, 0.9, -0.6)])
    canvas.fill(throat, mix(person.skin, (60, 30, 24), 0.1), skin=True)
    canvas.shade_line(shift(curve(landmarks[3:14]), 0, 0.13), 0.55, 0.22, SOFT)


def _paint_ear(canvas: Canvas, person: Person, root: Float64[np.ndarray, "3"], side: int) -> None:
    size = 1 + 0.15 * person.ageing(40)
    centre = shift(root, side * 0.06, 0.2, -0.05)
    edge = curve(centre + np.array(EAR) * [side * size, size, 1], closed=True)
    canvas.fill(edge, mix(person.skin, (190, 60, 50), 0.12), skin=True)
    canvas.shade_line(curve(centre + np.array(FOLD) * [side, 1, 1]), 0.6, 0.03, FINE)
    if person.earrings:
        paint_earring(canvas, shift(centre, side * -0.04, 0.36, 0.05))
