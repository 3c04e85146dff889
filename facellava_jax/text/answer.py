"""From generated tokens to the answer: whole characters only, and nothing from a stop on."""

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from .tokenizer import TextError, Tokenizer


class AnswerStream:
    """The text of an answer, piece by piece while its tokens arrive.

    The answer ends before the first end-of-sequence token or stop string; of stop strings that overlap, that counts
    which is complete first. How the tokens are cut into chunks makes no difference to the joined pieces. Special tokens
    give no text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """Raises TextError for an empty stop string."""
        if not all(stops):
            raise TextError("a stop string is empty: leave it out")
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._ids: list[int] = []
        self._sent = 0

    def feed(self, ids: Iterable[SupportsIndex]) -> str:
        """The new text that is sure after these tokens; "" from the stop on."""
        for id_ in map(int, ids):
            if self.stopped:
                return ""
            if id_ == self._tokenizer.eos_id:
                return self.finish()
            if id_ not in self._tokenizer.special_ids:
                self._ids.append(id_)
        return self._send(final=False)

    def finish(self) -> str:
        """What was held back, half a character (as U+FFFD) or half a stop string; the stream is then stopped."""
        text = "" if self.stopped else self._send(final=True)
        self.stopped = True
        return text

    def _send(self, *, final: bool) -> str:
        unfinished = 0 if final else self._tokenizer.count_unfinished(self._ids)
        text = self._tokenizer.decode(self._ids[: len(self._ids) - unfinished])
        end = len(text)
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            end = min(found)[1]
        elif not final:
            end -= max((_count_begun(text, stop) for stop in self._stops), default=0)
        piece = text[self._sent : end]
        self._sent += len(piece)
        return piece


def read_answer(tokenizer: Tokenizer, ids: Iterable[SupportsIndex], stops: Sequence[str] = ()) -> str:
    """The whole answer in `ids`: up to the first end-of-sequence token or stop string."""
    stream = AnswerStream(tokenizer, stops)
    return stream.feed(ids) + stream.finish()


def _count_begun(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` may begin with: the longest such run."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
