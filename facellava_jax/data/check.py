"""A look at the data before a run: what there is, what is damaged, what will be cut."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..config import Config
from ..errors import FaceLlavaError
from ..experiment import DataConfig
from ..text import Tokenizer
from .index import Index, Part, Reading, join_indexes, measure_part, run_parts
from .loader import OpenSource, make_plan, make_reading, measure_indexes
from .plan import measure_lengths
from .records import RecordList, escape_surrogates, shorten_cause
from .summary import count_kinds, list_kinds, measure_padding

EXAMPLES = 5  # of each problem
THREADS = 16  # that look for files


class Checked(NamedTuple):
    """A part's index, and by number what is wrong with its records."""

    rows: Index
    causes: dict[int, str]


@dataclass(frozen=True)
class Spread:
    """Of some lengths."""

    least: int
    median: int
    p95: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Records that are damaged in the same way: how many, and of the first ones the `id` and the cause."""

    what: str
    records: int
    examples: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What a source holds. Lengths are in tokens; `text` counts a picture or frame as one, `whole` by its tokens."""

    path: str
    records: int
    kinds: Mapping[str, int]
    media: int
    landmarks: int
    damaged: int
    problems: Sequence[Problem]
    text: Spread
    whole: Spread
    text_cut: int
    whole_cut: int
    duplicates: int


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a run would read: its sources, its steps, and the share of its batches that is padding."""

    sources: Sequence[SourceReport]
    records: int
    damaged: int
    duplicates: int
    steps: int
    padding: float

    def to_json(self) -> str:
        return escape_surrogates(json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)) + "\n"

    def format(self) -> str:
        """The report in lines to be read."""
        lines = [line for source in self.sources for line in _format_source(source)]
        lines.append(
            f"together: {self.records:,} records, {self.damaged:,} damaged, {self.duplicates:,} duplicates; "
            f"{self.steps:,} steps, padding {self.padding:.0%}"
        )
        return "\n".join(lines) + "\n"


def check_data(data: DataConfig, config: Config, tokenizer: Tokenizer, workers: int | None = None) -> DataReport:
    """Reads every list, looks for every file, and tokenises every conversation; media are not opened.

    `workers` processes, by default one for each core. Raises DataError for a source that cannot be used at all.
    """
    reading = make_reading(data, config, tokenizer)
    sources = [OpenSource(source, reading.num_frames) for source in data.sources]
    checked = [_check_source(source, reading, workers) for source in sources]
    indexes = [each.rows for each in checked]
    plan = make_plan(data, config, indexes)
    reports = tuple(_report(source, each, data, config) for source, each in zip(sources, checked, strict=True))
    return DataReport(
        sources=reports,
        records=plan.size,
        damaged=sum(report.damaged for report in reports),
        duplicates=_count_repeats(join_indexes(indexes)),
        steps=plan.steps,
        padding=measure_padding(plan, measure_indexes(data, config, indexes)),
    )


def check_part(part: Part) -> Checked:
    """As `measure_part`, with a look for the files of each record."""
    measured = measure_part(part)
    causes = {number: str(error) for number, error in measured.causes.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        missing = pool.map(lambda number: _find_missing(part.records, number), range(part.first, part.end))
        causes |= {number: cause for number, cause in enumerate(missing, start=part.first) if cause}
    return Checked(measured.rows, causes)


def _check_source(source: OpenSource, reading: Reading, workers: int | None) -> Checked:
    if source.shards is None:
        parts = list(run_parts(check_part, source.records, reading, workers))
    else:
        # Its files are in it; what was wrong with them is known.
        parts = [
            Checked(part.rows, {number: str(error) for number, error in part.causes.items()})
            for part in run_parts(measure_part, source.records, reading, workers)
        ]
        parts.append(Checked(join_indexes([]), source.shards.read_damaged()))
    causes = {number: cause for part in parts for number, cause in part.causes.items()}
    return Checked(join_indexes([part.rows for part in parts]), causes)


def _find_missing(records: RecordList, number: int) -> str | None:
    try:
        record = records.read(number)
    except FaceLlavaError:
        return None  # `measure_part` has said what is wrong with it
    for medium in record.media:
        for file in (medium.path, medium.landmarks):
            try:
                if file and not file.is_file():
                    return f"{file}: no such file: check the path"
            except OSError as error:  # a name that no file can have, or a folder that cannot be looked into
                return f"{file}: {error.strerror}: check the path"
    return None


def _report(source: OpenSource, checked: Checked, data: DataConfig, config: Config) -> SourceReport:
    index = checked.rows
    sound = ~np.isin(np.arange(len(index.tokens)), list(checked.causes))
    uncut = measure_lengths(index, config.model, data.max_text_length, np.iinfo(np.int32).max)
    return SourceReport(
        path=str(source.path),
        records=len(index.tokens),
        kinds=count_kinds(index),
        media=int(index.images.sum(dtype=int) + index.videos.sum(dtype=int)),
        landmarks=int(index.image_landmarks.sum(dtype=int) + index.video_landmarks.sum(dtype=int)),
        damaged=len(checked.causes),
        problems=_list_problems(source.records, checked.causes),
        text=_spread(index.tokens[sound]),
        whole=_spread(uncut[sound]),
        text_cut=int((index.tokens[sound] > data.max_text_length).sum()),
        whole_cut=int((uncut[sound] > config.text.max_length).sum()),
        duplicates=_count_repeats(index),
    )


def _list_problems(records: RecordList, causes: Mapping[int, str]) -> list[Problem]:
    by_kind: dict[str, list[int]] = {}
    for number, cause in sorted(causes.items()):
        by_kind.setdefault(shorten_cause(cause), []).append(number)
    return [
        Problem(
            what=what,
            records=len(numbers),
            examples={records.find_name(number): causes[number] for number in numbers[:EXAMPLES]},
        )
        for what, numbers in sorted(by_kind.items(), key=lambda item: -len(item[1]))
    ]


def _spread(lengths: np.ndarray) -> Spread:
    if not len(lengths):
        return Spread(0, 0, 0, 0)
    return Spread(*(int(value) for value in np.percentile(lengths, (0, 50, 95, 100), method="higher")))


def _count_repeats(index: Index) -> int:
    """Records that say of the same media what an earlier one says."""
    return len(index.digest) - len(np.unique(index.digest))


def _format_source(source: SourceReport) -> list[str]:
    lines = [
        f"{source.path}: {source.records:,} records ({list_kinds(source.kinds)})",
        f"  landmarks      {source.landmarks:,} for {source.media:,} media",
        f"  text tokens    {_format_spread(source.text)}; {source.text_cut:,} will be cut",
        f"  tokens in all  {_format_spread(source.whole)}; {source.whole_cut:,} will be cut",
        f"  duplicates     {source.duplicates:,}",
        f"  damaged        {source.damaged:,}",
    ]
    for problem in source.problems:
        lines.append(f"    {problem.records:,} x {problem.what}")
        lines += [f"      {name}: {cause}" for name, cause in problem.examples.items()]
    return lines


def _format_spread(spread: Spread) -> str:
    return f"{spread.least:,} to {spread.most:,}, median {spread.median:,}, 95 % up to {spread.p95:,}"
