"""The Llama tokenizer, as the checkpoints were trained with it: SentencePiece plus special tokens.

Ids and text agree with the slow `LlamaTokenizer` of transformers 4.31, in both of its modes (`legacy` true and false).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, SupportsIndex

from ..errors import FaceLlavaError
from ..extras import require

# In the order in which those that the vocabulary lacks get new ids; `additional_special_tokens` comes after them.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# Settings of tokenizer_config.json that would change ids or text, with the only values that are implemented.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": ("LlamaTokenizer", "LlamaTokenizerFast"),
    "add_bos_token": (True,),
    "add_eos_token": (False,),
    "clean_up_tokenization_spaces": (False,),
    "sp_model_kwargs": ({},),
}
# All that belongs to a tokenizer; the last is for readers other than this one.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
SPACE = "\u2581"  # SentencePiece's sign for a space


class TextError(FaceLlavaError):
    """A tokenizer folder, a prompt or a conversation that cannot be used; the message names it and the remedy."""


class Marker(NamedTuple):
    """A token that is found in a text before SentencePiece sees it, and whether it swallows the spaces beside it."""

    content: str
    lstrip: bool = True
    rstrip: bool = True


class Tokenizer:
    """Text to token ids and back."""

    def __init__(
        self,
        processor: Any,
        special: Mapping[str, Marker],
        added: Sequence[str] = (),
        *,
        legacy: bool = True,
        max_length: int | None = None,
    ) -> None:
        """`processor` is SentencePiece's; `added` tokens take the ids after its own, then the special ones it lacks."""
        self.legacy = legacy
        self.max_length = max_length
        self._processor = processor
        self._size: int = processor.get_piece_size()
        self._unknown: int = processor.unk_id()
        self._added: dict[str, int] = {}
        markers = {content: Marker(content) for content in added}
        for marker in special.values():
            # Of two roles of one token, that which says how it treats spaces decides.
            if marker.content not in markers or not (marker.lstrip and marker.rstrip):
                markers[marker.content] = marker
        for content in markers:
            if self._find(content) is None:
                self._added[content] = len(self)
        self._markers = {content: (self._id(content), marker) for content, marker in markers.items()}
        self._contents = {id_: content for content, id_ in self._added.items()}
        # Longest first: of two markers that begin at the same place the longer one counts.
        longest = sorted(filter(None, markers), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest))})")
        self.special_ids = frozenset(self._id(marker.content) for marker in special.values())
        self.bos_id = self._id(special["bos_token"].content)
        self.eos_id = self._id(special["eos_token"].content)
        self.unk_id = self._id(special["unk_token"].content)
        # The original pads with the unknown token where a checkpoint names no padding.
        self.pad_id = self._id(special.get("pad_token", special["unk_token"]).content)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The tokenizer of a folder: `tokenizer.model`, and the JSON files beside it where there are any.

        Raises TextError that names the file for a missing or corrupt one and for a setting that is not implemented,
        and ImportError without SentencePiece.
        """
        folder = Path(folder)
        processor = _load_model(folder / "tokenizer.model")
        config = _load_json(folder / "tokenizer_config.json")
        for name, allowed in SETTINGS.items():
            if name in config and config[name] is not None and config[name] not in allowed:
                raise TextError(
                    f"{folder / 'tokenizer_config.json'}: {name} {config[name]!r} is not supported: "
                    f"only {' or '.join(map(repr, allowed))}"
                )
        max_length = config.get("model_max_length")
        return cls(
            processor,
            _read_special(config, _load_json(folder / "special_tokens_map.json"), folder),
            _read_added(_load_json(folder / "added_tokens.json"), processor, folder / "added_tokens.json"),
            # transformers 4.31 takes an absent value for true.
            legacy=config.get("legacy") is not False,
            max_length=max_length if isinstance(max_length, int) and max_length < 10**9 else None,
        )

    def __len__(self) -> int:
        """Ids that have a meaning: 0 up to this."""
        return self._size + len(self._added)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The ids of `text`, after the begin-of-sequence one. Special tokens written out in it become their ids."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"the text is not valid Unicode at character {error.start}: remove it") from None
        ids = [self.bos_id] if bos else []
        for position, part in enumerate(self._divide(text)):
            if part in self._markers:
                ids.append(self._markers[part][0])
            elif part:
                ids += self._encode_part(part, first=position == 0)
        return ids

    def decode(self, ids: Iterable[SupportsIndex], *, skip_special: bool = False) -> str:
        """The text of `ids`. An id that stands for a byte of no complete character gives U+FFFD.

        Raises TextError for an id outside the vocabulary.
        """
        texts: list[str] = []
        run: list[int] = []
        for id_ in map(int, ids):
            if not 0 <= id_ < len(self):
                raise TextError(f"token id {id_} is not in the vocabulary of {len(self)}: does the model fit it?")
            if skip_special and id_ in self.special_ids:
                continue
            if id_ < self._size:
                run.append(id_)
                continue
            if run:
                texts.append(self._decode_run(run))
                run = []
            texts.append(self._contents[id_])
        if run:
            texts.append(self._decode_run(run))
        return " ".join(texts)

    def count_unfinished(self, ids: Sequence[int]) -> int:
        """How many of the last ids are the bytes of a character that is not complete yet: 0 to 3."""
        for count, id_ in enumerate(reversed(ids[-3:]), start=1):
            byte = self._byte(id_)
            if byte is None or byte < 0x80:
                return 0
            if byte >= 0xC0:
                return count if count < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
        return 0

    def _divide(self, text: str) -> list[str]:
        """`text` in parts, those at odd places markers, with the spaces gone that these swallow."""
        if not self.legacy:
            text = text.replace(SPACE, " ")
        parts = self._split.split(text)
        for at in range(1, len(parts), 2):
            marker = self._markers[parts[at]][1]
            if marker.lstrip:
                parts[at - 1] = parts[at - 1].rstrip()
            if marker.rstrip:
                parts[at + 1] = parts[at + 1].lstrip()
        return parts

    def _encode_part(self, part: str, *, first: bool) -> list[int]:
        ids: list[int] = self._processor.encode(part)
        if self.legacy or first or part.startswith(" "):
            return ids
        # SentencePiece puts a space before every text; here one belongs only where the whole text begins.
        piece = self._processor.id_to_piece(ids[0]) if ids else ""
        if not piece.startswith(SPACE):
            return ids
        rest = piece.removeprefix(SPACE)
        return [self._processor.piece_to_id(rest), *ids[1:]] if rest else ids[1:]

    def _decode_run(self, ids: list[int]) -> str:
        text, run, after_special = "", list[int](), True
        for id_ in ids:
            special = id_ in self.special_ids
            if special:
                # transformers sets the space before the text that the special token ends, not before the token.
                text += ("" if after_special else " ") + self._processor.decode(run) + self._processor.id_to_piece(id_)
                run = []
            else:
                run.append(id_)
            after_special = special
        return text + (self._processor.decode(run) if run else "")

    def _find(self, content: str) -> int | None:
        if content in self._added:
            return self._added[content]
        id_: int = self._processor.piece_to_id(content)
        return id_ if id_ != self._unknown or self._processor.id_to_piece(id_) == content else None

    def _id(self, content: str) -> int:
        id_ = self._find(content)
        assert id_ is not None, content
        return id_

    def _byte(self, id_: int) -> int | None:
        if id_ >= self._size or not self._processor.is_byte(id_):
            return None
        return int(self._processor.id_to_piece(id_)[1:-1], 16)


def _load_model(path: Path) -> Any:
    sentencepiece = require("sentencepiece", "predict")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TextError(
            f"{path}: {error.strerror}: copy the tokenizer.model of the checkpoint, or of its base model, there"
        ) from None
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(data)
    except RuntimeError:
        raise TextError(f"{path}: no whole SentencePiece model ({len(data)} bytes): copy it again") from None
    return processor


def _load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: {error}: copy it again") from None
    if not isinstance(values, dict):
        raise TextError(f"{path}: holds no JSON object: copy it again")
    return values


def _read_special(config: dict[str, Any], tokens: dict[str, Any], folder: Path) -> dict[str, Marker]:
    """The special tokens by role; those of special_tokens_map.json win over those of tokenizer_config.json."""
    special: dict[str, Marker] = {}
    for role in SPECIAL_TOKENS:
        source = tokens if tokens.get(role) is not None else config
        if (value := source.get(role) or DEFAULTS.get(role)) is not None:
            # A bare string swallows spaces, but for the four that the tokenizer's constructor sees.
            bare = source is tokens or role not in (*DEFAULTS, "pad_token")
            special[role] = _read_marker(value, bare, f"{folder}: {role}")
    role = "additional_special_tokens"
    for number, value in enumerate(tokens.get(role) or config.get(role) or []):
        special[f"{role}[{number}]"] = _read_marker(value, True, f"{folder}: {role}")
    return special


def _read_marker(value: Any, bare: bool, name: str) -> Marker:
    if isinstance(value, str) and value:
        return Marker(value, bare, bare)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        return Marker(value["content"], value.get("lstrip") is True, value.get("rstrip") is True)
    raise TextError(f"{name}: {value!r} is no token: copy the tokenizer's JSON files again")


def _read_added(values: dict[str, Any], processor: Any, path: Path) -> list[str]:
    """The tokens beyond the vocabulary in the order of their ids, which must follow on it without a gap."""
    size = processor.get_piece_size()
    added: list[str] = []
    for content, id_ in sorted(values.items(), key=lambda item: (not isinstance(item[1], int), item[1])):
        known = processor.piece_to_id(content) if id_ in range(size) else size + len(added)
        if not content or id_ != known:
            raise TextError(f"{path}: token {content!r} has id {id_!r}, and should have {known}: copy the file again")
        if id_ == size + len(added):
            added.append(content)
    return added
