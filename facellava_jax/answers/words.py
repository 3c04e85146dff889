"""An answer in plain words, cut into sentences; and the words and phrases that are looked for in them."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")
# A source, and what it names: a pattern, or words between spaces.
Rule = tuple[str, str]
QUIRK = "Quirk et al., A Comprehensive Grammar of the English Language (1985)"
ANSWERS = "how answers put it (tests/answers.jsonl)"

# Rewritten in turn, in lower case. JSON, Markdown and CelebA's underscores become words.
PLAIN: tuple[tuple[str, str], ...] = (
    (r"[\u2018\u2019\u02bc`\u00b4]", "'"),
    # A long dash is a range between numbers, else a break.
    (r"(?<=\d)\s?[\u2010-\u2015\u2212]\s?(?=\d)", "-"),
    (r"\u2014|\u2015|(?<=\s)[\u2012\u2013](?=\s)", " - "),
    (r"[\u2010-\u2013\u2212]", "-"),
    (r"\|", " : "),
    # A ranking: "surprise > fear".
    (r"(?<=[a-z]) > (?=[a-z])", ", "),
    # LaTeX: \boxed{42}.
    (r"\\[a-z]+(?=\{)|\$(?!\d)", ""),
    (r"[*_#>~\u2248\"\u201c\u201d\u201e\u00ab\u00bb\[\]{}\\]", " "),
    # Marks of lists; numbers where there are at least two of them in order (see `plain_words`).
    (r"(?m)^\s*[-+\u2022\u00b7]\s+", ""),
    # Abbreviations whose dots end no sentence.
    (r"\bi\.\s?e\.", "that is"),
    (r"\be\.\s?g\.", "for example"),
    (r"\b(approx|vs|etc|ca|dr|mr|mrs|ms)\.(?=\s+[a-z\d])", r"\1"),
    (r"(?<![a-z])y(?:/o\b|\. ?o\b\.?)", "yo"),
    (r"\ba\.\s?u\.(?=\s?\d)", "au"),
    # Ticks and crosses, after what they are of or before it.
    (r"(?<=[\w)])[^\S\n]*[\u2705\u2713\u2714\u2611]\ufe0f?", ": yes,"),
    (r"(?<=[\w)])[^\S\n]*[\u274c\u274e\u2612\u2717\u2718]\ufe0f?", ": no,"),
    (r"[\u2705\u2713\u2714\u2611]\ufe0f?", " yes "),
    (r"[\u274c\u274e\u2612\u2717\u2718]\ufe0f?", " no "),
    (r"\bca(?:n't|nnot|nt)\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\b(is|are|was|were|do|does|did|has|have|could|would|should)nt\b", r"\1 not"),
    (r"\b(it|he|she|that|there|what|who)'s\b", r"\1 is"),
    (r"(?<=[^\W\d_])'s\b", ""),
    (r"'re\b", " are"),
    (r"'m\b", " am"),
    (r"'d\b|'ll\b", " would"),
    (r"'ve\b", " have"),
    # Compounds are words of their own, but "20s-30s" is a range.
    (r"(?<=[^\W\d_])(?<!\ds)-(?=\w)|(?<=\d)-(?=[^\W\d_])", " "),
    (r"[^\S\n]+", " "),
)
NUMBERED = r"(?m)^\s*\(?(\d{1,2})[.)]\s+(?=\S)"
# Words that take back what was said before begin a sentence of their own.
REVISION = (
    r"(?:actually|wait|on (?:second|closer|further) (?:thoughts?|look|inspection|reflection|consideration)|correction"
    r"|scratch that|i mean|let me correct|i was wrong)\b"
)
SENTENCE_END = rf"(?<=[.!?])['\")]*\s+|\n+|;|\u2026|\.\.+|(?<=[,:\-])\s+(?=(?:no,? )?{REVISION})"
PIECE = r"(?s).{1,600}(?!\w)|.{1,600}"


@cache
def compile_pattern(*alternatives: str) -> re.Pattern[str]:
    """Once, when it is first needed, so that importing the package is quick."""
    return re.compile("|".join(alternatives))


def any_of(rules: Iterable[Rule]) -> str:
    """A pattern of what one of the rules names."""
    return f"(?:{'|'.join(pattern for _, pattern in rules)})"


def plain_words(text: str) -> str:
    """The text in lower case and one spelling, without marks of its layout; lines stay lines."""
    text = unicodedata.normalize("NFKC", text).lower()
    marks = compile_pattern(NUMBERED).findall(text)
    if len(marks) > 1 and [int(mark) for mark in marks] == [*range(1, len(marks) + 1)]:
        text = compile_pattern(NUMBERED).sub("", text)
    for pattern, plain in PLAIN:
        text = compile_pattern(pattern).sub(plain, text)
    return text


def split_sentences(text: str) -> list[str]:
    """Plain text, sentence by sentence; those without words are left out, and endless ones are cut between words."""
    parts = (
        part
        for sentence in compile_pattern(SENTENCE_END).split(text)
        for part in compile_pattern(PIECE).findall(sentence)
    )
    return [part.strip() for part in parts if any(map(str.isalnum, part))]


@dataclass(frozen=True)
class Mention(Generic[Value]):
    """What a place of a sentence, from `start` up to `end`, stands for."""

    start: int
    end: int
    value: Value


class Weighed(NamedTuple):
    """What a word says, and how much that counts; None where it is about something else."""

    label: str | None
    weight: int


# A label, the source of its words, how much they count, and the words.
Row = tuple[str | None, str, int, str]


class Lexicon(Generic[Value]):
    """Plain phrases, with what they stand for. Of two at one place the longer is meant."""

    WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

    def __init__(self, entries: Iterable[tuple[str, Value]]) -> None:
        self.entries: dict[str, list[tuple[str, Value]]] = {}
        for phrase, value in sorted(entries, key=lambda entry: -len(entry[0])):
            self.entries.setdefault(self.WORD.findall(phrase)[0], []).append((phrase, value))

    @staticmethod
    def from_rows(rows: Iterable[Row]) -> "Lexicon[Weighed]":
        return Lexicon(
            (phrase, Weighed(label, weight)) for label, _, weight, words in rows for phrase in words.split(", ")
        )

    def find(self, sentence: str) -> Iterator[Mention[Value]]:
        """Mentions of whole words, from left to right; none overlaps another."""
        end = 0
        for word in self.WORD.finditer(sentence):
            if word.start() < end:
                continue
            for phrase, value in self.entries.get(word.group(), ()):
                after = word.start() + len(phrase)
                if sentence.startswith(phrase, word.start()) and not sentence[after : after + 1].isalnum():
                    yield Mention(word.start(), after, value)
                    end = after
                    break
