"""The rows of predictions.jsonl, and of its parts where several hosts write one each.

An example that could not be read has a row that says why in `error`. Its `status` is "error", so that it is tried
again; or "ok", where it is to count as wrong, without a label.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..answers import Label
from ..results import ResultFile
from .benchmark import Example
from .metrics import Prediction

COLUMNS = ("name", "task", "truth", "label", "answer", "scores", "question", "face", "status", "error")
JOINED = "predictions.jsonl"

Row = dict[str, Any]


def open_part(out: Path, host: int, hosts: int) -> ResultFile:
    """The file that a host writes its rows to; the only one writes the whole."""
    return ResultFile(out / (JOINED if hosts == 1 else f"predictions-{host}-of-{hosts}.jsonl"), COLUMNS)


def read_rows(out: Path, *, unreadable: bool) -> dict[str, Row]:
    """The rows of all parts by their examples' names; with `unreadable`, those that count as wrong among them.

    Raises ResultsError for a file of another kind.
    """
    rows: dict[str, Row] = {}
    for path in sorted(out.glob("predictions*.jsonl")):
        for name, row in ResultFile(path, COLUMNS).done.items():
            if not row["error"] or (unreadable and name not in rows):
                rows[name] = row
    return rows


def join_rows(out: Path, rows: Sequence[Row], host: int) -> None:
    """Makes predictions.jsonl hold these rows, in this order."""
    joined = out / JOINED
    if joined.exists() and [*ResultFile(joined, COLUMNS).done.values()] == rows:
        return
    aside = ResultFile(out / f".{joined.stem}.{host}.jsonl", COLUMNS)
    aside.done = {}
    with aside:
        for row in rows:
            aside.write(row)
    aside.path.replace(joined)


def describe_example(example: Example) -> Row:
    """What a row says before it is answered."""
    return {"name": example.name, "task": example.task, "truth": pack_label(example.truth)}


def make_prediction(row: Mapping[str, Any], example: Example) -> Prediction:
    return Prediction(
        name=example.name,
        task=example.task,
        truth=example.truth,
        label=None if row["label"] is None else unpack_label(row["label"]),
        answer=row["answer"] or "",
        scores=row["scores"],
    )


def pack_label(label: Label) -> Any:
    """As JSON: action units as a sorted list."""
    return sorted(label) if isinstance(label, frozenset) else label


def unpack_label(value: Any) -> Label:
    """What `pack_label` has packed."""
    label: Label = frozenset(value) if isinstance(value, list) else value
    return label
