"""What the order of a run needs to know of every record, without its media: measured once, and kept in a file.

No JAX: workers import this.
"""

import hashlib
import json
import pickle
import secrets
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int32, UInt8, UInt64
from tqdm import tqdm

from ..errors import FaceLlavaError
from ..text import IMAGE_PLACEHOLDER, TEMPLATES, VIDEO_PLACEHOLDER, TextError, Tokenizer
from ..workers import count_workers, run_jobs
from .reading import encode_record
from .records import DataError, Record, RecordList

PART = 2000  # records to a job
VERSION = 1  # of the file

Result = TypeVar("Result")


class Reading(NamedTuple):
    """How conversations become tokens."""

    tokenizer: Tokenizer
    template: str
    num_frames: int
    """Of a clip."""
    max_text_length: int


class Index(NamedTuple):
    """The records of a list by number: media, those with landmarks, and the conversation's length before any cut.

    The length counts an image, or a frame of a clip, as one token; of a record that is not `sound`, one whose entry or
    conversation cannot be used, it is a guess. Records of the same `digest` have the same media and conversation.
    """

    images: UInt8[np.ndarray, " N"]
    videos: UInt8[np.ndarray, " N"]
    image_landmarks: UInt8[np.ndarray, " N"]
    video_landmarks: UInt8[np.ndarray, " N"]
    tokens: Int32[np.ndarray, " N"]
    sound: Bool[np.ndarray, " N"]
    digest: UInt64[np.ndarray, " N"]


class Part(NamedTuple):
    """The work of one job: records `first` to `end`, the latter not included."""

    records: RecordList
    reading: Reading
    first: int
    end: int


class Measured(NamedTuple):
    """A part's index; by number, why records are not sound."""

    rows: Index
    causes: dict[int, FaceLlavaError]


def index_records(
    records: RecordList, reading: Reading, cache: Path | None = None, workers: int | None = None
) -> Index:
    """The index of a list, from the folder `cache` where an earlier run with the same list and reading left it there.

    `workers` processes, by default one for each core. Raises DataError where the folder cannot be written to.
    """
    file = None if cache is None else cache / f"{records.path.stem}-{_key(records, reading)}.npz"
    if file and (kept := _load(file, len(records))):
        return kept
    index = join_indexes([part.rows for part in run_parts(measure_part, records, reading, workers)])
    if file:
        _save(index, file)
    return index


def run_parts(
    function: Callable[[Part], Result], records: RecordList, reading: Reading, workers: int | None = None
) -> Iterator[Result]:
    """What a function gives for the parts of a list, in order, with a progress bar on a terminal."""
    parts = [
        Part(records.take(first, first + PART), reading, first, min(first + PART, len(records)))
        for first in range(0, len(records), PART)
    ]
    with (
        tqdm(total=len(records), unit="record", desc=records.path.name, disable=None, leave=False) as bar,
        run_jobs(function, parts, min(count_workers(workers), max(1, len(parts)))) as results,
    ):
        for part, result in zip(parts, results, strict=True):
            bar.update(part.end - part.first)
            yield result


def measure_part(part: Part) -> Measured:
    """Reads and tokenises the records of a part."""
    causes: dict[int, FaceLlavaError] = {}
    rows = []
    for number in range(part.first, part.end):
        record, tokens = None, 0
        try:
            record = part.records.read(number)
            tokens = _count_tokens(record, part.reading)
        except FaceLlavaError as error:
            causes[number] = error
            tokens = _guess_tokens(record, part.reading) if record else 0
        rows.append(_describe(record, tokens, number not in causes))
    columns = zip(*rows, strict=True) if rows else [()] * len(Index._fields)
    return Measured(_make_index([list(column) for column in columns]), causes)


def join_indexes(parts: list[Index]) -> Index:
    """The index of lists, or parts of one, one after another."""
    return Index(*(np.concatenate(columns) for columns in zip(*parts, _make_index([[]] * 7), strict=True)))


def _make_index(columns: list[list[int]]) -> Index:
    types = (np.uint8, np.uint8, np.uint8, np.uint8, np.int32, bool, np.uint64)
    return Index(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def _describe(record: Record | None, tokens: int, sound: bool) -> tuple[int, ...]:
    counts = [0, 0, 0, 0]
    for at, kind in enumerate(("image", "video")):
        media = [medium for medium in record.media if medium.kind == kind] if record else []
        counts[at], counts[at + 2] = len(media), sum(medium.landmarks is not None for medium in media)
    content = json.dumps([record.media, record.conversations] if record else None, default=str, sort_keys=True)
    digest = hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=8).digest()
    return *counts, tokens, sound, int.from_bytes(digest)


def _count_tokens(record: Record, reading: Reading) -> int:
    """The length of a conversation. Raises TextError for one that cannot be used as it will be cut."""
    tokenizer, template, num_frames, most = reading
    try:
        length = len(encode_record(record, tokenizer, template, num_frames).example.ids)
    except TextError:
        # What cannot be used whole may be so when it is cut.
        return len(encode_record(record, tokenizer, template, num_frames, most).example.ids)
    if length > most:
        encode_record(record, tokenizer, template, num_frames, most)
    return length


def _guess_tokens(record: Record, reading: Reading) -> int:
    """About how long a conversation is that cannot be written out as it should be."""
    texts = [turn["value"] for turn in record.conversations if isinstance(turn.get("value"), str)]
    for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER):
        texts = [text.replace(placeholder, "") for text in texts]
    written = TEMPLATES[reading.template].render([text or " " for text in texts] or [" "])
    frames = record.count("image") + reading.num_frames * record.count("video")
    return frames + len(reading.tokenizer.encode(written.encode(errors="replace").decode()))


def _key(records: RecordList, reading: Reading) -> str:
    parts = [VERSION, records.digest, *reading[1:], hashlib.sha256(pickle.dumps(reading.tokenizer)).hexdigest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _load(file: Path, length: int) -> Index | None:
    try:
        with file.open("rb") as source, np.load(source) as arrays:
            index = Index(**{name: arrays[name] for name in Index._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or cut short
    return index if all(len(column) == length for column in index) else None


def _save(index: Index, file: Path) -> None:
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as target:
            np.savez(target, **index._asdict())
        aside.replace(file)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}: choose another folder for the run") from None
    finally:
        aside.unlink(missing_ok=True)
