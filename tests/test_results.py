"""Tables of results: they go on where an earlier run was cut, and never lose what they, or others, hold."""

import csv
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from facellava_jax.results import ResultFile, ResultsError

COLUMNS = ("file", "status", "answer", "tokens")
SUFFIXES = pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
# Line ends of every kind (those of str.splitlines too), quotes, separators, what looks like a row, and many bytes.
ANSWERS = [
    'two\nlines, "quoted", and a ""pair""',
    "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e",
    "\r alone, \r\n together, and a last \n",
    '{"file": "x", "status": "ok", "answer": "}", "tokens": 1}\n',
    "file,status,answer,tokens\nx,ok,,1\n",
    "",
    "😀 é ﷽ \ufffd \t \x00 ,,, '' \\n \\",
    'a "',
]
ROWS = [{"file": f"{at}.png", "status": "ok", "answer": answer, "tokens": at} for at, answer in enumerate(ANSWERS)]


def write_all(path: Path, rows: list[dict[str, object]] = ROWS) -> bytes:
    """What a run does: answers what is not done yet."""
    with ResultFile(path, COLUMNS) as table:
        for row in rows:
            if row["file"] not in table.done:
                table.write(row)
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def read_all(path: Path) -> list[dict[str, object]]:
    """The rows as other programs read them."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file.read().removesuffix("\n").split("\n")]
        return [{**row, "tokens": int(row["tokens"])} for row in csv.DictReader(file)]


@SUFFIXES
def test_every_answer_survives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_all(path)
    assert read_all(path) == ROWS
    assert [row["answer"] for row in ResultFile(path, COLUMNS).done.values()] == ANSWERS


@SUFFIXES
def test_a_file_cut_anywhere_is_continued_to_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    with ResultFile(path, COLUMNS) as table:
        ends = []  # where each row ends
        for row in ROWS:
            table.write(row)
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        done = ResultFile(path, COLUMNS).done
        # Every whole row and no other.
        assert [row["answer"] for row in done.values()] == ANSWERS[: sum(end <= cut for end in ends)]
        assert write_all(path) == whole, f"cut at byte {cut}"
    assert names(tmp_path) == [path.name]


@SUFFIXES
def test_failed_rows_are_written_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    failed = {**ROWS[1], "status": "error", "answer": "damaged"}
    write_all(path, [ROWS[0], failed, ROWS[2]])
    table = ResultFile(path, COLUMNS)
    assert [*table.done] == ["0.png", "2.png"]
    write_all(path)
    # The retried row comes after those that were there: rows stand in the order in which they were written.
    assert [row["file"] for row in read_all(path)] == ["0.png", "2.png", "1.png", *[r["file"] for r in ROWS[3:]]]


GROUPED = ("file", "status", "rows", "answer", "box")
GROUPS = [
    [{"file": f"{at}.png", "status": "ok", "answer": f"{face}\n", "box": [at, face]} for face in range(faces)]
    for at, faces in enumerate((1, 3, 2))
]


@SUFFIXES
def test_rows_of_one_file_are_there_together_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"

    def write_groups() -> list[int]:
        """Answers what is not done yet; where the file ends after each."""
        ends = []
        with ResultFile(path, GROUPED) as table:
            for group in GROUPS:
                if group[0]["file"] not in table.done:
                    table.write(*group)
                    ends.append(path.stat().st_size)
        return ends

    ends = write_groups()
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        done = ResultFile(path, GROUPED).done
        assert [*done] == [f"{at}.png" for at, end in enumerate(ends) if end <= cut], f"cut at byte {cut}"
        write_groups()
        assert path.read_bytes() == whole, f"cut at byte {cut}"
    assert not write_groups() and path.read_bytes() == whole


def test_lists_are_values_in_json_and_json_in_csv(tmp_path: Path) -> None:
    for suffix, box in ((".jsonl", {"x": [1.5, None]}), (".csv", '{"x": [1.5, null]}')):
        path = tmp_path / f"table{suffix}"
        for row in ({"file": "a.png", "status": "ok", "box": {"x": [1.5, None]}}, {"file": "b.png", "status": "error"}):
            with ResultFile(path, GROUPED) as table:
                table.write(row)
            # As it is written, and as it is written again.
            with path.open(newline="") as file:
                first = next(csv.DictReader(file) if suffix == ".csv" else map(json.loads, file))
            assert (first["box"], str(first["rows"])) == (box, "1")


def test_a_number_of_rows_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("file,status,rows,answer,box\na.png,ok,many,,\n")
    with pytest.raises(ResultsError, match=r"not a table of this command \('many' is no number of rows\): choose"):
        ResultFile(path, GROUPED)


@SUFFIXES
def test_missing_columns_are_empty(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_all(path, [{"file": "a.png", "status": "ok"}])
    before = path.read_bytes()
    write_all(path, [{"file": "a.png", "status": "ok"}, {"file": "b.png", "status": "ok"}])
    assert path.read_bytes().startswith(before)
    empty = None if suffix == ".jsonl" else ""
    assert [row["answer"] for row in ResultFile(path, COLUMNS).done.values()] == [empty, empty]


@SUFFIXES
def test_a_name_that_is_not_unicode_is_found_again(tmp_path: Path, suffix: str) -> None:
    path, name = tmp_path / f"table{suffix}", os.fsdecode(b"\xff\xe9.png")
    write_all(path, [{"file": name, "status": "ok"}])
    assert b"\xff\xe9.png" in path.read_bytes()
    assert [*ResultFile(path, COLUMNS).done] == [name]


@SUFFIXES
def test_nothing_changes_before_the_first_row(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    with ResultFile(path, COLUMNS):
        assert not path.exists()
    write_all(path, [ROWS[0], {**ROWS[1], "status": "error"}])
    path.write_bytes(path.read_bytes() + b'"half')
    before = path.read_bytes()
    with ResultFile(path, COLUMNS):
        pass
    assert path.read_bytes() == before


OURS = b'{"file": "a.png", "status": "ok", "answer": "", "tokens": 1}\n'
FOREIGN = {
    "text": (".jsonl", b"my notes\n"),
    "text without a line's end": (".jsonl", b"my notes"),
    "an object of other fields": (".jsonl", b'{"file": "a.png", "label": 3}\n'),
    "an object of other fields, no line's end": (".jsonl", b'{"file": "a.png", "label": 3}'),
    "an object that begins otherwise": (".jsonl", b'{"label": 3}'),
    "a list": (".jsonl", b"[1, 2]\n"),
    "a number": (".jsonl", b"5\n"),
    "a number after rows": (".jsonl", OURS + b"5\n" + OURS),
    "a number after rows, no line's end": (".jsonl", OURS + b"5"),
    "an empty line": (".jsonl", OURS + b"\n"),
    "other columns after rows": (".jsonl", OURS + b'{"file": "a.png", "label": 3}\n'),
    "bytes": (".jsonl", bytes(range(256))),
    "a table as JSON": (".csv", OURS),
    "header alone": (".csv", b"file,label\n"),
    "header without a line's end": (".csv", b"file,label"),
    "more columns": (".csv", b"file,status,answer,tokens,more\na,ok,,1,2\n"),
    "more columns in a row": (".csv", b"file,status,answer,tokens\na,ok,,1,2\n"),
    "fewer columns in the middle": (".csv", b"file,status,answer,tokens\na,ok\nb,ok,,1\n"),
    "no header": (".csv", b"a,ok,,1\n"),
    "text as table": (".csv", b"my notes\n"),
    "bytes as table": (".csv", bytes(range(256))),
}


@pytest.mark.parametrize(("suffix", "data"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(data)
    with pytest.raises(ResultsError, match=r"table\.(jsonl|csv) is not a table of this command .*: choose another"):
        write_all(path)
    assert path.read_bytes() == data
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table.txt", r"table\.txt: results go to a file that ends in \.jsonl or \.csv"),
        ("table", r"table: results go to"),
        ("table.CSV", r"table\.CSV: results go to"),
        ("nowhere/table.csv", r"nowhere: no such folder: make it first"),
        ("folder.csv", r"folder\.csv: Is a directory: choose another"),
    ],
)
def test_places_that_take_no_table(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ResultsError, match=message):
        ResultFile(tmp_path / name, COLUMNS)
    assert names(tmp_path) == ["folder.csv"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write to any folder, so that taking away its permission would test nothing there.
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK))
    with pytest.raises(ResultsError, match="cannot be written to: choose another --out"):
        ResultFile(tmp_path / "table.csv", COLUMNS)


class FullDisk:
    """Files opened to be written take `room` bytes in all, the last of them half a row, and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._open = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *args, **kwargs: self.open(path, *args, **kwargs))

    def open(self, path: Path, mode: str = "r", *args: object, **kwargs: object) -> IO:
        file: IO = self._open(path, mode, *args, **kwargs)  # type: ignore[call-overload]
        if mode != "r":
            raw = file if "b" in mode else file.buffer  # type: ignore[attr-defined]
            take: Callable[[bytes], int] = raw.write

            def write(data: str | bytes) -> int:
                encoded = data.encode() if isinstance(data, str) else data
                size = min(self.room, len(encoded))
                self.room -= size
                take(encoded[:size])
                raw.flush()
                if size < len(encoded):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return len(data)

            file.write = write  # type: ignore[method-assign]
        return file


@SUFFIXES
def test_a_full_disk_loses_no_row(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    whole = write_all(path)
    for room in [*range(0, 60, 7), len(whole) // 2, len(whole) - 1]:
        path.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, room)
            with pytest.raises(ResultsError, match=r"table\.(jsonl|csv): No space left on device: .* run this again"):
                write_all(path)
        assert whole.startswith(path.read_bytes() if path.exists() else b"")
        assert names(tmp_path) in ([], [path.name])
        assert write_all(path) == whole


@SUFFIXES
def test_a_disk_that_is_full_from_the_start_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"table{suffix}"
    write_all(path, [ROWS[0], {**ROWS[1], "status": "error"}, ROWS[2]])
    before = path.read_bytes()
    FullDisk(monkeypatch, 10)
    with pytest.raises(ResultsError, match="No space left"):
        write_all(path)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]
