"""Which of an answer's statements holds: the weightiest, and of equal ones the last.

What weighs them follows Quirk et al., A Comprehensive Grammar of the English Language (1985): resultive and summative
conjuncts ("therefore", "overall") make a statement heavier; downtoners and hedges ("slightly", "perhaps"), concessive
and relative clauses ("although ...", "which ...") make it lighter. Words for verdicts and first looks are the answers'.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar

from .sentences import EXCEPTION, Sentence
from .words import REVISION, compile_pattern, split_sentences

Value = TypeVar("Value")

HEAVIER, LIGHTER = 2, -2
# Begin a clause, for the order of what is said, and a wider one, for the words that weigh it.
CLAUSE = (
    rf"[;:]| - |{EXCEPTION}|,\s(?=(?:just|only|rather|instead)\b)"
    r"|\b(?:but|however|although|though|while|whereas|yet|then|before|until|which|who)\b"
    r"|,\s(?=(?:and\s)?(?:i|he|she|it|they|we|the|his|her|their|this|is|are|was|were)\b)"
)
WIDE_CLAUSE = r";| - |\b(?:but|however|although|though|while|whereas|yet|then|before|until)\b"
CONCESSION = r"(?:although|though|while|whereas|which|who)\b"
# What an answer weighs its statements with, in the clause before them; "clause" only from the last statement on.
WEIGHTS: tuple[tuple[int, Literal["clause", "whole clause", "wide clause"], str], ...] = (
    (
        HEAVIER,
        "wide clause",
        r"\b(?:primar(?:y|ily)|main|mainly|mostly|predominant|predominantly|dominant|overall|conclusion|conclude"
        r"|therefore|thus|hence|ultimately|in summary|to summari[sz]e|to sum up|in short|final|finally|verdict"
        r"|answer|label|best described|best guess|my guess|settle on|opt for"
        r"|would (?:pick|choose|go with)|lean(?:s|ing)? (?:more )?(?:to|towards?))\b",
    ),
    (
        LIGHTER,
        "wide clause",
        r"\b(?:at first(?: glance| sight| look)?|first thought|thought|initially|seemingly|superficially"
        r"|secondary)\b",
    ),
    (LIGHTER, "whole clause", r"\b(?:could|might|may)(?: well| also)?(?: have been| be)\b"),
    (
        LIGHTER,
        "clause",
        r"\b(?:hints?|touch|traces?|tinge|tinged|undertones?|elements?|slight|slightly|mild|mildly|a little|a bit"
        r"|mixed|some|also|as well as|along with|combined with|possibly|perhaps|maybe|bordering on|as if|as though"
        r"|others|other people|people|bystanders|crowd)\b|(?<!apart )(?<!aside )\bfrom (?:[a-z]+ )?$",
    ),
)
AT_FIRST = r" (?:at first|initially|at the (?:start|beginning|outset))\b"
# A share that an answer gives to a value, or how large it says that it is: "sad: 0.7", "fear (80%)", "anger: low", "a
# slim chance of fear", "the odds that it is fake are 1%".
LEVELS: Mapping[float, str] = {
    0.25: "low|slim|small|little|minimal|negligible|remote|tiny",
    0.5: "medium|moderate|fair",
    0.75: "high|large|strong|good|great|considerable",
}
NUMBER = r"(?:(?P<share>0?\.\d+|[01]\.0+)|(?P<percent>\d{1,3})(?:\.\d+)? ?%)"
LEVEL = rf"(?:very |fairly |quite |rather )?(?P<level>{'|'.join(LEVELS.values())})"
LIKELIHOOD = r"(?:probability|chances?|likelihood|possibility|odds|confidence|risk)"
SHARE = rf"[ :=()]+(?:(?:confidence|probability|score|likelihood|with)[ :=]*)?{NUMBER}"
LEVEL_AFTER = rf"[ )]*[:=(] ?{LEVEL}(?= *(?:$|[,.;):]))"
SHARE_BEFORE = rf"(?:{NUMBER}|\b{LEVEL}) {LIKELIHOOD} (?:of|that|for)\b[^,.;:]*$"
LIKELIHOOD_BEFORE = rf"\b{LIKELIHOOD} (?:of|that|for)\b[^,.;:]*$"
LIKELIHOOD_AFTER = rf"[^,.;:]*? (?:is|are|at)(?: [a-z]+){{0,2}}? (?:{NUMBER}|{LEVEL}\b)"
REVISES = rf"(?:[^a-z]|but |and |or |no |oh |hm+ |well |sorry )*{REVISION}"
# Said with a revision, these do not take back what was said before.
ADDS = r"\b(?:too|as well|also|in addition|additionally)\b"
# Openings of questions; what these name is not stated.
ASKS = r"(?:so )?(?:is|are|was|were|do|does|did|can|could|has|have|how|what|which|who|why|should|would)\b|.*\bor\b"
YES_OR_NO = (
    r"(?P<yes>yes|true(?=\W*$)|yeah|yep|indeed|(?:definitely|certainly|absolutely|surely)(?! not)|of course(?! not)"
    r"|no doubt|i (?:do )?(?:think|believe) so)\b"
    r"|(?:false(?=\W*$)|no(?! idea)|nope|not(?! (?:sure|certain|clear))|never|none|hardly|scarcely|definitely|certainly"
    r"|absolutely|surely|of course|i doubt (?:it|that|so)|i do not (?:think|believe) (?:so|that|it))\b"
)


@dataclass(frozen=True)
class Claim(Generic[Value]):
    """A value that an answer states, and how much that counts."""

    value: Value
    weight: float
    clause: tuple[int, int]
    """The numbers of its sentence, and of its clause there."""
    revises: bool
    """Whether its sentence takes back what was said before."""


class Statement(Sentence):
    """A sentence of an answer, with the weight of what it says."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number
        self.revises = bool(compile_pattern(REVISES).match(text)) and not compile_pattern(ADDS).search(text)
        self.doubted = text.endswith("?")
        self.asks = self.doubted and bool(compile_pattern(ASKS).match(text))
        self.answer: bool | None = None
        """That of the next sentence, where this is a question: "AU12? No." """
        self._bounds = {
            kind: [0, *(match.start() for match in compile_pattern(pattern).finditer(text))]
            for kind, pattern in (("clause", CLAUSE), ("whole clause", CLAUSE), ("wide clause", WIDE_CLAUSE))
        }

    def states(self, start: int, end: int) -> bool | None:
        stated = super().states(start, end)
        return not stated if self.answer is False and stated is not None else stated

    def leads(self, pattern: str, start: int) -> bool:
        """Whether the pattern stands before `start`, in the same clause."""
        return bool(compile_pattern(pattern).search(self.text, self._begin("wide clause", start), start))

    def before(self, start: int) -> str:
        """What stands before `start` in the same clause."""
        return self.text[self._begin("clause", start) : start]

    def share(self, end: int) -> float | None:
        """The share, 0 to 1, that is given to what is said up to `end`."""
        match = compile_pattern(SHARE).match(self.text, end)
        return _read_share(match) if match else None

    def likelihood(self, start: int, end: int) -> float | None:
        """How likely what is said from `start` up to `end` is said to be, 0 to 1: as a share, or in words."""
        before = self.text[self._begin("wide clause", start) : start]
        match = (
            compile_pattern(SHARE).match(self.text, end)
            or compile_pattern(LEVEL_AFTER).match(self.text, end)
            or compile_pattern(SHARE_BEFORE).search(before)
            or (
                compile_pattern(LIKELIHOOD_BEFORE).search(before)
                and compile_pattern(LIKELIHOOD_AFTER).match(self.text, end)
            )
        )
        return _read_share(match) if match else None

    def claim(self, value: Value, start: int, end: int, weight: int, after: int = 0) -> Claim[Value]:
        """That `value` is said from `start` up to `end`, where the last thing before it is said up to `after`."""
        share = self.likelihood(start, end)
        total = float(weight) + (share or 0) + LIGHTER * self.doubted
        if first := compile_pattern(AT_FIRST).match(self.text, after):
            after = first.end()
        for change, kind, pattern in WEIGHTS:
            begin = self._begin(kind, start)
            if kind == "clause" or first:
                begin = max(begin, after)
            total += change * bool(compile_pattern(pattern).search(self.text, begin, start))
        for conceded in (
            compile_pattern(CONCESSION).match(self.text, self._begin("clause", start)),
            compile_pattern(AT_FIRST).match(self.text, end),
        ):
            total += LIGHTER * bool(conceded)
        # A word of its own, or one that the rest explains: "Fear.", "Disgust: the nose is wrinkled."
        alone = self.text[end:].strip(" .!'")[:1] in ("", ":") and not any(map(str.isalnum, self.text[:start]))
        total += HEAVIER * (alone and share is None)
        clause = bisect_right(self._bounds["clause"], start)
        return Claim(value, total, (self.number, clause), self.revises)

    def _begin(self, kind: str, start: int) -> int:
        bounds = self._bounds[kind]
        return bounds[bisect_right(bounds, start) - 1]


