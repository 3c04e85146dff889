"""From media and a question to an answer, one at a time, in batches or piece by piece, or to scores of given ones."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from .attention import Attention, check_regions, weigh_regions
from .checkpoint import load_params, read_config
from .config import NANO, Config, DType
from .data import Sample, Visual, measure
from .experiment import MeshConfig
from .faces import seen_window, to_picture
from .framing import Framer, Shown, cut_frames, read_again
from .generate import Generator
from .media import LANDMARK_CROP
from .memory import check_memory
from .models.facellava import FaceLlava, abstract_params, build_model
from .pixels import preprocess
from .reading import Answer, AnswerReader, Prepared, read_answers
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
from .scoring import Scores, list_texts, score_answers
from .sharding import make_mesh, tree_shardings
from .stopwatch import Stopwatch
from .text import Medium, Tokenizer, build_prompt, encode_with_images

__all__ = ["Answer", "Predictor", "Prepared", "Scores"]

Item = TypeVar("Item")

PREPARING, ANSWERING = ("read", "faces", "preprocess", "tokenize"), ("prefill", "decode")  # steps that are timed


class Predictor:
    """A checkpoint, ready to answer."""

    def __init__(
        self,
        model: FaceLlava,
        config: Config,
        tokenizer: Tokenizer,
        num_frames: int | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """With a `mesh`, the model's parameters lie on it."""
        self.config = config
        self.tokenizer = tokenizer
        self.num_frames = check_fit(config, tokenizer, num_frames)
        self._framer = Framer(config.model, self.num_frames, config.media.pad_to_square)
        self._generator = Generator(model, mesh)

    @classmethod
    def load(
        cls,
        folder: str | Path = NANO,
        *,
        dtype: DType | None = None,
        num_frames: int | None = None,
        batch_size: int = 1,
        mesh: Mesh | MeshConfig | None = None,
    ) -> Self:
        """The model of a checkpoint folder, its parameters and arithmetic in `dtype`.

        The default folder is that of the small model that ships with the package, which knows rendered faces only. The
        default `dtype` is bfloat16, and float32 on CPU, where bfloat16 is many times slower. `num_frames` are taken
        from each clip: by default as many as the video tower was made for. `batch_size` is the number of prompts that
        memory is to suffice for.

        With a `mesh` (of `make_mesh`, or the sizes of one of this process's devices) parameters are divided over it as
        in training, and the rows of a batch over `data` and `fsdp`; else all is done on the first device.

        Raises CheckpointError for a folder that holds no whole checkpoint, ConfigError for a mesh of another number of
        devices, and PredictError, before anything is read, for a mesh over several processes, and where the parameters
        do not fit into memory or the tokenizer or `num_frames` not to the model.
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
        if isinstance(mesh, MeshConfig):
            mesh = make_mesh(mesh, jax.local_devices())
        if mesh and mesh.is_multi_process:
            raise PredictError("the mesh has devices of other processes: make it of jax.local_devices()")
        check_memory(folder, config, batch_size, mesh)
        shardings = tree_shardings(abstract_params(config.model), mesh) if mesh else None
        model = build_model(config.model, load_params(folder, dtype=dtype, shardings=shardings))
        return cls(model, config, tokenizer, num_frames, mesh)

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
        for part in _divide(requests, batch_size):
            answers += self.answer(
                [self.prepare(_complete(each, prompt, task, landmarks, crop, common)) for each in part]
            )
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

    def score(
        self,
        media: Request | MediaSource | Sequence[MediaSource] | None = None,
        prompt: str | None = None,
        candidates: Iterable[str] = (),
        *,
        task: Task | None = None,
        landmarks: Landmarks | Sequence[Landmarks] = "auto",
        crop: Crop = "auto",
    ) -> Scores:
        """How likely each of the `candidates` is to be the answer, asked as with `predict`; a request's options aside.

        The media and the prompt are read once, and all candidates' tokens after them in one pass. Raises as `predict`
        does, and for candidates that are none, empty, equal, or too long for the model.
        """
        request = make_request(media, prompt, task, landmarks, crop, {})
        return self.score_prepared([self.prepare(request)], [candidates])[0]

    def score_batch(
        self,
        requests: Sequence[Request | MediaSource],
        prompt: str | None = None,
        candidates: Iterable[str] = (),
        *,
        task: Task | None = None,
        landmarks: Literal["auto", "none"] | None = "auto",
        crop: Crop = "auto",
        batch_size: int = 8,
    ) -> list[Scores]:
        """The scores of the same candidates as answers to each request, in order, as in `predict_batch`."""
        scores: list[Scores] = []
        candidates = list_texts(candidates)
        for part in _divide(requests, batch_size):
            prepared = [self.prepare(_complete(each, prompt, task, landmarks, crop, Options())) for each in part]
            scores += self.score_prepared(prepared, [candidates] * len(prepared))
        return scores

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
        return [answer for part in _divide(prepared, batch_size) for answer in self.answer(part)]

    def score_prepared(self, prepared: Sequence[Prepared], candidates: Sequence[Iterable[str]]) -> list[Scores]:
        """The scores of one batch, each request with candidates of its own."""
        if not prepared:
            return []
        return score_answers(self._generator, self.tokenizer, self.config, prepared, candidates)

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
                task=each.task,
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
        return Prepared(
            sample, prompt.text, question, request.task, request.options, tuple(each.view for each in shown), seconds
        )

    def _preprocess(self, shown: Shown) -> Visual:
        """What is shown as its tower reads it, resized and normalised."""
        model, kind = self.config.model, shown.view.kind
        tower = model.image_tower if kind == "image" else model.video_tower
        assert tower, "the framer takes no medium that has no tower"
        pixels = preprocess(shown.frames, kind, tower.image_size, self.config.media)
        return Visual(Medium(kind, len(pixels)), pixels, shown.landmarks)

    def _attend(self, visual: Visual, frames: UInt8[np.ndarray, "T Y X 3"]) -> Attention:
        weights = weigh_regions(self._generator, visual, self.config.model)
        assert visual.landmarks is not None, "without landmarks nothing is weighed"
        padded = visual.medium.kind == "image" and self.config.media.pad_to_square
        seen = seen_window(*frames.shape[1:3], padded=padded)
        return Attention(frames, weights, to_picture(visual.landmarks * LANDMARK_CROP, seen), padded)

    def _read(self, prepared: Sequence[Prepared], watch: Stopwatch) -> Iterator[list[AnswerReader]]:
        return read_answers(self._generator, self.tokenizer, self.config.model, prepared, watch)


def _divide(items: Sequence[Item], batch_size: int) -> list[Sequence[Item]]:
    """The items in order, so many at a time."""
    if batch_size < 1:
        raise PredictError(f"batch_size {batch_size}: use at least 1")
    return [items[at : at + batch_size] for at in range(0, len(items), batch_size)]


def _complete(
    asked: Request | MediaSource,
    prompt: str | None,
    task: Task | None,
    landmarks: Landmarks,
    crop: Crop,
    options: Options,
) -> Request:
    """A request as it is, or one about a bare medium."""
    return asked if isinstance(asked, Request) else Request(asked, prompt, task, landmarks, crop, options)


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
