"""A list and its media written once to shards that read fast: in parallel, and going on where an earlier run stopped.

No JAX: workers import this.
"""

import contextlib
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..config import LANDMARK_POINTS
from ..errors import FaceLlavaError
from ..extras import require
from ..folders import LOCK, hold_folder, read_whole_lines
from ..workers import count_workers, run_jobs
from .reading import Frames, load_medium
from .records import DataError, Record, RecordList, escape_surrogates
from .shards import DATASET, PROGRESS, RECORDS, SETTINGS, SPLIT, Settings, Written, describe_features, read_settings

SHARD_RECORDS = 1000
FORMAT = "array_record"
ASIDE = ".{}.part"  # a file that is being written


class Shard(NamedTuple):
    """The work of one job: records `first` to `end`, the latter not included, to a file."""

    number: int
    records: RecordList
    first: int
    end: int
    num_frames: int
    file: Path


class Preparation:
    """A list on its way to a prepared folder. Shards that an earlier run has finished there stay."""

    def __init__(
        self,
        records: RecordList,
        out: Path,
        num_frames: int,
        shard_records: int = SHARD_RECORDS,
    ) -> None:
        """Writes nothing yet.

        Raises DataError for a list without records, and for a folder that holds other things or other preparations.
        """
        self.records, self.out, self.num_frames = records, out, num_frames
        self.progress = out / PROGRESS
        if not len(records):
            raise DataError(f"{records.path}: has no record: there is nothing to prepare")
        if num_frames < 1:
            raise DataError(f"{num_frames} frames of each clip: take at least 1")
        roots = {kind: str(root.resolve()) for kind, root in records.roots.items()}
        self._settings = Settings(records.digest, roots["image"], roots["video"], num_frames, shard_records)
        self._refuse_other()
        count = -(-len(records) // shard_records)
        self._shards = []
        for number, first in enumerate(range(0, len(records), shard_records)):
            part = records.take(first, first + shard_records)
            file = out / f"{DATASET}-{SPLIT}.{FORMAT}-{number:05}-of-{count:05}"
            self._shards.append(Shard(number, part, first, first + len(part), num_frames, file))

    def run(self, workers: int | None = None) -> Generator[Written, None, None]:
        """Writes the shards that are left, in order; those that were done before come first.

        `workers` processes, by default one for each core; what is written does not depend on how many they are. Raises
        DataError where the disk takes no more, FolderError where another process prepares data in the folder.
        """
        workers = count_workers(workers)
        require("tensorflow_datasets", "train")
        with hold_folder(self.out):
            self._refuse_other()  # which may have come since
            yield from self._write(workers)

    def _write(self, workers: int) -> Generator[Written, None, None]:
        # First of all, so that whatever follows is known to belong here.
        self._write_settings(complete=False)
        if not (self.out / RECORDS).exists():
            aside = self.out / ASIDE.format(RECORDS)
            shutil.copyfile(self.records.path, aside)
            aside.replace(self.out / RECORDS)
        done = self._read_progress()
        yield from done.values()
        left = [shard for shard in self._shards if shard.number not in done]
        if left:
            with (
                self.progress.open("a", encoding="utf-8") as progress,
                run_jobs(write_shard, left, min(workers, len(left))) as results,
            ):
                for written in results:
                    progress.write(written.to_json() + "\n")
                    progress.flush()
                    yield written
        _write_info(self.out, [shard.end - shard.first for shard in self._shards])
        self._write_settings(complete=True)

    def _refuse_other(self) -> None:
        if not self.out.is_dir() or {file.name for file in self.out.iterdir()} <= {LOCK, ASIDE.format(SETTINGS)}:
            return
        if read_settings(self.out)._replace(complete=False) != self._settings:
            raise DataError(f"{self.out}: holds another list, or the same with other settings: choose another --out")

    def _write_settings(self, *, complete: bool) -> None:
        aside = self.out / ASIDE.format(SETTINGS)
        aside.write_text(json.dumps(self._settings._replace(complete=complete)._asdict(), indent=2) + "\n")
        aside.replace(self.out / SETTINGS)

    def _read_progress(self) -> dict[int, Written]:
        """The shards that are done, by number: those that are there and have a line, and no other line is kept."""
        done: dict[int, Written] = {}
        shards = {(shard.number, shard.end - shard.first): shard for shard in self._shards}
        lines: list[str] = []
        with contextlib.suppress(UnicodeDecodeError):  # of a damaged file: all is written again
            lines = read_whole_lines(self.progress)
        for line in lines:
            with contextlib.suppress(ValueError):  # of a damaged line: that shard is written again
                written = Written.from_json(line)
                shard = shards.get((written.shard, written.records))
                if shard and shard.file.exists():
                    done[written.shard] = written
        aside = self.out / ASIDE.format(PROGRESS)
        aside.write_text("".join(written.to_json() + "\n" for written in done.values()), encoding="utf-8")
        aside.replace(self.progress)
        return done


def write_shard(shard: Shard) -> Written:
    """Writes a shard whole or not at all."""
    writer_of = require("array_record.python.array_record_module", "train").ArrayRecordWriter
    features = describe_features()
    aside = shard.file.with_name(ASIDE.format(shard.file.name))
    damaged = []
    try:
        # Pictures are compressed already; one record to a group reads fastest at random.
        writer = writer_of(str(aside), "group_size:1,uncompressed")
        for number in range(shard.first, shard.end):
            example = _make_example(shard, number)
            if example["cause"]:
                damaged.append((number, example["cause"]))
            writer.write(features.serialize_example(example))
        writer.close()
        aside.replace(shard.file)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{shard.file} cannot be written ({error}): mend that and run this again; it goes on") from None
    finally:
        aside.unlink(missing_ok=True)
    return Written(shard.number, shard.end - shard.first, tuple(damaged))


def _make_example(shard: Shard, number: int) -> dict[str, Any]:
    example: dict[str, Any] = {"id": str(number), "conversations": "[]", "cause": "", "pictures": []}
    example["landmarks"] = np.zeros((0, LANDMARK_POINTS, 2), np.float32)
    try:
        record = shard.records.read(number)
        example |= {"id": escape_surrogates(record.name), "conversations": json.dumps(record.conversations)}
        media = [load_medium(medium, shard.num_frames) for medium in record.media]
        pictures = _encode(record, media)
        landmarks = [medium.landmarks for medium in media if medium.landmarks is not None]
        example |= {"pictures": pictures, "landmarks": np.concatenate([example["landmarks"], *landmarks])}
    except (FaceLlavaError, OSError) as error:
        # Written as damaged, so that every record keeps its number.
        example["cause"] = escape_surrogates(str(error))
    return example


def _encode(record: Record, media: list[Frames]) -> list[bytes]:
    pictures = []
    for file, medium in zip(record.media, media, strict=True):
        if medium.kind == "image":
            pictures.append(file.path.read_bytes())
        else:
            pictures += [_encode_png(frame) for frame in medium.pixels]
    return pictures


def _encode_png(pixels: UInt8[np.ndarray, "Y X 3"]) -> bytes:
    cv2 = require("cv2", "predict")
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def _write_info(folder: Path, shard_lengths: list[int]) -> None:
    """The descriptions that tensorflow-datasets reads a folder by."""
    datasets = require("tensorflow_datasets", "train")
    size = sum(file.stat().st_size for file in folder.glob(f"{DATASET}-*"))
    template = datasets.core.ShardedFileTemplate(
        dataset_name=DATASET, split=SPLIT, filetype_suffix=FORMAT, data_dir=folder
    )
    split = datasets.core.SplitInfo(name=SPLIT, shard_lengths=shard_lengths, num_bytes=size, filename_template=template)
    datasets.folder_dataset.write_metadata(
        data_dir=folder, features=describe_features(), split_infos=[split], check_data=False
    )
