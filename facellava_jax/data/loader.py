"""Steps to batches: each step's records read, with the damaged ones left empty and reported."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from ..axes import Batch
from ..config import Config, MediaConfig
from ..errors import FaceLlavaError
from ..experiment import DataConfig, Source
from ..pixels import preprocess
from ..text import Medium, Tokenizer
from .batches import Sample, Visual, collate
from .index import Index, Reading, index_records
from .plan import EMPTY, Plan, measure_lengths
from .reading import Frames, encode_record, load_medium
from .records import DataError, Record, RecordList
from .shards import Shards
from .summary import summarize

NOTHING = np.zeros(0, np.int32)


class Skipped(NamedTuple):
    """A damaged record: its number in the run, its `id`, the list or folder it is in, and what is wrong with it."""

    record: int
    name: str
    source: str
    cause: str
    step: int


class LoadedBatch(NamedTuple):
    """A step's batch: this host's rows of it, the records of all rows (EMPTY for none), and those skipped here."""

    step: int
    batch: Batch
    records: Int32[np.ndarray, " B"]
    skipped: tuple[Skipped, ...]


class OpenSource:
    """A source's records, and where their media come from."""

    def __init__(self, source: Source, num_frames: int) -> None:
        """Raises DataError for a list or a prepared folder that cannot be used, or that has other frames of clips."""
        self.path = source.path
        self.num_frames = num_frames
        self.shards = Shards(source.path, num_frames) if source.path.is_dir() else None
        if self.shards and (source.image_root or source.video_root):
            raise DataError(f"{source.path}: a prepared folder holds its media: leave image_root and video_root out")
        self.records = (
            self.shards.records if self.shards else RecordList(source.path, source.image_root, source.video_root)
        )

    def load(self, number: int) -> tuple[Record, list[Frames]]:
        """A record and its media. Raises FaceLlavaError or OSError for one that cannot be read."""
        record = self.records.read(number)
        if self.shards:
            return record, self.shards.load(number, record)
        return record, [load_medium(medium, self.num_frames) for medium in record.media]

    def count_damaged(self, index: Index) -> int:
        """The records that are known to be, before their media are looked at."""
        prepared = self.shards.read_damaged() if self.shards else {}
        return len(prepared.keys() | set(np.flatnonzero(~index.sound).tolist()))


class BatchLoader:
    """Reads the batch of a step. It can be sent to a worker."""

    def __init__(
        self,
        plan: Plan,
        sources: tuple[OpenSource, ...],
        config: Config,
        reading: Reading,
        *,
        pad_to_square: bool,
        host: int = 0,
        hosts: int = 1,
    ) -> None:
        """For host number `host` of `hosts`. Raises DataError where the rows of a batch are not to be shared evenly."""
        if plan.batch_size % hosts:
            raise DataError(f"data.batch_size {plan.batch_size} cannot be shared by {hosts} hosts: use a multiple")
        self.plan, self.sources, self.config, self.reading = plan, sources, config, reading
        self.media = MediaConfig(mean=config.media.mean, std=config.media.std, pad_to_square=pad_to_square)
        share = plan.batch_size // hosts
        self.rows = slice(host * share, (host + 1) * share)

    def __call__(self, step: int) -> LoadedBatch:
        """The batch of a step; its shapes follow from the plan alone.

        A record that is damaged gives an empty row: length 0, labels -100, no media.
        """
        places, length, records = self.plan.batch(step)
        samples, skipped = [], []
        for number in records[self.rows].tolist():
            sample = Sample(NOTHING, (), NOTHING)
            if number != EMPTY:
                try:
                    sample = self.read(number)
                except (FaceLlavaError, OSError) as error:
                    skipped.append(self._report(number, str(error), step))
            samples.append(sample)
        most = self.config.text.max_length
        batch = collate(samples, self.config.model, max_length=most, places=places, length=length)
        return LoadedBatch(step, batch, records, tuple(skipped))

    def read(self, number: int) -> Sample:
        """The sample of a record. Raises FaceLlavaError or OSError for one that is damaged."""
        place, inner = self.plan.locate(number)
        record, frames = self.sources[place].load(inner)
        tokenizer, template, num_frames, most = self.reading
        example, order = encode_record(record, tokenizer, template, num_frames, most)
        visuals = [self._prepare(medium) for medium in frames]
        return Sample(example.ids, [visuals[at] for at in order], example.labels)

    def _prepare(self, frames: Frames) -> Visual:
        model = self.config.model
        tower = model.image_tower if frames.kind == "image" else model.video_tower
        assert tower  # `open_data` has seen to it
        pixels = preprocess(frames.pixels, frames.kind, tower.image_size, self.media)
        return Visual(Medium(frames.kind, len(pixels)), pixels, frames.landmarks if model.landmarks else None)

    def _report(self, number: int, cause: str, step: int) -> Skipped:
        place, inner = self.plan.locate(number)
        source = self.sources[place]
        return Skipped(number, source.records.find_name(inner), str(source.path), cause, step)


def open_data(
    data: DataConfig,
    config: Config,
    tokenizer: Tokenizer,
    cache: Path | None = None,
    host: int = 0,
    hosts: int = 1,
    say: Callable[[str], None] | None = None,
) -> BatchLoader:
    """The batches of a run: its sources opened, measured and put in order; `say` is told of them in two lines.

    What was measured is kept in the folder `cache`, so that the same run starts at once the next time. Raises DataError
    for sources that cannot be used.
    """
    reading = make_reading(data, config, tokenizer)
    sources = tuple(OpenSource(source, reading.num_frames) for source in data.sources)
    indexes = [index_records(source.records, reading, cache) for source in sources]
    plan = make_plan(data, config, indexes)
    if say:
        damaged = sum(source.count_damaged(index) for source, index in zip(sources, indexes, strict=True))
        for line in summarize(plan, indexes, measure_indexes(data, config, indexes), damaged):
            say(line)
    return BatchLoader(plan, sources, config, reading, pad_to_square=data.pad_to_square, host=host, hosts=hosts)


def make_reading(data: DataConfig, config: Config, tokenizer: Tokenizer) -> Reading:
    tower = config.model.video_tower
    return Reading(tokenizer, data.template, tower.num_frames if tower else 1, data.max_text_length)


def measure_indexes(data: DataConfig, config: Config, indexes: Sequence[Index]) -> list[Int32[np.ndarray, " _"]]:
    """The lengths of all records, source by source, as they will be cut."""
    return [measure_lengths(index, config.model, data.max_text_length, config.text.max_length) for index in indexes]


def make_plan(data: DataConfig, config: Config, indexes: Sequence[Index]) -> Plan:
    """The order of a run over these sources. Raises DataError for media that no tower of the model reads."""
    model = config.model
    for source, index in zip(data.sources, indexes, strict=True):
        towers = {"image": (model.image_tower, index.images), "video": (model.video_tower, index.videos)}
        for kind, (tower, counts) in towers.items():
            if tower is None and counts.any():
                raise DataError(f"{source.path} has {kind}s and the model no {kind} tower: give it one, or other data")
    return Plan(
        indexes,
        measure_indexes(data, config, indexes),
        [source.weight for source in data.sources],
        batch_size=data.batch_size,
        epochs=data.epochs,
        seed=data.seed,
    )
