"""The head that is drawn: 68 landmarks and an outline in three dimensions, how a person's differ, and how it is seen.

Units are half the width of the face. x points to the right of the picture, y down, z to the viewer; the origin lies
between the eyes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from ..config import LANDMARK_POINTS
from ..faces.landmarks import MIRRORED_POINTS
from ..media import LANDMARK_CROP
from .person import Number, Person

# The mean face: iBUG's points of the right half of the picture and of the middle; the left half is their mirror.
# Proportions are those of a face 14 cm wide: pupils 6.3 cm apart, eyes to chin 11.6 cm, nose 5 cm, mouth 5 cm wide.
MEAN = {
    # jaw, from the chin to the ear
    **{8: (0.0, 1.64, 0.1), 9: (0.23, 1.6, 0.07), 10: (0.45, 1.47, -0.03), 11: (0.64, 1.28, -0.17)},
    **{12: (0.78, 1.05, -0.33), 13: (0.88, 0.79, -0.48), 14: (0.94, 0.53, -0.6), 15: (0.975, 0.25, -0.68)},
    16: (1.0, -0.03, -0.74),
    # brow, from its inner end
    **{22: (0.2, -0.25, 0.15), 23: (0.38, -0.325, 0.12), 24: (0.56, -0.345, 0.04), 25: (0.71, -0.305, -0.07)},
    26: (0.82, -0.21, -0.2),
    # nose: its bridge, then its lower edge from the middle
    **{27: (0.0, -0.02, 0.17), 28: (0.0, 0.19, 0.26), 29: (0.0, 0.39, 0.36), 30: (0.0, 0.58, 0.45)},
    **{33: (0.0, 0.76, 0.3), 34: (0.11, 0.74, 0.27), 35: (0.19, 0.69, 0.19)},
    # eye: inner corner, upper lid, outer corner, lower lid
    **{42: (0.25, 0.035, 0.0), 43: (0.36, -0.06, 0.05), 44: (0.53, -0.065, 0.04), 45: (0.655, 0.015, -0.08)},
    **{46: (0.53, 0.075, 0.02), 47: (0.37, 0.085, 0.04)},
    # lips: upper edge, corner, lower edge
    **{51: (0.0, 0.955, 0.27), 52: (0.09, 0.93, 0.26), 53: (0.23, 0.985, 0.2), 54: (0.36, 1.06, 0.11)},
    **{55: (0.24, 1.165, 0.19), 56: (0.11, 1.215, 0.23), 57: (0.0, 1.225, 0.24)},
    # mouth, within the lips
    **{62: (0.0, 1.063, 0.24), 63: (0.13, 1.059, 0.21), 64: (0.31, 1.063, 0.13), 65: (0.13, 1.065, 0.2)},
    66: (0.0, 1.067, 0.23),
}
# The outline of the skull from the top to the ear, and where hair begins, from the middle; the right half again.
SKULL = (
    *((0.0, -1.5, -0.45), (0.4, -1.43, -0.48), (0.74, -1.2, -0.55), (0.95, -0.85, -0.65), (1.02, -0.45, -0.72)),
    (1.0, -0.03, -0.74),
)
HAIRLINE = (
    *((0.0, -1.02, 0.0), (0.3, -1.02, -0.02), (0.6, -0.95, -0.1), (0.82, -0.74, -0.24), (0.93, -0.42, -0.45)),
    (1.0, -0.05, -0.72),
)

# Indices, of the left and the right of the picture; eyes and brows from their inner end.
BROWS = ((21, 20, 19, 18, 17), (22, 23, 24, 25, 26))
UPPER_LIDS = ((39, 38, 37, 36), (42, 43, 44, 45))
EYES = (slice(36, 42), slice(42, 48))
LOWER_LIDS = ((39, 40, 41, 36), (42, 47, 46, 45))
SIDES = (-1, 1)
CHIN = 8

Point = tuple[Number, Number, Number]
Points = Float64[np.ndarray, "n 3"]


class Head(NamedTuple):
    """Points of a head in its own units."""

    landmarks: Float64[np.ndarray, "K 3"]
    skull: Points
    """The outline from the left ear over the top to the right one, of a head that is seen from the front."""
    hairline: Points
    """From the left ear over the forehead to the right one."""


class Pose(NamedTuple):
    """How a head is seen: turned by angles in radians, `scale` pixels to the unit, the origin at `centre`."""

    yaw: Number
    pitch: Number
    roll: Number
    scale: Number = 1
    centre: tuple[Number, Number] = (0, 0)

    @property
    def rotation(self) -> Float64[np.ndarray, "3 3"]:
        """Columns are the axes of the head as seen. Yaw turns to the right of the picture, pitch down."""
        (cy, cp, cr), (sy, sp, sr) = np.cos(self[:3]), np.sin(self[:3])
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return lean @ nod @ turn

    @property
    def turn(self) -> Float64[np.ndarray, "3 3"]:
        """The rotation without its roll."""
        upright: np.ndarray = self._replace(roll=0.0).rotation
        return upright

    def face(self, offsets: Points) -> Points:
        """What has these offsets in the picture of an upright head, in the head's units."""
        return offsets @ self.turn

    def flatten(self, offsets: Points) -> Points:
        """Offsets in the picture of an upright head."""
        return (offsets @ self.turn.T) * [1, 1, 0]

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """In pixels, without perspective."""
        return points @ (self.scale * self.rotation[:2].T) + np.array(self.centre)


