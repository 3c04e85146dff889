"""From an answer's words to the label that they state, for each of the five tasks.

Rules are tables of words with their sources: `emotion`, `units`, `age`, `attributes` and `deepfake` hold those of their
task, `sentences` those of negation, `claims` those by which one statement outweighs another, `language` those that
tell English, which alone is read.
"""

from collections.abc import Callable
from typing import Literal

from ..errors import FaceLlavaError
from .age import parse_age
from .attributes import ATTRIBUTES, parse_attributes
from .deepfake import parse_deepfake
from .emotion import EMOTIONS, parse_emotion
from .language import is_english
from .units import parse_units
from .words import plain_words

__all__ = ["ATTRIBUTES", "EMOTIONS", "AnswerError", "Label", "Task", "parse"]

Task = Literal["emotion", "age", "attributes", "action-units", "deepfake"]
# Of emotion and deepfake; of action-units; of age (years); of attributes, those that an answer speaks of.
Label = str | frozenset[int] | float | dict[str, bool]

PARSERS: dict[str, Callable[[str], Label | None]] = {
    "emotion": parse_emotion,
    "age": parse_age,
    "attributes": parse_attributes,
    "action-units": parse_units,
    "deepfake": parse_deepfake,
}


class AnswerError(FaceLlavaError):
    """A task that no answer is read for."""


def parse(text: str, task: str) -> Label | None:
    """What an answer in English states about a Task; None where it states nothing.

    emotion: one of EMOTIONS. age: years. attributes: some of ATTRIBUTES, with whether they are there. action-units: the
    numbers of those that are active, which may be none. deepfake: "real" or "fake".

    Raises AnswerError for an unknown task.
    """
    if task not in PARSERS:
        raise AnswerError(f"task {task!r} is not one of {', '.join(PARSERS)}")
    words = plain_words(text)
    return PARSERS[task](words) if is_english(words) else None
