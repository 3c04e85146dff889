"""From media and a question to an answer: one at a time, in batches, or piece by piece."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import numpy as np
from jaxtyping import Float64, Int, UInt8

from .attention import Attention, check_regions, weigh_regions
from .checkpoint import load_params, read_config
from .config import NANO, Config, DType
from .data import Sample, Visual, collate, measure
from .faces import Box, seen_window, to_picture
from .framing import Framer, Shown, View, cut_frames, read_again
from .generate import NO_TOKEN, Decoding, Generator, Sampling
from .media import LANDMARK_CROP
from .memory import check_memory
from .models.facellava import FaceLlava, build_model
from .pixels import preprocess_image, preprocess_video
from .request import (
    Crop,
    Landmarks,
    MediaSource,
    Options,
    PredictError,
    Request,
    Task,
    find_question,
    make_request,
    pair_media,
)
from .stopwatch import Stopwatch
from .text import AnswerStream, Medium, Tokenizer, bucket, build_prompt, encode_with_images

FIRST_CHUNK, CHUNK = 1, 16  # tokens decoded before the host looks: the first at once, then a few at a time
PREPARING, ANSWERING = ("read", "faces", "preprocess", "tokenize"), ("prefill", "decode")  # steps that are timed


class Prepared(NamedTuple):
    """A request read, framed, resized and tokenised; what was made of each medium, and what each step took."""

    sample: Sample
    question: str
    options: Options
    views: tuple[View, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`finish` says what ended the answer: the model or a stop string, or the limit on its length."""

    text: str
    question: str
    tokens: int
    finish: Literal["stop", "length"]
    views: tuple[View, ...] = field(repr=False, compare=False)
    """What the model was shown of each medium, and why."""
    seconds: dict[str, float] = field(repr=False, compare=False)
    """What each step took: read, faces, preprocess, tokenize, and of the whole batch prefill, decode."""

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