def _read_share(match: re.Match[str]) -> float:
    groups = match.groupdict()
    if level := groups.get("level"):
        return next(share for share, words in LEVELS.items() if level in words.split("|"))
    return float(groups["share"]) if groups["share"] else int(groups["percent"]) / 100


def read_statements(text: str) -> list[Statement]:
    """Those of plain text, without questions that are not answered by yes or no."""
    statements = [Statement(sentence, number) for number, sentence in enumerate(split_sentences(text))]
    for question, reply in pairwise(statements):
        if question.doubted and (answer := compile_pattern(YES_OR_NO).match(reply.text)):
            question.answer = bool(answer["yes"])
    return [statement for statement in statements if statement.answer is not None or not statement.asks]


def settle(claims: Sequence[Claim[Value]]) -> Value | None:
    """What an answer ends up with: what a revision says takes the place of what was said before it; then the weightiest
    claims hold, of these the last clause's, and there the first, which others are added to.
    """
    revised = max((claim.clause[0] for claim in claims if claim.revises), default=0)
    left = [claim for claim in claims if claim.clause[0] >= revised]
    if not left:
        return None
    weight = max(claim.weight for claim in left)
    clause = max(claim.clause for claim in left if claim.weight == weight)
    return next(claim.value for claim in left if (claim.weight, claim.clause) == (weight, clause))
