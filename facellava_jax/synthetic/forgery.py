"""Tampered media: the inner part of a face comes from somebody else, and something about it is wrong."""

import dataclasses
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, Float64

from ..extras import require
from .paint import Actor, cast
from .person import Person
from .scene import SIZE

Fault = Literal["colour", "edge", "jitter"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

INNER = slice(17, 68)  # landmarks that the other face brings along; the jaw stays
OUTLINE = (*range(2, 15), 26, 25, 24, 19, 18, 17)  # landmarks around what is replaced
SHRINK = 0.9  # of that outline, towards its middle


class Flaw(NamedTuple):
    """What is wrong with what was put in."""

    faults: tuple[Fault, ...]
    tint: tuple[float, float, float]
    """Factors of its red, green and blue."""
    edge: float
    """How soft its edge is, in pixels."""
    jitter: float
    """How far it jumps from frame to frame, in pixels."""


class Forgery(NamedTuple):
    """Whose face is put in, and how badly."""

    actor: Actor
    flaw: Flaw


def draw_flaw(rng: np.random.Generator, clip: bool) -> Flaw:
    """A fault or two; a picture cannot jitter."""
    possible = FAULTS if clip else FAULTS[:2]
    order = rng.permutation(len(possible))[: rng.integers(1, 3)]
    faults = tuple(fault for index, fault in enumerate(possible) if index in order)
    warm = float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.19))
    bright = float(rng.choice([-1, 1]) * rng.uniform(0.0, 0.08))
    tint = (1 + bright + warm, 1 + bright - 0.2 * warm, 1 + bright - warm) if "colour" in faults else (1.0, 1.0, 1.0)
    return Flaw(
        faults,
        tint,
        edge=float(rng.uniform(0.3, 0.8)) if "edge" in faults else float(rng.uniform(4, 7)),
        jitter=float(rng.uniform(2.5, 4)) if "jitter" in faults else 0.0,
    )


def draw_forgery(rng: np.random.Generator, target: Person, other: Person, clip: bool) -> Forgery:
    """The face of `other`, made to fit `target` in all that would tell them apart at once, with a fault or two."""
    flaw = draw_flaw(rng, clip)
    traits = (
        "age",
        "male",
        "grey",
        "hair_colour",
        "beard",
        "skin",
        "lipstick",
        "eye_shadow",
        "glasses",
        "bangs",
        "hat",
    )
    person = dataclasses.replace(other, **{trait: getattr(target, trait) for trait in traits})
    return Forgery(cast(person), flaw)


def swap_face(
    picture: Float32[np.ndarray, "256 256 3"],
    points: Float64[np.ndarray, "K 2"],
    other: Float32[np.ndarray, "256 256 3"],
    other_points: Float64[np.ndarray, "K 2"],
    flaw: Flaw,
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "256 256 3"], Float64[np.ndarray, "K 2"]]:
    """A frame into which the inner part of another face is blended, and the landmarks that are then seen."""
    cv2 = require("cv2", "train")
    warp = _fit_similarity(other_points[INNER], points[INNER])
    warp[:, 2] += rng.normal(0, flaw.jitter, 2)
    warp[:, :2] *= 1 + rng.normal(0, 0.012) * (flaw.jitter > 0)
    moved = cv2.warpAffine(other, warp, SIZE, borderMode=cv2.BORDER_REPLICATE)
    seen = points.copy()
    seen[INNER] = other_points[INNER] @ warp[:, :2].T + warp[:, 2]

    outline = points[list(OUTLINE)]
    middle = outline.mean(axis=0)
    outline = middle + SHRINK * (outline - middle)
    mask = np.zeros(SIZE, np.float32)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1.0)
    inside = mask > 0
    # What is put in takes the colours of what it covers, but for what is wrong with it.
    for channel, factor in enumerate(flaw.tint):
        new, old = moved[..., channel], picture[..., channel][inside]
        there = new[inside]
        gain = np.clip(old.std() / max(1.0, float(there.std())), 0.7, 1.4)
        moved[..., channel] = ((new - there.mean()) * gain + old.mean()) * factor
    if "edge" in flaw.faults:
        moved = cv2.GaussianBlur(moved, (0, 0), 1.3) * np.float32(1.07)
    mask = cv2.GaussianBlur(mask, (0, 0), flaw.edge)[..., None]
    return picture + mask * (moved - picture), seen


def _fit_similarity(
    source: Float64[np.ndarray, "n 2"], target: Float64[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "2 3"]:
    """The turn, scale and shift that bring points nearest to others (least squares)."""
    centre, goal = source.mean(axis=0), target.mean(axis=0)
    (x, y), (u, v) = (source - centre).T, (target - goal).T
    size = (x * x + y * y).sum()
    cosine, sine = (x * u + y * v).sum() / size, (x * v - y * u).sum() / size
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, goal - turn @ centre])
