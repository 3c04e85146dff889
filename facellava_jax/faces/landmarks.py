"""68 landmarks of a face in the order of iBUG 300-W, from MediaPipe's mesh of 468 points (arXiv 1907.06724)."""

import numpy as np
from jaxtyping import Float64, UInt8

from ..extras import require
from .face import Detection
from .networks import Network, sigmoid

REGION_SCALE = 1.5  # side of the square that the network looks at, in longer sides of the face's box

# iBUG points 17 to 67 as points of the mesh, or as the middle of two; by Peizhi Yan
# (https://github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks), but for the brows. His lie on their upper edge; between
# both edges is where dlib's lie (off by 5.7 instead of 6.9 % of the distance between the eyes, and no longer too high).
BROWS = (
    *((70, 46), (63, 53), (105, 52), (66, 65), (107, 55)),
    *((336, 285), (296, 295), (334, 282), (293, 283), (300, 276)),
)
NOSE = ((168, 6), (197, 195), 5, 4, 75, 97, 2, 326, 305)
EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
LIPS = (61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91, 78, 82, 13, 312, 308, 317, 14, 87)
INNER_POINTS = np.array([pair if isinstance(pair, tuple) else (pair, pair) for pair in BROWS + NOSE + EYES + LIPS])

# The outline of the face from the right ear to the chin, and from there to the left ear.
RIGHT_JAW = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152)
LEFT_JAW = (152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)
JAW_POINTS = 17
OUTER_EYES = (33, 263)

# The iBUG point that each one turns into in a mirror.
MIRRORED_POINTS = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),
    ]
)


class Landmarker:
    """Places landmarks on a detected face."""

    def __init__(self, threads: int = 1) -> None:
        self._network = Network("face_landmark", threads)

    def locate(
        self, picture: UInt8[np.ndarray, "Y X 3"], detection: Detection
    ) -> tuple[Float64[np.ndarray, "K 2"], float]:
        """68 points in pixels of an RGB picture, and how sure the network is (0..1) that there is a face.

        The network looks three times. The first look is at the detector's region and only says where to look again;
        the others are at one region, as it is and mirrored, and are averaged: one look alone is off by 2 to 3 % of the
        distance between the eyes when either is changed. Points of a face that the picture's border cuts may lie
        beyond it.
        """
        side = self._network.side
        region = region_of_detection(detection, side)
        rough, _ = self._read_mesh(sample_region(picture, region, side))
        region = region_of_mesh(place_points(rough, region), side)
        pixels = sample_region(picture, region, side)
        mesh, presence = self._read_mesh(pixels)
        mirrored, _ = self._read_mesh(require("cv2", "faces").flip(pixels, 1))
        mirrored = np.array([side, 0]) + mirrored * [-1, 1]
        points = (reduce_mesh(mesh) + reduce_mesh(mirrored)[MIRRORED_POINTS]) / 2
        return place_points(points, region), presence

    def _read_mesh(self, pixels: UInt8[np.ndarray, "side side 3"]) -> tuple[Float64[np.ndarray, "468 2"], float]:
        """The mesh in a region, and the presence of a face."""
        mesh, logit = self._network.run(pixels / np.float32(255))
        return mesh.reshape(-1, 3)[:, :2].astype(np.float64), sigmoid(logit).item()


def region_of_detection(detection: Detection, side: int) -> Float64[np.ndarray, "2 3"]:
    """The square that the network looks at, in which the eyes are level: where its points (x, y, 1) lie in the picture.

    Like boxes, both are measured from the outer corner of the first pixel.
    """
    right_eye, left_eye, *_ = detection.key_points
    return _make_region(detection.box.centre, detection.box.longer, left_eye - right_eye, side)


def region_of_mesh(mesh: Float64[np.ndarray, "468 2"], side: int) -> Float64[np.ndarray, "2 3"]:
    """As `region_of_detection`, around a mesh that is turned so that the outer corners of the eyes are level."""
    across = mesh[OUTER_EYES[1]] - mesh[OUTER_EYES[0]]
    turn = _make_turn(across)
    level = mesh @ turn
    low, high = level.min(axis=0), level.max(axis=0)
    return _make_region(turn @ (low + high) / 2 + 0.5, (high - low).max(), across, side)


def _make_region(
    centre: Float64[np.ndarray, "2"], face: float, across: Float64[np.ndarray, "2"], side: int
) -> Float64[np.ndarray, "2 3"]:
    turn = _make_turn(across) * (REGION_SCALE * face / side)
    return np.column_stack([turn, centre - turn @ np.full(2, side / 2)])


def _make_turn(across: Float64[np.ndarray, "2"]) -> Float64[np.ndarray, "2 2"]:
    cosine, sine = across / max(np.hypot(*across), np.finfo(np.float64).tiny)
    return np.array([[cosine, -sine], [sine, cosine]])


def sample_region(
    picture: UInt8[np.ndarray, "Y X 3"], region: Float64[np.ndarray, "2 3"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The pixels of a region, bilinear; the picture's border is repeated beyond it, as MediaPipe does."""
    cv2 = require("cv2", "faces")
    pixel_of_pixel = region.copy()
    pixel_of_pixel[:, 2] += region[:, :2] @ [0.5, 0.5] - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, pixel_of_pixel, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def place_points(points: Float64[np.ndarray, "n 2"], region: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "n 2"]:
    """Points of a region as pixel indices of the picture."""
    return points @ region[:, :2].T + region[:, 2] - 0.5


def reduce_mesh(mesh: Float64[np.ndarray, "468 2"]) -> Float64[np.ndarray, "K 2"]:
    """The 68 points of iBUG, without scale or place of their own."""
    jaw = [divide_evenly(mesh[list(half)], JAW_POINTS // 2 + 1) for half in (RIGHT_JAW, LEFT_JAW)]
    return np.concatenate([jaw[0], jaw[1][1:], mesh[INNER_POINTS].mean(axis=1)])


def divide_evenly(line: Float64[np.ndarray, "n 2"], count: int) -> Float64[np.ndarray, "count 2"]:
    """`count` points at equal distances along a line through the given ones, its ends among them."""
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)], axis=-1)
