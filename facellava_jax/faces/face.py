"""What is known of a face in a picture, and the error of a picture or clip that has none to use.

Boxes are measured from the outer corner of the first pixel: a picture of W pixels reaches from 0 to W. Points are
pixel indices, as OpenCV, dlib and landmark files have them: (0, 0) is the middle of the first pixel.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ..errors import FaceLlavaError


class FaceError(FaceLlavaError):
    """A picture or clip without the face that is needed; one line that names the file, the frames and the remedy."""


class Box(NamedTuple):
    """A rectangle in pixels of the picture; it may reach beyond the picture's border."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def longer(self) -> float:
        return max(self.width, self.height)

    @property
    def centre(self) -> Float64[np.ndarray, "2"]:
        return np.array([self.x + self.width / 2, self.y + self.height / 2])

    def overlap(self, other: "Box") -> float:
        """Intersection over union."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        if width <= 0 or height <= 0:
            return 0.0
        return width * height / (self.area + other.area - width * height)


class Detection(NamedTuple):
    """A box with a face in it, as the detector gives it.

    `key_points`: right eye, left eye, nose tip, mouth, right ear, left ear; right and left are the person's.
    """

    box: Box
    score: float
    key_points: Float64[np.ndarray, "6 2"]


class Face(NamedTuple):
    """A detected face with its 68 landmarks, in the order of iBUG 300-W.

    `score` is the detector's confidence in the face, `presence` the landmark network's; both lie in 0..1.
    """

    box: Box
    score: float
    key_points: Float64[np.ndarray, "6 2"]
    landmarks: Float64[np.ndarray, "K 2"]
    presence: float
