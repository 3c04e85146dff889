"""From media and a question to an answer: one at a time, in batches, or piece by piece."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import numpy as np
from jaxtyping import Int

from .checkpoint import load_params, read_config
from .config import Config, DType
from .data import Sample, Visual, collate, measure
from .generate import NO_TOKEN, Decoding, Generator, Sampling
from .media import (
    Clip,
    Kind,
    find_kind,
    load_frames,
    load_image,
    load_landmarks,
    load_video,
    sample_frame_ids,
)
from .models.facellava import FaceLlava, abstract_params, build_model
from .pixels import preprocess_image, preprocess_video
from .request import MediaSource, Options, PredictError, Request, Task, find_question, make_request
from .text import AnswerStream, Medium, Tokenizer, bucket, build_prompt, encode_with_images

FIRST_CHUNK, CHUNK = 1, 16  # tokens decoded before the host looks: the first at once, then a few at a time


class Prepared(NamedTuple):
    """A request read, resized and tokenised."""

    sample: Sample
    question: str
    options: Options


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`finish` says what ended the answer: the model or a stop string, or the limit on its length."""

    text: str
    question: str
    tokens: int
    finish: Literal["stop", "length"]


class Predictor:
    """A checkpoint, ready to answer."""

    def __init__(self, model: FaceLlava, config: Config, tokenizer: Tokenizer, num_frames: int | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.num_frames = check_fit(config, tokenizer, num_frames)
        self._generator = Generator(model)

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: DType | None = None, num_frames: int | None = None, batch_size: int = 1
    ) -> Self:
        """The model of a checkpoint folder, its parameters and arithmetic in `dtype`.

        That is bfloat16 by default, and float32 on CPU, where bfloat16 is many times slower. `num_frames` are taken
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
        landmarks: str | Path | Sequence[str | Path | None] | None = None,
        **options: Any,
    ) -> Answer:
        """The answer to `prompt`, or to the question known to work well for `task`.

        `<image>` and `<video>` in the prompt say where the media go; else they come first. `options` are the fields of
        `Options`. A Request in the place of the media brings all of this. Raises MediaError, TextError or PredictError
        for what cannot be answered.
        """
        request = make_request(media, prompt, task, landmarks, options)
        return self.answer([self.prepare(request)])[0]

    def predict_batch(
        self,
        requests: Sequence[Request | MediaSource],
        prompt: str | None = None,
        *,
        task: Task | None = None,
        batch_size: int = 8,
        **options: Any,
    ) -> list[Answer]:
        """Answers in order, each what it is on its own; media of all kinds may be mixed.

        A bare medium is asked `prompt`, or the question of `task`, with `options`; a Request brings its own.
        """
        common = Options(**options)
        answers: list[Answer] = []
        if batch_size < 1:
            raise PredictError(f"batch_size {batch_size}: use at least 1")
        for at in range(0, len(requests), batch_size):
            part = [
                each if isinstance(each, Request) else Request(each, prompt, task, options=common)
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
        landmarks: str | Path | Sequence[str | Path | None] | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The text of the same answer in pieces, as they come."""
        request = make_request(media, prompt, task, landmarks, options)
        for (reader,) in self._read([self.prepare(request)]):
            if piece := reader.take():
                yield piece

    def prepare(self, request: Request) -> Prepared:
        """Reads the media and tokenises the question: the part of the work that needs no model."""
        sources = request.media if isinstance(request.media, list | tuple) else [request.media]
        sources = [source for source in sources if source is not None]
        files = request.landmarks if isinstance(request.landmarks, list | tuple) else [request.landmarks]
        files = list(files) if any(files) else [None] * len(sources)
        if len(files) != len(sources):
            raise PredictError(f"{len(files)} landmark files for {len(sources)} media: give one for each")
        visuals = [self._load(source, file) for source, file in zip(sources, files, strict=True)]
        question = find_question(request, [visual.medium.kind for visual in visuals])
        text = self.config.text
        prompt = build_prompt(question, [visual.medium for visual in visuals], text.template, text.joint)
        ids = encode_with_images(self.tokenizer, prompt.text)
        sample = Sample(ids, [visuals[place] for place in prompt.order])
        most = min(self.config.text.max_length, self.config.model.decoder.max_length - 1)
        if (length := measure(sample, self.config.model)) > most:
            raise PredictError(f"a prompt of {length} tokens, media counted in, and the model takes {most}: shorten it")
        return Prepared(sample, question, request.options)

    def answer(self, prepared: Sequence[Prepared]) -> list[Answer]:
        """The answers of one batch.

        Raises PredictError where the device has too little memory for it.
        """
        if not prepared:
            return []
        *_, readers = self._read(prepared)
        return [
            Answer(text=reader.text, question=each.question, tokens=reader.tokens, finish=reader.finish or "length")
            for reader, each in zip(readers, prepared, strict=True)
        ]

    def _load(self, source: MediaSource, landmarks: str | Path | None) -> Visual:
        """A medium as its tower reads it, resized and normalised, with its landmarks."""
        media = self.config.media
        kind, pixels = self._read_pixels(source)
        tower = self.config.model.image_tower if kind == "image" else self.config.model.video_tower
        if tower is None:
            raise PredictError(f"{_name(source)}: this checkpoint has no {kind} tower: import one with --{kind}-tower")
        if landmarks is not None and self.config.model.landmarks is None:
            raise PredictError(f"{landmarks}: this checkpoint has no landmark modules: ask without landmarks")
        clip = pixels if isinstance(pixels, Clip) else None
        points = None if landmarks is None else load_landmarks(Path(landmarks), clip)
        if isinstance(pixels, Clip):
            resized = preprocess_video(pixels.frames, tower.image_size, media)
        else:
            resized = preprocess_image(pixels, tower.image_size, media)[None]
        return Visual(Medium(kind, len(resized)), resized, points)

    def _read_pixels(self, source: MediaSource) -> tuple[Kind, np.ndarray | Clip]:
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim not in (3, 4) or source.shape[-1] != 3 or not source.size:
                raise PredictError(
                    f"an array of shape {source.shape} and type {source.dtype}: give uint8 RGB, (Y, X, 3) for an image "
                    "and (T, Y, X, 3) for a clip"
                )
            if source.ndim == 3:
                return "image", source
            frame_ids = sample_frame_ids(len(source), self.num_frames)
            return "video", Clip(source[frame_ids], frame_ids, len(source))
        path = Path(source)
        if path.is_dir():
            return "video", load_frames(path, self.num_frames)
        # A file that is neither is reported by the reader of images, by what is wrong with it.
        if find_kind(path) == "video":
            return "video", load_video(path, self.num_frames)
        return "image", load_image(path)

    def _read(self, prepared: Sequence[Prepared]) -> Iterator[list["AnswerReader"]]:
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
        state = _run(partial(self._generator.prefill, batch, bucket(limit)), len(prepared))
        done = 0
        while not all(reader.finish for reader in readers):
            until = min(done + (CHUNK if done else FIRST_CHUNK), limit)
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


