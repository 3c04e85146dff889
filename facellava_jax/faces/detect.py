"""Faces in a picture, by BlazeFace short range (Bazarevsky et al., arXiv 1907.05047), as MediaPipe runs it."""

import functools

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from ..extras import require
from .face import Box, Detection
from .networks import Network, sigmoid

MIN_SCORE = 0.5
MAX_OVERLAP = 0.3  # of two faces; boxes that overlap more show the same one
# Cells along a side of each feature map, and boxes that are proposed in each cell.
ANCHOR_GRIDS = ((16, 2), (8, 6))


class Detector:
    """Finds faces that fill at least about a tenth of a picture's longer side."""

    def __init__(self, threads: int = 1) -> None:
        self._network = Network("face_detection_short_range", threads)

    def detect(self, picture: UInt8[np.ndarray, "Y X 3"]) -> list[Detection]:
        """Faces of an RGB picture, the most certain first."""
        height, width, _ = picture.shape
        pixels = sample_square(picture, self._network.side) / np.float32(127.5) - np.float32(1)
        regressed, logits = self._network.run(pixels)
        scores = sigmoid(logits[:, 0])
        likely = scores >= MIN_SCORE
        shapes = decode_boxes(regressed, self._network.side)[likely]
        return [_in_picture(shape, score, width, height) for shape, score in merge_boxes(shapes, scores[likely])]


def sample_square(picture: UInt8[np.ndarray, "Y X 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A picture on a black square, scaled to `side` pixels, as MediaPipe does it with OpenCV 4: bit for bit.

    That is bilinear between pixels at multiples of 1/32 of a pixel, not smoothed, and with the corner of the first
    pixel taken for its middle. Boxes move by up to a pixel when it is done better, and then are not those that
    FaceInstruct-1M was cut with.
    """
    cv2 = require("cv2", "faces")
    return cv2.remap(picture, *_sampling_maps(*picture.shape[:2], side), cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=16)
def _sampling_maps(height: int, width: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels (x, y), and thirty-seconds of one as OpenCV numbers them, that each pixel of the square shows.

    Where a pixel falls between two thirty-seconds, rounding errors decide: the steps below are those of OpenCV 4.
    """
    cv2 = require("cv2", "faces")
    corners = np.array([[0, 1], [0, 0], [1, 0], [1, 1]], np.float32)
    longer = max(height, width)
    outer = (np.array([width, height], np.float32) - longer) / 2 + longer * corners
    matrix = cv2.invert(cv2.getPerspectiveTransform(outer, side * corners))[1]
    x, y = np.arange(side), np.arange(side)[:, None]
    block, within = x // 64 * 64, x % 64
    x_from, y_from, depth = (row[0] * block + row[1] * y + row[2] for row in matrix)
    scale = 32 / (depth + matrix[2, 0] * within)
    at = np.stack([x_from + matrix[0, 0] * within, y_from + matrix[1, 0] * within], axis=-1) * scale[..., None]
    at = np.rint(at).astype(np.int32)
    part = at & 31
    return (at >> 5).astype(np.int16), (32 * part[..., 1] + part[..., 0]).astype(np.uint16)


@functools.cache
def make_anchors() -> Float64[np.ndarray, "896 2"]:
    """Centres (x, y) of the cells that boxes are proposed in, as fractions of the network's input."""
    grids = []
    for cells, boxes in ANCHOR_GRIDS:
        at = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(at, at)
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(boxes, axis=0))
    return np.concatenate(grids)


def decode_boxes(regressed: Float32[np.ndarray, "896 16"], side: int) -> Float64[np.ndarray, "896 8 2"]:
    """Upper left corner, lower right corner and six key points of each proposal, as fractions of the input.

    The network gives centre, size and key points in pixels of its input; all but the size from the cell's centre.
    """
    shapes = regressed.reshape(-1, 8, 2) / np.float64(side)
    size = shapes[:, 1].copy()
    shapes += make_anchors()[:, None]
    shapes[:, 1] = shapes[:, 0] + size / 2
    shapes[:, 0] -= size / 2
    return shapes


def merge_boxes(
    shapes: Float64[np.ndarray, "n 8 2"], scores: Float64[np.ndarray, "n"]
) -> list[tuple[Float64[np.ndarray, "8 2"], float]]:
    """One shape and score for each face: the mean of the proposals that overlap its best one, weighed by score."""
    order = np.argsort(-scores, kind="stable")
    shapes, scores = shapes[order], scores[order]
    faces = []
    while len(scores):
        same = overlaps(shapes[0], shapes) > MAX_OVERLAP
        same[0] = True
        faces.append((np.average(shapes[same], axis=0, weights=scores[same]), float(scores[0])))
        shapes, scores = shapes[~same], scores[~same]
    return faces


def overlaps(shape: Float64[np.ndarray, "8 2"], others: Float64[np.ndarray, "n 8 2"]) -> Float64[np.ndarray, "n"]:
    """Intersection over union of a shape's box and each of the others'."""
    lower, upper = np.maximum(shape[0], others[:, 0]), np.minimum(shape[1], others[:, 1])
    shared = np.maximum(upper - lower, 0).prod(axis=-1)
    areas = np.maximum(others[:, 1] - others[:, 0], 0).prod(axis=-1)
    union = areas + np.maximum(shape[1] - shape[0], 0).prod() - shared
    return shared / np.maximum(union, np.finfo(np.float64).tiny)


def _in_picture(shape: Float64[np.ndarray, "8 2"], score: float, width: int, height: int) -> Detection:
    longer = max(width, height)
    points = shape * longer - (longer - np.array([width, height])) / 2
    size = points[1] - points[0]
    return Detection(Box(*points[0].tolist(), *size.tolist()), score, points[2:])
