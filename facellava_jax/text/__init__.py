"""From a question, or a recorded conversation, to the tokens of a `Batch`; and from generated tokens to text.

Numpy and SentencePiece only, no jax: this runs in data workers.
"""

from .answer import AnswerStream, read_answer
from .prompt import (
    IGNORE,
    IMAGE_PLACEHOLDER,
    PLACEHOLDER_ID,
    TEMPLATES,
    VIDEO_PLACEHOLDER,
    Example,
    Medium,
    Prompt,
    Template,
    build_prompt,
    encode_answer,
    encode_with_images,
    label_answers,
    label_caption,
    place_media,
    read_conversation,
)
from .splice import (
    Layout,
    Row,
    Rows,
    bucket,
    pad_rows,
    splice,
)
from .tokenizer import TOKENIZER_FILES, TextError, Tokenizer

__all__ = [
    "IGNORE",
    "IMAGE_PLACEHOLDER",
    "PLACEHOLDER_ID",
    "TEMPLATES",
    "TOKENIZER_FILES",
    "VIDEO_PLACEHOLDER",
    "AnswerStream",
    "Example",
    "Layout",
    "Medium",
    "Prompt",
    "Row",
    "Rows",
    "Template",
    "TextError",
    "Tokenizer",
    "bucket",
    "build_prompt",
    "encode_answer",
    "encode_with_images",
    "label_answers",
    "label_caption",
    "pad_rows",
    "place_media",
    "read_answer",
    "read_conversation",
    "splice",
]
