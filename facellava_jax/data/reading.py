"""From a record to a sample: conversation to ids and labels, pictures and clips to pixels, landmarks to fractions.

Whatever is wrong with a record, a file of it or its conversation raises a FaceLlavaError or an OSError that names it.
No JAX: workers import this.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from ..media import Kind, load_image, load_landmarks, load_video
from ..text import PLACEHOLDER_ID, Example, Medium, TextError, Tokenizer, label_answers, place_media, read_conversation
from .records import MediumFile, Record


class Frames(NamedTuple):
    """A picture (T = 1) or the sampled frames of a clip, as its file holds them, with landmarks where it has some."""

    kind: Kind
    pixels: UInt8[np.ndarray, "T Y X 3"]
    landmarks: Float32[np.ndarray, "T K 2"] | None


class Encoded(NamedTuple):
    """A record's conversation in tokens; `order` is that in which its placeholders take the record's media."""

    example: Example
    order: tuple[int, ...]


def load_medium(file: MediumFile, num_frames: int) -> Frames:
    """Raises MediaError for a medium or landmarks that cannot be read."""
    if file.kind == "image":
        picture = load_image(file.path)
        return Frames(file.kind, picture[None], None if file.landmarks is None else load_landmarks(file.landmarks))
    clip = load_video(file.path, num_frames)
    landmarks = None if file.landmarks is None else load_landmarks(file.landmarks, clip)
    return Frames(file.kind, clip.frames, landmarks)


def encode_record(
    record: Record, tokenizer: Tokenizer, template: str, num_frames: int, max_length: int | None = None
) -> Encoded:
    """The ids and labels of a record's conversation, cut to `max_length`.

    Raises TextError for a conversation or placeholders that are wrong, for answers that cannot be told from the
    template's own signs, and where the cut takes a medium away.
    """
    media = [Medium(medium.kind, num_frames if medium.kind == "video" else 1) for medium in record.media]
    turns, order = place_media(read_conversation(record.conversations), media)
    example = label_answers(tokenizer, turns, template, max_length=max_length)
    if not example.aligned:
        raise TextError("the conversation holds signs of the template or unknown characters: reword it")
    if np.count_nonzero(example.ids == PLACEHOLDER_ID) < sum(medium.frames for medium in media):
        raise TextError(f"the conversation is cut after {max_length} tokens, before its last medium: shorten it")
    return Encoded(example, order)
