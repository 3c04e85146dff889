"""The backend mediapipe, on a stand-in for the Tasks API: its documented fields, filled with what our networks see."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from conftest import Run

from facellava_jax.faces import Box, Detection, Face, FaceError, FaceFinder
from facellava_jax.faces.crop import whole_box
from facellava_jax.faces.detect import Detector
from facellava_jax.faces.extract import ExtractOptions, open_finder
from facellava_jax.faces.landmarks import Landmarker, place_points, region_of_detection, sample_region
from facellava_jax.faces.mediapipe import MediaPipe, match_meshes, read_detection, read_mesh

FACE_PART = (slice(20, 212), slice(96, 352))  # of the astronaut: 192 x 256 pixels
IRISES = 10  # points, after those of the mesh


class Task:
    """A FaceDetector or FaceLandmarker; `read` makes its result of a picture and the options."""

    read: Callable[[np.ndarray, SimpleNamespace], SimpleNamespace]

    open: int = 0

    def __init__(self, options: SimpleNamespace) -> None:
        self.options, self.failed = options, False
        Task.open += 1

    @classmethod
    def create_from_options(cls, options: SimpleNamespace) -> "Task":
        path = getattr(options.base_options, "model_asset_path", None)
        if path and Path(path).read_bytes() != b"bundle":
            raise RuntimeError("Unable to open zip archive.\nand more")
        return cls(options)

    def detect(self, image: SimpleNamespace) -> SimpleNamespace:
        assert image.image_format == "SRGB" and image.data.flags.c_contiguous
        try:
            return type(self).read(image.data, self.options)
        except RuntimeError:
            self.failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        Task.open -= 1
        if self.failed:
            raise RuntimeError("CalculatorGraph::Run() failed: ")


def detect(picture: np.ndarray, options: SimpleNamespace) -> SimpleNamespace:
    height, width, _ = picture.shape
    found = []
    for detection in Detector().detect(picture):
        x, y, w, h = whole_box(detection.box, height, width)
        key_points = [SimpleNamespace(x=x / width, y=y / height) for x, y in detection.key_points.tolist()]
        box = SimpleNamespace(origin_x=x, origin_y=y, width=w, height=h)
        found.append(
            SimpleNamespace(bounding_box=box, categories=[SimpleNamespace(score=detection.score)], keypoints=key_points)
        )
    assert options.min_detection_confidence == 0.5 and len(options.base_options.model_asset_buffer) == 229_714
    return SimpleNamespace(detections=found)


def mesh_faces(picture: np.ndarray, options: SimpleNamespace) -> SimpleNamespace:
    """One look at each face, the last one first, with the points of the irises."""
    height, width, _ = picture.shape
    landmarker, faces = Landmarker(), []
    for detection in reversed(Detector().detect(picture)):
        region = region_of_detection(detection, 192)
        points, presence = landmarker._read_mesh(sample_region(picture, region, 192))
        if presence >= options.min_face_presence_confidence:
            points = np.vstack([place_points(points, region) + 0.5, np.zeros((IRISES, 2))])
            faces.append([SimpleNamespace(x=x / width, y=y / height, z=0.0) for x, y in points.tolist()])
    return SimpleNamespace(face_landmarks=faces)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Stands in for the module `mediapipe`."""
    vision = SimpleNamespace(
        FaceDetector=type("FaceDetector", (Task,), {"read": staticmethod(detect)}),
        FaceLandmarker=type("FaceLandmarker", (Task,), {"read": staticmethod(mesh_faces)}),
        FaceDetectorOptions=SimpleNamespace,
        FaceLandmarkerOptions=SimpleNamespace,
    )
    module: Any = ModuleType("mediapipe")
    module.tasks = SimpleNamespace(vision=vision, BaseOptions=SimpleNamespace)
    module.Image, module.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB="SRGB")
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    monkeypatch.setattr(Task, "open", 0)
    yield vision
    assert Task.open == 0


@pytest.fixture
def backend(tasks: SimpleNamespace, bundle: Path) -> Iterator[MediaPipe]:
    with closing(MediaPipe(bundle)) as backend:
        yield backend


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"bundle")
    return path


