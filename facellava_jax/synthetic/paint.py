"""A person at one moment, painted whole."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .actions import move_landmarks
from .canvas import Canvas, Light
from .features import Gaze, paint_features
from .geometry import Head, Pose, shape_head
from .head import paint_behind, paint_front
from .person import Number, Person
from .scene import draw_texture, place_texture
from .wrinkles import Units


class Actor(NamedTuple):
    """A person, and what does not change about them from frame to frame."""

    person: Person
    head: Head
    texture: Float32[np.ndarray, "256 256"]


class Stage(NamedTuple):
    """Where a person is seen."""

    background: UInt8[np.ndarray, "256 256 3"]
    light: Light


class Moment(NamedTuple):
    """What a person does: action units by strength, eyelids (1 is closed), and where the irises are moved to."""

    pose: Pose
    units: Units
    blink: Number
    gaze: Gaze


def cast(person: Person) -> Actor:
    return Actor(person, shape_head(person), draw_texture(person))


def paint_face(
    actor: Actor, moment: Moment, stage: Stage
) -> tuple[Float32[np.ndarray, "256 256 3"], Float64[np.ndarray, "K 2"]]:
    """One frame before the camera takes it, and its landmarks in pixels."""
    person, head, texture = actor
    landmarks = move_landmarks(head.landmarks, moment.units, moment.blink)
    canvas = Canvas(stage.background, moment.pose)
    paint_behind(canvas, person, head, landmarks)
    paint_features(canvas, person, landmarks, moment.units, moment.gaze)
    paint_front(canvas, person, head, landmarks)
    return canvas.finish(stage.light, place_texture(texture, moment.pose)), moment.pose.project(landmarks)
