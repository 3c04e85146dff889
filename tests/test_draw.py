"""faces/draw.py and faces/heat.py: what is drawn lies where it should, and nothing that is given is changed."""

import itertools

import cv2
import numpy as np
import pytest
from skimage.color import rgb2lab

from facellava_jax.config import REGIONS
from facellava_jax.faces import Face, Window, draw_faces, draw_regions, tile_pictures
from facellava_jax.faces.crop import seen_window
from facellava_jax.faces.draw import BORDER, BORDER_COLOUR, COLOURS, WINDOW_COLOUR
from facellava_jax.faces.heat import BAR, FOOTER, HEADER, SIDE, lay_heat

EVEN = np.float32(1 / 9)
FAR = np.full((1, 68, 2), -1000.0)  # landmarks that lie in no picture
TOP = HEADER + BORDER


def square(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """One of the squares of what `draw_regions` gives."""
    y, x = TOP + row * (SIDE + BORDER), BORDER + column * (SIDE + BORDER)
    return picture[y : y + SIDE, x : x + SIDE].astype(int)


def patch(square: np.ndarray, row: int, column: int, grid: int) -> np.ndarray:
    size = SIDE // grid
    return square[row * size : (row + 1) * size, column * size : (column + 1) * size]


def grey_frames(count: int, height: int = 256, width: int = 256) -> np.ndarray:
    return np.full((count, height, width, 3), 100, np.uint8)


def even_weights(count: int, grid: int = 16) -> np.ndarray:
    return np.full((count, 9, grid, grid), EVEN)


def is_near(pixels: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < within


@pytest.mark.parametrize("grid", [16, 4])
def test_a_hot_patch_is_hot_in_its_place_alone(grid: int) -> None:
    """A row for each frame, a column for each region; without heat, the frame is as it was."""
    weights = even_weights(3, grid)
    rng = np.random.default_rng(0)
    hot = {(frame, region): tuple(rng.integers(grid, size=2)) for frame in range(3) for region in range(9)}
    for (frame, region), place in hot.items():
        weights[(frame, region, *place)] = 0.4
    drawn = draw_regions(grey_frames(3), weights, np.repeat(FAR, 3, axis=0))
    assert drawn.shape == (TOP + 3 * (SIDE + BORDER) + FOOTER, BORDER + 10 * (SIDE + BORDER), 3)
    for frame in range(3):
        assert (square(drawn, frame, 0) == 100).all()
        for region in range(9):
            heated = square(drawn, frame, 1 + region)
            mask = np.zeros((SIDE, SIDE), bool)
            patch(mask, *hot[frame, region], grid)[:] = True
            assert (heated[~mask] == 100).all()
            assert is_near(heated[mask], (219, 227, 43), 2).all()  # the map's yellow, 85 % of it


def test_heat_rises_with_the_weight() -> None:
    """More of the colour map and less of the frame, on one range over all regions and frames."""
    weights = even_weights(2, 4)
    weights[0, 2, 0] = [0.05, 0.10, 0.15, 0.20]
    weights[1, 5, 1, 1] = 0.35
    drawn = draw_regions(grey_frames(2), weights, np.repeat(FAR, 2, axis=0))
    level = (weights - weights.min()) / (weights.max() - weights.min())
    for frame, region, row, column in [(0, 2, 0, 0), (0, 2, 0, 1), (0, 2, 0, 3), (1, 5, 1, 1), (1, 8, 3, 3)]:
        got = patch(square(drawn, frame, 1 + region), row, column, 4)
        at = level[frame, region, row, column]
        shade = cv2.applyColorMap(np.full((1, 1), round(255 * at), np.uint8), cv2.COLORMAP_PLASMA)[0, 0, ::-1]
        np.testing.assert_allclose(got, np.broadcast_to(100 + 0.85 * at * (shade - 100.0), got.shape), atol=1)
    levels = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert (lay_heat(cv2, np.full((1, 256, 3), 90, np.uint8), levels)[0, 0] == 90).all()
    # Levels a tenth of the range apart are told apart (2 is just seen), whatever the brightness below.
    for grey in (0, 90, 180, 255):
        colours = rgb2lab(lay_heat(cv2, np.full((1, 256, 3), grey, np.uint8), levels))[0]
        assert np.linalg.norm(colours[25:] - colours[:-25], axis=1).min() > 4


def test_weights_all_alike_have_no_heat() -> None:
    drawn = draw_regions(grey_frames(1), even_weights(1), FAR)
    assert (square(drawn, 0, 0) == 100).all() and (square(drawn, 0, 9) == 100).all()


def test_every_column_has_its_region(astronaut: np.ndarray, face: Face) -> None:
    """Head and points in the region's colour, on a grey frame; the first column has colours and all points."""
    frame = np.ascontiguousarray(astronaut[60:256, 130:326])
    points = face.landmarks - [130, 60]
    drawn = draw_regions(frame[None], even_weights(1), points[None])
    assert (drawn[:HEADER, BORDER : BORDER + SIDE] > 200).any()
    places = np.rint((points + 0.5) * (SIDE / 196) - 0.5).astype(int)
    heads = [drawn[:HEADER, (SIDE + BORDER) * column :][:, :SIDE] for column in range(1, 10)]
    for column, (region, (first, past)) in enumerate(REGIONS.items()):
        colour = COLOURS[region]
        assert is_near(heads[column], colour).sum() > 20
        assert not any(is_near(heads[other], colour).any() for other in range(9) if other != column)
        for x, y in places[first:past]:
            if 1 <= x < SIDE - 1 and 1 <= y < SIDE - 1:
                assert is_near(square(drawn, 0, 0)[y - 1 : y + 2, x - 1 : x + 2], colour, 60).any(), region
                assert is_near(square(drawn, 0, 1 + column)[y - 1 : y + 2, x - 1 : x + 2], colour, 60).any(), region
        heated = square(drawn, 0, 1 + column)
        others = [places[i] for name, span in REGIONS.items() if name != region for i in range(*span)]
        far = [(x, y) for x, y in others if np.abs(places[first:past] - (x, y)).max(axis=1).min() > 40]
        seen = [heated[y, x] for x, y in far if 0 <= x < SIDE and 0 <= y < SIDE]
        assert len(seen) > 5 and all(np.ptp(pixel) == 0 for pixel in seen)
    assert np.ptp(square(drawn, 0, 0), axis=2).mean() > 10


@pytest.mark.parametrize(
    ("weights", "mark"),
    [((0.0, 1.0), 1 / 9), ((float(EVEN), 0.5), 0.0), ((0.05, float(EVEN)), 1.0), ((0.2, 0.6), None)],
)
def test_the_scale_marks_the_even_share(weights: tuple[float, float], mark: float | None) -> None:
    values = np.full((1, 9, 4, 4), weights[0], np.float32)
    values[0, 3, 2, 1] = weights[1]
    footer = draw_regions(grey_frames(1), values, FAR)[-FOOTER:].astype(int)
    left, right = BAR
    above = np.flatnonzero((footer[5, left - 2 : right + 2] > 200).all(axis=1)) - 2
    assert above.tolist() == ([] if mark is None else [round(mark * (right - left - 1)) + i for i in (-1, 0, 1)])
    # Both ends have their number, and both are read from the picture: other weights give other numbers.
    other = draw_regions(grey_frames(1), values * 0.9, FAR)[-FOOTER:].astype(int)
    for place in (slice(0, left - 4), slice(right + 4, right + 120)):
        assert (footer[:, place] > 200).any()
        assert (footer[:, place] == other[:, place]).all() == (weights[0] == 0 and place.start == 0)


@pytest.mark.parametrize(
    ("height", "width", "padded", "window"),
    [
        (256, 256, False, Window(0, 0, 256, 256)),
        (100, 300, False, Window(100, 0, 200, 100)),
        (300, 100, False, Window(0, 100, 100, 200)),
        (100, 300, True, Window(0, -100, 300, 200)),
        (300, 100, True, Window(-100, 0, 200, 300)),
    ],
)
def test_the_square_that_is_seen(height: int, width: int, padded: bool, window: Window) -> None:
    """A white dot and a landmark on it come to the same place of the picture, in the hot patch's grid."""
    assert seen_window(height, width, padded=padded) == window
    frame = np.zeros((1, height, width, 3), np.uint8)
    y, x = height // 2 + 20, width // 2 - 30
    frame[0, y - 1 : y + 2, x - 1 : x + 2] = 255
    side = window.right - window.left
    row, column = ((place - start) * 16 // side for place, start in ((y, window.top), (x, window.left)))
    weights = even_weights(1)
    weights[0, 3, row, column] = 0.2
    plain = draw_regions(frame, weights, FAR, padded=padded)
    dot = square(plain, 0, 0)
    assert dot[(y - window.top) * SIDE // side, (x - window.left) * SIDE // side].min() > 200
    assert (patch(dot, row, column, 16) > 200).any()
    landmarks = FAR.copy()
    landmarks[0, slice(*REGIONS["nose"])] = (x, y)
    got = square(draw_regions(frame, weights, landmarks, padded=padded), 0, 4)
    nose = np.argwhere(is_near(got, COLOURS["nose"], 40)).mean(axis=0)
    np.testing.assert_allclose(nose, np.argwhere(dot[..., 0] > 128).mean(axis=0), atol=1)


def test_pictures_stand_in_rows() -> None:
    pictures = [np.full((20 + 3 * i, 30 - i, 3), 60 + i, np.uint8) for i in range(5)]
    tiled = tile_pictures(pictures, 3)
    assert tiled.shape == (2 * (32 + BORDER) + BORDER, 3 * (30 + BORDER) + BORDER, 3)
    seen = np.zeros(tiled.shape[:2], bool)
    for i, picture in enumerate(pictures):
        y, x = BORDER + i // 3 * (32 + BORDER), BORDER + i % 3 * (30 + BORDER)
        place = (slice(y, y + len(picture)), slice(x, x + picture.shape[1]))
        assert (tiled[place] == 60 + i).all() and not seen[place].any()
        seen[place] = True
    assert (tiled[~seen] == BORDER_COLOUR).all()
    assert tile_pictures(pictures[:2], 4).shape == (23 + 2 * BORDER, 2 * 30 + 3 * BORDER, 3)


def test_windows_are_dashed_and_stay_at_their_edges(face: Face) -> None:
    picture = np.full((700, 700, 3), 90, np.uint8)
    plain, drawn = draw_faces(picture, []), draw_faces(picture, [], windows=[Window(100, 150, 400, 520)])
    changed = (drawn != plain).any(axis=2)
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((150, 520, 100, 400), abs=4)
    assert not changed[156:514, 106:394].any()
    for edge in (changed[149:152], changed[518:521]):
        share = edge[:, 106:394].any(axis=0).mean()
        assert 0.4 < share < 0.85
    assert is_near(drawn[145:155], WINDOW_COLOUR, 40).sum() > 100
    # Beyond the border there is nothing to draw on; a small picture's window grows with it.
    beyond = draw_faces(picture, [], windows=[Window(-200, -100, 900, 350)])
    assert np.flatnonzero((beyond != plain).any(axis=(1, 2)))[[0, -1]].tolist() == pytest.approx([350, 350], abs=4)
    small = draw_faces(picture[:160, :160], [], windows=[Window(40, 50, 120, 100)])
    assert np.flatnonzero((small != 90).any(axis=(1, 2)))[[0, -1]].tolist() == pytest.approx([200, 400], abs=4)
    assert (draw_faces(picture, [face], windows=[]) == draw_faces(picture, [face])).all()


def test_what_is_given_stays_as_it_is(astronaut: np.ndarray, face: Face) -> None:
    frames = np.ascontiguousarray(np.stack([astronaut[:256, 128:384]] * 2))
    weights = np.random.default_rng(0).dirichlet(np.ones(9), (2, 16, 16)).astype(np.float32)
    weights = np.ascontiguousarray(np.moveaxis(weights, 3, 1))
    landmarks = np.stack([face.landmarks - [128, 0]] * 2)
    given = [frames, weights, landmarks, astronaut]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    try:
        drawn = [draw_regions(frames, weights, landmarks), draw_faces(astronaut, [face], 3, [Window(0, 0, 99, 99)])]
        drawn.append(tile_pictures([*frames], 2))
        # Not a view of what was given, either.
        assert not any(np.shares_memory(out, array) for out, array in itertools.product(drawn, given))
    finally:
        astronaut.flags.writeable = True
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)
