"""How likely given answers are: each prompt is read once, and all of its candidates go on from there at once."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int

from .config import Config
from .data import measure
from .generate import Branches, Generator
from .reading import Prepared, collate_prepared, run_on_device
from .request import PredictError, Task
from .text import Tokenizer, encode_answer

LEAST_PLACES = 32  # candidates' tokens together are padded to this at least, and to powers of two: little compiles


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """How likely each candidate is to be the answer to a question."""

    question: str
    task: Task | None
    candidates: tuple[str, ...]
    log_probs: Float64[np.ndarray, " candidates"]
    """Natural logarithms of the probability that the answer is just this: of all its tokens, the end included.

    So "happy" is not likelier than "happy and proud" because it begins it.
    """
    tokens: Int[np.ndarray, " candidates"]
    """How many tokens each has, the end included."""

    @property
    def probabilities(self) -> Float64[np.ndarray, " candidates"]:
        """The candidates' shares, were one of them the answer: they sum to 1."""
        weights = np.exp(self.log_probs - self.log_probs.max())
        return weights / weights.sum()

    @property
    def mean_log_probs(self) -> Float64[np.ndarray, " candidates"]:
        """The same by token, which does not favour short candidates."""
        return self.log_probs / self.tokens

    @property
    def best(self) -> str:
        """The likeliest candidate; of equals the first."""
        return self.candidates[int(self.log_probs.argmax())]


def score_answers(
    generator: Generator,
    tokenizer: Tokenizer,
    config: Config,
    prepared: Sequence[Prepared],
    candidates: Sequence[Iterable[str]],
) -> list[Scores]:
    """The scores of one batch, in which each request has candidates of its own.

    Raises PredictError and TextError for candidates that cannot be scored.
    """
    lists = [list_texts(texts) for texts in candidates]
    rows = [encode_candidates(tokenizer, config, each, texts) for each, texts in zip(prepared, lists, strict=True)]
    batch = collate_prepared(prepared, config.model, generator.places)
    branches = lay_out(rows, len(batch.tokens))
    log_probs_BA = np.asarray(run_on_device(partial(generator.score, batch, branches), len(prepared)), np.float64)
    return [
        Scores(
            question=each.question,
            task=each.task,
            candidates=tuple(texts),
            log_probs=np.bincount(answers[answers >= 0], log_probs[answers >= 0]),
            tokens=np.array([len(ids) for ids in row]),
        )
        for each, texts, row, answers, log_probs in zip(
            prepared, lists, rows, branches.answers, log_probs_BA, strict=False
        )
    ]


def list_texts(candidates: Iterable[str]) -> list[str]:
    """The candidates, of which there may be any collection. Raises PredictError for none, and for what is no text."""
    texts: list[object] = []
    if not isinstance(candidates, str):
        with contextlib.suppress(TypeError):
            texts = [*candidates]
    if not texts:
        raise PredictError(f"candidates {candidates!r:.60}: give a list of answers, at least one")
    for text in texts:
        if not isinstance(text, str):
            raise PredictError(f"the candidate {text!r:.60} is no text: give a list of answers")
    return [str(text) for text in texts]


def encode_candidates(
    tokenizer: Tokenizer, config: Config, prepared: Prepared, candidates: Sequence[str]
) -> list[list[int]]:
    """The ids of each candidate, as they follow the prompt in a recorded conversation.

    Raises PredictError for two that are the same but for spaces around them, and for one that does not fit into the
    model's positions; and TextError as `encode_answer` does.
    """
    bare = [text.strip() for text in candidates]
    for number, text in enumerate(bare):
        if (first := bare.index(text)) < number:
            raise PredictError(f"the candidates {candidates[first]!r} and {candidates[number]!r} are the same answer")
    rows = [encode_answer(tokenizer, prepared.text, text, config.text.template) for text in candidates]
    length, most = measure(prepared.sample, config.model), config.model.decoder.max_length
    longest = max(rows, key=len)
    if length + len(longest) > most:
        raise PredictError(
            f"a prompt of {length} tokens and a candidate of {len(longest)}, and the model takes {most}: "
            f"shorten {candidates[rows.index(longest)]!r:.60}"
        )
    return rows


def lay_out(rows: Sequence[Sequence[Sequence[int]]], count: int) -> Branches:
    """The candidates of every row one after another, in `count` rows, and in places that few numbers of them share."""
    longest = max(sum(len(ids) - 1 for ids in row) for row in rows)
    places = max(LEAST_PLACES, 1 << (longest - 1).bit_length())
    branches = Branches(*(np.full((count, places), fill, np.int32) for fill in (0, 0, -1, 0)))
    for number, row in enumerate(rows):
        columns = [
            (token, target, answer, position)
            for answer, ids in enumerate(row)
            for position, (token, target) in enumerate(pairwise(ids))
        ]
        for array, values in zip(branches, zip(*columns, strict=True), strict=True):
            array[number, : len(values)] = values
    return branches
