"""The tables of faces on the disk: they grow as faces come, and go on where an earlier run stopped."""

import contextlib
import csv
import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

from .faces.extract import TABLE_COLUMNS, format_csv_row
from .results import ResultsError

CSV_HEADER = ",".join(TABLE_COLUMNS) + "\n"


@contextlib.contextmanager
def continue_table(path: Path, done: Container[str]) -> Iterator[TextIO]:
    """A face table, to append to, with the rows of the files that are done."""
    csv_table = path.suffix == ".csv"
    with _replace(path) as aside, open_table(aside, "w") as new:
        new.write(CSV_HEADER if csv_table else "")
        if path.exists():
            with open_table(path, "r") as old:
                _copy_csv(old, new, done) if csv_table else _copy_jsonl(old, new, done)
    with open_table(path, "a") as table:
        yield table


def append(table: TextIO, lines: str) -> None:
    """Lines that are on their way to the disk on return. Raises ResultsError where it does not take them."""
    try:
        table.write(lines)
        table.flush()
    except OSError as error:
        raise ResultsError(f"{table.name}: {error.strerror}: mend that and run this again; it goes on") from None


def order_table(path: Path, places: Mapping[str, int]) -> None:
    """Sorts the rows of a CSV or JSONL table by the place of their file, those of no place first.

    Rows of one file keep their order. Only where each row lies is held in memory.
    """
    with path.open("rb") as old:
        header = old.readline() if path.suffix == ".csv" else b""
        spans, at = [], len(header)
        for row in _iterate_rows(old, path.suffix):
            spans.append((places.get(_file_of(row, path.suffix), -1), at, len(row)))
            at += len(row)
        with _replace(path) as aside, aside.open("wb") as new:
            new.write(header)
            for _, at, length in sorted(spans):
                old.seek(at)
                new.write(old.read(length))


def open_table(path: Path, mode: str) -> TextIO:
    """Names of files that are not UTF-8 stay the bytes they are."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[return-value]


@contextlib.contextmanager
def _replace(path: Path) -> Iterator[Path]:
    """Where to write what `path` is replaced by when the block ends well."""
    aside = path.with_name(f".{path.name}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _copy_csv(old: TextIO, new: TextIO, done: Container[str]) -> None:
    old.readline()
    for row in csv.reader(old):
        if len(row) == len(TABLE_COLUMNS) and row[0] in done:
            new.write(format_csv_row(row))


def _copy_jsonl(old: TextIO, new: TextIO, done: Container[str]) -> None:
    for line in old:
        with contextlib.suppress(ValueError):  # of a line that was being written when the earlier run ended
            if json.loads(line)["file"] in done:
                new.write(line)


def _iterate_rows(table: BinaryIO, suffix: str) -> Iterator[bytes]:
    row = b""
    for line in table:
        row += line
        if suffix != ".csv" or row.count(b'"') % 2 == 0:  # else a quoted name goes on
            yield row
            row = b""


def _file_of(row: bytes, suffix: str) -> str:
    text = row.decode(errors="surrogateescape")
    name: str = next(csv.reader([text]))[0] if suffix == ".csv" else json.loads(text)["file"]
    return name
