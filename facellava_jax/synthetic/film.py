"""A person before the camera: the frames of a picture or clip, and the landmarks in them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .forgery import Forgery, swap_face
from .geometry import Pose, place_head
from .paint import Moment, Stage, cast, paint_face
from .person import Person
from .scene import draw_background, draw_camera, draw_light, photograph

BLINK = 0.06  # half the length of a blink, as a share of a clip


class Framing(NamedTuple):
    """How a face lies in the picture: the least and the most of each."""

    share: tuple[float, float]
    """Of the picture's side that the face's box takes."""
    height: tuple[float, float]
    """Where in the room above and below it; 1 is at the bottom."""


CLOSE = Framing((0.68, 0.95), (0.5, 0.95))
WIDE = Framing((0.58, 0.68), (0.88, 1.0))  # shows the hair and what is worn on it


class Film(NamedTuple):
    """Frames of one face, RGB, and its landmarks in their pixels: (x, y), (0, 0) is the middle of the first pixel."""

    frames: UInt8[np.ndarray, "T 256 256 3"]
    landmarks: Float32[np.ndarray, "T K 2"]


class Motion(NamedTuple):
    """What moves in a clip. Times are shares of its length, angles radians, places pixels."""

    onset: float
    apex: float
    """When the expression is there."""
    sway: Float64[np.ndarray, "5"]
    """How far yaw, pitch, roll, x and y go."""
    phase: Float64[np.ndarray, "5"]
    speed: float
    blink: float
    """When the eyes close; never in a clip where it is beyond 1."""

    def at(self, moment: Moment, time: float) -> Moment:
        """What has become of a moment's pose and expression."""
        rise = float(np.clip((time - self.onset) / (self.apex - self.onset), 0, 1))
        strength = rise * rise * (3 - 2 * rise)
        units = {unit: strength * most for unit, most in moment.units.items()}
        yaw, pitch, roll, x, y = (self.sway * np.sin(2 * np.pi * self.speed * time + self.phase)).tolist()
        pose = moment.pose
        centre = (pose.centre[0] + x, pose.centre[1] + y)
        pose = pose._replace(yaw=pose.yaw + yaw, pitch=pose.pitch + pitch, roll=pose.roll + roll, centre=centre)
        blink = max(0.0, 1 - abs(time - self.blink) / BLINK)
        return moment._replace(pose=pose, units=units, blink=blink)


def draw_motion(rng: np.random.Generator) -> Motion:
    return Motion(
        onset=float(rng.uniform(0, 0.2)),
        apex=float(rng.uniform(0.4, 0.65)),
        sway=rng.uniform(0.2, 1, 5) * [0.12, 0.06, 0.05, 3, 2],
        phase=rng.uniform(0, 2 * np.pi, 5),
        speed=float(rng.uniform(0.3, 0.8)),
        blink=float(rng.uniform(0, 2)),
    )


def film_person(
    person: Person,
    units: Mapping[int, float],
    rng: np.random.Generator,
    frames: int | None = None,
    framing: Framing = CLOSE,
    forgery: Forgery | None = None,
) -> Film:
    """A person whose action units have these strengths: a clip of so many frames, or a picture where `frames` is None.

    In a clip the expression unfolds from a face at rest, the head sways, and the eyes may blink.
    """
    stage, camera = Stage(draw_background(rng), draw_light(rng, person)), draw_camera(rng)
    actor, motion = cast(person), draw_motion(rng)
    yaw, pitch, roll = (rng.uniform(-1, 1, 3) * [0.28, 0.13, 0.13]).tolist()
    place = float(rng.uniform(0.3, 0.7)), float(rng.uniform(*framing.height))
    base = place_head(actor.head.landmarks, Pose(yaw, pitch, roll), float(rng.uniform(*framing.share)), place)
    gaze_x, gaze_y = (rng.normal(0, 0.3, 2) * [0.1, 0.03]).tolist()
    moment = Moment(base, units, 0.0, (gaze_x, gaze_y))
    moments = [moment]
    if frames is not None:
        moments = [motion.at(moment, time) for time in np.linspace(0, 1, frames).tolist()]
    pictures, landmarks = [], []
    for moment in moments:
        picture, points = paint_face(actor, moment, stage)
        if forgery:
            other, other_points = paint_face(forgery.actor, moment, stage)
            picture, points = swap_face(picture, points, other, other_points, forgery.flaw, rng)
        pictures.append(photograph(picture, camera, rng))
        landmarks.append(points)
    return Film(np.stack(pictures), np.stack(landmarks).astype(np.float32))
