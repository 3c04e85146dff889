"""From a batch of prepared requests to the text of their answers, a chunk of tokens at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float64, Int

from .answers import Label, parse
from .axes import Batch
from .config import ModelConfig
from .data import Sample, collate
from .faces import Box
from .framing import View
from .generate import NO_TOKEN, Generator, Sampling
from .request import Options, PredictError, Task
from .stopwatch import Stopwatch
from .text import AnswerStream, Tokenizer, bucket

FIRST_CHUNK, CHUNK = 1, 16  # tokens decoded before the host looks: the first at once, then a few at a time

Result = TypeVar("Result")


class Prepared(NamedTuple):
    """A request read, framed, resized and tokenised; what was made of each medium, and what each step took."""

    sample: Sample
    text: str
    """The prompt written out, as `sample` holds it in tokens."""
    question: str
    task: Task | None
    options: Options
    views: tuple[View, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`finish` says what ended the answer: the model or a stop string, or the limit on its length."""

    text: str
    question: str
    task: Task | None
    """None where the question was asked in words of its own."""
    tokens: int
    finish: Literal["stop", "length"]
    views: tuple[View, ...] = field(repr=False, compare=False)
    """What the model was shown of each medium, and why."""
    seconds: dict[str, float] = field(repr=False, compare=False)
    """What each step took: read, faces, preprocess, tokenize, and of the whole batch prefill, decode."""

    @property
    def label(self) -> Label | None:
        """What the answer says about the task; None where it says nothing, and where no task was asked for."""
        return None if self.task is None else parse(self.text, self.task)

    @property
    def face(self) -> Box | list[Box] | None:
        """Where the face is in the first medium, a picture, or in each frame taken of it, a clip; in its pixels.

        None where none was looked for.
        """
        if not self.views or (boxes := self.views[0].boxes) is None:
            return None
        return boxes[0] if self.views[0].kind == "image" else list(boxes)

    @property
    def landmarks(self) -> Float64[np.ndarray, "*T K 2"] | None:
        """The points of that face: (68, 2) of a picture, (frames, 68, 2) of a clip; in its pixels."""
        if not self.views or (points := self.views[0].landmarks) is None:
            return None
        return points[0] if self.views[0].kind == "image" else points


class AnswerReader:
    """Collects the tokens of one row until its answer ends."""

    def __init__(self, tokenizer: Tokenizer, options: Options, room: int) -> None:
        """`room` is how many tokens the model's positions leave for the answer."""
        self.limit = min(options.max_new_tokens, room)
        self.text = ""
        self.tokens = 0
        self.finish: Literal["stop", "length"] | None = None
        self._stream = AnswerStream(tokenizer, options.stop)
        # A model may have more ids than its tokenizer: those give no text.
        self._known, self._unknown = len(tokenizer), tokenizer.unk_id
        self._taken = 0

    def feed(self, ids: Int[np.ndarray, " A"]) -> None:
        """The next tokens; what comes after the answer's end is ignored."""
        if self.finish:
            return
        ids = ids[ids != NO_TOKEN][: self.limit - self.tokens]
        self.tokens += len(ids)
        self.text += self._stream.feed(np.where(ids < self._known, ids, self._unknown))
        if self._stream.stopped:
            self.finish = "stop"
        elif self.tokens == self.limit:
            self.text += self._stream.finish()
            self.finish = "length"

    def take(self) -> str:
        """The text since the last call."""
        piece = self.text[self._taken :]
        self._taken = len(self.text)
        return piece


def read_answers(
    generator: Generator, tokenizer: Tokenizer, config: ModelConfig, prepared: Sequence[Prepared], watch: Stopwatch
) -> Iterator[list[AnswerReader]]:
    """Decodes one batch; yields the rows' readers after each chunk. `watch` times the steps prefill and decode."""
    batch = collate_prepared(prepared, config, generator.places)
    rows = len(batch.tokens)
    room = config.decoder.max_length - batch.lengths
    readers = [AnswerReader(tokenizer, each.options, left) for each, left in zip(prepared, room.tolist(), strict=False)]
    limit = max(reader.limit for reader in readers)
    options = [each.options for each in prepared] + [Options()] * (rows - len(prepared))
    sampling = Sampling(
        temperature=np.array([each.temperature for each in options], np.float32),
        top_k=np.array([each.top_k for each in options], np.int32),
        top_p=np.array([each.top_p for each in options], np.float32),
        seed=np.array([each.seed for each in options], np.uint32),
    )
    with watch.time("prefill"):
        state = run_on_device(partial(generator.prefill, batch, bucket(limit)), len(prepared))
    done = 0
    while not all(reader.finish for reader in readers):
        until = min(done + (CHUNK if done else FIRST_CHUNK), limit)
        with watch.time("decode"):
            step = partial(generator.decode, state, sampling, tokenizer.eos_id, until)
            state = run_on_device(step, len(prepared))
            tokens = np.asarray(state.tokens)
            for reader, row in zip(readers, tokens, strict=False):
                reader.feed(row[done:until])
        done = until
        yield readers


def collate_prepared(prepared: Sequence[Prepared], config: ModelConfig, places: int) -> Batch:
    """The batch of these requests, with rows to a power of two, so that few shapes compile, and to a multiple."""
    rows = 1 << (len(prepared) - 1).bit_length()
    return collate([each.sample for each in prepared], config, rows=-(-rows // places) * places)


def run_on_device(step: Callable[[], Result], rows: int) -> Result:
    """The result of a step, waited for, because that is when the device says that its memory is full.

    Raises PredictError where it does.
    """
    try:
        return jax.block_until_ready(step())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        remedy = "use a smaller --batch-size" if rows > 1 else "use a machine with more memory"
        raise PredictError(f"the device has too little memory for {rows} prompts at once: {remedy}") from None
