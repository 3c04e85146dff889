"""MediaPipe's own Tasks API in place of its networks as we run them.

The extra `mediapipe` takes release 0.10.30 or 0.10.31. Others bring an OpenCV of their own, which clashes with the
headless one, and from 1.0 on they send usage metrics home: those belong in an environment of their own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from ..extras import require
from .detect import MAX_OVERLAP, MIN_SCORE
from .face import Box, Detection, Face, FaceError
from .find import MIN_PRESENCE
from .landmarks import reduce_mesh
from .networks import silent_stderr

SOURCE = "https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker"
MAX_FACES = 64  # the landmarker wants a limit; the detector has none
MESH_POINTS = 468  # in front of those of the irises


class MediaPipe:
    """The FaceDetector task on the network that ships with us, and the FaceLandmarker task on the user's own.

    Boxes are in whole pixels and end at the picture's border, and the landmarker looks once. Close it: MediaPipe
    itself fails to when Python ends, and complains.
    """

    def __init__(self, landmarker: Path) -> None:
        """`landmarker`: MediaPipe's `face_landmarker.task`.

        Raises FaceError for a file that is none, and ImportError without the extra `mediapipe`.
        """
        self._mediapipe = require("mediapipe", "mediapipe")
        if not landmarker.is_file():
            raise FaceError(f"{landmarker}: no such file: download face_landmarker.task ({SOURCE})")
        vision = self._mediapipe.tasks.vision
        network = files(__package__).joinpath("models", "face_detection_short_range.tflite").read_bytes()
        options = vision.FaceDetectorOptions(
            base_options=self._mediapipe.tasks.BaseOptions(model_asset_buffer=network),
            min_detection_confidence=MIN_SCORE,
            min_suppression_threshold=MAX_OVERLAP,
        )
        self._bundle = landmarker
        self._tasks = contextlib.ExitStack()
        try:
            with silent_stderr():
                self._detector = self._tasks.enter_context(vision.FaceDetector.create_from_options(options))
            self._landmarkers = {MIN_PRESENCE: self._make_landmarker(MIN_PRESENCE)}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, ValueError):  # a task that has failed says so again
            self._tasks.close()

    def look(self, picture: UInt8[np.ndarray, "Y X 3"], min_presence: float) -> list[Face]:
        """The faces of an RGB picture. Their `presence` is `min_presence`: they have more, but MediaPipe tells not."""
        height, width, _ = picture.shape
        form = self._mediapipe.ImageFormat.SRGB
        image = self._mediapipe.Image(image_format=form, data=np.ascontiguousarray(picture))
        detections = [read_detection(found, height, width) for found in self._detector.detect(image).detections]
        if not detections:
            return []
        if min_presence not in self._landmarkers:
            self._landmarkers[min_presence] = self._make_landmarker(min_presence)
        with self._bundle_blamed():
            found = self._landmarkers[min_presence].detect(image).face_landmarks
        meshes = [read_mesh(points, height, width) for points in found]
        return [
            Face(*detection, reduce_mesh(mesh), min_presence) for detection, mesh in match_meshes(detections, meshes)
        ]

    def _make_landmarker(self, min_presence: float) -> Any:
        vision = self._mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=self._mediapipe.tasks.BaseOptions(model_asset_path=str(self._bundle)),
            num_faces=MAX_FACES,
            min_face_detection_confidence=MIN_SCORE,
            min_face_presence_confidence=min_presence,
        )
        with self._bundle_blamed(), silent_stderr():
            return self._tasks.enter_context(vision.FaceLandmarker.create_from_options(options))

    @contextlib.contextmanager
    def _bundle_blamed(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            cause = str(error).partition("\n")[0].strip()
            raise FaceError(
                f"{self._bundle}: MediaPipe cannot use it ({cause}): download face_landmarker.task again ({SOURCE})"
            ) from None


def read_detection(found: Any, height: int, width: int) -> Detection:
    """One of a FaceDetectorResult's `detections`, on a picture of that size."""
    box = found.bounding_box
    key_points = [(point.x * width, point.y * height) for point in found.keypoints]
    return Detection(
        Box(*map(float, (box.origin_x, box.origin_y, box.width, box.height))),
        float(found.categories[0].score),
        np.array(key_points, np.float64),
    )


def read_mesh(points: Sequence[Any], height: int, width: int) -> Float64[np.ndarray, "468 2"]:
    """One of a FaceLandmarkerResult's `face_landmarks`, as pixel indices of a picture of that size."""
    fractions = np.array([(point.x, point.y) for point in points[:MESH_POINTS]], np.float64)
    return fractions * [width, height] - 0.5


def match_meshes(
    detections: Sequence[Detection], meshes: Sequence[Float64[np.ndarray, "468 2"]]
) -> list[tuple[Detection, Float64[np.ndarray, "468 2"]]]:
    """Detections and meshes of the same faces: those that overlap most come together first, each but once."""
    pairs = sorted(
        (
            (detection.box.overlap(_bound(mesh)), row, column)
            for row, detection in enumerate(detections)
            for column, mesh in enumerate(meshes)
        ),
        reverse=True,
    )
    matched: dict[int, int] = {}
    for overlap, row, column in pairs:
        if overlap > MAX_OVERLAP and row not in matched and column not in matched.values():
            matched[row] = column
    return [(detections[row], meshes[column]) for row, column in matched.items()]


def _bound(mesh: Float64[np.ndarray, "468 2"]) -> Box:
    low, high = mesh.min(axis=0) + 0.5, mesh.max(axis=0) + 0.5
    return Box(*low.tolist(), *(high - low).tolist())