def outline_skull(head: Head, pose: Pose, volume: float = 0.0) -> Points:
    """The skull's outline as `pose` shows it, with hair of some `volume` on it, never within the hairline.

    A round skull has the same outline from everywhere, so that of the front is turned against the pose.
    """
    centre = np.array([0, -0.1, -0.6])
    from_front = (head.skull - centre) * [1, 1, 0]
    grow = volume * np.sin(np.linspace(0.12, np.pi - 0.12, len(from_front))) ** 0.5
    sizes = np.linalg.norm(from_front, axis=1)
    hair = pose.flatten(head.hairline - centre)
    sizes = np.maximum(sizes + grow, np.linalg.norm(hair, axis=1) + 0.5 * grow)
    return centre + pose.face(from_front * (sizes / np.linalg.norm(from_front, axis=1))[:, None])


def complete(right: Mapping[int, Point]) -> Float64[np.ndarray, "K 3"]:
    """Landmarks, or moves of them, of which those of the right half and the middle are given; the rest are 0."""
    points = np.zeros((LANDMARK_POINTS, 3))
    for index, (x, y, z) in right.items():
        points[MIRRORED_POINTS[index]] = -x, y, z
        points[index] = x, y, z
    return points


def mirror_line(right: Sequence[Point]) -> Points:
    """A line from left to right, of which the right half is given, from the middle outwards."""
    half = np.array(right)
    off_middle = half[half[:, 0] > 0]
    return np.concatenate([off_middle[::-1] * [-1, 1, 1], half])


MEAN_LANDMARKS = complete(MEAN)
MEAN_SKULL, MEAN_HAIRLINE = mirror_line(SKULL), mirror_line(HAIRLINE)


def shape_head(person: Person) -> Head:
    """The head of a person who does nothing."""
    shape, child, old = person.shape, 1 - person.growth, person.ageing(45)
    points = MEAN_LANDMARKS.copy()
    skull, hairline = MEAN_SKULL.copy(), MEAN_HAIRLINE.copy()

    eyes = 1 + 0.1 * shape.eye_size + 0.34 * child - 0.06 * old
    for side, eye in zip(SIDES, EYES, strict=True):
        centre = points[eye].mean(axis=0)
        points[eye] = centre + (points[eye] - centre) * [1 + (eyes - 1) * 0.5, eyes * (1 + 0.15 * child), 1]
        points[eye, 0] += side * (0.025 * shape.eye_spacing + 0.01 * child)
    points[17:27, 1] -= 0.02 * shape.brow_height + 0.03 * child - (0.03 if person.male else -0.01) - 0.02 * old

    nose = 1 + 0.06 * shape.nose_length + 0.06 * old - 0.2 * child
    width = 1 + 0.1 * shape.nose_width + 0.06 * old - 0.12 * child
    points[27:36, 1] *= nose
    points[31:36, 0] *= width
    points[28:36, 2] = 0.17 + (points[28:36, 2] - 0.17) * (1 + 0.08 * shape.nose_width - 0.4 * child)

    lips = 1 + 0.16 * shape.lips - 0.3 * old - (0.1 if person.male else -0.05)
    middle = points[[62, 66]].mean(axis=0)
    points[48:60, 1] = middle[1] + (points[48:60, 1] - middle[1]) * lips
    points[48:68, 0] *= 1 + 0.07 * shape.mouth_width - 0.12 * child

    points[4:13, 0] *= 1 + 0.035 * shape.jaw
    points[6:11, 0] *= 1 + 0.05 * shape.jaw + 0.08 * old
    points[6:11, 1] += 0.05 * shape.chin
    fat = np.array([0, 0, 0, 0.3, 0.7, 1, 0.8, 0.4, 0, 0.4, 0.8, 1, 0.7, 0.3, 0, 0, 0])
    points[:17, 0] += np.sign(points[:17, 0]) * fat * (0.045 * shape.cheeks + 0.08 * child)

    low = points[:, 1] > 0
    points[low, 1] *= 1 + 0.05 * shape.length - 0.24 * child
    high = 1 + 0.03 * shape.length + 0.04 * child
    skull[:, 1] *= high
    hairline[:, 1] *= high
    hairline[3:-3, 1] -= 0.2 * person.recession * np.array([0.8, 1.4, 1, 1.4, 0.8])
    return Head(points, skull, hairline)


def place_head(landmarks: Float64[np.ndarray, "K 3"], pose: Pose, share: Number, at: tuple[Number, Number]) -> Pose:
    """The pose at a scale and place where the face's box fills `share` of the picture's side.

    The box is the detector's that media are cut by: from the brows to the chin, from ear to ear. `at` says where it
    lies in the room that it leaves: (0, 0) is at the top left, (1, 1) at the bottom right.
    """
    points = pose._replace(scale=1.0, centre=(0.0, 0.0)).project(landmarks)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = share * LANDMARK_CROP / (high - low).max().item()
    room = LANDMARK_CROP - (high - low) * scale
    x, y = (room * at - low * scale - 0.5).tolist()
    return pose._replace(scale=scale, centre=(x, y))
