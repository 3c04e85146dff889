"""A record of FaceInstruct-1M's kind made of rendered faces: media, landmarks, a conversation and its truth."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..errors import FaceLlavaError
from ..media import Kind
from ..request import Task
from . import wording
from .actions import EXCLUDED, EXPRESSIONS, NAMES, NEEDS, Emotion
from .film import CLOSE, WIDE, Film, film_person
from .forgery import Forgery, draw_forgery
from .person import SPLITS, Person, Split, draw_person, number_person

TASKS: tuple[Task, ...] = get_args(Task)
EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
FRAMES = 8

# What the test split asks about; in training this is the share of clips.
TEST_KIND: Mapping[Task, Kind] = {
    "emotion": "video",
    "age": "image",
    "attributes": "image",
    "action-units": "image",
    "deepfake": "video",
}
CLIPS: Mapping[Task, float] = {
    "emotion": 0.65,
    "age": 0.2,
    "attributes": 0.2,
    "action-units": 0.2,
    "deepfake": 0.7,
}
Form = Literal["plain", "more rounds", "two images", "image and video", "text"]
# How often training has records of each form; the test has plain ones.
FORMS: Mapping[Form, float] = {
    "plain": 0.31,
    "more rounds": 0.55,  # one or two: much to learn from a face that is seen anyway
    "two images": 0.07,
    "image and video": 0.03,
    "text": 0.04,
}
WITHOUT_LANDMARKS = 0.1  # the share of training records
MEDIA_LAST = 0.2  # the share whose question comes before its media

LEAST_STRENGTH = 0.65  # of an action unit that is shown
GREY, NOT_GREY = 0.65, 0.25  # shares of grey hair from which it is gray, and up to which it is not
YOUNG, NOT_YOUNG = 36, 48  # years up to which, and from which; between, an answer does not say
SEX_AGE = 10  # years from which a face shows its sex

Labels = str | float | list[int] | dict[str, bool]


class SyntheticError(FaceLlavaError):
    """Rendered data that cannot be made; one line that names the cause and the remedy."""


class Medium(NamedTuple):
    """A picture (one frame) or a clip."""

    kind: Kind
    film: Film


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Media in the order of a record (the clip first), and what is said about them."""

    media: tuple[Medium, ...]
    landmarks: bool
    """Whether the record has landmarks."""
    conversation: tuple[str, ...]
    """Questions and answers in turn; `<image>` and `<video>` stand where media go."""
    task: Task | None
    """Of the first question; None for a conversation about no face."""
    labels: Labels | None
    """Its true answer: an emotion's name, years, names of attributes with whether they are there, numbers of action
    units, "real" or "fake"."""
    people: tuple[int, ...]
    """Numbers of those who are seen, and of those whose faces were put into others'."""


class Case(NamedTuple):
    """Somebody who does something."""

    person: Person
    units: Mapping[int, float]
    emotion: Emotion | None
    """Where what they do is one's usual expression."""
    forgery: Forgery | None = None

    @property
    def people(self) -> tuple[int, ...]:
        return (self.person.number, *([self.forgery.actor.person.number] if self.forgery else []))


class Draft(NamedTuple):
    """What a sample is to show, medium by medium, and to ask first; no task and no media for talk about no face."""

    form: Form
    task: Task | None
    kinds: list[Kind]
    cases: list[Case]


def render_sample(seed: int, split: Split, number: int, task: Task | None = None, *, frames: int = FRAMES) -> Sample:
    """The sample of this number, the same wherever and whenever it is rendered; clips have so many frames.

    Without a `task` samples take turns in all five. Nobody is in both splits. Raises SyntheticError.
    """
    check_request(seed, split, number + 1, frames)
    rng = _make_rng(seed, split, number)
    draft = _draw_draft(split, number, task, rng)
    if draft.task is None:
        question, answer = wording.talk_of_units(rng)
        return Sample(media=(), landmarks=False, conversation=(question, answer), task=None, labels=None, people=())
    return _compose(draft, split, frames, rng)


