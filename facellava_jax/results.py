"""Tables of results, one row a file, that grow as answers come and go on where an earlier run stopped."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import FaceLlavaError


class ResultsError(FaceLlavaError):
    """A results file that cannot be written or continued; the message names it and the remedy."""


class ResultFile:
    """A JSONL or CSV file of rows with the same columns, the first of which tells them apart.

    A file that is there already is continued: rows whose `status` is "ok" stay, and any others, half-written ones
    among them, are dropped, to be written again. Every row is on its way to the disk when `write` returns.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        """Raises ResultsError for an unknown suffix, a missing folder, and a file with other columns."""
        self.path = path
        self.columns = tuple(columns)
        if path.suffix not in (".jsonl", ".csv"):
            raise ResultsError(f"{path}: results go to a file that ends in .jsonl or .csv")
        if not path.parent.is_dir():
            raise ResultsError(f"{path.parent}: no such folder: make it first")
        rows = [row for row in self._read() if row["status"] == "ok"] if path.exists() else []
        self.done = {str(row[self.columns[0]]): row for row in rows}
        self._rewrite(rows)
        self._file = path.open("a", encoding="utf-8", newline="")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; columns that it lacks are empty."""
        self._file.write(self._format(row))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _format(self, row: Mapping[str, Any]) -> str:
        values = {column: row.get(column) for column in self.columns}
        if self.path.suffix == ".jsonl":
            return json.dumps(values, ensure_ascii=False) + "\n"
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values.values())
        return line.getvalue()

    def _header(self) -> str:
        return "" if self.path.suffix == ".jsonl" else ",".join(self.columns) + "\n"

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        aside = self.path.with_name(self.path.name + ".partial")
        aside.write_text(self._header() + "".join(map(self._format, rows)), encoding="utf-8", newline="")
        aside.replace(self.path)

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
            # What follows the last newline was being written when the earlier run ended.
            rows = self._parse(text[: text.rfind("\n") + 1])
        except (ValueError, csv.Error) as error:
            raise self._foreign(str(error)) from None
        for row in rows:
            if tuple(row) != self.columns:
                raise self._foreign(f"its columns are not {', '.join(self.columns)}")
        return rows

    def _parse(self, text: str) -> list[dict[str, Any]]:
        if self.path.suffix == ".jsonl":
            return [dict(json.loads(line)) for line in text.splitlines()]
        reader = csv.reader(io.StringIO(text, newline=""))
        header, rows = next(reader, list(self.columns)), list(reader)
        if rows and len(rows[-1]) < len(header):
            rows.pop()  # cut at a newline inside a quoted answer
        return [dict(zip(header, row, strict=True)) for row in rows]

    def _foreign(self, why: str) -> ResultsError:
        return ResultsError(f"{self.path} is not a table of this command ({why}): choose another --out")
