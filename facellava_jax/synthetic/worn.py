"""Glasses, hats and earrings."""

import numpy as np
from jaxtyping import Float64

from .canvas import MIDDLE, Canvas, curve, ellipse, mix, shift
from .geometry import EYES, SIDES, Head, mirror_line, outline_skull
from .person import Colour, Person

FRAMES: tuple[Colour, ...] = ((36, 30, 30), (96, 56, 30), (130, 28, 36), (120, 120, 128))
GOLD: Colour = (212, 172, 84)


def paint_earring(canvas: Canvas, lobe: Float64[np.ndarray, "3"]) -> None:
    canvas.fill(ellipse(lobe, 0.075, 0.085), GOLD)
    canvas.paint(ellipse(shift(lobe, -0.02, -0.03), 0.025, 0.025), (255, 246, 214))


def paint_glasses(canvas: Canvas, person: Person, points: Float64[np.ndarray, "K 3"]) -> None:
    rng = np.random.default_rng((person.number, 4))
    colour = FRAMES[rng.integers(len(FRAMES))]
    width = rng.uniform(0.026, 0.05)
    square = rng.random() < 0.5
    bridge = []
    for side, eye_points, ear in zip(SIDES, EYES, (points[0], points[16]), strict=True):
        eye = shift(points[eye_points].mean(axis=0) * [1, 1, 0], side * 0.02, 0.05, 0.2)
        lens = ellipse(eye, 0.35, 0.27)
        if square:
            offset = lens - eye
            lens = eye + np.sign(offset) * np.abs(offset / [0.35, 0.27, 1]) ** 0.45 * [0.34, 0.24, 0]
        canvas.glaze(lens, (235, 242, 250), 0.1, 0.005)
        canvas.shade_line(shift(np.concatenate([lens, lens[:1]]), 0, 0.035, -0.1), 0.35, 0.03, MIDDLE)
        canvas.stroke(lens, colour, width, closed=True)
        glint = eye + np.array([[-0.18, 0.06, 0], [-0.06, -0.14, 0]])
        canvas.glaze(np.concatenate([glint, shift(glint[::-1], 0.07, 0)]), (255, 255, 255), 0.22, 0.01)
        bridge.append(shift(eye, -side * 0.34, -0.05))
        canvas.stroke(np.stack([shift(eye, side * 0.34, -0.08), shift(ear, 0, -0.06)]), colour, width)
    middle = shift((bridge[0] + bridge[1]) / 2, 0, -0.035, 0.05)
    canvas.stroke(curve(np.stack([bridge[0], middle, bridge[1]])), colour, width)


def paint_hat(canvas: Canvas, person: Person, head: Head) -> None:
    crown = curve(outline_skull(head, canvas.pose, 0.2))[4:-4]
    brim = curve(mirror_line([(0, -0.7, 0.1), (0.7, -0.66, -0.05), (1.1, -0.5, -0.6)]))
    dark = mix(person.hat_colour, (0, 0, 0), 0.35)
    canvas.shade_line(shift(brim, 0, 0.08), 0.7, 0.14, MIDDLE)
    canvas.fill(np.concatenate([crown, brim[::-1]]), person.hat_colour)
    if person.visor:
        edge = curve(mirror_line([(0, -0.46, 0.62), (0.5, -0.48, 0.5), (0.85, -0.56, 0)]))
        canvas.fill(np.concatenate([brim[3:-3], edge[::-1]]), dark)
    else:
        canvas.fill(np.concatenate([shift(brim, 0, -0.24), brim[::-1]]), dark)
        ribs = np.linspace(0, len(brim) - 1, 22).astype(int)
        canvas.strokes(np.stack([shift(brim[ribs], 0, -0.24), brim[ribs]], axis=1), person.hat_colour, 0.02)
