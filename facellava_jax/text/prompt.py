"""From a question, or a recorded conversation, to ids: templates, media placeholders, labels.

In a prompt's text every image and every frame of a clip is one `<image>`; in its ids one -200.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from .tokenizer import TextError, Tokenizer

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
PLACEHOLDER_ID = -200
IGNORE = -100  # the label of a position that is not learnt

_PLACEHOLDER = re.compile(f"{IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER}")
_SPEAKERS = ("human", "gpt")


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a conversation is written out: opening, question, cue, " ", answer, ending, next_round, question, cue ..."""

    opening: str
    cue: str
    ending: str
    next_round: str = ""
    # What splits a written-out conversation into rounds, and a round into question and answer.
    round_end: str = "</s>"
    answer_start: str = ""

    def render(self, turns: Sequence[str]) -> str:
        """Questions and answers in turn, beginning with a question; after a last question the cue for its answer.

        Raises TextError for an empty turn, or none.
        """
        if not turns or not all(turns):
            number = next((number for number, turn in enumerate(turns, start=1) if not turn), 1)
            raise TextError(f"turn {number} of the conversation is empty: give it a text, or leave it out")
        parts = [self.opening]
        for number, turn in enumerate(turns):
            if number % 2:
                parts += [" ", turn, self.ending]
            else:
                parts += [self.next_round if number else "", turn, self.cue]
        return "".join(parts)


def _vicuna(listener: str) -> Template:
    return Template(
        opening=f"A chat between a curious {listener} and an artificial intelligence assistant. The assistant gives "
        f"helpful, detailed, and polite answers to the {listener}'s questions. USER: ",
        cue=" ASSISTANT:",
        ending="</s>",
        next_round="USER: ",
        answer_start=" ASSISTANT: ",
    )


TEMPLATES = {
    "llava_v1": _vicuna("human"),
    "v1": _vicuna("user"),
    "plain": Template(opening="", cue="\n", ending="\n"),
    "llava_llama_2": Template(
        opening="[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using natural language."
        "\n<</SYS>>\n\n",
        cue=" [/INST]",
        ending=" </s>",
        next_round="<s>[INST] ",
        answer_start="[/INST] ",
    ),
}


class Medium(NamedTuple):
    """An image, or a clip of so many frames."""

    kind: Literal["image", "video"]
    frames: int = 1


class Prompt(NamedTuple):
    """A prompt's text, and the media (as indices into those it was built with) in the order of their placeholders."""

    text: str
    order: tuple[int, ...]


class Example(NamedTuple):
    """A tokenised conversation for training: placeholders are -200, labels -100 but for the answers.

    `aligned` is False where the answers could not be found in it; then no label counts.
    """

    ids: Int[np.ndarray, " L"]
    labels: Int[np.ndarray, " L"]
    aligned: bool = True


def build_prompt(question: str, media: Sequence[Medium] = (), template: str = "llava_v1", joint: str = " ") -> Prompt:
    """The prompt that asks `question` about `media`.

    Placeholders in the question, `<image>` for an image and `<video>` for a clip, say where the media go; without any
    they come first, on a line of their own. `joint` stands between the frames of a clip. Raises TextError where
    placeholders and media do not fit together.
    """
    if not question.strip():
        raise TextError("the prompt is empty: ask something")
    (text,), order = place_media([question], media, joint=joint)
    return Prompt(_template(template).render([text]), order)


def place_media(turns: Sequence[str], media: Sequence[Medium], *, joint: str = "") -> tuple[list[str], tuple[int, ...]]:
    """Turns with one `<image>` for every image and every frame of a clip, and the order in which these take the media.

    `joint` stands between the placeholders that this writes: one space at inference, nothing in training, as the
    original has it. Where no turn has a placeholder the media come first. Raises TextError for a count that is wrong.
    """
    asked = [IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER]
    found = [match for turn in turns for match in _PLACEHOLDER.findall(turn)]
    given = [f"<{medium.kind}>" for medium in media]
    if media and not found:
        turns = [joint.join(given) + "\n" + turns[0], *turns[1:]]
    elif any(found.count(kind) != given.count(kind) for kind in asked):
        raise TextError(
            f"the prompt has {_count(found)} and is given {_count(given)}: one placeholder for each, or no placeholder"
        )
    queues: dict[str, Iterator[int]] = {
        kind: iter([number for number, each in enumerate(given) if each == kind]) for kind in asked
    }
    order: list[int] = []

    def expand(match: re.Match[str]) -> str:
        order.append(next(queues[match[0]]))
        return joint.join([IMAGE_PLACEHOLDER] * media[order[-1]].frames)

    return [_PLACEHOLDER.sub(expand, turn) for turn in turns], tuple(order)