def error_between(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance in distances between the outer corners of the eyes."""
    return float(np.hypot(*(points - others).T).mean() / np.hypot(*(others[36] - others[45])))


def test_a_detection_is_read() -> None:
    found = SimpleNamespace(
        bounding_box=SimpleNamespace(origin_x=12, origin_y=-3, width=40, height=41),
        categories=[SimpleNamespace(score=0.75, index=0)],
        keypoints=[SimpleNamespace(x=index / 10, y=0.5, label=None, score=0.0) for index in range(6)],
    )
    detection = read_detection(found, height=100, width=200)
    assert (detection.box, detection.score) == (Box(12, -3, 40, 41), 0.75)
    assert detection.key_points.tolist() == pytest.approx(np.array([(20 * index, 50) for index in range(6)]))


def test_a_mesh_is_read_without_the_irises() -> None:
    points = [SimpleNamespace(x=index / 512, y=0.25, z=0.1) for index in range(478)]
    mesh = read_mesh(points, height=64, width=512)
    # Their (0, 0) is the first pixel's corner, ours its middle.
    assert mesh == pytest.approx(np.array([(index - 0.5, 15.5) for index in range(468)]))


def test_meshes_find_their_detections() -> None:
    def detection(x: float) -> Detection:
        return Detection(Box(x, 0.0, 10.0, 10.0), 0.9, np.zeros((6, 2)))

    def mesh(x: float) -> np.ndarray:
        return np.tile([(x, 0.0), (x + 9, 9.0)], (234, 1))

    left, right, alone = detection(0.0), detection(6.0), detection(90.0)
    pairs = match_meshes([right, left, alone], [mesh(2.0), mesh(4.0), mesh(50.0)])
    assert {(found.box.x, points[0, 0]) for found, points in pairs} == {(0, 2), (6, 4)}


def test_faces_are_those_of_our_networks(backend: MediaPipe, astronaut: np.ndarray, finder: FaceFinder) -> None:
    part = astronaut[FACE_PART]
    pair = np.hstack([part, np.roll(part, -20, axis=1)])
    ours, theirs = finder.find(pair), FaceFinder(look=backend.look).find(pair)
    assert len(ours) == len(theirs) == 2
    for face in theirs:
        same = max(ours, key=lambda other: face.box.overlap(other.box))
        assert face.box == tuple(map(int, same.box))
        assert face.score == pytest.approx(same.score)
        assert face.key_points == pytest.approx(same.key_points)
        assert error_between(face.landmarks, same.landmarks) < 0.03  # of one look and three
        assert face.presence == 0.5  # at least


def test_small_faces_are_found_in_parts(backend: MediaPipe, astronaut: np.ndarray, finder: FaceFinder) -> None:
    canvas = np.full((1200, 1600, 3), 120, np.uint8)
    canvas[900:1092, 100:356] = astronaut[FACE_PART]
    (ours,), (theirs,) = finder.find(canvas), FaceFinder(look=backend.look).find(canvas)
    assert error_between(theirs.landmarks, ours.landmarks) < 0.03
    assert theirs.presence == 0.9


def test_a_face_without_a_mesh_is_none(
    tasks: SimpleNamespace, backend: MediaPipe, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.FaceLandmarker, "read", lambda *_: SimpleNamespace(face_landmarks=[]))
    assert backend.look(astronaut, 0.5) == []


def test_the_command(
    tasks: SimpleNamespace, bundle: Path, tmp_path: Path, astronaut: np.ndarray, face: Face, facellava: Run
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), astronaut[..., ::-1])
    command = ("faces --workers 1", tmp_path / "a.png", "--out", tmp_path / "out")
    assert facellava(*command, "--backend", "mediapipe", "--landmarker", bundle) == (0, "", "")
    row = (tmp_path / "out/faces.csv").read_text().splitlines()[1].split(",")
    assert [float(side) for side in row[4:8]] == [*map(int, face.box)]
    refused = facellava(*command)
    assert (refused.status, refused.out) == (1, "")
    assert re.search(
        r'out holds faces of other settings, .*"backend": "mediapipe".*: choose another --out', refused.err
    )


def test_files_that_are_no_landmarker(tasks: SimpleNamespace, tmp_path: Path) -> None:
    other = tmp_path / "other.task"
    with pytest.raises(FaceError, match=r"other.task: no such file: download face_landmarker.task \(https://"):
        MediaPipe(other)
    other.touch()
    with pytest.raises(
        FaceError, match=r"other.task: MediaPipe cannot use it \(Unable to open zip archive.\): download"
    ):
        MediaPipe(other)


def test_a_landmarker_that_fails_later(
    tasks: SimpleNamespace, backend: MediaPipe, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CalculatorGraph::Run() failed: \nCalculator")

    monkeypatch.setattr(tasks.FaceLandmarker, "read", fail)
    with pytest.raises(
        FaceError, match=r"^[^\n]*task: MediaPipe cannot use it \(CalculatorGraph[^\n]*: download[^\n]*$"
    ):
        backend.look(astronaut, 0.5)


def test_the_extra_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match=r"mediapipe is needed for this: pip install 'facellava-jax\[mediapipe\]'"):
        open_finder(ExtractOptions(backend="mediapipe", landmarker=bundle)).__enter__()
