"""Prepared data: the media of a list in ArrayRecord shards, in the layout of tensorflow-datasets, read at random.

A prepared folder holds the list itself (`records.json`), the shards with what tensorflow-datasets reads them by, and
`settings.json`, which says whether all of it is there. TensorFlow is not needed. No JAX: workers import this.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float32

from ..config import LANDMARK_POINTS
from ..extras import require
from ..media import MediaError, decode_image
from .reading import Frames
from .records import DataError, Record, RecordList

RECORDS, SETTINGS, PROGRESS = "records.json", "settings.json", "shards.jsonl"
DESCRIPTIONS = ("dataset_info.json", "features.json")  # which tensorflow-datasets reads a folder by
DATASET, SPLIT = "face_instruct", "train"


class Settings(NamedTuple):
    """What a folder is prepared from, and how."""

    list_digest: str
    image_root: str
    video_root: str
    num_frames: int
    shard_records: int
    complete: bool = False


class Written(NamedTuple):
    """A shard that is done: its number, how many records it has, and of those that are damaged the number and cause."""

    shard: int
    records: int
    damaged: tuple[tuple[int, str], ...]

    def to_json(self) -> str:
        """A line of PROGRESS, without its end."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Raises ValueError for a line that `to_json` did not write."""
        try:
            value = json.loads(line)
            damaged = tuple((int(number), str(cause)) for number, cause in value["damaged"])
            return cls(int(value["shard"]), int(value["records"]), damaged)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{line[:80]!r} tells of no shard") from error


class Shards:
    """The media of a prepared folder, by the numbers of its `records`."""

    def __init__(self, folder: Path, num_frames: int) -> None:
        """Raises DataError for a folder that is not wholly prepared, or with other than `num_frames` to a clip."""
        settings = read_settings(folder)
        if not settings.complete:
            raise DataError(f"{folder}: is not wholly prepared: run `facellava data prepare` again, it goes on")
        if settings.num_frames != num_frames:
            raise DataError(
                f"{folder}: has {settings.num_frames} frames of each clip, and the model takes {num_frames}: "
                f"prepare the list again with --frames {num_frames}"
            )
        for name in (RECORDS, PROGRESS, *DESCRIPTIONS):
            if not (folder / name).is_file():
                raise DataError(f"{folder / name}: no such file: run `facellava data prepare` again, it goes on")
        self.records = RecordList(folder / RECORDS)
        if self.records.digest != settings.list_digest:
            raise DataError(f"{folder / RECORDS}: is not the list that was prepared: prepare that again")
        self.num_frames = num_frames
        self._folder = folder

    def read_damaged(self) -> dict[int, str]:
        """By number, why media could not be prepared. Raises DataError for a file of these that is damaged."""
        file = self._folder / PROGRESS
        try:
            shards = [Written.from_json(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}): run `facellava data prepare` again, it goes on") from None
        return {number: cause for shard in shards for number, cause in shard.damaged}

    def load(self, number: int, record: Record) -> list[Frames]:
        """The media of a record, as they are read from its own files. Raises MediaError where these were damaged."""
        try:
            example = _open_shards(self._folder)[number]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{self._folder}: record {number} cannot be read ({error}): prepare it again") from None
        if cause := example["cause"].decode():
            raise MediaError(cause)
        pictures, points = iter(example["pictures"]), iter(example["landmarks"])
        media = []
        for medium in record.media:
            count = self.num_frames if medium.kind == "video" else 1
            pixels = np.stack([decode_image(next(pictures), medium.path) for _ in range(count)])
            media.append(Frames(medium.kind, pixels, _take(points, count) if medium.landmarks else None))
        return media


class KeptBytes:
    """For tensorflow-datasets: a decoder that leaves pictures encoded."""

    def setup(self, *, feature: Any) -> None:
        """Asked for before use; there is nothing to set up."""

    def decode_batch_example_np(self, pictures: Any) -> Any:
        return pictures


def read_settings(folder: Path) -> Settings:
    """Raises DataError for a folder that `facellava data prepare` did not write."""
    try:
        return Settings(**json.loads((folder / SETTINGS).read_text()))
    except (OSError, ValueError, TypeError):
        raise DataError(
            f"{folder}: no prepared data there: name a list, or a folder of `facellava data prepare`"
        ) from None


def describe_features() -> Any:
    """The features of an example, as tensorflow-datasets describes them.

    `pictures`: for each medium, clips first, the picture's file or the sampled frames as PNG; `landmarks`: for each
    picture or frame of a medium that has landmarks, fractions of the face crop; `cause`: what was wrong, if anything.
    """
    features = require("tensorflow_datasets", "train").features
    return features.FeaturesDict(
        {
            "id": features.Text(),
            "conversations": features.Text(),
            "cause": features.Text(),
            "pictures": features.Sequence(features.Image(shape=(None, None, 3))),
            "landmarks": features.Sequence(features.Tensor(shape=(LANDMARK_POINTS, 2), dtype=np.float32)),
        }
    )


def _take(points: Iterator[Any], count: int) -> Float32[np.ndarray, "T K 2"]:
    return np.stack([next(points) for _ in range(count)]).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _open_shards(folder: Path) -> Any:
    """The folder's examples; each process opens them for itself."""
    datasets = require("tensorflow_datasets", "train")
    return datasets.builder_from_directory(folder).as_data_source(SPLIT, decoders={"pictures": KeptBytes()})