def encode_with_images(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a prompt: begin-of-sequence, then its parts between `<image>`, each tokenised on its own, and -200."""
    first, *rest = text.split(IMAGE_PLACEHOLDER)
    ids = tokenizer.encode(first)
    for part in rest:
        ids += [PLACEHOLDER_ID, *tokenizer.encode(part, bos=False)]
    return ids


def encode_answer(tokenizer: Tokenizer, prompt: str, answer: str, template: str = "llava_v1") -> list[int]:
    """The ids of `answer` and of its end, as they follow `prompt`'s in a recorded conversation.

    `prompt` is the text of `build_prompt`. Raises TextError for an answer that no model gives: one that is empty, holds
    `<image>` or ends before its end.
    """
    if not answer.strip():
        raise TextError("an answer is empty: give it a text, or leave it out")
    asked = encode_with_images(tokenizer, prompt)
    whole = encode_with_images(tokenizer, f"{prompt} {answer}{_template(template).ending}")
    ids = whole[len(asked) :]
    if whole[: len(asked)] != asked or PLACEHOLDER_ID in ids or tokenizer.eos_id in ids[:-1]:
        raise TextError(f"no model answers {answer!r}: leave {IMAGE_PLACEHOLDER} and special tokens out of it")
    return ids


def read_conversation(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of a record's `conversations`: human and gpt in turn, human first (one leading gpt turn is dropped).

    Raises TextError that names the turn where the order is another, a text is missing, or no answer ends it.
    """
    texts: list[str] = []
    for number, turn in enumerate(turns, start=1):
        speaker, text = turn.get("from"), turn.get("value")
        if number == 1 and speaker == "gpt":
            continue
        due = _SPEAKERS[len(texts) % 2]
        if speaker != due or not isinstance(text, str) or not text:
            raise TextError(f"turn {number} of the conversation: a text from {due!r} is due, and it is {dict(turn)!r}")
        texts.append(text)
    if not texts or len(texts) % 2:
        raise TextError("the conversation does not end with an answer from 'gpt': add it, or leave the record out")
    return texts


def label_answers(
    tokenizer: Tokenizer, turns: Sequence[str], template: str = "v1", *, max_length: int | None = None
) -> Example:
    """The ids and labels of questions and answers in turn (with `<image>`s placed), cut to `max_length` ids.

    The answers are found by tokenising every round on its own and counting, as the original does. A conversation whose
    text holds the template's own signs, or an unknown token, is not aligned.
    """
    if template == "plain":
        return label_caption(tokenizer, turns, max_length=max_length)
    form = _template(template)
    text = form.render(turns)
    ids = np.array(encode_with_images(tokenizer, text), np.int32)
    labels = np.full_like(ids, IGNORE)
    at = 1
    for part in text.split(form.round_end):
        if part.count(form.answer_start) != 1:
            break
        question = part[: part.index(form.answer_start)] + form.answer_start
        # One for the begin-of-sequence token, one for the space that ends the question: here the answer's first token.
        start = at + len(encode_with_images(tokenizer, question)) - 2
        # And here the begin-of-sequence token counts for the end-of-sequence token that is split off.
        at += len(encode_with_images(tokenizer, part))
        labels[start:at] = ids[start:at]
    # The original does not count unknown tokens here, which pad its batches.
    aligned = at == np.count_nonzero(ids != tokenizer.unk_id) or (max_length is not None and at >= max_length)
    if not aligned:
        labels[:] = IGNORE
    return Example(ids[:max_length], labels[:max_length], aligned)


def label_caption(tokenizer: Tokenizer, turns: Sequence[str], *, max_length: int | None = None) -> Example:
    """The `plain` template's ids and labels: the placeholders of the first turn, then the second turn and a newline.

    Raises TextError for a conversation of other than one question with media and one answer.
    """
    if len(turns) != 2 or IMAGE_PLACEHOLDER not in turns[0]:
        raise TextError("the template 'plain' takes one turn with <image> or <video> and its caption: use another one")
    media = IMAGE_PLACEHOLDER * turns[0].count(IMAGE_PLACEHOLDER)
    ids = np.array(encode_with_images(tokenizer, media + turns[1] + TEMPLATES["plain"].ending), np.int32)
    labels = ids.copy()
    labels[: len(encode_with_images(tokenizer, media))] = IGNORE
    return Example(ids[:max_length], labels[:max_length])


def _template(name: str) -> Template:
    if name not in TEMPLATES:
        raise TextError(f"template {name!r} is not one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def _count(placeholders: Sequence[str]) -> str:
    return f"{placeholders.count(IMAGE_PLACEHOLDER)} images and {placeholders.count(VIDEO_PLACEHOLDER)} videos"
