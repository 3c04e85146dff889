"""The age that an answer states, in years."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from .claims import LIGHTER, Claim, Statement, read_statements, settle
from .words import Lexicon, compile_pattern

# How much each way counts: "32 years old", "around 32", "in the thirties" or "30 to 35", "a teenager".
EXPLICIT, NUMBER, RANGE, STAGE = 9, 8, 5, 1
OLDEST = 122  # Jeanne Calment (1875 to 1997), the longest life on record
# Stages of life, as the middle of their years. MeSH age groups (US National Library of Medicine): Infant, 1 to 23
# months; Child, Preschool, 2 to 5; Child, 6 to 12; Adolescent, 13 to 18; Young Adult, 19 to 24; Middle Aged, 45 to 64;
# Aged, 65 to 79. Toddler, 1 to 3: CDC, Child Development. Teenager, 13 to 19: the numbers that end so.
STAGES: Mapping[float, str] = {
    0.0: "newborn, newborn baby",
    1.0: "infant, baby",
    2.0: "toddler",
    3.5: "preschooler, preschool child",
    9.0: "child",
    15.5: "adolescent",
    16.0: "teenager, teenage, teen",
    21.5: "young adult",
    54.5: "middle aged, middle age",
    72.0: "elderly, senior citizen",
}
# Years into a decade: the middle of its first and last third, in whole years, and of the whole.
PARTS: Mapping[str | None, float] = {"early": 2, "mid": 5, "middle": 5, "late": 8, None: 5}
TEENS: Mapping[str | None, float] = {"early": 14, "mid": 16, "middle": 16, "late": 18, None: 16}
YEARS: Mapping[str, float] = {"y": 1, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
ONES = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS: Mapping[str, int] = {
    **{word: number for number, word in enumerate(ONES, 1)},
    **{word: 10 * number for number, word in enumerate(TENS, 1)},
}
# "One" is a number before a unit or a range, and where it ends what is said of an age; else it is a pronoun.
ONE = (
    r"one(?= ?(?:-|to|or) ?(?:two|three|four|\d)| (?:years?|yrs?|months?|mos|weeks?|days?|and a half)\b)"
    r"|(?:(?m:^)|(?<=hundred )|(?<=hundred and )|(?<=\bage )|(?<=\bage: )|(?<=\baged )|(?<=\bis )|(?<=\babout )"
    r"|(?<=\baround )|(?<=\bturned )|(?<=\bnearly )|(?<=\balmost )|(?<=\bunder )|(?<=\bover )|(?<=\blooks ))"
    r"one(?=\s*(?:$|[.,;!?)\n]))"
)
NUMBER_WORDS = (
    rf"\b(?:(?P<hundred>a|one) hundred(?: and)? ?)?(?:(?P<tens>{'|'.join(TENS[1:])})(?: (?P<one>{'|'.join(ONES[:9])}))?"
    rf"|(?P<ones>{'|'.join(ONES[1:])}|{ONE}))?\b"
)
# Rewritten in turn.
FIGURES: tuple[tuple[str, str], ...] = (
    *((rf"\b{word[:-1]}ies\b", f"{number}s") for word, number in WORDS.items() if word.endswith("ty")),
    (r"(?<=\d0)'s\b", "s"),
    (r"\ba (?=(?:year|month) old)", "1 "),
    (r"(?:\+ ?/ ?-|\u00b1|plus or minus|give or take) ?\d+(?: years?\b(?! (?:old|of age)\b))?", ""),
)
PART = r"(?:early|mid|middle|late)"
POSSESSIVE = r"(?:(?:his|her|their|the) )?"
QUANTITY = (
    rf"(?:(?P<part>{PART})(?: (?:to|or) (?P<until>{PART}))?(?: of)? )?{POSSESSIVE}"
    r"(?:(?<!\d)(?P<decade>[1-9]0)s\b|(?P<teens>teens)\b)"
    r"|(?<!\w)(?<!\d[.,])(?P<over>[1-9]0) (?:something|odd)\b"
    r"|(?<!\w)(?<!\d[.,])(?P<number>\d{1,3}(?:\.\d+)?)(?:ish)?(?P<half> and a half)?"
    r"(?: ?(?P<unit>years?|yrs?|yo|y/o|months?|mos|weeks?|days?)(?P<old> ?(?:old|of age)\b)?)?(?!\w|%|[.,]\d)"
)
RANGE_JOIN = r",? ?(?:-|to|or|/) ?(?:in )?"
RANGE_GOES_ON = r"(?:, ?\d+)*,? or \d"
BETWEEN = r"\b(?:between|from|in)(?: [a-z]+){0,3} ?$"
# What a number that is no explicit age stands after and before.
CUE = r"\b(?:aged?|ages|yo)\b[^.;\d]{0,40}$"
CUE_AFTER = r" ?(?:age )?(?:range|bracket|group|mark)\b"
LEADS = (
    r"(?:^|[:=~,(]|\b(?:around|about|approximately|approx|roughly|circa|ca|nearly|almost|barely|just|only|over"
    r"|under|above"
    r"|below|maybe|perhaps|probably|likely|possibly|say|guess|estimate|estimated|at|is|be|are|looks?|seems?|appears?"
    r"|turned|turning|nearing|approaching|pushing|hitting|(?:neighbou?rhood|region|vicinity) of|boxed|with|not|but|than"
    r"|or|between|from|to|thought|closer|least|most|like|as"
    r"|(?:child|boy|girl|man|woman|person|lady|baby|someone|somebody) of)) ?$"
)
FOLLOWS = (
    r" ?(?:$|[.,;:!?()'+-]|(?:age|range|bracket|group|or so|or (?:older|younger|under|over|more|less)|ish|plus"
    r"|but|and|judging|based|with|because"
    r"|since|as|at (?:most|least)|though|although|while|given|due|considering|is|would|in the|in this|from"
    r"|now|today|currently|recently|being|mark)\b)"
)
NO_AGE = r" (?:younger|older|ago|later|earlier|apart|before|after|between|experience|of (?!age))"
# An age that another is counted from.
FROM_THERE = r"\d (?:years?|yrs?|months?) (?:younger|older) than ?$"
COMPARED = r"\b(?:typical (?:of|for)|average|like|for|compared (?:to|with)|someone of|somebody of)(?: an?| the)? ?$"


class Quantity(NamedTuple):
    """A number of years, or of what its unit says, from `start` up to `end` of a sentence."""

    start: int
    end: int
    value: float
    unit: str
    explicit: bool
    decade: bool = False


@cache
def _stages() -> Lexicon[float]:
    return Lexicon((name, age) for age, names in STAGES.items() for name in names.split(", "))


def write_figures(text: str) -> str:
    """Number words as figures."""

    def figure(match: re.Match[str]) -> str:
        if not match.group():
            return ""
        number = sum(WORDS[word] for word in (match["tens"], match["one"], match["ones"]) if word)
        return f"{number + 100 * bool(match['hundred'])}" + " " * match.group().endswith(" ")

    text = compile_pattern(NUMBER_WORDS).sub(figure, text)
    for pattern, figures in FIGURES:
        text = compile_pattern(pattern).sub(figures, text)
    return text


def parse_age(text: str) -> float | None:
    """Years. Of a range the middle, of "over 60" the bound; STAGES where an answer has no number."""
    claims = [claim for statement in read_statements(write_figures(text)) for claim in _claim_ages(statement)]
    age = settle(claims)
    return None if age is None else round(age, 2)


def _claim_ages(statement: Statement) -> Iterator[Claim[float]]:
    after = 0
    for group in _group(statement.text, [*_read_quantities(statement.text)]):
        start, end, unit = group[0].start, group[-1].end, group[-1].unit
        weight = _weigh(statement.text, group)
        value = (group[0].value + group[-1].value) / 2 * YEARS[unit[:1] or "y"]
        if weight is not None and value <= OLDEST and statement.states(start, end):
            yield statement.claim(value, start, end, weight, after)
        after = end
    for stage in _stages().find(statement.text):
        if statement.states(stage.start, stage.end):
            yield statement.claim(stage.value, stage.start, stage.end, STAGE)


def _read_quantities(text: str) -> Iterator[Quantity]:
    for match in compile_pattern(QUANTITY).finditer(text):
        decade = True
        if match["teens"]:
            value = (TEENS[match["part"]] + TEENS[match["until"] or match["part"]]) / 2
        elif match["decade"]:
            value = int(match["decade"]) + (PARTS[match["part"]] + PARTS[match["until"] or match["part"]]) / 2
        elif match["over"]:
            value = int(match["over"]) + PARTS[None]
        else:
            value, decade = float(match["number"]) + 0.5 * bool(match["half"]), False
        unit = match["unit"] or ""
        yield Quantity(match.start(), match.end(), value, unit, bool(match["old"]) or unit in ("yo", "y/o"), decade)


def _group(text: str, quantities: Sequence[Quantity]) -> Iterator[list[Quantity]]:
    """Those that are a range together: "25-30", "between 25 and 30", "13, 14 or 15", "late 20s to early 30s"."""
    group = [*quantities[:1]]
    for first, second in pairwise(quantities):
        between = text[first.end : second.start]
        bounded = between.strip() in ("and", "and the") and compile_pattern(BETWEEN).search(text, 0, group[0].start)
        listed = between.strip() == "," and compile_pattern(RANGE_GOES_ON).match(text, second.end)
        if bounded or listed or compile_pattern(RANGE_JOIN).fullmatch(between):
            group.append(second)
        else:
            yield group
            group = [second]
    if group:
        yield group


def _weigh(text: str, group: Sequence[Quantity]) -> int | None:
    """How much a number counts as an age; None where it counts something else."""
    first, last = group[0], group[-1]
    left, right = text[max(0, first.start - 60) : first.start], text[last.end :]
    compared = LIGHTER * bool(compile_pattern(COMPARED).search(left))
    explicit, decade = any(each.explicit for each in group), any(each.decade for each in group)
    if explicit or decade:
        return (EXPLICIT if len(group) == 1 and not decade else RANGE) + compared
    if compile_pattern(FROM_THERE).search(left):
        return None
    if compile_pattern(NO_AGE).match(right) or not (last.unit or compile_pattern(FOLLOWS).match(right)):
        return None
    if compile_pattern(CUE).search(left) or compile_pattern(CUE_AFTER).match(right):
        return RANGE if len(group) > 1 else EXPLICIT
    if compile_pattern(LEADS).search(left):
        return (RANGE if len(group) > 1 else NUMBER) + compared
    return None
