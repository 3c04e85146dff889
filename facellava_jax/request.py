"""What is asked: media, a question by its words or by its task, and how to answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .answers import Task as Task
from .errors import FaceLlavaError

# A file, a folder of frames, an image (Y, X, 3) or a clip (T, Y, X, 3) of uint8 RGB pixels.
MediaSource = str | Path | np.ndarray
# auto: cut media to the face, as training data were. none: take them as they are.
Crop = Literal["auto", "none"]
# Of one medium: auto, to find them; none, or None; or a `.npy` file in pixels of the 256 x 256 face crop.
Landmarks = str | Path | None

# Questions that the paper's tasks answer well, with the words for an image and for a clip.
QUESTIONS: dict[Task, tuple[str, dict[str, str]]] = {
    "emotion": ("What emotion is shown in the {}?", {"image": "image", "video": "video"}),
    "age": (
        "How old do you think the person in the {} is, and what makes you think so?",
        {"image": "picture", "video": "video"},
    ),
    "attributes": ("Describe the person's face as seen in the {}.", {"image": "photograph", "video": "video"}),
    "action-units": ("Which facial action units appear in this {}?", {"image": "image", "video": "video"}),
    "deepfake": ("Is the {} authentic, or is it a fake?", {"image": "image", "video": "video"}),
}


class PredictError(FaceLlavaError):
    """A request that cannot be answered; one line that names the cause and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer. Greedy by default; the original draws at temperature 0.1."""

    max_new_tokens: int = 1024
    """The answer's length at most."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; above 0, tokens are drawn, the more evenly the higher it is."""
    top_k: int = 0
    """Draw from so many likeliest tokens; 0 is off."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that hold this share of the probability; 1 is off."""
    seed: int = 0
    """Of the draws."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer before them."""

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens": (_is_int(self.max_new_tokens, 1, 2**31), "a whole number of at least 1"),
            "temperature": (_is_number(self.temperature) and self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (_is_int(self.top_k, 0, 2**31), "0 (off) or a whole number up to 2147483647"),
            "top_p": (_is_number(self.top_p) and 0 < self.top_p <= 1, "above 0, and 1 (off) at most"),
            "seed": (_is_int(self.seed, 0, 2**32), "a whole number from 0 to 4294967295"),
            "stop": (isinstance(self.stop, tuple) and all(self.stop), "a tuple of strings that are not empty"),
        }
        for name, (right, allowed) in checks.items():
            if not right:
                raise PredictError(f"{name} {getattr(self, name)!r}: use {allowed}")


def _is_int(value: object, first: int, beyond: int) -> bool:
    return isinstance(value, int) and first <= value < beyond


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Request:
    """A question about one medium, several, or none, by its words or by its task.

    `landmarks`: "auto" finds them where the model has landmark modules, "none" or None leaves them out, for all media
    or for each in a sequence; a `.npy` file holds those of one medium, in pixels of the 256 x 256 face crop. `crop`:
    "auto" cuts a medium to the face, unless it is a crop already, has a landmark file, which is one of its crop, or the
    model has no landmark modules; "none" takes it as it is.
    """

    media: MediaSource | Sequence[MediaSource] | None = None
    prompt: str | None = None
    task: Task | None = None
    landmarks: Landmarks | Sequence[Landmarks] = "auto"
    crop: Crop = "auto"
    options: Options = Options()


def make_request(
    media: Request | MediaSource | Sequence[MediaSource] | None,
    prompt: str | None,
    task: Task | None,
    landmarks: Landmarks | Sequence[Landmarks],
    crop: Crop,
    options: Mapping[str, Any],
) -> Request:
    """A request as it is, or one about these media."""
    if not isinstance(media, Request):
        return Request(media, prompt, task, landmarks, crop, Options(**options))
    if options or (prompt, task, landmarks, crop) != (None, None, "auto", "auto"):
        raise PredictError("a Request brings its own prompt, task, landmarks, crop and options: put them into it")
    return media


def pair_media(request: Request) -> list[tuple[MediaSource, Landmarks]]:
    """The request's media, each with "auto", its landmark file, or None for no landmarks.

    Raises PredictError where there is not one file for each medium, and for points that are in no file.
    """
    if request.crop not in get_args(Crop):
        raise PredictError(f"crop {request.crop!r} is not one of {', '.join(get_args(Crop))}")
    media, landmarks = request.media, request.landmarks
    sources = [media] if isinstance(media, str | Path | np.ndarray) else [*(media or ())]
    if landmarks is None or isinstance(landmarks, str | Path):
        files = [landmarks] * (len(sources) if landmarks in ("auto", "none", None) else 1)
    else:
        files = [*landmarks]
    if wrong := [file for file in files if not isinstance(file, str | Path | None)]:
        raise PredictError(f"landmarks of type {type(wrong[0]).__name__}: give auto, none, or a .npy file")
    if len(files) != len(sources):
        raise PredictError(f"{len(files)} landmark files for {len(sources)} media: give one for each")
    return [(source, None if file == "none" else file) for source, file in zip(sources, files, strict=True)]


def refuse_to_look(landmarks: Landmarks, crop: Crop) -> str | None:
    """Why no face is looked for in a medium, whatever the model is; None where it is."""
    if landmarks not in ("auto", "none", None):
        return "its landmark file says where the face is"
    return "crop and landmarks are none" if landmarks != "auto" and crop == "none" else None


def find_question(request: Request, kinds: Sequence[str]) -> str:
    """The request's prompt, or its task's question in the words for a clip, if there is one, or an image."""
    if (request.prompt is None) == (request.task is None):
        raise PredictError(f"give a prompt or a task, one of the two; tasks are {', '.join(QUESTIONS)}")
    if request.prompt is not None:
        return request.prompt
    if request.task not in QUESTIONS:
        raise PredictError(f"task {request.task!r} is not one of {', '.join(QUESTIONS)}")
    if not kinds:
        raise PredictError(f"task {request.task!r} is about a picture or a clip: give one")
    words, medium = QUESTIONS[request.task]
    return words.format(medium["video" if "video" in kinds else "image"])