class Predictor:
    """A checkpoint, ready to answer."""

    def __init__(self, model: FaceLlava, config: Config, tokenizer: Tokenizer, num_frames: int | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.num_frames = check_fit(config, tokenizer, num_frames)
        self._framer = Framer(config.model, self.num_frames, config.media.pad_to_square)
        self._generator = Generator(model)

    @classmethod
    def load(
        cls,
        folder: str | Path = NANO,
        *,
        dtype: DType | None = None,
        num_frames: int | None = None,
        batch_size: int = 1,
    ) -> Self:
        """The model of a checkpoint folder, its parameters and arithmetic in `dtype`.

        The default folder is that of the small model that ships with the package, which knows rendered faces only. The
        default `dtype` is bfloat16, and float32 on CPU, where bfloat16 is many times slower. `num_frames` are taken
        from each clip: by default as many as the video tower was made for. `batch_size` is the number of prompts that
        memory is to suffice for.

        Raises CheckpointError for a folder that holds no whole checkpoint, and PredictError, before anything is read,
        where the parameters do not fit into memory or the tokenizer or `num_frames` not to the model.
        """
        folder = Path(folder)
        config = read_config(folder)
        cpu = jax.default_backend() == "cpu"
        dtype = dtype or ("float32" if cpu else "bfloat16")
        if dtype not in get_args(DType):
            raise PredictError(f"dtype {dtype!r} is not one of {', '.join(get_args(DType))}")
        if cpu and dtype == "float16":
            raise PredictError("dtype 'float16' is not computed on CPU: use float32, or bfloat16 to save memory")
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
        tokenizer = Tokenizer.load(folder / "tokenizer")
        check_fit(config, tokenizer, num_frames)
        check_memory(folder, config, batch_size)
        return cls(build_model(config.model, load_params(folder, dtype=dtype)), config, tokenizer, num_frames)

    def predict(
        self,
        media: Request | MediaSource | Sequence[MediaSource] | None = None,
        prompt: str | None = None,
        *,
        task: Task | None = None,
        landmarks: Landmarks | Sequence[Landmarks] = "auto",
        crop: Crop = "auto",
        **options: Any,
    ) -> Answer:
        """The answer to `prompt`, or to the question known to work well for `task`.

        `<image>` and `<video>` in the prompt say where the media go; else they come first. `landmarks` and `crop` are
        those of `Request`, `options` the fields of `Options`. A Request in the place of the media brings all of this.
        Raises MediaError, FaceError, TextError or PredictError for what cannot be answered.
        """
        request = make_request(media, prompt, task, landmarks, crop, options)
        return self.answer([self.prepare(request)])[0]

    def predict_faces(
        self,
        medium: Request | MediaSource,
        prompt: str | None = None,
        *,
        task: Task | None = None,
        landmarks: Literal["auto", "none"] | None = "auto",
        crop: Crop = "auto",
        batch_size: int = 8,
        **options: Any,
    ) -> list[Answer]:
        """An answer about each face of one picture or clip, the largest first; raises as `predict` does."""
        request = make_request(medium, prompt, task, landmarks, crop, options)
        return self.answer_in_parts(self.prepare_faces(request), batch_size)

    def predict_batch(
        self,
        requests: Sequence[Request | MediaSource],
        prompt: str | None = None,
        *,
        task: Task | None = None,
        landmarks: Literal["auto", "none"] | None = "auto",
        crop: Crop = "auto",
        batch_size: int = 8,
        **options: Any,
    ) -> list[Answer]:
        """Answers in order, each what it is on its own; media of all kinds may be mixed.

        A bare medium is asked `prompt`, or the question of `task`, with all that follows; a Request brings its own.
        """
        common = Options(**options)
        answers: list[Answer] = []
        check_batch_size(batch_size)
        for at in range(0, len(requests), batch_size):
            part = [
                each if isinstance(each, Request) else Request(each, prompt, task, landmarks, crop, common)
                for each in requests[at : at + batch_size]
            ]
            answers += self.answer([self.prepare(request) for request in part])
        return answers

    def stream(
        self,
        media: Request | MediaSource | Sequence[MediaSource] | None = None,
        prompt: str | None = None,
        *,
        task: Task | None = None,
        landmarks: Landmarks | Sequence[Landmarks] = "auto",
        crop: Crop = "auto",
        **options: Any,
    ) -> Iterator[str]:
        """The text of the same answer in pieces, as they come."""
        yield from self.stream_prepared(self.prepare(make_request(media, prompt, task, landmarks, crop, options)))

    def prepare(self, request: Request) -> Prepared:
        """Reads the media and tokenises the question: the part of the work that needs no model."""
        watch = Stopwatch(*PREPARING)
        shown = [self._framer.show(*pair, request.crop, watch)[0] for pair in pair_media(request)]
        return self._prepare(request, shown, watch)

    def prepare_faces(self, request: Request) -> list[Prepared]:
        """As `prepare`, once for each face of the only medium, the largest first; reading them is shared."""
        watch = Stopwatch(*PREPARING)
        pairs = pair_media(request)
        if len(pairs) != 1:
            raise PredictError(f"every face is asked about in one picture or clip, not in {len(pairs)}: give one")
        shown = self._framer.show(*pairs[0], request.crop, watch, every=True)
        return [self._prepare(request, [each], watch) for each in shown]

    def attend(self, source: MediaSource, *, landmarks: Landmarks = "auto", crop: Crop = "auto") -> Attention:
        """What the model looks at in a picture or clip: `faces.draw_regions(*predictor.attend(source))` is a picture.

        Raises PredictError where the model or the medium has no landmarks, and MediaError or FaceError as `predict`.
        """
        check_regions(self.config.model)
        ((source, points),) = pair_media(Request(source, landmarks=landmarks, crop=crop))
        shown, *_ = self._framer.show(source, points, crop, Stopwatch(*PREPARING))
        return self._attend(self._preprocess(shown), shown.frames)

    def attend_prepared(self, source: MediaSource, prepared: Prepared) -> Attention:
        """The same of the only medium of a request: its frames are read again, its face is not looked for again."""
        (visual,), (view,) = prepared.sample.media, prepared.views
        return self._attend(visual, cut_frames(read_again(source, view).clip.frames, view))

    def stream_prepared(self, prepared: Prepared) -> Iterator[str]:
        """The text of an answer in pieces, as they come."""
        for (reader,) in self._read([prepared], Stopwatch(*ANSWERING)):
            if piece := reader.take():
                yield piece

    def answer_in_parts(self, prepared: Sequence[Prepared], batch_size: int) -> list[Answer]:
        """Answers in order, so many of them at a time."""
        check_batch_size(batch_size)
        parts = (prepared[at : at + batch_size] for at in range(0, len(prepared), batch_size))
        return [answer for part in parts for answer in self.answer(part)]

    def answer(self, prepared: Sequence[Prepared]) -> list[Answer]:
        """The answers of one batch.

        Raises PredictError where the device has too little memory for it.
        """
        if not prepared:
            return []
        watch = Stopwatch(*ANSWERING)
        *_, readers = self._read(prepared, watch)
        return [
            Answer(
                text=reader.text,
                question=each.question,
                tokens=reader.tokens,
                finish=reader.finish or "length",
                views=each.views,
                seconds=each.seconds | watch.seconds,
            )
            for reader, each in zip(readers, prepared, strict=True)
        ]

    def _prepare(self, request: Request, shown: Sequence[Shown], watch: Stopwatch) -> Prepared:
        """The request, asked about what is shown; `watch` has timed what led there."""
        own = Stopwatch("preprocess", "tokenize")
        with own.time("preprocess"):
            visuals = [self._preprocess(each) for each in shown]
        with own.time("tokenize"):
            question = find_question(request, [visual.medium.kind for visual in visuals])
            text = self.config.text
            prompt = build_prompt(question, [visual.medium for visual in visuals], text.template, text.joint)
            ids = encode_with_images(self.tokenizer, prompt.text)
            sample = Sample(ids, [visuals[place] for place in prompt.order])
            most = min(self.config.text.max_length, self.config.model.decoder.max_length - 1)
            length = measure(sample, self.config.model)
        if length > most:
            raise PredictError(f"a prompt of {length} tokens, media counted in, and the model takes {most}: shorten it")
        seconds = {step: watch.seconds[step] + own.seconds.get(step, 0.0) for step in PREPARING}
        return Prepared(sample, question, request.options, tuple(each.view for each in shown), seconds)

    def _preprocess(self, shown: Shown) -> Visual:
        """What is shown as its tower reads it, resized and normalised."""
        model, media, kind = self.config.model, self.config.media, shown.view.kind
        tower = model.image_tower if kind == "image" else model.video_tower
        assert tower, "the framer takes no medium that has no tower"
        if kind == "video":
            pixels = preprocess_video(shown.frames, tower.image_size, media)
        else:
            pixels = preprocess_image(shown.frames[0], tower.image_size, media)[None]
        return Visual(Medium(kind, len(pixels)), pixels, shown.landmarks)

    def _attend(self, visual: Visual, frames: UInt8[np.ndarray, "T Y X 3"]) -> Attention:
        weights = weigh_regions(self._generator, visual, self.config.model)
        assert visual.landmarks is not None, "without landmarks nothing is weighed"
        padded = visual.medium.kind == "image" and self.config.media.pad_to_square
        seen = seen_window(*frames.shape[1:3], padded=padded)
        return Attention(frames, weights, to_picture(visual.landmarks * LANDMARK_CROP, seen), padded)

    def _read(self, prepared: Sequence[Prepared], watch: Stopwatch) -> Iterator[list["AnswerReader"]]:
        """Decodes one batch, a chunk of tokens at a time; yields the rows' readers after each chunk."""
        padded = 1 << (len(prepared) - 1).bit_length()
        batch = collate([each.sample for each in prepared], self.config.model, rows=padded)
        room = self.config.model.decoder.max_length - batch.lengths
        readers = [
            AnswerReader(self.tokenizer, each.options, left)
            for each, left in zip(prepared, room.tolist(), strict=False)
        ]
        limit = max(reader.limit for reader in readers)
        options = [each.options for each in prepared] + [Options()] * (padded - len(prepared))
        sampling = Sampling(
            temperature=np.array([each.temperature for each in options], np.float32),
            top_k=np.array([each.top_k for each in options], np.int32),
            top_p=np.array([each.top_p for each in options], np.float32),
            seed=np.array([each.seed for each in options], np.uint32),
        )
        with watch.time("prefill"):
            state = _run(partial(self._generator.prefill, batch, bucket(limit)), len(prepared))
        done = 0
        while not all(reader.finish for reader in readers):
            until = min(done + (CHUNK if done else FIRST_CHUNK), limit)
            with watch.time("decode"):
                step = partial(self._generator.decode, state, sampling, self.tokenizer.eos_id, until)
                state = _run(step, len(prepared))
                tokens = np.asarray(state.tokens)
                for reader, row in zip(readers, tokens, strict=False):
                    reader.feed(row[done:until])
            done = until
            yield readers


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


def check_batch_size(batch_size: int) -> None:
    """Raises PredictError for less than 1."""
    if batch_size < 1:
        raise PredictError(f"batch_size {batch_size}: use at least 1")


def check_fit(config: Config, tokenizer: Tokenizer, num_frames: int | None) -> int:
    """The frames to take from a clip. Raises PredictError for more than the tower takes, and for a larger tokenizer."""
    if len(tokenizer) > config.model.decoder.vocab_size:
        raise PredictError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.model.decoder.vocab_size}: "
            "put the checkpoint's own tokenizer beside it"
        )
    most = config.model.video_tower.num_frames if config.model.video_tower else 1
    if num_frames is not None and not 1 <= num_frames <= most:
        raise PredictError(f"num_frames {num_frames}: the video tower takes 1 to {most}")
    return num_frames or most


def _run(step: Callable[[], Decoding], rows: int) -> Decoding:
    """The result of a step, waited for, because that is when the device says that its memory is full."""
    try:
        return jax.block_until_ready(step())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        remedy = "use a smaller --batch-size" if rows > 1 else "use a machine with more memory"
        raise PredictError(f"the device has too little memory for {rows} prompts at once: {remedy}") from None
