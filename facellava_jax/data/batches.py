"""From samples to the batches that the model reads."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Int

from ..axes import Batch, Media
from ..config import LANDMARK_POINTS, ModelConfig, TowerConfig
from ..text import Layout, Medium, Row, pad_rows, splice


class Visual(NamedTuple):
    """An image (T = 1) or a clip, ready for its tower: normalised pixels, and landmarks as fractions of the crop."""

    medium: Medium
    pixels: Float32[np.ndarray, "T Y X 3"]
    landmarks: Float32[np.ndarray, "T K 2"] | None


class Sample(NamedTuple):
    """A prompt with -200 where an image or a frame goes, its media in the order of these, and the labels of its ids."""

    ids: Sequence[int] | Int[np.ndarray, " L"]
    media: Sequence[Visual]
    labels: Int[np.ndarray, " L"] | None = None


class Places(NamedTuple):
    """How many images and how many clips each row of a batch has room for."""

    images: int
    videos: int

    @classmethod
    def of(cls, images: int, videos: int) -> Self:
        """For so many in a row, rounded up to powers of two: shapes stay few, so that little compiles."""
        return cls(*(1 << (count - 1).bit_length() if count else 0 for count in (images, videos)))


def collate(
    samples: Sequence[Sample],
    config: ModelConfig,
    *,
    rows: int | None = None,
    max_length: int | None = None,
    places: Places | None = None,
    length: int | None = None,
) -> Batch:
    """One batch of any mix of samples, right-padded to `length`, and to `rows` rows (of length 0).

    A sample longer than `max_length` is cut, be it inside an image. By default as many rows as samples, the places
    that these need, and the length bucket of the longest; where all are given, the shapes follow from them alone.
    Raises TextError for a sample that does not fit.
    """
    rows = len(samples) if rows is None else rows
    places = places or Places.of(_most(samples, "image"), _most(samples, "video"))
    images = _collate_media(samples, "image", config.image_tower, rows, places.images)
    videos = _collate_media(samples, "video", config.video_tower, rows, places.videos)
    layout = _lay_out(config, images.pixels.shape[1] if images else 0, videos.pixels.shape[2] if videos else 0)
    nothing = np.zeros(0, np.int32)
    padding = [Row(nothing, nothing, None if samples[0].labels is None else nothing)] * (rows - len(samples))
    padded = pad_rows([_splice(sample, layout, config, max_length) for sample in samples] + padding, length)
    return Batch(padded.tokens, padded.visual_index, padded.lengths, images, videos, padded.labels)


def measure(sample: Sample, config: ModelConfig) -> int:
    """The length of a sample in tokens, its visual tokens counted in."""
    return len(_splice(sample, _lay_out(config, 0, 0), config, None).tokens)


def _lay_out(config: ModelConfig, images: int, frames: int) -> Layout:
    image_slots = config.slots_per_frame(config.image_tower) if config.image_tower else 0
    video_slots = config.slots_per_frame(config.video_tower) if config.video_tower else 0
    return Layout(images, image_slots, frames, video_slots)


def _splice(sample: Sample, layout: Layout, config: ModelConfig, max_length: int | None) -> Row:
    appended = config.landmarks.appended_tokens if config.landmarks else 0
    slots = {"image": layout.image_slots, "video": layout.video_slots}
    used = [slots[visual.medium.kind] - (appended if visual.landmarks is None else 0) for visual in sample.media]
    spans = layout.locate([visual.medium for visual in sample.media], used)
    return splice(sample.ids, [span for medium in spans for span in medium], sample.labels, max_length)


def _choose(sample: Sample, kind: str) -> list[Visual]:
    return [visual for visual in sample.media if visual.medium.kind == kind]


def _most(samples: Sequence[Sample], kind: str) -> int:
    return max((len(_choose(sample, kind)) for sample in samples), default=0)


def _collate_media(
    samples: Sequence[Sample], kind: str, tower: TowerConfig | None, rows: int, places: int
) -> Media | None:
    if places == 0 or tower is None:
        return None
    chosen = [_choose(sample, kind) for sample in samples]
    frames = {visual.pixels.shape[0] for visuals in chosen for visual in visuals} or {tower.num_frames}
    assert len(frames) == 1, f"clips of one batch have the same number of frames, not {sorted(frames)}"
    shape = (rows, places, frames.pop())
    media = Media(
        pixels=np.zeros((*shape, tower.image_size, tower.image_size, 3), np.float32),
        landmarks=np.zeros((*shape, LANDMARK_POINTS, 2), np.float32),
        has_landmarks=np.zeros(shape[:2], bool),
    )
    for row, visuals in enumerate(chosen):
        for place, visual in enumerate(visuals):
            media.pixels[row, place] = visual.pixels
            if visual.landmarks is not None:
                media.landmarks[row, place] = visual.landmarks
                media.has_landmarks[row, place] = True
    return media
