"""Facial action units: what each moves, which make an expression, and how they unfold in time."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float64

from .geometry import CHIN, LOWER_LIDS, UPPER_LIDS, Point, complete
from .person import Number

Emotion = Literal["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"]


# Names of the Facial Action Coding System (Ekman, Friesen and Hager, 2002).
NAMES = {
    1: "Inner Brow Raiser",
    2: "Outer Brow Raiser",
    4: "Brow Lowerer",
    5: "Upper Lid Raiser",
    6: "Cheek Raiser",
    7: "Lid Tightener",
    9: "Nose Wrinkler",
    12: "Lip Corner Puller",
    15: "Lip Corner Depressor",
    17: "Chin Raiser",
    20: "Lip Stretcher",
    23: "Lip Tightener",
    24: "Lip Pressor",
    25: "Lips Part",
    26: "Jaw Drop",
}
# The usual combinations (EMFACS); what is open in surprise and fear has parted lips as well.
EXPRESSIONS: dict[Emotion, tuple[int, ...]] = {
    "neutral": (),
    "happiness": (6, 12),
    "sadness": (1, 4, 15),
    "surprise": (1, 2, 5, 25, 26),
    "fear": (1, 2, 4, 5, 7, 20, 25, 26),
    "disgust": (9, 15, 17),
    "anger": (4, 5, 7, 23),
}
# What does not go together, or would not be told apart.
EXCLUDED = (
    *({5, 7}, {12, 15}, {12, 20}, {12, 23}, {12, 24}, {15, 20}, {15, 25}, {15, 26}, {17, 20}, {17, 25}, {17, 26}),
    *({20, 23}, {20, 24}, {23, 24}, {23, 25}, {23, 26}, {24, 25}, {24, 26}, {17, 12}, {9, 24}, {17, 23}, {17, 24}),
)
# What comes with another: a jaw that drops parts the lips.
NEEDS = {26: (25,)}

# At full strength: where iBUG's points of the right half and the middle go, in the head's units (x outwards, y down).
MOVES: dict[int, dict[int, Point]] = {
    1: {22: (-0.01, -0.15, 0), 23: (0, -0.1, 0), 24: (0, -0.03, 0)},
    2: {23: (0, -0.03, 0), 24: (0, -0.11, 0), 25: (0, -0.14, 0), 26: (0, -0.1, 0)},
    4: {22: (-0.06, 0.11, 0), 23: (-0.05, 0.09, 0), 24: (-0.02, 0.05, 0), 25: (0, 0.01, 0)},
    5: {43: (0, -0.055, 0), 44: (0, -0.055, 0)},
    6: {46: (0, -0.035, 0), 47: (0, -0.03, 0), 45: (0, -0.01, 0)},
    7: {43: (0, 0.035, 0), 44: (0, 0.03, 0), 46: (0, -0.035, 0), 47: (0, -0.035, 0)},
    9: {
        **{30: (0, -0.03, 0), 33: (0, -0.045, 0), 34: (0.015, -0.055, 0), 35: (0.04, -0.07, 0)},
        **{51: (0, -0.06, 0), 52: (0, -0.075, 0), 53: (0, -0.06, 0), 62: (0, -0.01, 0)},
        **{22: (-0.02, 0.06, 0), 23: (0, 0.03, 0), 46: (0, -0.02, 0), 47: (0, -0.02, 0)},
    },
    12: {
        **{54: (0.12, -0.13, -0.05), 53: (0.07, -0.05, -0.03), 55: (0.07, -0.055, -0.03), 64: (0.12, -0.115, -0.05)},
        **{63: (0.04, -0.03, 0), 65: (0.04, -0.03, 0), 52: (0.02, 0, 0), 56: (0.02, 0, 0), 35: (0.02, 0, 0)},
    },
    15: {
        54: (0.0, 0.13, 0),
        53: (0, 0.045, 0),
        55: (0, 0.055, 0),
        64: (0, 0.12, 0),
        63: (0, 0.03, 0),
        65: (0, 0.03, 0),
    },
    17: {
        **{57: (0, -0.075, 0.03), 56: (0, -0.07, 0.03), 55: (0, -0.03, 0.01), 66: (0, -0.035, 0), 65: (0, -0.03, 0)},
        **{62: (0, -0.035, 0.02), 63: (0, -0.03, 0.01), 51: (0, -0.03, 0.02), 52: (0, -0.03, 0.02)},
        **{8: (0, -0.05, 0.02), 9: (0, -0.04, 0.01), 54: (-0.01, 0.02, 0)},
    },
    20: {
        **{54: (0.16, 0.035, -0.07), 64: (0.15, 0.035, -0.07), 53: (0.09, 0.015, -0.03), 55: (0.1, -0.01, -0.03)},
        **{52: (0.04, 0.01, 0), 56: (0.05, -0.02, 0), 57: (0, -0.02, 0), 63: (0.06, 0, 0), 65: (0.06, 0, 0)},
    },
    23: {
        **{54: (-0.1, 0, 0.04), 64: (-0.1, 0, 0.04), 53: (-0.06, 0.015, 0), 55: (-0.06, -0.02, 0)},
        **{51: (0, 0.03, 0.02), 52: (-0.02, 0.035, 0.02), 56: (-0.03, -0.045, 0.02), 57: (0, -0.045, 0.02)},
        **{63: (-0.04, 0, 0), 65: (-0.04, 0, 0)},
    },
    24: {
        **{51: (0, 0.065, 0), 52: (0, 0.08, 0), 53: (0, 0.05, 0), 54: (0.03, 0, 0), 64: (0.03, 0, 0)},
        **{55: (0, -0.07, 0), 56: (0, -0.1, 0), 57: (0, -0.1, 0)},
    },
    25: {
        **{62: (0, -0.025, 0), 63: (0, -0.022, 0), 51: (0, -0.02, 0), 52: (0, -0.02, 0), 53: (0, -0.012, 0)},
        **{66: (0, 0.065, 0), 65: (0, 0.06, 0), 57: (0, 0.055, 0), 56: (0, 0.055, 0), 55: (0, 0.035, 0)},
    },
    26: {
        **{8: (0, 0.26, -0.02), 9: (0, 0.25, -0.02), 10: (0, 0.22, 0), 11: (-0.01, 0.15, 0), 12: (-0.02, 0.08, 0)},
        **{13: (-0.015, 0.03, 0), 57: (0, 0.23, 0), 56: (-0.01, 0.22, 0), 55: (-0.03, 0.16, 0), 66: (0, 0.23, 0)},
        **{65: (-0.02, 0.21, 0), 54: (-0.035, 0.08, 0), 64: (-0.03, 0.08, 0), 53: (-0.02, 0.01, 0), 63: (-0.01, 0, 0)},
    },
}


ALL_MOVES = {unit: complete(right) for unit, right in MOVES.items()}
CLOSED_LIDS = tuple(zip(UPPER_LIDS, LOWER_LIDS, strict=True))


def move_landmarks(
    landmarks: Float64[np.ndarray, "K 3"], units: Mapping[int, Number], blink: Number = 0
) -> Float64[np.ndarray, "K 3"]:
    """Landmarks of a face whose action units have these strengths (0 to 1), and whose eyes `blink` (1 is closed)."""
    moved = landmarks + sum((strength * ALL_MOVES[unit] for unit, strength in units.items()), np.zeros((1, 3)))
    for upper, lower in CLOSED_LIDS:
        opening = moved[list(lower[1:3])] - moved[list(upper[1:3])]
        moved[list(upper[1:3])] += blink * 0.9 * opening
    # The mouth never turns inside out, and lips keep some flesh.
    for above, below in ((61, 67), (62, 66), (63, 65)):
        overlap = max(0.0, moved[above, 1] - moved[below, 1])
        moved[above, 1] -= overlap / 2
        moved[below, 1] += overlap / 2
    for inside, outside, way in ((61, 50, -1), (62, 51, -1), (63, 52, -1), (65, 56, 1), (66, 57, 1), (67, 58, 1)):
        moved[outside, 1] = moved[inside, 1] + way * max(0.02, way * (moved[outside, 1] - moved[inside, 1]))
    moved[CHIN, 0] = moved[[CHIN - 1, CHIN + 1], 0].mean()
    return moved
