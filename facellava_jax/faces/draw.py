"""Faces drawn over a picture, to look at: box, landmarks in the colours of the nine regions, frame number."""

from collections.abc import Collection, Sequence
from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8

from ..config import REGIONS
from ..extras import require
from .crop import Window
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
BOX_COLOUR, BRIDGED_COLOUR, WINDOW_COLOUR = (60, 240, 60), (150, 150, 150), (255, 255, 255)
OUTLINE = (0, 0, 0)
BORDER, BORDER_COLOUR = 2, (40, 40, 40)  # pixels between the pictures of a grid

MIN_SIDE = 640  # longer side that smaller pictures are enlarged to, by a whole factor, so that points stay apart
DASH = 20  # pixels from dash to dash in a picture of MIN_SIDE
FRACTION_BITS = 4  # OpenCV's coordinates below a pixel


def draw_faces(
    picture: UInt8[np.ndarray, "Y X 3"],
    faces: Sequence[Face],
    frame: int | None = None,
    windows: Sequence[Window] = (),
) -> UInt8[np.ndarray, "Y2 X2 3"]:
    """The picture, enlarged where it is small, with its faces, and the number of the frame in a clip.

    Faces are numbered where there are several. A face that is not seen in the frame but bridged has a grey box. Dashed
    lines are the `windows` that crops are cut with, as far as they lie in the picture.
    """
    cv2 = require("cv2", "faces")
    factor = -(-MIN_SIDE // max(picture.shape[:2]))
    canvas = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    stroke = max(canvas.shape[:2]) / MIN_SIDE
    for face in faces:
        _draw_face(cv2, canvas, face, factor, stroke)
    for window in windows:
        _draw_window(cv2, canvas, window, factor, stroke)
    for number, face in enumerate(faces, start=1):
        label = f"{face.score:.2f}" if face.score else "bridged"
        label = f"{number}: {label}" if len(faces) > 1 else label
        x, y = face.box.x * factor, max(face.box.y * factor - 6 * stroke, 20 * stroke)
        write_text(cv2, canvas, label, (round(x), round(y)), _colour(face), stroke)
    if frame is not None:
        place = (round(8 * stroke), round(len(canvas) - 12 * stroke))
        write_text(cv2, canvas, str(frame), place, (255, 255, 255), stroke)
    return canvas


def tile_pictures(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int) -> UInt8[np.ndarray, "Y X 3"]:
    """The pictures in rows of so many, with thin lines between and around them; smaller ones at the top left."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = np.max([picture.shape[:2] for picture in pictures], axis=0) + BORDER
    tiled = np.full((rows * height + BORDER, columns * width + BORDER, 3), BORDER_COLOUR, np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // columns * height + BORDER, number % columns * width + BORDER
        tiled[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return tiled


def _colour(face: Face) -> tuple[int, int, int]:
    return BOX_COLOUR if face.score else BRIDGED_COLOUR


def _draw_face(cv2: ModuleType, canvas: np.ndarray, face: Face, factor: int, stroke: float) -> None:
    corner = np.array(face.box[:2]) * factor
    corners = np.array([corner, corner + np.array(face.box[2:]) * factor]) - 0.5
    (left, top), (right, bottom) = _fixed(corners).tolist()
    for thickness, shade in ((3, OUTLINE), (1.5, _colour(face))):
        width = max(1, round(thickness * stroke))
        cv2.rectangle(canvas, (left, top), (right, bottom), shade, width, cv2.LINE_AA, FRACTION_BITS)
    radius = max(1.0, face.box.longer * factor / 130)
    draw_landmarks(cv2, canvas, (face.landmarks + 0.5) * factor - 0.5, radius)


def _draw_window(cv2: ModuleType, canvas: np.ndarray, window: Window, factor: int, stroke: float) -> None:
    left, top, right, bottom = window
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) * factor - 0.5
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dashes = 1 + int(np.abs(end - start).max() / (DASH * stroke))
        lines = list(_fixed(np.linspace(start, end, 2 * dashes)).reshape(dashes, 2, 1, 2))
        for thickness, shade in ((3, OUTLINE), (1.5, WINDOW_COLOUR)):
            width = max(1, round(thickness * stroke))
            cv2.polylines(canvas, lines, False, shade, width, cv2.LINE_AA, FRACTION_BITS)


def draw_landmarks(
    cv2: ModuleType,
    canvas: UInt8[np.ndarray, "Y X 3"],
    landmarks: Float[np.ndarray, "K 2"],
    radius: float,
    regions: Collection[str] = REGIONS,
) -> None:
    """Draws the points of these regions on the canvas, whose pixels they are in, and the lines between them."""
    points = _fixed(landmarks)
    line = max(1, round(radius / 2.5))
    for region in regions:
        shape = points[slice(*REGIONS[region])].reshape(-1, 1, 2)
        cv2.polylines(canvas, [shape], region in CLOSED, COLOURS[region], line, cv2.LINE_AA, FRACTION_BITS)
    for region in regions:
        for point in points[slice(*REGIONS[region])].tolist():
            for extra, shade in ((1.0, OUTLINE), (0.0, COLOURS[region])):
                size = round((radius + extra) * 2**FRACTION_BITS)
                cv2.circle(canvas, point, size, shade, cv2.FILLED, cv2.LINE_AA, FRACTION_BITS)


def write_text(
    cv2: ModuleType,
    canvas: UInt8[np.ndarray, "Y X 3"],
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int],
    stroke: float,
) -> None:
    """Writes on the canvas; `place` is (x, y), the left end of the line that the letters stand on."""
    for thickness, shade in ((4, OUTLINE), (1.5, colour)):
        width = max(1, round(thickness * stroke))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * stroke, shade, width, cv2.LINE_AA)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**FRACTION_BITS).astype(np.int32)
