"""From a batch of examples to the rows of predictions.jsonl."""

from collections.abc import Sequence
from typing import NamedTuple

from ..answers import parse
from ..predict import Predictor
from ..reading import Prepared
from ..request import Options, Request
from .benchmark import Benchmark, Example
from .cache import FaceCache, Shown
from .candidates import list_candidates
from .facts import Method
from .rows import Row, describe_example, pack_label


class Question(NamedTuple):
    """An example, ready to be answered."""

    example: Example
    prepared: Prepared
    face: bool | None
    """Whether each of its media has a face that was found; None where none was looked for."""


class Asker:
    """Asks a model about examples, by one method."""

    def __init__(
        self, predictor: Predictor, benchmark: Benchmark, faces: FaceCache, method: Method, options: Options
    ) -> None:
        self._predictor, self._benchmark, self._faces = predictor, benchmark, faces
        self._method, self._options = method, options

    def prepare(self, example: Example) -> Question:
        """Reads the media, cut to their faces. Raises as `Predictor.prepare` does."""
        if example.landmarks:
            shown = [Shown(each.path, file) for each, file in zip(example.media, example.landmarks, strict=True)]
            face = None
        else:
            shown = [self._faces.find(medium) for medium in example.media]
            face = all(each.landmarks for each in shown)
        guided = self._predictor.config.model.landmarks is not None
        request = Request(
            [each.path for each in shown],
            prompt=example.prompt,
            task=None if example.prompt else example.task,
            landmarks=[each.landmarks if guided else None for each in shown],
            crop="none",
            options=self._options,
        )
        return Question(example, self._predictor.prepare(request), face)

    def ask(self, questions: Sequence[Question]) -> list[Row]:
        """The rows of one batch."""
        answer = self._score if self._method == "score" else self._generate
        return [
            describe_example(question.example) | row | {"face": question.face, "status": "ok"}
            for question, row in zip(questions, answer(questions), strict=True)
        ]

    def _generate(self, questions: Sequence[Question]) -> list[Row]:
        rows: list[Row] = []
        for question, answer in zip(
            questions, self._predictor.answer([each.prepared for each in questions]), strict=True
        ):
            label = parse(answer.text, question.example.task)
            packed = None if label is None else pack_label(label)
            rows.append({"label": packed, "answer": answer.text, "question": answer.question})
        return rows

    def _score(self, questions: Sequence[Question]) -> list[Row]:
        choices = [list_candidates(question.example.task, self._benchmark) for question in questions]
        scores = self._predictor.score_prepared(
            [question.prepared for question in questions], [[*each.values()] for each in choices]
        )
        rows: list[Row] = []
        for question, choice, each in zip(questions, choices, scores, strict=True):
            best = int(each.log_probs.argmax())
            label = [*choice][best]
            rows.append(
                {
                    "label": float(label) if question.example.task == "age" else label,
                    "answer": each.best,
                    "scores": dict(zip(choice, each.probabilities.tolist(), strict=True)),
                    "question": each.question,
                }
            )
        return rows
