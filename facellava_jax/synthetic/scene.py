"""What a face is seen in and by: background, light, skin's texture, camera."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from ..extras import require
from ..media import LANDMARK_CROP
from .canvas import Light
from .geometry import Pose
from .person import Person

SIZE = (LANDMARK_CROP, LANDMARK_CROP)
COARSE = LANDMARK_CROP // 4  # side that what is out of focus is drawn at
KNEE = 200.0  # brightness above which a camera answers less and less
TEXTURE_SPAN = 3.2  # units of the head that a texture covers


class Camera(NamedTuple):
    """What a camera does to a picture, the same in all frames of a clip but for the noise."""

    exposure: float
    balance: tuple[float, float, float]
    """Factors of red, green and blue."""
    blur: float
    """In pixels."""
    noise: float
    """In steps of 255."""
    quality: int
    """Of JPEG."""


def draw_background(rng: np.random.Generator) -> UInt8[np.ndarray, "256 256 3"]:
    """A wall in its light, or a room out of focus."""
    cv2 = require("cv2", "train")
    low, high = rng.uniform(20, 235, (2, 3))
    low, high = (0.35 * colour + 0.65 * colour.mean() for colour in (low, high))
    angle = rng.uniform(0, 2 * np.pi)
    at = np.linspace(-1, 1, COARSE)
    ramp = np.clip(0.5 + 0.4 * (at[None] * np.cos(angle) + at[:, None] * np.sin(angle)), 0, 1)[..., None]
    picture = np.ascontiguousarray(low + ramp * (high - low), np.float32)
    for _ in range(rng.integers(0, 7)):
        colour = (picture.mean(axis=(0, 1)) + rng.normal(0, 35) + rng.normal(0, 18, 3)).tolist()
        corner = rng.integers(-10, COARSE, 2)
        if rng.random() < 0.5:
            cv2.circle(picture, corner.tolist(), int(rng.integers(4, 24)), colour, -1)
        else:
            size = rng.integers((4, 8), (24, 64))
            cv2.rectangle(picture, corner.tolist(), (corner + size).tolist(), colour, -1)
    picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 4)))
    grain = rng.normal(0, rng.uniform(0, 7), (COARSE * 2, COARSE * 2)).astype(np.float32)
    picture = cv2.resize(picture, SIZE) + cv2.resize(grain, SIZE)[..., None]
    return picture.clip(0, 255).astype(np.uint8)


def draw_light(rng: np.random.Generator, person: Person) -> Light:
    """A lamp above the camera, to one side, warm or cold."""
    aside, above = rng.uniform(-0.6, 0.6), rng.uniform(-0.55, -0.05)
    direction = np.array([aside, above, 1.0])
    x, y, z = (direction / np.linalg.norm(direction)).tolist()
    warmth = rng.uniform(-0.04, 0.05)
    gloss = rng.uniform(0.04, 0.13) * (0.75 if person.age < 10 else 1)
    return Light((x, y, z), (1 + warmth, 1.0, 1 - warmth), float(rng.uniform(0.38, 0.62)), float(gloss))


def draw_camera(rng: np.random.Generator) -> Camera:
    red, blue = rng.uniform(0.96, 1.04, 2).tolist()
    return Camera(
        exposure=float(rng.uniform(0.85, 1.12)),
        balance=(red, 1.0, blue),
        blur=float(rng.uniform(0, 0.8)),
        noise=float(rng.uniform(1, 6)),
        quality=int(rng.integers(70, 96)),
    )


def photograph(
    picture: Float32[np.ndarray, "256 256 3"], camera: Camera, rng: np.random.Generator
) -> UInt8[np.ndarray, "256 256 3"]:
    """A picture as the camera gives it: exposed, blurred, with noise, through JPEG."""
    cv2 = require("cv2", "train")
    seen = picture * np.array(camera.balance, np.float32) * np.float32(camera.exposure)
    if camera.blur > 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), camera.blur)
    # What is too bright bends before it is white.
    bright = seen > KNEE
    seen[bright] = 255 - (255 - KNEE) * np.exp((KNEE - seen[bright]) / (255 - KNEE))
    seen += np.float32(camera.noise) * rng.standard_normal(seen.shape, np.float32)
    pixels = seen.clip(0, 255).astype(np.uint8)
    return decode_jpeg(cv2, encode_jpeg(cv2, pixels, camera.quality))


def encode_jpeg(cv2: ModuleType, pixels: UInt8[np.ndarray, "Y X 3"], quality: int) -> bytes:
    """RGB pixels as the bytes of a file."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    return data.tobytes()


def decode_jpeg(cv2: ModuleType, data: bytes) -> UInt8[np.ndarray, "Y X 3"]:
    """The inverse of `encode_jpeg`, as far as there is one."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return pixels


def draw_texture(person: Person) -> Float32[np.ndarray, "256 256"]:
    """Pores, blotches, freckles and spots of age, as factors less 1, over TEXTURE_SPAN units around the nose."""
    cv2 = require("cv2", "train")
    rng = np.random.default_rng((person.number, 6))
    old = person.ageing(18)
    texture = np.zeros(SIZE, np.float32)
    for cells, strength in ((12, 0.01 + 0.015 * old), (48, 0.01 + 0.02 * old), (160, 0.02 + 0.045 * old)):
        noise = rng.standard_normal((cells, cells), np.float32)
        texture += np.float32(strength) * cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC)
    spots = np.zeros(SIZE, np.float32)
    freckled = rng.random() < 0.15
    for size, count in ((1, 90 * freckled), (3, round(26 * person.ageing(55)))):
        for x, y in rng.integers(70, 190, (count, 2)).tolist():
            cv2.circle(spots, (x, y), size, -0.22, -1)
    return texture + cv2.GaussianBlur(spots, (0, 0), 0.9)


def place_texture(texture: Float32[np.ndarray, "256 256"], pose: Pose) -> Float32[np.ndarray, "256 256"]:
    """A texture where the front of the head is seen."""
    cv2 = require("cv2", "train")
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [-0.5, 0.5, 0]]) * TEXTURE_SPAN + [0, 0.4, 0.1]
    ends = np.array([[0, 0], [LANDMARK_CROP, 0], [0, LANDMARK_CROP]], np.float32)
    warp = cv2.getAffineTransform(ends, pose.project(corners).astype(np.float32))
    return cv2.warpAffine(texture, warp, SIZE)
