"""Measure how well answers are read: precision and recall per task on a corpus of written ones, and the failures.

python scripts/measure_answers.py [--corpus tests/answers.jsonl]

Of emotion, age and deepfake a label is right as a whole; of action units and attributes each unit and each attribute
counts, and the statement that no unit is active counts as one more.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from facellava_jax.answers import Label, Task, parse

CORPUS = Path(__file__).parent.parent / "tests" / "answers.jsonl"


@dataclass(frozen=True)
class Arguments:
    corpus: Path = CORPUS
    """Lines of JSON: task, answer, truth, and held (true for those that no rule was made for)."""


@dataclass
class Score:
    """How answers of a task are read."""

    answers: int = 0
    exact: int = 0
    right: int = 0
    found: int = 0
    true: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def precision(self) -> float:
        return self.right / self.found

    @property
    def recall(self) -> float:
        return self.right / self.true


def read_corpus(file: Path) -> Iterator[tuple[Task, str, Label | None, bool]]:
    """Task, answer, truth, and whether the answer is held out."""
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        truth = frozenset(row["truth"]) if isinstance(row["truth"], list) else row["truth"]
        yield row["task"], row["answer"], truth, row.get("held", False)


def split_label(label: Label | None) -> Set[object]:
    """What is counted of a label."""
    if label is None:
        return set()
    if isinstance(label, frozenset):
        return label or {"none"}
    return set(label.items()) if isinstance(label, dict) else {label}


def measure(file: Path, *, held: bool) -> dict[Task, Score]:
    """The score of each task on the answers that are held out, or on the others."""
    scores: dict[Task, Score] = defaultdict(Score)
    for task, answer, truth, out in read_corpus(file):
        if out != held:
            continue
        score, label = scores[task], parse(answer, task)
        found, true = split_label(label), split_label(truth)
        score.answers += 1
        score.exact += label == truth
        score.right += len(found & true)
        score.found += len(found)
        score.true += len(true)
        if label != truth:
            score.failures.append(f"{answer!r}: {truth} read as {label}")
    return scores


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    for heading, held in (("answers that rules were made with", False), ("answers held out", True)):
        sys.stdout.write(f"{heading}\n  task          answers  exact  precision  recall\n")
        scores = measure(arguments.corpus, held=held)
        for task, score in scores.items():
            sys.stdout.write(
                f"  {task:12}  {score.answers:7}  {score.exact:5}  {score.precision:9.3f}  {score.recall:6.3f}\n"
            )
        for task, score in scores.items():
            sys.stdout.writelines(f"  {task}: {failure}\n" for failure in score.failures)


if __name__ == "__main__":
    main()
