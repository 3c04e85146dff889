import io
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from facellava_jax import media
from facellava_jax.config import REGIONS
from facellava_jax.errors import FaceLlavaError
from facellava_jax.faces import (
    Box,
    ClipFaces,
    Detection,
    Face,
    FaceError,
    FaceFinder,
    Window,
    choose_window,
    crop_landmarks,
    cut_window,
    draw_faces,
    find_clip_faces,
    list_windows,
    pick_face,
    render_crop,
    to_crop,
    to_picture,
    write_clips,
)
from facellava_jax.faces.clips import choose_frames
from facellava_jax.faces.crop import centered_window, reference_window, whole_box
from facellava_jax.faces.detect import Detector, decode_boxes, make_anchors, merge_boxes, sample_square
from facellava_jax.faces.draw import BOX_COLOUR, BRIDGED_COLOUR
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.faces.find import spread_starts
from facellava_jax.faces.landmarks import (
    MIRRORED_POINTS,
    Landmarker,
    divide_evenly,
    place_points,
    region_of_detection,
    sample_region,
)
from facellava_jax.faces.track import Tracker

# Of mediapipe 0.10.21 on the same picture: its FaceDetection (model 0), the whole box of its FaceDetector task, and
# points of its FaceMesh (static), in which the first pixel's corner stands for its middle.
MEDIAPIPE_BOX = (177.565, 82.871, 95.344, 95.344)
MEDIAPIPE_SCORE = 0.92174
MEDIAPIPE_EYES = [(201.495, 104.898), (245.846, 109.097)]
MEDIAPIPE_WHOLE_BOX = (177, 82, 95, 95)
MEDIAPIPE_MESH = {
    1: (224.10, 131.18),
    33: (194.65, 100.94),
    263: (256.71, 104.08),
    61: (201.85, 139.45),
    291: (245.91, 142.24),
    152: (221.34, 175.49),
    127: (179.05, 102.50),
    356: (271.87, 107.76),
}
# Placed by eye.
ASTRONAUT = {"eye1": (203, 101), "eye2": (246, 103), "lips": (224, 146)}
NOSE_TIP, CHIN = (224, 127), (221, 175)

FACE_PART = (slice(20, 212), slice(96, 352))  # of the astronaut: 192 x 256 pixels, the face in the upper half
FRAMES = 16