def label_sample(seed: int, split: Split, number: int) -> tuple[dict[Task, Labels], ...]:
    """What is true of the face in each medium of a sample, by task, whether it is asked or not; nothing is rendered.

    Whether a face is forged is part of it where that is asked: elsewhere what a forgery never has would tell. Of a
    forgery neither age nor attributes are, which may be of either person. Raises SyntheticError.
    """
    check_request(seed, split, number + 1, FRAMES)
    draft = _draw_draft(split, number, None, _make_rng(seed, split, number))
    return tuple(
        {task: _label(task, case) for task in TASKS if _is_known(task, case, draft.task)} for case in draft.cases
    )


def _is_known(task: Task, case: Case, asked: Task | None) -> bool:
    if task == "deepfake":
        return asked == "deepfake"
    if task == "emotion":
        return case.emotion is not None
    return task == "action-units" or not case.forgery


def _make_rng(seed: int, split: Split, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, SPLITS.index(split), number))


def _draw_draft(split: Split, number: int, task: Task | None, rng: np.random.Generator) -> Draft:
    form: Form = "plain" if split == "test" else list(FORMS)[rng.choice(len(FORMS), p=list(FORMS.values()))]
    if form == "text" and task is None:
        return Draft(form, None, [], [])
    task = TASKS[number % len(TASKS)] if task is None else task
    kinds: list[Kind] = [TEST_KIND[task] if split == "test" else "video" if rng.random() < CLIPS[task] else "image"]
    if form == "two images":
        kinds = ["image", "image"]
    elif form == "image and video":
        kinds = ["video", "image"]
    return Draft(form, task, kinds, [_draw_case(task, kind, split, rng) for kind in kinds])


def check_request(seed: int, split: str, samples: int, frames: int) -> None:
    """Raises SyntheticError for what cannot be rendered."""
    if split not in SPLITS:
        raise SyntheticError(f"split {split!r}: use {' or '.join(SPLITS)}")
    for name, value, least in (("seed", seed, 0), ("samples", samples, 1), ("frames", frames, 1)):
        if value < least:
            raise SyntheticError(f"{name} {value}: use at least {least}")


def _compose(draft: Draft, split: Split, frames: int, rng: np.random.Generator) -> Sample:
    form, task, kinds, cases = draft
    assert task
    varied = split == "train"
    asked = int(rng.integers(len(kinds)))
    case, kind = cases[asked], kinds[asked]
    which = ("first ", "second ")[asked] if form == "two images" else ""
    answer = _answer(task, case, rng)
    turns = [wording.ask(task, kind, which, rng, varied), answer]
    tasks = [task]
    # One round about forgeries: another would be about whom the inner or the outer face belongs to.
    if form == "more rounds" and task != "deepfake":
        others: list[Task] = [other for other in ("age", "attributes", "action-units") if other != task]
        tasks += [others[at] for at in rng.permutation(len(others))[: rng.integers(1, 3)]]
        for other in tasks[1:]:
            turns += [wording.ask(other, kind, which, rng, varied), _answer(other, case, rng)]
    marks = "\n".join(f"<{each}>" for each in kinds)
    last = varied and rng.random() < MEDIA_LAST
    turns[0] = f"{turns[0]}\n{marks}" if last else f"{marks}\n{turns[0]}"
    framing = WIDE if "attributes" in tasks else CLOSE
    media = tuple(
        Medium(
            each,
            film_person(one.person, one.units, rng, frames if each == "video" else None, framing, one.forgery),
        )
        for each, one in zip(kinds, cases, strict=True)
    )
    return Sample(
        media=media,
        landmarks=not (varied and rng.random() < WITHOUT_LANDMARKS),
        conversation=tuple(turns),
        task=task,
        labels=_label(task, case),
        people=tuple(number for one in cases for number in one.people),
    )


