"""data.py: where a batch's tokens and media lie, by literal tables."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from facellava_jax.axes import Batch
from facellava_jax.config import REGION_PROJECTOR, ModelConfig, TowerConfig, tiny
from facellava_jax.data import Sample, Visual, collate, measure
from facellava_jax.text import IGNORE, Medium, TextError

# Four patches a frame: an image gives 4 tokens, a frame of a clip 5.
SMALL = TowerConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=28)
CONFIG = replace(tiny().model, image_tower=SMALL, video_tower=replace(SMALL, num_frames=2, keep_cls=True))
APPENDING = replace(CONFIG, landmarks=replace(CONFIG.landmarks, use_landmark_tokens=True))
T = -200


def visual(kind: Literal["image", "video"], value: float, *, landmarks: bool = False, frames: int = 2) -> Visual:
    """A medium whose pixels, and landmarks where it has them, are all `value`."""
    frames = 1 if kind == "image" else frames
    points = np.full((frames, 68, 2), value, np.float32) if landmarks else None
    return Visual(Medium(kind, frames), np.full((frames, 28, 28, 3), value, np.float32), points)


def table(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Each row's tokens and visual indices up to its length; what follows must be padding."""
    rows = []
    for tokens, index, length in zip(batch.tokens, batch.visual_index, batch.lengths, strict=True):
        assert not tokens[length:].any()
        assert (index[length:] == -1).all()
        rows.append((tokens[:length].tolist(), index[:length].tolist()))
    return rows


IMAGE, OTHER, CLIP = visual("image", 0.1), visual("image", 0.2), visual("video", 0.3)


@pytest.mark.parametrize(
    ("samples", "rows"),
    [
        pytest.param([Sample([1, 5, 6], [])], [([1, 5, 6], [-1, -1, -1])], id="text"),
        pytest.param([Sample([1, T, 6], [IMAGE])], [([1, 0, 0, 0, 0, 6], [-1, 0, 1, 2, 3, -1])], id="image"),
        pytest.param(
            [Sample([1, T, 7, T], [CLIP])],
            [([1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0], [-1, 0, 1, 2, 3, 4, -1, 5, 6, 7, 8, 9])],
            id="clip_with_words_between_its_frames",
        ),
        pytest.param(
            # One place for an image (0 to 3) and then one for a clip (4 to 13) in every row, used or not.
            [Sample([T, T], [CLIP]), Sample([T, 9], [IMAGE]), Sample([9], [])],
            [([0] * 10, [*range(4, 14)]), ([0] * 4 + [9], [0, 1, 2, 3, -1]), ([9], [-1])],
            id="images_lie_before_clips",
        ),
        pytest.param(
            [Sample([T, T, T, T], [OTHER, CLIP, IMAGE])],
            [([0] * 18, [0, 1, 2, 3, *range(8, 18), 4, 5, 6, 7])],
            id="media_keep_their_order_in_the_prompt",
        ),
        pytest.param(
            # Three images take four places, so that the clip's tokens begin at 16.
            [Sample([T] * 5, [IMAGE, OTHER, IMAGE, CLIP]), Sample([T], [IMAGE])],
            [([0] * 22, [*range(12), *range(16, 26)]), ([0] * 4, [*range(4)])],
            id="places_are_powers_of_two",
        ),
        pytest.param([Sample([T] * 4, [CLIP, CLIP])], [([0] * 20, [*range(20)])], id="two_clips"),
    ],
)
def test_layout(samples: list[Sample], rows: list[tuple[list[int], list[int]]]) -> None:
    batch = collate(samples, CONFIG)
    assert table(batch) == rows
    assert batch.tokens.shape == (len(samples), 64)
    assert [measure(sample, CONFIG) for sample in samples] == batch.lengths.tolist()
    assert batch.labels is None