def check_memory(folder: Path, config: Config, batch_size: int) -> None:
    """Raises PredictError where parameters and a batch's cache need more memory than the device has free."""
    decoder = config.model.decoder
    size = np.dtype(config.model.dtype).itemsize
    params = sum(math.prod(param.shape) for param in abstract_params(config.model).values())
    cache = 2 * decoder.num_hidden_layers * decoder.max_length * decoder.num_key_value_heads * decoder.head_dim
    cache *= batch_size
    needed, free = (params + cache) * size, free_memory()
    if free is not None and needed > free:
        remedy = "use a machine with more memory" if batch_size == 1 else "use a smaller --batch-size, or more memory"
        if size > 2:
            remedy = f"--dtype bfloat16 needs {needed / size * 2 / 2**30:.1f} GiB, or {remedy}"
        raise PredictError(
            f"{folder}: needs {needed / 2**30:.1f} GiB in {config.model.dtype}, and {free / 2**30:.1f} GiB are free: "
            f"{remedy}"
        )


def _run(step: Callable[[], Decoding], rows: int) -> Decoding:
    """The result of a step, waited for, because that is when the device says that its memory is full."""
    try:
        return jax.block_until_ready(step())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        remedy = "use a smaller --batch-size" if rows > 1 else "use a machine with more memory"
        raise PredictError(f"the device has too little memory for {rows} prompts at once: {remedy}") from None


def free_memory() -> int | None:
    """Bytes that the first device has left, on CPU the host; None where nothing tells."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    # A container may have less than its host.
    most, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if most.exists() and (limit := most.read_text().strip()) != "max":
        free = min(free, int(limit) - int(used.read_text()))
    return free


def _name(source: MediaSource) -> str:
    return f"array {source.shape}" if isinstance(source, np.ndarray) else str(source)
