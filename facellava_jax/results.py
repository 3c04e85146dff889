"""Tables of results, a row or several a file, that grow as answers come and go on where an earlier run stopped."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from .errors import FaceLlavaError


class ResultsError(FaceLlavaError):
    """A results file that cannot be written or continued; the message names it and the remedy."""


class ResultFile:
    """A JSONL or CSV file of rows with the same columns, the first of which tells them apart.

    A file that is there already is continued: rows whose `status` is "ok" stay (`done`, by the first column), and any
    others, half-written ones among them, are dropped, to be written again. So are rows that belong together, where they
    are fewer than their column `rows` says; `done` has the first of those that stay. Nothing on the disk changes before
    the first row is written, and every row is on its way there when `write` returns.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        """Raises ResultsError for an unknown suffix, a folder that cannot be written to, and a file of another kind."""
        self.path = path
        self.columns = tuple(columns)
        if path.suffix not in (".jsonl", ".csv"):
            raise ResultsError(f"{path}: results go to a file that ends in .jsonl or .csv")
        if not path.parent.is_dir():
            raise ResultsError(f"{path.parent}: no such folder: make it first")
        if not os.access(path.parent, os.W_OK):
            raise ResultsError(f"{path.parent} cannot be written to: choose another --out")
        rows = self._read() if path.exists() else []
        together: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["status"] == "ok":
                together.setdefault(str(row[self.columns[0]]), []).append(row)
        last = {key: group[-_count(group[-1]) :] for key, group in together.items()}
        whole = {key: group for key, group in last.items() if len(group) == _count(group[-1])}
        self.done = {key: first for key, (first, *_) in whole.items()}
        self._more = {key: more for key, (_, *more) in whole.items()}
        self._file: TextIO | None = None

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Appends a row, or several that belong together; columns that they lack are empty.

        Raises ResultsError where the disk does not take them.
        """
        try:
            if self._file is None:
                self._rewrite()
                self._file = self._open("a")
            self._file.write("".join(self._format({"rows": len(rows)} | dict(row)) for row in rows))
            self._file.flush()
        except OSError as error:
            raise ResultsError(
                f"{self.path}: {error.strerror}: rows before this one are kept; mend that and run this again"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Every row is flushed; what could fail here is a row that `write` has raised for.
        with contextlib.suppress(OSError):
            if self._file:
                self._file.close()

    def _format(self, row: Mapping[str, Any]) -> str:
        values = {column: row.get(column) for column in self.columns}
        if self.path.suffix == ".jsonl":
            return json.dumps(values, ensure_ascii=False) + "\n"
        cells = [json.dumps(value) if isinstance(value, list | dict) else value for value in values.values()]
        line = io.StringIO()
        # The writer quotes what holds a character of the line's end: so must "\r", where a reader sees one.
        csv.writer(line, lineterminator="\r\n").writerow(cells)
        return line.getvalue().removesuffix("\r\n") + "\n"

    def _header(self) -> str:
        return "" if self.path.suffix == ".jsonl" else ",".join(self.columns) + "\n"

    def _open(self, mode: str) -> TextIO:
        """With line ends as they are, and with names of files that are not UTF-8, or cut in a character, as bytes."""
        return self.path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[return-value]

    def _rewrite(self) -> None:
        """The header and the rows that are done, in place of what was there."""
        aside = self.path.with_name(self.path.name + ".partial")
        kept = [each for key, row in self.done.items() for each in (row, *self._more.get(key, []))]
        text = self._header() + "".join(map(self._format, kept))
        try:
            aside.write_bytes(text.encode(errors="surrogateescape"))
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        try:
            with self._open("r") as file:
                text = file.read()
        except OSError as error:
            raise ResultsError(f"{self.path}: {error.strerror}: choose another --out") from None
        begin = self._header() or json.dumps({self.columns[0]: ""}).removesuffix('"}')
        if not (text.startswith(begin) or begin.startswith(text)):
            raise self._foreign(f"it does not begin with {begin.strip()}")
        try:
            rows = self._parse_jsonl(text) if self.path.suffix == ".jsonl" else self._parse_csv(text)
        except (ValueError, TypeError, csv.Error) as error:
            raise self._foreign(str(error)) from None
        for row in rows:
            if tuple(row) != self.columns:
                raise self._foreign(f"its columns are not {', '.join(self.columns)}")
            if not str(row.get("rows") or 1).isdecimal():
                raise self._foreign(f"{row['rows']!r} is no number of rows")
        return rows

    def _parse_jsonl(self, text: str) -> list[dict[str, Any]]:
        # Lines end at "\n" alone: answers may hold the other characters that str.splitlines takes for ends.
        *lines, last = text.split("\n")
        rows = [dict(json.loads(line)) for line in lines]
        # A row that was being written when the earlier run ended; even if it lacks no more than its newline.
        with contextlib.suppress(ValueError):
            rows.append(dict(json.loads(last)) | {"status": "cut"})
        return rows

    def _parse_csv(self, text: str) -> list[dict[str, Any]]:
        # What follows the last newline was being written when the earlier run ended.
        reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        header, rows = next(reader, list(self.columns)), list(reader)
        if rows and len(rows[-1]) < len(header):
            rows.pop()  # cut at a newline inside a quoted answer
        return [dict(zip(header, row, strict=True)) for row in rows]

    def _foreign(self, why: str) -> ResultsError:
        return ResultsError(f"{self.path} is not a table of this command ({why}): choose another --out")


def _count(row: Mapping[str, Any]) -> int:
    """How many rows belong together with this one, itself counted in."""
    return int(row.get("rows") or 1)