@pytest.mark.parametrize(("most", "places"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_places_hold_the_media_and_zeros(most: int, places: int) -> None:
    images = [visual("image", 0.5 + i, landmarks=i == 1) for i in range(most)]
    batch = collate([Sample([5], []), Sample([T] * most, images), Sample([T, T], [CLIP])], CONFIG, rows=4)
    assert batch.images.pixels.shape == (4, places, 1, 28, 28, 3)
    assert batch.videos.pixels.shape == (4, 1, 2, 28, 28, 3)
    for row in range(4):
        for place in range(places):
            used = row == 1 and place < most
            assert (batch.images.pixels[row, place] == (0.5 + place if used else 0)).all()
            assert batch.images.has_landmarks[row, place] == (used and place == 1)
            assert (batch.images.landmarks[row, place] == (1.5 if used and place == 1 else 0)).all()
        assert (batch.videos.pixels[row] == np.float32(0.3 if row == 2 else 0)).all()
    assert not batch.videos.has_landmarks.any()


@pytest.mark.parametrize(("projector", "extra"), [("linear", 1), (REGION_PROJECTOR, 9)])
def test_landmark_tokens_are_pointed_at_only_with_landmarks(projector: str, extra: int) -> None:
    config = replace(APPENDING, landmarks=replace(APPENDING.landmarks, global_landmarks_projector=projector))
    with_points = visual("image", 0.1, landmarks=True)
    batch = collate(
        [Sample([T, T, 3], [IMAGE, with_points]), Sample([T, T], [visual("video", 0.1, landmarks=True)])], config
    )
    image, frame = 4 + extra, 5 + extra
    first = 2 * image
    assert table(batch) == [
        ([0] * (4 + image) + [3], [0, 1, 2, 3, *range(image, 2 * image), -1]),
        ([0] * (2 * frame), [*range(first, first + 2 * frame)]),
    ]
    without = table(collate([Sample([T, T], [CLIP])], config))
    assert without == [([0] * 10, [0, 1, 2, 3, 4, *range(frame, frame + 5)])]


def test_fewer_frames_than_the_tower_takes() -> None:
    batch = collate([Sample([T], [visual("video", 0.3, frames=1)]), Sample([T], [IMAGE])], CONFIG)
    assert batch.videos.pixels.shape == (2, 1, 1, 28, 28, 3)
    assert table(batch) == [([0] * 5, [4, 5, 6, 7, 8]), ([0] * 4, [0, 1, 2, 3])]


def test_labels_are_ignored_at_media_and_padding() -> None:
    samples = [
        Sample([1, T, 6, 7], [IMAGE], np.array([IGNORE, IGNORE, 6, 7], np.int32)),
        Sample([8, 9], [], np.array([IGNORE, 9], np.int32)),
    ]
    batch = collate(samples, CONFIG, rows=4)
    assert batch.labels.shape == (4, 64)
    expected = np.full((4, 64), IGNORE)
    expected[0, 5:7] = 6, 7
    expected[1, 1] = 9
    np.testing.assert_array_equal(batch.labels, expected)
    with pytest.raises(TextError, match="1 of 2 samples have no labels"):
        collate([samples[0], samples[1]._replace(labels=None)], CONFIG)


@pytest.mark.parametrize(
    ("max_length", "tokens", "index", "labels"),
    [
        (6, [1, 0, 0, 0, 0, 6], [-1, 0, 1, 2, 3, -1], [IGNORE] * 5 + [6]),
        (3, [1, 0, 0], [-1, 0, 1], [IGNORE] * 3),
        (1, [1], [-1], [IGNORE]),
    ],
    ids=["after_the_image", "inside_the_image", "before_the_image"],
)
def test_a_sample_is_cut_to_its_length(max_length: int, tokens: list[int], index: list[int], labels: list[int]) -> None:
    sample = Sample([1, T, 6, 7], [IMAGE], np.array([IGNORE, IGNORE, 6, 7], np.int32))
    batch = collate([sample], CONFIG, max_length=max_length)
    assert table(batch) == [(tokens, index)]
    assert batch.labels[0, : len(labels)].tolist() == labels


def test_rows_pad_the_batch_with_nothing() -> None:
    batch = collate([Sample([4, 5], []), Sample([6], [])], CONFIG, rows=8)
    assert batch.lengths.tolist() == [2, 1] + [0] * 6
    assert batch.tokens.shape == (8, 64)
    assert batch.images is None and batch.videos is None


@pytest.mark.parametrize(("length", "padded"), [(64, 64), (65, 128), (400, 512), (3073, 4096), (4097, 5120)])
def test_lengths_are_padded_to_buckets(length: int, padded: int) -> None:
    assert collate([Sample([3] * length, []), Sample([3], [])], CONFIG).tokens.shape == (2, padded)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, video_tower=None)], ids=["both", "image_tower_alone"])
def test_a_tower_that_is_missing_takes_no_place(config: ModelConfig) -> None:
    batch = collate([Sample([T, 5], [IMAGE])], config)
    assert table(batch) == [([0, 0, 0, 0, 5], [0, 1, 2, 3, -1])]
    assert batch.videos is None


@pytest.mark.parametrize(
    ("ids", "media"),
    [([1, T], []), ([1], [IMAGE]), ([T, T], [IMAGE]), ([T], [CLIP])],
    ids=["no_medium", "no_placeholder", "one_too_many", "a_frame_without"],
)
def test_placeholders_and_frames_must_agree(ids: list[int], media: list[Any]) -> None:
    with pytest.raises(TextError, match=r"the prompt has \d image placeholders and the media give \d frames"):
        collate([Sample(ids, media)], CONFIG)
