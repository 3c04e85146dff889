"""The rows of predictions.jsonl, and of its parts where several hosts write one each.

An example that could not be read has a row that says why in `error`. Its `status` is "error", so that it is tried
again; or "ok", where it is to count as wrong, without a label.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..answers import ATTRIBUTES, EMOTIONS, Label
from ..results import ResultFile, ResultsError
from .benchmark import Example
from .metrics import Prediction

COLUMNS = ("name", "task", "truth", "label", "answer", "scores", "question", "face", "status", "error")
JOINED = "predictions.jsonl"
# What predictions are made of.
CHECKED = ("label", "answer", "scores", "error")

Row = dict[str, Any]


def open_part(out: Path, host: int, hosts: int) -> ResultFile:
    """The file that a host writes its rows to; the only one writes the whole."""
    return ResultFile(out / (JOINED if hosts == 1 else f"predictions-{host}-of-{hosts}.jsonl"), COLUMNS)


def read_rows(out: Path, *, unreadable: bool) -> dict[str, Row]:
    """The rows of all parts by their examples' names; with `unreadable`, those that count as wrong among them.

    Raises ResultsError for a file of another kind, and for a row that no prediction can be made of.
    """
    rows: dict[str, Row] = {}
    for path in sorted(out.glob("predictions*.jsonl")):
        for name, row in ResultFile(path, COLUMNS).done.items():
            if wrong := next((column for column in CHECKED if not _is_whole(row, column)), None):
                value = json.dumps(row[wrong])[:60]
                raise ResultsError(f"{path}: row {name}: {wrong} {value}: take this line out and run this again")
            if not row["error"] or (unreadable and name not in rows):
                rows[name] = row
    return rows


def _is_whole(row: Row, column: str) -> bool:
    match column, row[column]:
        case _, None:
            return True
        case "label", label:
            return unpack_label(label, row["task"]) is not None
        case "scores", dict() as scores:
            return all(isinstance(share, float) and 0 <= share <= 1 for share in scores.values())
        case "answer" | "error", value:
            return isinstance(value, str)
    return False


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
        label=unpack_label(row["label"], example.task),
        answer=row["answer"] or "",
        scores=row["scores"],
    )


def pack_label(label: Label) -> Any:
    """As JSON: action units as a sorted list."""
    return sorted(label) if isinstance(label, frozenset) else label


def unpack_label(value: Any, task: object) -> Label | None:
    """What `pack_label` has packed; None for what is no label of the task."""
    match task, value:
        case "emotion", str() if value in EMOTIONS:
            return value
        case "deepfake", "real" | "fake":
            return str(value)
        case "age", bool():
            return None
        case "age", int() | float() if math.isfinite(value) and value >= 0:
            return float(value)
        case "action-units", list() if all(type(unit) is int and unit > 0 for unit in value):
            return frozenset(value)
        case "attributes", dict() if value and all(
            name in ATTRIBUTES and isinstance(there, bool) for name, there in value.items()
        ):
            return value
    return None
