"""Where visual tokens stand among text tokens: the host's half of the splice, in numpy.

A placeholder in the ids stands for one image, or one frame of a clip. It becomes a run of positions that point into the
sample's visual tokens; the model gathers. Lengths are rounded up to a few sizes, so that few shapes compile.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from .prompt import IGNORE, PLACEHOLDER_ID, Medium
from .tokenizer import TextError

BUCKETS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 2304, 2560, 3072, 4096)

Span = tuple[int, int]
Ids = Int[np.ndarray, " L"]


class Row(NamedTuple):
    """A sample with its placeholders replaced: `visual_index` as in `Batch`, `labels` -100 where nothing is learnt."""

    tokens: Ids
    visual_index: Ids
    labels: Ids | None


class Rows(NamedTuple):
    """Samples right-padded to a common length: tokens with 0, visual_index with -1, labels with -100."""

    tokens: Int[np.ndarray, "B L"]
    visual_index: Int[np.ndarray, "B L"]
    lengths: Int[np.ndarray, " B"]
    labels: Int[np.ndarray, "B L"] | None


class Layout(NamedTuple):
    """How the visual tokens of every row of a batch lie: places for images, then places for clips.

    A place holds `slots` tokens for each of its frames (`ModelConfig.slots_per_frame`), whether they are used or not.
    """

    images: int = 0
    image_slots: int = 0
    frames: int = 0
    video_slots: int = 0

    def locate(self, media: Sequence[Medium], used: Sequence[int]) -> list[list[Span]]:
        """For every medium the (first, count) of each of its frames' visual tokens.

        `used[i]` is how many of its slots a frame of medium i fills: fewer without landmarks where landmark tokens are
        appended.
        """
        spans: list[list[Span]] = []
        places = {"image": 0, "video": 0}
        for medium, count in zip(media, used, strict=True):
            if medium.kind == "image":
                first, slots = places["image"] * self.image_slots, self.image_slots
            else:
                first = self.images * self.image_slots + places["video"] * self.frames * self.video_slots
                slots = self.video_slots
            places[medium.kind] += 1
            spans.append([(first + frame * slots, count) for frame in range(medium.frames)])
        return spans


def splice(
    ids: Sequence[int] | Ids, spans: Sequence[Span], labels: Ids | None = None, max_length: int | None = None
) -> Row:
    """`ids` with the n-th placeholder replaced by the n-th span: `count` positions that point at `first` and on.

    The result is cut to `max_length` after that, be it inside an image (Q8 of the goldens).
    Raises TextError where there are not as many spans as placeholders.
    """
    ids = np.asarray(ids, np.int32)
    at = np.flatnonzero(ids == PLACEHOLDER_ID)
    if len(at) != len(spans):
        raise TextError(
            f"the prompt has {len(at)} image placeholders and the media give {len(spans)} frames: give one for each"
        )
    first, count = np.asarray(spans, np.int32).reshape(-1, 2).T
    counts = np.ones(len(ids), np.int32)
    counts[at] = count
    # The value at the first position of every id, less that position: adding positions makes runs count upwards.
    starts = np.cumsum(counts) - counts
    offsets = np.zeros(len(ids), np.int32)
    offsets[at] = first - starts[at]
    visual = np.repeat(ids == PLACEHOLDER_ID, counts)[:max_length]
    index = (np.repeat(offsets, counts)[:max_length] + np.arange(len(visual))).astype(np.int32)
    return Row(
        tokens=np.where(visual, 0, np.repeat(ids, counts)[:max_length]).astype(np.int32),
        visual_index=np.where(visual, index, -1).astype(np.int32),
        labels=None
        if labels is None
        else np.where(visual, IGNORE, np.repeat(labels, counts)[:max_length]).astype(np.int32),
    )


def bucket(length: int) -> int:
    """The size to pad `length` to: the next of a few, and of multiples of 1024 beyond them."""
    return next((size for size in BUCKETS if size >= length), -(-length // 1024) * 1024)


def pad_rows(rows: Sequence[Row], length: int | None = None) -> Rows:
    """The rows as arrays of one length: `length`, or else the bucket of the longest.

    Raises TextError for a row longer than `length`, and where only some of the rows have labels.
    """
    lengths = np.array([len(row.tokens) for row in rows], np.int32)
    longest = int(lengths.max(initial=0))
    length = bucket(longest) if length is None else length
    if longest > length:
        raise TextError(f"a sample of {longest} tokens does not fit into {length}: truncate it or give a larger length")
    labels = [row.labels for row in rows if row.labels is not None]
    if labels and len(labels) < len(rows):
        raise TextError(f"{len(rows) - len(labels)} of {len(rows)} samples have no labels: give all or none")
    return Rows(
        tokens=_stack([row.tokens for row in rows], length, 0),
        visual_index=_stack([row.visual_index for row in rows], length, -1),
        lengths=lengths,
        labels=_stack(labels, length, IGNORE) if labels else None,
    )


def _stack(rows: Sequence[np.ndarray], length: int, fill: int) -> np.ndarray:
    stacked = np.full((len(rows), length), fill, np.int32)
    for row, values in zip(stacked, rows, strict=True):
        row[: len(values)] = values
    return stacked