def _draw_case(task: Task, kind: Kind, split: Split, rng: np.random.Generator) -> Case:
    person = draw_person(number_person(rng, split))
    emotion: Emotion | None = None
    units: tuple[int, ...] = ()
    if task == "emotion":
        emotion = EMOTIONS[rng.integers(len(EMOTIONS))]
    elif task == "action-units" and rng.random() < 0.75:
        units = _draw_units(rng)
    elif task == "deepfake":
        emotion = EMOTIONS[rng.integers(len(EMOTIONS))] if rng.random() < 0.5 else "neutral"
    elif task == "action-units":
        emotion = EMOTIONS[rng.integers(len(EMOTIONS))]
    else:
        smiles, parts = ((), (6, 12)), ((), (25,))
        units = smiles[rng.integers(2)] + parts[int(rng.random() < 0.4)]
    if emotion:
        units = EXPRESSIONS[emotion]
    case = Case(person, {unit: float(rng.uniform(LEAST_STRENGTH, 1)) for unit in units}, emotion)
    if task != "deepfake":
        return case
    # What lies across the edge of the inner face would tell a forgery at once.
    case = case._replace(person=dataclasses.replace(person, glasses=False, bangs=False))
    if rng.random() < 0.5:
        other = draw_person(number_person(rng, split))
        case = case._replace(forgery=draw_forgery(rng, case.person, other, kind == "video"))
    return case


def _draw_units(rng: np.random.Generator) -> tuple[int, ...]:
    """Up to four action units that go together."""
    units: set[int] = set()
    count = rng.integers(1, 5)
    for unit in rng.permutation(list(NAMES)).tolist():
        more = {unit, *NEEDS.get(unit, ())}
        if len(units | more) <= count and not any(pair <= units | more for pair in EXCLUDED):
            units |= more
    return tuple(sorted(units))


def _answer(task: Task, case: Case, rng: np.random.Generator) -> str:
    if task == "emotion":
        assert case.emotion
        return wording.answer_emotion(case.emotion, case.units, rng)
    if task == "age":
        return wording.answer_age(case.person, rng)
    if task == "attributes":
        return wording.answer_attributes(label_attributes(case.person, case.units), rng)
    if task == "action-units":
        return wording.answer_units(case.units, rng)
    return wording.answer_deepfake(case.forgery.flaw.faults if case.forgery else (), rng)


def _label(task: Task, case: Case) -> Labels:
    """The truth that `_answer` tells."""
    if task == "emotion":
        assert case.emotion
        return case.emotion
    if task == "age":
        return float(case.person.age)
    if task == "attributes":
        return label_attributes(case.person, case.units)
    if task == "action-units":
        return sorted(case.units)
    return "fake" if case.forgery else "real"


def label_attributes(person: Person, units: Mapping[int, float]) -> dict[str, bool]:
    """CelebA's attributes of somebody, as far as they are drawn and plain to see."""
    labels = {
        "Big_Lips": person.big_lips,
        "Big_Nose": person.big_nose,
        "Bushy_Eyebrows": person.bushy,
        "Chubby": person.chubby,
        "Eyeglasses": person.glasses,
        "Goatee": person.beard == "goatee",
        "Heavy_Makeup": person.eye_shadow is not None,
        "Mouth_Slightly_Open": 25 in units,
        "Mustache": person.beard in ("mustache", "full"),
        "No_Beard": person.beard in ("none", "mustache"),
        "Pale_Skin": person.pale,
        "Rosy_Cheeks": person.rosy,
        "Smiling": 12 in units,
        "Wearing_Earrings": person.earrings,
        "Wearing_Hat": person.hat,
        "Wearing_Lipstick": person.lipstick is not None,
    }
    if person.age >= SEX_AGE:
        labels["Male"] = person.male
    if not YOUNG < person.age < NOT_YOUNG:
        labels["Young"] = person.age <= YOUNG
    bald = person.hair_length == "bald"
    if not person.hat:
        labels |= {"Bald": bald, "Bangs": person.bangs}
    hidden = person.hat and person.hair_length in ("bald", "short")
    if not hidden and (bald or not NOT_GREY < person.grey < GREY):
        colour = None if bald else "grey" if person.grey >= GREY else person.hair_colour
        names = {"black": "Black_Hair", "brown": "Brown_Hair", "blond": "Blond_Hair", "grey": "Gray_Hair"}
        labels |= {name: colour == each for each, name in names.items()}
    return dict(sorted(labels.items()))