def scale(picture: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    return cv2.resize(
        picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )


def turn(picture: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned about its middle, and the matrix that brings its points back."""
    import cv2

    height, width, _ = picture.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    turned = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return turned, cv2.invertAffineTransform(matrix)


def encode(picture: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    from PIL import Image

    Image.fromarray(picture).save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def on_canvas(picture: np.ndarray, height: int, width: int, y: int, x: int) -> np.ndarray:
    """The picture at (x, y) of a grey canvas, cut where it reaches beyond."""
    canvas = np.full((height, width, 3), 120, np.uint8)
    part = picture[max(0, -y) : height - y, max(0, -x) : width - x]
    canvas[max(0, y) :, max(0, x) :][: part.shape[0], : part.shape[1]] = part
    return canvas


def eye_distance(points: np.ndarray) -> float:
    return float(np.hypot(*(points[slice(*REGIONS["eye1"])].mean(0) - points[slice(*REGIONS["eye2"])].mean(0))))


def error_between(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance in distances between the eyes."""
    return float(np.hypot(*(points - others).T).mean()) / eye_distance(others)


class TestDetector:
    def test_anchors_are_the_centres_of_two_grids(self) -> None:
        anchors = make_anchors()
        assert anchors.shape == (896, 2)
        at = {0: (1, 1), 1: (1, 1), 2: (3, 1), 31: (31, 1), 32: (1, 3), 511: (31, 31)}
        at |= {512: (2, 2), 517: (2, 2), 518: (6, 2), 560: (2, 6), 895: (30, 30)}
        for index, (x, y) in at.items():
            assert tuple(anchors[index] * 32) == (x, y), index

    def test_boxes_are_decoded_from_the_middle_of_their_cell(self) -> None:
        regressed = np.zeros((896, 16), np.float32)
        regressed[34] = [12.8, -6.4, 64, 32, *range(0, 24, 2)]
        shape = decode_boxes(regressed, 128)[34]
        x, y = 3 / 32 + 0.1, 3 / 32 - 0.05
        assert shape[:2] == pytest.approx(np.array([(x - 0.25, y - 0.125), (x + 0.25, y + 0.125)]))
        assert shape[2] == pytest.approx((3 / 32, 3 / 32 + 2 / 128))
        assert shape[7] == pytest.approx((3 / 32 + 20 / 128, 3 / 32 + 22 / 128))

    def test_proposals_of_one_face_are_averaged_by_score(self) -> None:
        def shape(x: float) -> np.ndarray:
            return np.array([(x, 0), (x + 1, 1), *[(x, 0.5)] * 6])

        # 0.4 overlaps 0 by 0.6 / 1.4, 0.8 overlaps only 0.4, and 3 none.
        shapes = np.stack([shape(0.4), shape(3), shape(0), shape(0.8)])
        faces = merge_boxes(shapes, np.array([0.6, 0.7, 0.9, 0.5]))
        assert [score for _, score in faces] == [0.9, 0.7, 0.5]
        assert [found[0, 0] for found, _ in faces] == pytest.approx([0.4 * 0.6 / 1.5, 3, 0.8])
        assert [found[5, 0] for found, _ in faces] == pytest.approx([0.4 * 0.6 / 1.5, 3, 0.8])
        assert merge_boxes(shapes[:0], np.zeros(0)) == []

    def test_a_wide_picture_stands_in_the_middle_of_a_black_square(self) -> None:
        picture = np.random.default_rng(0).integers(1, 256, (64, 128, 3), np.uint8)
        square = sample_square(picture, 128)
        assert np.array_equal(square[32:96], picture)
        assert not square[:32].any()
        assert not square[96:].any()

    def test_pixels_are_sampled_from_corner_to_corner(self) -> None:
        ramp = np.tile(np.arange(160, dtype=np.uint8)[None, :, None], (160, 1, 3))
        expected = np.floor(1.25 * np.arange(128) + 0.5)
        assert np.array_equal(sample_square(ramp, 128)[5, :, 0], expected)

    def test_boxes_are_those_of_mediapipe(self, astronaut: np.ndarray) -> None:
        (found,) = Detector().detect(astronaut)
        assert found.box == pytest.approx(MEDIAPIPE_BOX, abs=2e-3)
        assert found.score == pytest.approx(MEDIAPIPE_SCORE, abs=1e-4)
        assert found.key_points[:2] == pytest.approx(np.array(MEDIAPIPE_EYES), abs=2e-3)
        assert whole_box(found.box, 512, 512) == MEDIAPIPE_WHOLE_BOX


class TestLandmarks:
    def test_a_first_look_is_that_of_mediapipe(self, astronaut: np.ndarray) -> None:
        region = region_of_detection(Detector().detect(astronaut)[0], 192)
        mesh, presence = Landmarker()._read_mesh(sample_region(astronaut, region, 192))
        mesh = place_points(mesh, region)
        for index, point in MEDIAPIPE_MESH.items():
            # MediaPipe samples half a pixel of the region further down and right, and has corners for middles.
            assert mesh[index] + 0.5 == pytest.approx(point, abs=0.6), index
        assert presence > 0.99

    def test_points_lie_where_one_sees_them(self, face: Face) -> None:
        for region, place in ASTRONAUT.items():
            assert face.landmarks[slice(*REGIONS[region])].mean(0) == pytest.approx(place, abs=2.5), region
        assert face.landmarks[30] == pytest.approx(NOSE_TIP, abs=3)
        assert face.landmarks[8] == pytest.approx(CHIN, abs=3)
        assert face.presence > 0.99

    def test_points_keep_the_order_of_ibug(self, face: Face) -> None:
        x, y = face.landmarks.T
        assert (np.diff(x[:17]) > 0).all() and (np.diff(y[:9]) > 0).all() and (np.diff(y[8:17]) < 0).all()
        assert (np.diff(x[17:27]) > 0).all()
        assert (np.diff(y[27:31]) > 0).all() and (np.diff(x[31:36]) > 0).all()
        assert x[36] < x[39] < x[42] < x[45] and y[37] < y[41] and y[44] < y[46]
        assert (np.diff(x[48:55]) > 0).all() and (np.diff(x[54:60]) < 0).all() and y[51] < y[57]
        assert (np.diff(x[60:65]) > 0).all() and (np.diff(x[64:68]) < 0).all() and y[62] < y[66]
        assert y[17:27].max() < y[36:48].min() < y[30] < y[48:68].min() < y[8]

    def test_mirroring_twice_changes_nothing(self) -> None:
        assert np.array_equal(MIRRORED_POINTS[MIRRORED_POINTS], np.arange(68))
        for first, past in REGIONS.values():
            other = sorted(MIRRORED_POINTS[first:past])
            assert (other[0], other[-1] + 1) in REGIONS.values()

    def test_a_line_is_divided_evenly(self) -> None:
        line = np.array([(0, 0), (3, 0), (3, 1)], float)
        assert divide_evenly(line, 5) == pytest.approx(np.array([(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)]))

    # Measured: 0.4 % mirrored, 0.3 to 0.7 % scaled, 0.7 % as JPEG, 1.3 % turned.
    def test_steady_when_mirrored(self, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        (mirrored,) = finder.find(np.ascontiguousarray(astronaut[:, ::-1]))
        points = np.array([511, 0]) + mirrored.landmarks[MIRRORED_POINTS] * [-1, 1]
        assert error_between(points, face.landmarks) < 0.02

    @pytest.mark.parametrize("factor", [0.5, 0.75, 1.5, 2])
    def test_steady_when_scaled(self, factor: float, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        (scaled,) = finder.find(scale(astronaut, factor))
        assert error_between((scaled.landmarks + 0.5) / factor - 0.5, face.landmarks) < 0.02

    @pytest.mark.parametrize("degrees", [-15, 15])
    def test_steady_when_turned(self, degrees: int, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        picture, back = turn(astronaut, degrees)
        (turned,) = finder.find(picture)
        assert error_between(turned.landmarks @ back[:, :2].T + back[:, 2], face.landmarks) < 0.03

    def test_steady_as_jpeg(self, tmp_path: Path, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        (tmp_path / "a.jpg").write_bytes(encode(astronaut, "JPEG", quality=50))
        (compressed,) = finder.find(media.load_image(tmp_path / "a.jpg"))
        assert error_between(compressed.landmarks, face.landmarks) < 0.02


def grey_png(picture: np.ndarray) -> bytes:
    return encode(picture.mean(axis=2).astype(np.uint8))


def alpha_png(picture: np.ndarray) -> bytes:
    return encode(np.dstack([picture, np.full(picture.shape[:2], 10, np.uint8)]))


def deep_png(picture: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", picture[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def sideways_jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    return encode(np.rot90(picture), "JPEG", quality=95, exif=exif)


class TestPictures:
    @pytest.mark.parametrize("write", [encode, grey_png, alpha_png, deep_png, sideways_jpeg])
    def test_every_kind_of_file(
        self,
        write: Callable[[np.ndarray], bytes],
        tmp_path: Path,
        astronaut: np.ndarray,
        finder: FaceFinder,
        face: Face,
    ) -> None:
        (tmp_path / "a.png").write_bytes(write(astronaut))
        (found,) = finder.find(media.load_image(tmp_path / "a.png"))
        assert error_between(found.landmarks, face.landmarks) < 0.03

    def test_a_dark_picture(self, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        (found,) = finder.find(astronaut // 8)
        assert error_between(found.landmarks, face.landmarks) < 0.04

    # A part of 192 x 256 with a face of 95, so scaled and placed; the longer side of the canvas over the face's.
    @pytest.mark.parametrize(
        ("canvas", "factor", "place"),
        [((600, 800), 1, (300, 500)), ((1200, 1600), 0.7, (900, 100)), ((2000, 2000), 1, (20, 1700))],
        ids=["an eighth", "a twenty-fourth", "a twenty-first, in a corner"],
    )
    def test_small_faces(
        self,
        canvas: tuple[int, int],
        factor: float,
        place: tuple[int, int],
        astronaut: np.ndarray,
        finder: FaceFinder,
        face: Face,
    ) -> None:
        part = scale(astronaut[FACE_PART], factor)
        (found,) = finder.find(on_canvas(part, *canvas, *place))
        y, x = place
        points = (found.landmarks - [x, y] + 0.5) / factor - 0.5 + [96, 20]
        assert error_between(points, face.landmarks) < 0.04
        assert found.box.longer == pytest.approx(face.box.longer * factor, rel=0.15)

    def test_a_face_cut_by_the_border(self, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        (found,) = finder.find(astronaut[:400, 205:500].copy())
        visible = face.landmarks[:, 0] > 215
        points = found.landmarks + np.array([205, 0])
        assert np.hypot(*(points - face.landmarks)[visible].T).mean() / eye_distance(face.landmarks) < 0.06
        assert not reference_window(found.box, 400, 295).empty

    def test_a_huge_picture(self, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        # Longer than OpenCV warps; the face is 1330 of 33,000 pixels.
        huge = np.full((2700, 33_000, 3), 120, np.uint8)
        huge[:2688, 5000:8584] = scale(astronaut[FACE_PART], 14)
        (found,) = finder.find(huge)
        points = (found.landmarks - [5000, 0] + 0.5) / 14 - 0.5 + [96, 20]
        assert error_between(points, face.landmarks) < 0.04

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (30, 20), (300, 400)])
    def test_pictures_without_a_face(self, size: tuple[int, int], finder: FaceFinder) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert finder.find(noise) == []
        with pytest.raises(FaceError, match=r"^a/b\.png: no face found: give .*$") as caught:
            pick_face(finder.find(noise), Path("a/b.png"))
        assert isinstance(caught.value, FaceLlavaError)

    def test_other_photographs_hold_no_face(self, finder: FaceFinder) -> None:
        from skimage import data

        for name in ("coffee", "rocket", "hubble_deep_field"):
            assert finder.find(getattr(data, name)()) == [], name

    def test_two_faces(self, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
        both = on_canvas(scale(astronaut[FACE_PART], 0.8), 200, 520, 20, 0)
        both[:192, 256:512] = astronaut[FACE_PART]
        large, small = finder.find(both)
        assert error_between(large.landmarks - [256, 0] + [96, 20], face.landmarks) < 0.03
        assert small.box.x < 200
        assert pick_face([large, small], "both") is large
        with pytest.raises(FaceError, match=r"^both: 2 faces where one is needed: "):
            pick_face([large, small], "both", only=True)

    def test_nothing_is_written_to_stderr(self, capfd: pytest.CaptureFixture[str]) -> None:
        FaceFinder(threads=2)
        assert capfd.readouterr() == ("", "")

    def test_a_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [])
        for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(ImportError, match=r"^ai-edge-litert is needed .*facellava-jax\[faces\]"):
            FaceFinder()


# Box, height and width of the picture -> left, top, right, bottom, worked out by hand.
REFERENCE_WINDOWS = [
    ((100, 50, 80, 80), (300, 400), (100, 50, 180, 130)),
    ((10.9, 20.9, 30.9, 30.9), (300, 400), (10, 20, 40, 50)),  # fractions are dropped, of the size as well
    ((100, 50, 81, 80), (300, 400), (100, 50, 180, 130)),  # half a pixel of the side is dropped
    ((320, 50, 80, 80), (300, 400), (320, 50, 399, 130)),  # the last column is never reached
    ((350, 100, 80, 80), (300, 400), (380, 130, 399, 150)),  # 30 beyond the right border
    ((100, 250, 80, 70), (300, 400), (120, 270, 155, 299)),  # 20 beyond the lower border
    ((-10.7, -5.2, 60.9, 60.9), (100, 100), (0, 0, 60, 60)),  # begins at 0 at the earliest
    ((4.19, 46.74, 178.28, 178.27), (256, 171), (8, 50, 170, 216)),  # wider than the picture
]


class TestCrops:
    @pytest.mark.parametrize(("box", "size", "expected"), REFERENCE_WINDOWS)
    def test_reference_windows(
        self, box: tuple[float, ...], size: tuple[int, int], expected: tuple[int, int, int, int]
    ) -> None:
        assert reference_window(Box(*map(float, box)), *size) == expected
        assert choose_window(Box(*map(float, box)), *size, "reference", "a.png") == expected

    def test_a_face_that_the_border_leaves_nothing_of(self) -> None:
        box = Box(200.0, 10.0, 100.0, 100.0)
        assert reference_window(box, 200, 230).empty
        with pytest.raises(
            FaceError, match=r"^a\.png: the face at \(200, 10\) is cut off by the border: crop it in mode"
        ):
            choose_window(box, 200, 230, "reference", "a.png")
        assert choose_window(box, 200, 230, "centered", "a.png") == (190, 0, 310, 120)

    @pytest.mark.parametrize("box", [(10, 20, 50, 60), (-30.5, 3.25, 33.3, 20), (5, 5, 0.2, 0.2)])
    def test_a_centered_window_is_a_square_around_the_face(self, box: tuple[float, ...]) -> None:
        window = centered_window(Box(*map(float, box)), margin=0.25)
        width, height = window.size
        assert width == height == max(1, round(1.5 * max(box[2:])))
        assert window.corner + window.size / 2 == pytest.approx(Box(*box).centre, abs=0.5)

    def test_a_reference_crop_is_resized_as_the_original_does(self, astronaut: np.ndarray, face: Face) -> None:
        import cv2

        window = reference_window(face.box, 512, 512)
        assert window == (177, 82, 272, 177)
        expected = cv2.resize(astronaut[82:177, 177:272], (256, 256))
        assert np.array_equal(cut_window(astronaut, window, "reference"), expected)

    def test_a_window_beyond_the_border_repeats_it(self, astronaut: np.ndarray) -> None:
        picture = np.ascontiguousarray(astronaut[:200, :150])
        crop = cut_window(picture, Window(-50, 100, 206, 356), "centered")
        assert np.array_equal(crop[:100, 50:200], picture[100:])
        assert (crop[:100, :50] == picture[100:, :1]).all()
        assert (crop[100:, 50:200] == picture[-1]).all()
        assert (crop[100:, 200:] == picture[-1, -1]).all()
        apart = cut_window(picture, Window(-400, -400, -300, -300), "centered")
        assert (apart == picture[0, 0]).all()

    def test_a_large_window_is_averaged(self) -> None:
        stripes = np.zeros((1024, 1024, 3), np.uint8)
        stripes[:, ::2] = 200
        assert (cut_window(stripes, Window(0, 0, 1024, 1024), "centered") == 100).all()

    @pytest.mark.parametrize("mode", ["reference", "centered"])
    def test_points_move_with_the_pixels(self, mode: media.Literal["reference", "centered"]) -> None:
        picture = np.zeros((300, 400, 3), np.uint8)
        points = np.array([(180.0, 90.0), (230.0, 160.0)])
        for x, y in points.astype(int):
            picture[y - 1 : y + 2, x - 1 : x + 2] = 255
        window = choose_window(Box(150.0, 60.0, 120.0, 110.0), 300, 400, mode, "a.png")
        crop = cut_window(picture, window, mode)[..., 0].astype(float)
        in_crop = to_crop(points, window)
        y, x = np.mgrid[:256, :256]
        for point in in_crop:
            near = crop * (np.hypot(x - point[0], y - point[1]) < 20)
            centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
            assert centre == pytest.approx(point, abs=0.05)
        assert to_picture(in_crop, window) == pytest.approx(points)


def make_face(x: float, y: float = 0.0, side: float = 10.0, score: float = 0.9) -> Face:
    return Face(Box(float(x), float(y), float(side), float(side)), score, np.full((6, 2), x), np.full((68, 2), x), 1.0)


def follow(frames: Iterable[list[Face]]) -> Tracker:
    tracker = Tracker()
    for faces in frames:
        tracker.add(faces)
    return tracker


class TestTracker:
    def test_gaps_are_bridged_by_interpolation(self) -> None:
        seen = {2: 10.0, 3: 12.0, 6: 18.0, 8: 20.0}
        frames = [[make_face(seen[frame])] if frame in seen else [] for frame in range(10)]
        (track,) = follow(frames).finish(max_missing=0.6)
        assert track.bridged == [0, 1, 4, 5, 7, 9]
        places = [10, 10, 10, 12, 14, 16, 18, 19, 20, 20]
        assert [face.box.x for face in track.faces] == pytest.approx(places)
        assert [face.landmarks[67, 1] for face in track.faces] == pytest.approx(places)
        assert [face.score > 0 for face in track.faces] == [frame in seen for frame in range(10)]

    def test_two_faces_keep_their_tracks_in_any_order(self) -> None:
        left = [make_face(step, side=12) for step in range(20)]
        right = [make_face(100 - step, side=10) for step in range(20)]
        frames = [[a, b] if index % 3 else [b, a] for index, (a, b) in enumerate(zip(left, right, strict=True))]
        frames[7] = [right[7]]
        first, second = follow(frames).finish(0.3)
        assert [face.box.x for face in first.faces] == pytest.approx([face.box.x for face in left])
        assert [face.box.x for face in second.faces] == [face.box.x for face in right]
        assert (first.bridged, second.bridged) == ([7], [])

    def test_what_is_seen_now_and_then_is_no_track(self) -> None:
        frames = [[make_face(0)] + ([make_face(200, side=30)] if index in (3, 4) else []) for index in range(10)]
        (track,) = follow(frames).finish(0.3)
        assert {face.box.x for face in track.faces} == {0.0}

    def test_the_nearest_face_goes_on(self) -> None:
        frames = [[make_face(0)], [make_face(6), make_face(1)], [make_face(2), make_face(7)]]
        first, *_ = follow(frames).finish(0.0)
        assert [face.box.x for face in first.faces] == [0, 1, 2]

    def test_a_face_alone_goes_on_over_a_cut(self) -> None:
        (track,) = follow([[make_face(0)]] * 5 + [[make_face(300, side=60)]] * 5).finish(0.3)
        assert track.bridged == []

    def test_a_face_far_from_two_others_is_new(self) -> None:
        frames = [[make_face(0), make_face(50)], [make_face(300)]]
        assert len(follow(frames).finish(0.5)) == 3

    def test_a_track_long_lost_takes_no_part(self) -> None:
        tracker = follow([[make_face(0)], *[[]] * 30, *[[make_face(0)]] * 100])
        (track,) = tracker.finish(0.3)
        assert track.bridged == list(range(31))
        assert tracker.find_missing() == list(range(31))

    @pytest.mark.parametrize(("missing", "kept"), [(3, 1), (4, 0)])
    def test_the_share_that_may_be_missing(self, missing: int, kept: int) -> None:
        tracker = follow([[make_face(0)]] * (10 - missing) + [[]] * missing)
        assert len(tracker.finish(0.3)) == kept


def frames_at(seconds: Iterable[float]) -> list[media.Frame]:
    return [media.Frame(np.zeros((1, 1, 3), np.uint8), time) for time in seconds]


class TestRates:
    # Seconds of the frames -> which one is shown at each 24th of a second.
    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            ([k / 24 for k in range(5)], [0, 1, 2, 3, 4]),
            ([k / 12 for k in range(3)], [0, 0, 1, 1, 2, 2]),
            ([k / 48 for k in range(6)], [0, 2, 4]),
            ([k / 30 for k in range(11)], [0, 1, 3, 4, 5, 6, 8, 9, 10]),
            ([0, 1 / 24, 4 / 24, 5 / 24], [0, 1, 1, 1, 2, 3]),
            ([0, 0.004, 0.008, 0.1], [2, 2, 3, 3, 3]),
            ([0], [0]),
            ([], []),
        ],
        ids=["24", "12", "48", "30", "uneven", "crowded", "one", "none"],
    )
    def test_frames_at_the_reference_rate(self, seconds: list[float], shown: list[int]) -> None:
        chosen = [(time, index) for index, _, times in choose_frames(frames_at(seconds), 24.0) for time in times]
        assert [index for _, index in chosen] == shown
        assert [time for time, _ in chosen] == pytest.approx([k / 24 for k in range(len(shown))])

    @pytest.mark.parametrize("rate", [12, 23.976, 25, 29.97, 30, 48, 50, 60])
    def test_frames_are_those_of_ffmpegs_filter(self, rate: float) -> None:
        import av

        graph = av.filter.Graph()
        source = graph.add_buffer(width=16, height=16, format="gray", time_base=Fraction(1, 90_000))
        graph.link_nodes(source, graph.add("fps", "24"), graph.add("buffersink")).configure()
        seconds = [round(90_000 * k / rate) / 90_000 for k in range(40)]
        for index, time in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), index, np.uint8), format="gray")
            frame.pts, frame.time_base = round(90_000 * time), Fraction(1, 90_000)
            graph.push(frame)
        graph.push(None)
        expected = []
        with pytest.raises((av.error.EOFError, av.error.BlockingIOError)):
            while True:
                expected.append(int(graph.pull().to_ndarray()[0, 0]))
        shown = [index for index, _, times in choose_frames(frames_at(seconds), 24.0) for _ in times]
        assert shown[: len(expected)] == expected
        assert 0 <= len(shown) - len(expected) <= 2  # the filter does not know how long the last frame is shown

    def test_every_frame_in_its_own_time(self) -> None:
        frames = frames_at([0, 0.1, 0.15])
        assert [(index, times) for index, _, times in choose_frames(frames, None)] == [
            (0, [0]),
            (1, [0.1]),
            (2, [0.15]),
        ]


def write_clip(path: Path, pictures: Iterable[np.ndarray], seconds: Iterable[float] | None = None) -> Path:
    pictures = list(pictures)
    with ClipWriter(path, 24.0) as writer:
        for picture, time in zip(pictures, seconds or [k / 24 for k in range(len(pictures))], strict=True):
            writer.add(picture, time)
    return path


def pan(astronaut: np.ndarray) -> list[np.ndarray]:
    """FRAMES frames of 192 x 256 that move right and down over the astronaut."""
    return [astronaut[20 + k : 212 + k, 60 + 3 * k : 316 + 3 * k] for k in range(FRAMES)]


def black_out(pictures: list[np.ndarray], gap: Iterable[int]) -> list[np.ndarray]:
    return [picture * (index not in gap) for index, picture in enumerate(pictures)]


@pytest.fixture(scope="session")
def panned(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """The pan, without a face in frames 5 and 6 and in the last."""
    path = tmp_path_factory.mktemp("clips") / "pan.mp4"
    return write_clip(path, black_out(pan(astronaut), {5, 6, FRAMES - 1}))


@pytest.fixture(scope="session")
def followed(panned: Path, finder: FaceFinder) -> ClipFaces:
    return find_clip_faces(panned, finder)


class TestClips:
    def test_frames_are_those_that_load_video_counts(self, panned: Path) -> None:
        frames = list(media.iterate_video(panned))
        clip = media.load_video(panned, FRAMES)
        assert clip.length == len(frames) == FRAMES
        assert all(np.array_equal(one.pixels, other) for one, other in zip(frames, clip.frames, strict=True))
        assert [frame.seconds for frame in frames] == pytest.approx([k / 24 for k in range(FRAMES)], abs=1e-4)

    def test_a_face_is_followed_and_its_gaps_are_bridged(self, followed: ClipFaces, face: Face) -> None:
        (track,) = followed.tracks
        assert track.bridged == [5, 6, FRAMES - 1]
        assert (followed.height, followed.width, followed.rate) == (192, 256, pytest.approx(24, abs=0.01))
        for index, seen in enumerate(track.faces[: FRAMES - 1]):
            points = seen.landmarks + np.array([60 + 3 * index, 20 + index])
            assert error_between(points, face.landmarks) < 0.04, index
        assert np.array_equal(track.faces[-1].landmarks, track.faces[-2].landmarks)

    @pytest.mark.parametrize("mode", ["reference", "centered"])
    def test_crops_have_a_row_of_landmarks_for_each_frame(
        self, mode: media.Literal["reference", "centered"], panned: Path, finder: FaceFinder, tmp_path: Path
    ) -> None:
        clip = find_clip_faces(panned, finder, mode)
        (track,) = clip.tracks
        write_clips(panned, clip, {tmp_path / "crop.mp4": render_crop(clip, track)})
        np.save(tmp_path / "crop.npy", crop_landmarks(clip, track))
        crops = media.load_video(tmp_path / "crop.mp4", FRAMES)
        assert crops.frames.shape == (FRAMES, 256, 256, 3)
        fractions = media.load_landmarks(tmp_path / "crop.npy", crops)
        for index, (crop, window) in enumerate(zip(crops.frames, list_windows(clip, track), strict=True)):
            if index in track.bridged:
                continue
            (found,) = finder.find(crop)
            assert error_between(found.landmarks, fractions[index] * 256) < 0.05
            assert to_crop(track.faces[index].landmarks, window) == pytest.approx(fractions[index] * 256, abs=1e-3)
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["crop.mp4", "crop.npy"]

    def test_reference_crops_are_cut_by_each_frames_own_detection(self, panned: Path, finder: FaceFinder) -> None:
        clip = find_clip_faces(panned, finder, "reference")
        detector = Detector()
        windows = list_windows(clip, clip.tracks[0])
        for index, frame in enumerate(media.iterate_video(panned)):
            if index not in clip.tracks[0].bridged:
                (found,) = detector.detect(frame.pixels)
                assert windows[index] == reference_window(found.box, 192, 256)

    def test_a_clip_of_uneven_times(self, astronaut: np.ndarray, finder: FaceFinder, tmp_path: Path) -> None:
        seconds = [0.0, 0.05, 0.1, 0.3, 0.35, 0.8]
        path = write_clip(tmp_path / "uneven.mp4", pan(astronaut)[:6], seconds)
        own = find_clip_faces(path, finder)
        assert own.seconds == pytest.approx(np.array(seconds), abs=1e-3)
        even = find_clip_faces(path, finder, "reference")
        assert even.source_ids.tolist() == [0, 1, 2, 2, 2, 2, 2, 3, 4, *[4] * 10, *[5] * 11]
        for clip in (own, even):
            write_clips(path, clip, {tmp_path / "crop.mp4": render_crop(clip, clip.tracks[0])})
            times = [frame.seconds for frame in media.iterate_video(tmp_path / "crop.mp4")]
            assert times == pytest.approx(clip.seconds.tolist(), abs=1e-3)

    def test_two_faces_give_two_tracks_in_one_pass(
        self, astronaut: np.ndarray, finder: FaceFinder, tmp_path: Path
    ) -> None:
        large, small = astronaut[FACE_PART], scale(astronaut[FACE_PART], 0.8)
        pictures = [np.hstack([on_canvas(small, 192, 230, 0, 3 * k), large]) for k in range(6)]
        path = write_clip(tmp_path / "two.mp4", pictures)
        clip = find_clip_faces(path, finder)
        first, second = clip.tracks
        assert min(face.box.x for face in first.faces) > 230 > max(face.box.x for face in second.faces)
        assert second.faces[5].box.x - second.faces[0].box.x == pytest.approx(15, abs=2)
        outputs = {
            tmp_path / f"{name}.mp4": render_crop(clip, track) for name, track in zip("ab", clip.tracks, strict=True)
        }
        overlay = tmp_path / "overlay.mp4"
        write_clips(
            path,
            clip,
            outputs | {overlay: lambda k, picture: draw_faces(picture, [track.faces[k] for track in clip.tracks], k)},
        )
        assert [media.load_video(output, 1).length for output in [*outputs, overlay]] == [6, 6, 6]

    def test_too_many_frames_without_a_face(self, astronaut: np.ndarray, finder: FaceFinder, tmp_path: Path) -> None:
        gap = {0, 1, 5, 9, 10, 11, 12}
        path = write_clip(tmp_path / "gaps.mp4", black_out(pan(astronaut), gap))
        message = r"gaps\.mp4: 7 of 16 frames are without .* \(0-1, 5, 9-12\), more than 30%: cut .*$"
        with pytest.raises(FaceError, match=message):
            find_clip_faces(path, finder)
        (track,) = find_clip_faces(path, finder, max_missing=0.5).tracks
        assert track.bridged == sorted(gap)

    def test_a_clip_without_a_face(self, finder: FaceFinder, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "empty.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
        with pytest.raises(FaceError, match=r"empty\.mp4: no face found in any of its 3 frames: "):
            find_clip_faces(path, finder)

    def test_what_is_no_clip(self, panned: Path, finder: FaceFinder, tmp_path: Path) -> None:
        for name, data in {
            "zero.mp4": b"",
            "text.mp4": b"a text, no clip",
            "cut.mp4": panned.read_bytes()[:2000],
        }.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(media.MediaError, match=name):
                find_clip_faces(tmp_path / name, finder)

    def test_a_clip_that_is_cut_short_ends_at_its_last_frame(
        self, panned: Path, finder: FaceFinder, tmp_path: Path
    ) -> None:
        (tmp_path / "cut.mp4").write_bytes(panned.read_bytes()[: panned.stat().st_size * 3 // 4])
        length = media.load_video(tmp_path / "cut.mp4", 1).length
        assert 4 < length < FRAMES
        clip = find_clip_faces(tmp_path / "cut.mp4", finder)
        assert len(clip.seconds) == len(clip.tracks[0].faces) == length

    def test_a_clip_that_changes_between_the_passes(
        self, followed: ClipFaces, astronaut: np.ndarray, tmp_path: Path
    ) -> None:
        shorter = write_clip(tmp_path / "shorter.mp4", pan(astronaut)[:9])
        with pytest.raises(media.MediaError, match=r"shorter\.mp4: ends sooner"):
            write_clips(shorter, followed, {tmp_path / "crop.mp4": render_crop(followed, followed.tracks[0])})
        assert [path.name for path in tmp_path.iterdir()] == ["shorter.mp4"]


class TestWriter:
    def test_browsers_play_it(self, tmp_path: Path) -> None:
        import av

        path = write_clip(tmp_path / "a.mp4", [np.full((33, 47, 3), 40 * k, np.uint8) for k in range(5)])
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.format.name) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate, stream.frames) == (48, 34, 24, 5)
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        levels = [frame.pixels.mean() for frame in media.iterate_video(path)]
        assert levels == pytest.approx([0, 40, 80, 120, 160], abs=2)

    def test_a_failure_leaves_what_was_there(self, panned: Path, followed: ClipFaces, tmp_path: Path) -> None:
        def fail(index: int, picture: np.ndarray) -> np.ndarray:
            if index == 3:
                raise KeyboardInterrupt
            return picture

        (tmp_path / "a.mp4").write_bytes(b"earlier")
        outputs = {tmp_path / "a.mp4": render_crop(followed, followed.tracks[0]), tmp_path / "b.mp4": fail}
        with pytest.raises(KeyboardInterrupt):
            write_clips(panned, followed, outputs)
        with pytest.raises(FaceError, match=r"no folder .*missing: make it first"):
            write_clips(panned, followed, outputs | {tmp_path / "missing" / "c.mp4": fail})
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.mp4", b"earlier")]


class TestDrawing:
    @pytest.mark.parametrize(("size", "expected"), [(512, 1024), (200, 800), (640, 640), (1500, 1500)])
    def test_small_pictures_are_enlarged(self, size: int, expected: int, face: Face) -> None:
        picture = np.full((size, size // 2, 3), 50, np.uint8)
        assert draw_faces(picture, [face]).shape == (expected, expected // 2, 3)
        assert (picture == 50).all()

    def test_every_region_has_its_colour_at_its_points(self, astronaut: np.ndarray, face: Face) -> None:
        from facellava_jax.faces.draw import COLOURS

        assert COLOURS.keys() == REGIONS.keys()
        assert len({*COLOURS.values(), BOX_COLOUR, BRIDGED_COLOUR}) == len(REGIONS) + 2
        enlarged = scale(astronaut, 4)
        large = face._replace(box=Box(*(4 * side for side in face.box)), landmarks=(face.landmarks + 0.5) * 4 - 0.5)
        drawn = draw_faces(enlarged, [large])
        for region, (first, past) in REGIONS.items():
            for x, y in np.rint(large.landmarks[first:past]).astype(int):
                assert np.abs(drawn[y, x].astype(int) - COLOURS[region]).max() < 30, region

    def test_boxes_and_numbers(self, face: Face) -> None:
        picture = np.zeros((700, 700, 3), np.uint8)

        def count(colour: tuple[int, int, int], drawn: np.ndarray) -> int:
            return int((np.abs(drawn.astype(int) - colour).max(axis=2) < 20).sum())

        seen, bridged = draw_faces(picture, [face]), draw_faces(picture, [face._replace(score=0.0)])
        for colour, drawn, other in [(BOX_COLOUR, seen, bridged), (BRIDGED_COLOUR, bridged, seen)]:
            assert count(colour, drawn) > 300 + count(colour, other)
        numbered = draw_faces(picture, [], 1234)
        assert numbered.any() and not numbered[:600].any() and not draw_faces(picture, []).any()


def test_parts_overlap_by_half_and_reach_the_end() -> None:
    assert spread_starts(100, 200) == [0]
    assert spread_starts(200, 200) == [0]
    for length, part in [(400, 200), (450, 200), (1080, 960), (201, 200)]:
        starts = spread_starts(length, part)
        assert (starts[0], starts[-1]) == (0, length - part)
        assert max(np.diff(starts)) <= part / 2


def test_a_detection_is_the_beginning_of_a_face() -> None:
    assert Face._fields[: len(Detection._fields)] == Detection._fields
