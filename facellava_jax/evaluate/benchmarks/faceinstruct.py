"""Any list in FaceInstruct-1M's format: its first questions, and what its labels or its answers say."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ...answers import Task, parse
from ...data import DataError, RecordList
from ...data.records import Record
from ..benchmark import Benchmark, Example, Medium, Selection
from ..rows import unpack_label
from .folder import Folder

SPLITS = {"all": None}
LAYOUT = """
    data.json                      a list in FaceInstruct-1M's format: {"id": .., "image" or "video": path,
                                   "landmarks_2d": path, "conversations": [{"from": "human", "value": ..},
                                   {"from": "gpt", "value": ..}], "task": .., "labels": ..}
    images/.., videos/.., ..       face crops and their landmarks, as the list names them
    "task" is emotion, age, attributes, action-units or deepfake, and "labels" its truth: a name, years,
    names with true or false, numbers, or real or fake. Records without a task take --task; of those without
    labels, true is what their first answer says.
"""


def read_records(path: Path, split: str, task: Task | None = None) -> Selection:
    """Examples of records that ask about a face; with `task`, those of this one, and those that name none.

    True is what their labels say, and of records without any what their first answer says. Raises BenchmarkError for
    labels that are none of their task, for media that are not there, and for records that name no task where no `task`
    is given.
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
    return folder.check(_tell_apart(examples, names), split, left_out)


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
    about: Any = task if own is None else own
    if about is None:
        raise folder.error(f"{where} names no task: say what is asked with --task")
    if about not in get_args(Task):
        raise folder.error(f"{where}: task {own!r} is not one of {', '.join(get_args(Task))}")
    if task not in (None, about):
        return "of another task"
    if record.labels is None:
        truth = parse(words.get("gpt", ""), about)
        if truth is None:
            return "whose answer does not say"
    else:
        truth = unpack_label(record.labels, about)
        if truth is None:
            raise folder.error(f"{where}: labels {json.dumps(record.labels)[:60]} are none of task {about}")
    return Example(
        name=record.name,
        task=about,
        truth=truth,
        media=tuple(Medium(path=medium.path) for medium in record.media),
        prompt=words["human"],
        landmarks=tuple(medium.landmarks for medium in record.media),
    )


def _tell_apart(examples: list[Example], names: Counter[str]) -> list[Example]:
    """With numbers after the names that several records have; none that makes it the name of another."""
    numbers = {name: itertools.count(1) for name, count in names.items() if count > 1}
    different = []
    for example in examples:
        own = example.name
        if own in numbers:
            name = next(name for number in numbers[own] if (name := f"{own}#{number}") not in names)
            example = replace(example, name=name)
        different.append(example)
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
