"""Faces drawn over a picture, to look at: box, landmarks in the colours of the nine regions, frame number."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from ..config import REGIONS
from ..extras import require
from .face import Face

COLOURS = {
    "face": (255, 255, 255),
    "eyebrow1": (255, 160, 40),
    "eyebrow2": (255, 220, 60),
    "nose": (90, 220, 90),
    "nostril": (40, 230, 190),
    "eye1": (70, 180, 255),
    "eye2": (120, 130, 255),
    "lips": (255, 80, 110),
    "teeth": (255, 130, 230),
}
CLOSED = {"eye1", "eye2", "lips", "teeth"}
BOX_COLOUR, BRIDGED_COLOUR, OUTLINE = (60, 240, 60), (150, 150, 150), (0, 0, 0)

MIN_SIDE = 640  # longer side that smaller pictures are enlarged to, by a whole factor, so that points stay apart
FRACTION_BITS = 4  # OpenCV's coordinates below a pixel


def draw_faces(
    picture: UInt8[np.ndarray, "Y X 3"], faces: Sequence[Face], frame: int | None = None
) -> UInt8[np.ndarray, "Y2 X2 3"]:
    """The picture, enlarged where it is small, with its faces, and the number of the frame in a clip.

    Faces are numbered where there are several. A face that is not seen in the frame but bridged has a grey box.
    """
    cv2 = require("cv2", "faces")
    factor = -(-MIN_SIDE // max(picture.shape[:2]))
    canvas = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    stroke = max(canvas.shape[:2]) / MIN_SIDE
    for number, face in enumerate(faces, start=1):
        label = f"{face.score:.2f}" if face.score else "bridged"
        _draw_face(cv2, canvas, face, f"{number}: {label}" if len(faces) > 1 else label, factor, stroke)
    if frame is not None:
        _write(cv2, canvas, str(frame), (8 * stroke, len(canvas) - 12 * stroke), (255, 255, 255), stroke)
    return canvas


def _draw_face(cv2: ModuleType, canvas: np.ndarray, face: Face, label: str, factor: int, stroke: float) -> None:
    colour = BOX_COLOUR if face.score else BRIDGED_COLOUR
    corner = np.array(face.box[:2]) * factor
    corners = np.array([corner, corner + np.array(face.box[2:]) * factor]) - 0.5
    (left, top), (right, bottom) = _fixed(corners).tolist()
    for thickness, shade in ((3, OUTLINE), (1.5, colour)):
        width = max(1, round(thickness * stroke))
        cv2.rectangle(canvas, (left, top), (right, bottom), shade, width, cv2.LINE_AA, FRACTION_BITS)
    _write(cv2, canvas, label, (corner[0], max(corner[1] - 6 * stroke, 20 * stroke)), colour, stroke)

    points = _fixed((face.landmarks + 0.5) * factor - 0.5)
    radius = max(1.0, face.box.longer * factor / 130)
    line = max(1, round(radius / 2.5))
    for region, (first, past) in REGIONS.items():
        shape = points[first:past].reshape(-1, 1, 2)
        cv2.polylines(canvas, [shape], region in CLOSED, COLOURS[region], line, cv2.LINE_AA, FRACTION_BITS)
    for region, (first, past) in REGIONS.items():
        for point in points[first:past].tolist():
            for extra, shade in ((1.0, OUTLINE), (0.0, COLOURS[region])):
                size = round((radius + extra) * 2**FRACTION_BITS)
                cv2.circle(canvas, point, size, shade, cv2.FILLED, cv2.LINE_AA, FRACTION_BITS)


def _write(
    cv2: ModuleType,
    canvas: np.ndarray,
    text: str,
    at: tuple[float, float],
    colour: tuple[int, int, int],
    stroke: float,
) -> None:
    place = (round(at[0]), round(at[1]))
    for thickness, shade in ((4, OUTLINE), (1.5, colour)):
        width = max(1, round(thickness * stroke))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * stroke, shade, width, cv2.LINE_AA)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**FRACTION_BITS).astype(np.int32)
