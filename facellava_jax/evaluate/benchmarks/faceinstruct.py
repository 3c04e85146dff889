"""Any list in FaceInstruct-1M's format: its first questions, and what its labels or its answers say."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ...answers import ATTRIBUTES, EMOTIONS, Label, Task, parse
from ...data import DataError, RecordList
from ...data.records import Record
from ..benchmark import Benchmark, Example, Medium
from .folder import Folder

SPLITS = {"all": None}
LAYOUT = """
    data.json                      a list in FaceInstruct-1M's format: {"id": .., "image" or "video": path,
                                   "landmarks_2d": path, "conversations": [{"from": "human", "value": ..},
                                   {"from": "gpt", "value": ..}], "task": .., "labels": ..}
    images/.., videos/.., ..       face crops and their landmarks, as the list names them
    "task" is emotion, age, attributes, action-units or deepfake, and "labels" its truth: a name, years,
    names with true or false, numbers, or real or fake. Records without them take --task.
"""


class Selection(NamedTuple):
    """The records of a list that ask about a face, and how many do not, by the reason."""

    examples: list[Example]
    left_out: Counter[str]


def read_records(path: Path, split: str, task: Task | None = None) -> list[Example]:
    return select_records(path, split, task).examples


def select_records(path: Path, split: str, task: Task | None = None) -> Selection:
    """Examples of records with a `task` and `labels`; with `task`, those of this one.

    Records without are about `task`, and true is what their first answer says. Raises BenchmarkError for records whose
    labels are none of their task, that name media that are not there, or that need a `task` where none is given.
    """
    folder = Folder(path, "A list of FaceInstruct-1M's kind", LAYOUT)
    folder.choose(split, SPLITS)
    left_out: Counter[str] = Counter()
    examples = []
    names: Counter[str] = Counter()
    try:
        records = RecordList(folder.find("data.json"))
        for number in range(len(records)):
            record = records.read(number)
            names[record.name] += 1
            example = _make_example(folder, record, number, task)
            if isinstance(example, str):
                left_out[example] += 1
            else:
                examples.append(example)
    except DataError as error:
        raise folder.error(str(error)) from None
    if not examples:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()) or "it has none"
        raise folder.error(f"data.json has no record to ask about: {reasons}")
    return Selection(folder.check(_tell_apart(examples, names), split), left_out)


def _make_example(folder: Folder, record: Record, number: int, task: Task | None) -> Example | str:
    """A record's example, or why it is none."""
    if not record.media:
        return "without media"
    words: dict[str, str] = {}  # by speaker, the first
    for turn in record.conversations:
        words.setdefault(str(turn.get("from")), str(turn.get("value") or ""))
    if "human" not in words:
        return "without a question"
    own = record.task
    where = f"data.json: record {number} ({record.name})"
    truth: Label | None
    if own is None and task is None:
        raise folder.error(f"{where} names no task: say what is asked with --task")
    if own is None:
        about: Any = task
        truth = parse(words.get("gpt", ""), about)
    elif own not in get_args(Task):
        raise folder.error(f"{where}: task {own!r} is not one of {', '.join(get_args(Task))}")
    elif task not in (None, own):
        return "of another task"
    else:
        about, truth = own, _read_labels(record.labels, own)
        if truth is None:
            raise folder.error(f"{where}: labels {json.dumps(record.labels)[:60]} are none of task {own}")
    if truth is None:
        return "whose answer does not say"
    return Example(
        name=record.name,
        task=about,
        truth=truth,
        media=tuple(Medium(path=medium.path) for medium in record.media),
        prompt=words["human"],
        landmarks=tuple(medium.landmarks for medium in record.media),
    )


def _read_labels(labels: Any, task: Task) -> Label | None:
    """Labels as `answers.parse` returns them; None for what is none of the task."""
    match task, labels:
        case "emotion", str() if labels in EMOTIONS:
            return labels
        case "deepfake", "real" | "fake":
            return str(labels)
        case "age", bool():
            return None
        case "age", int() | float() if math.isfinite(labels) and labels >= 0:
            return float(labels)
        case "action-units", list() if all(type(unit) is int and unit > 0 for unit in labels):
            return frozenset(labels)
        case "attributes", dict() if labels and all(
            name in ATTRIBUTES and isinstance(value, bool) for name, value in labels.items()
        ):
            return labels
    return None


def _tell_apart(examples: list[Example], names: Counter[str]) -> list[Example]:
    """With numbers after the names that several records have."""
    if names.most_common(1)[0][1] == 1:
        return examples
    met: Counter[str] = Counter()
    different = []
    for example in examples:
        met[example.name] += 1
        name = f"{example.name}#{met[example.name]}" if names[example.name] > 1 else example.name
        different.append(replace(example, name=name))
    return different


FACEINSTRUCT = Benchmark(
    name="faceinstruct",
    title="FaceInstruct",
    task=None,
    splits=tuple(SPLITS),
    layout=LAYOUT,
    source=(
        "Chaubey, Guan and Soleymani, Face-LLaVA: Facial Expression and Attribute Understanding through Instruction "
        "Tuning, WACV 2026, https://huggingface.co/datasets/chaubeyG/FaceInstruct1M: the format, with `task` and "
        "`labels` beside it as `facellava data render` writes them."
    ),
    read=read_records,
)
