"""Lists in FaceInstruct-1M's format: found and parsed one record at a time, so that a million take little memory.

No JAX: workers import this.
"""

import array
import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Int64

from ..errors import FaceLlavaError
from ..media import Kind

MAX_MEDIA: dict[Kind, int] = {"video": 1, "image": 16}  # of one record, in the order that landmarks are listed in
_BLANK = " \t\n\r"


class DataError(FaceLlavaError):
    """Records, media or a folder of them that cannot be used; the message names the place and the remedy."""


class MediumFile(NamedTuple):
    """A picture or clip, and its landmarks where it has some."""

    kind: Kind
    path: Path
    landmarks: Path | None


class Record(NamedTuple):
    """An entry of a list. `name` is its `id`, or its number where it has none. Media are clips first, then pictures.

    `task` and `labels`, where an entry has them, say what its first question is about and what is true; unchecked.
    """

    name: str
    media: tuple[MediumFile, ...]
    conversations: tuple[dict[str, Any], ...]
    task: Any = None
    labels: Any = None

    def count(self, kind: Kind) -> int:
        return sum(medium.kind == kind for medium in self.media)


class RecordList:
    """The records of a JSON list. Each is read from the file when it is asked for: the file must stay as it is."""

    def __init__(self, path: Path, image_root: Path | None = None, video_root: Path | None = None) -> None:
        """Media are relative to the root of their kind, by default the list's folder.

        Raises DataError for a file that is no JSON list, with the place of the first fault.
        """
        self.path = path
        self.roots: dict[Kind, Path] = {
            "image": path.parent if image_root is None else image_root,
            "video": path.parent if video_root is None else video_root,
        }
        self.digest, self._spans = _scan(path)
        self._first = 0

    def __len__(self) -> int:
        return len(self._spans)

    def take(self, first: int, end: int) -> Self:
        """Some of the records, under their own numbers: little to send to a worker."""
        part = copy.copy(self)
        part._first, part._spans = self._first + first, self._spans[first:end]
        return part

    def read(self, number: int) -> Record:
        """Raises DataError for an entry that is no record: not an object, media that are no paths, too many of them."""
        first, end = self._spans[number - self._first]
        try:
            with self.path.open("rb") as file:
                file.seek(first)
                value = json.loads(file.read(end - first).decode())
        except ValueError as error:  # a UTF-8 fault, that the scan does not see
            raise DataError(f"{self.path}: record {number}: {error}: save the list as UTF-8") from None
        try:
            return self._parse(value, number)
        except DataError as error:
            raise DataError(f"{self.path}: record {number}: {error}") from None

    def find_name(self, number: int) -> str:
        """The `id` of a record, or its number where it has none, or is none."""
        try:
            return self.read(number).name
        except DataError:
            return str(number)

    def _parse(self, value: Any, number: int) -> Record:
        if not isinstance(value, dict):
            raise DataError(f"{str(value)[:40]!r} is no object: leave it out")
        media = [(kind, name) for kind in MAX_MEDIA for name in _list_names(value, kind)]
        for kind, most in MAX_MEDIA.items():
            if (count := sum(each == kind for each, _ in media)) > most:
                raise DataError(f"{count} {kind}s, and at most {most} are taken: divide it")
        points = value.get("landmarks_2d")
        landmarks: list[Any] = points if isinstance(points, list) else [points] if points else []
        landmarks = landmarks if any(landmarks) else [None] * len(media)
        if len(landmarks) != len(media) or not all(file is None or isinstance(file, str) for file in landmarks):
            raise DataError(
                f"landmarks_2d {str(points)[:80]!r} for {len(media)} media: name one file for each, or none"
            )
        turns = value.get("conversations")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DataError("conversations is no list of turns: give questions and answers in turn")
        files = (
            MediumFile(kind, self.roots[kind] / name, self.roots[kind] / file if file else None)
            for (kind, name), file in zip(media, landmarks, strict=True)
        )
        return Record(str(value.get("id", number)), tuple(files), tuple(turns), value.get("task"), value.get("labels"))


def shorten_cause(cause: str) -> str:
    """What is wrong, without the file and the remedy, and with N for numbers: the same for many records."""
    parts = [part for part in cause.split(": ") if not re.search(r"/|\.\w+$|^record \d+$", part)]
    return re.sub(r"\d+", "N", parts[0] if parts else cause)


def escape_surrogates(text: str) -> str:
    """A text that UTF-8 can hold: half of a surrogate pair, which JSON can, as JSON writes it."""
    return text.encode(errors="backslashreplace").decode()


def _list_names(value: dict[str, Any], kind: Kind) -> list[str]:
    names = value.get(kind) or []
    names = names if isinstance(names, list) else [names]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{kind} {str(names)[:80]}: use a path, or a list of paths")
    return names


def _scan(path: Path) -> tuple[str, Int64[np.ndarray, "N 2"]]:
    """A list's SHA-256, and where its entries begin and end, in bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: name a list of records") from None
    # One character for each byte. What is not ASCII stands inside strings, where nothing but their ends is looked for.
    text = data.decode("latin-1")
    digest = hashlib.sha256(data).hexdigest()
    del data
    decode = json.JSONDecoder().raw_decode
    spans = array.array("q")
    at = _skip_blank(text, 3 if text.startswith("\xef\xbb\xbf") else 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{path}: no list of records: give a list as FaceInstruct-1M has it")
    at = _skip_blank(text, at + 1)
    more = text[at : at + 1] != "]"
    while more:
        try:
            _, end = decode(text, at)
        except (ValueError, RecursionError) as error:
            number = len(spans) // 2
            raise DataError(f"{path}: record {number} is not JSON ({error}): copy or save the list again") from None
        spans.extend((at, end))
        at = _skip_blank(text, end)
        more = text[at : at + 1] == ","
        at = _skip_blank(text, at + more)
    if text[at : at + 1] != "]" or _skip_blank(text, at + 1) != len(text):
        raise DataError(f"{path}: not a whole list, at byte {at}: copy or save it again")
    return digest, np.array(spans, np.int64).reshape(-1, 2)


def _skip_blank(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _BLANK:
        at += 1
    return at
