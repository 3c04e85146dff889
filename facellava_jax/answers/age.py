"""The age that an answer states, in years."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from .claims import LIGHTER, Claim, Statement, read_statements, settle
from .words import ANSWERS, QUIRK, Lexicon, Rule, any_of, compile_pattern

# How much each way counts: "32 years old", "around 32", "in the thirties" or "30 to 35", "a teenager".
EXPLICIT, NUMBER, RANGE, STAGE = 9, 8, 5, 1
OLDEST = 122  # Jeanne Calment (1875 to 1997), the longest life on record
# Of forty years and more, decade by decade (Merriam-Webster).
DECADES = ("quadragenarian", "quinquagenarian", "sexagenarian", "septuagenarian", "octogenarian", "nonagenarian")
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
    **{10.0 * tens + 5: name for tens, name in enumerate(DECADES, 4)},
    100.0: "centenarian",
}
# Years into a decade: the middle of its first and last third, in whole years, of its halves, and of the whole.
PARTS: Mapping[str | None, float] = {
    **{"early": 2, "mid": 5, "middle": 5, "late": 8, None: 5},
    **{"first half": 2.5, "second half": 7.5},
}
TEENS: Mapping[str | None, float] = {
    **{"early": 14, "mid": 16, "middle": 16, "late": 18, None: 16},
    **{"first half": 14.5, "second half": 18},
}
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
    (r"\ba (?=(?:year|month) old|year and \d)", "1 "),
    (r"(?:\+ ?/ ?-|\u00b1|plus or minus|give or take) ?\d+(?: years?\b(?! (?:old|of age)\b))?", ""),
)
PART = r"(?:early|mid|middle|late|(?:first|second) half)"
POSSESSIVE = r"(?:(?:his|her|their|the) )?"
UNITS = "units of age and their abbreviations (Merriam-Webster)"
QUANTITIES: tuple[Rule, ...] = (
    (
        ANSWERS,
        rf"(?:(?P<part>{PART})(?: (?:to|or) (?P<until>{PART}))?(?: of)? )?{POSSESSIVE}"
        r"(?:(?<!\d)(?P<decade>[1-9]0)s\b|(?P<teens>teens)\b)",
    ),
    (f"{QUIRK}: approximate numbers", r"(?<!\w)(?<!\d[.,])(?P<over>[1-9]0) (?:something|odd)\b"),
    (
        UNITS,
        r"(?<!\w)(?<!\d[.,])(?P<number>\d{1,3}(?:\.\d+)?)(?:ish)?(?P<half> and a half)?"
        r"(?: ?(?P<unit>years?|yrs?|yo|y/o|months?|mos|weeks?|days?)"
        r"(?:(?<=[a-z]),? (?:and )?(?P<more>\d{1,2}) (?P<smaller>months?|mos|weeks?|days?))?"
        r"(?P<old> ?(?:old|of age)\b)?)?"
        r"(?!\w|%|[.,]\d)",
    ),
)
RANGE_JOIN = r",? ?(?:-|to|or|/) ?(?:in )?"
RANGE_GOES_ON = r"(?:, ?\d+)*,? or \d"
BETWEEN = r"\b(?:between|from|in)(?: [a-z]+){0,3} ?$"
# Two bounds: "older than 50 but younger than 60".
LEAST: tuple[Rule, ...] = ((f"{QUIRK}: comparatives", "(?:older|more) than|over|above|at least"),)
MOST: tuple[Rule, ...] = (
    (f"{QUIRK}: comparatives", "(?:younger|less|(?:no|not) (?:older|more)) than|under|below|at most"),
)
# What a number that is no explicit age stands after and before.
CUES: tuple[Rule, ...] = ((UNITS, "aged?|ages|yo"),)
CUES_AFTER: tuple[Rule, ...] = ((ANSWERS, r"(?:age )?(?:range|bracket|group|mark)"),)
LEADS: tuple[Rule, ...] = (
    (
        f"{QUIRK}: approximators, downtoners and focusing adverbs",
        "around|about|approximately|approx|roughly|circa|ca|nearly|almost|barely|just|only",
    ),
    (f"{QUIRK}: copular verbs", "is|be|are|looks?|seems?|appears?|turned|turning"),
    (f"{QUIRK}: adverbs and verbs of opinion", "maybe|perhaps|probably|likely|possibly|say|guess|thought"),
    (
        f"{QUIRK}: prepositions and conjunctions",
        "over|under|above|below|at|with|not|but|than|or|between|from|to|as|like",
    ),
    (
        ANSWERS,
        "estimate|estimated|nearing|approaching|pushing|hitting|closer|least|most|boxed"
        "|(?:neighbou?rhood|region|vicinity|north) of"
        "|(?:child|boy|girl|man|woman|person|lady|baby|someone|somebody) of",
    ),
)
FOLLOWS: tuple[Rule, ...] = (
    (
        f"{QUIRK}: prepositions and conjunctions",
        "but|and|based|with|because|since|as|at (?:most|least)|though|although|while|given|due|considering|judging"
        "|in the|in this|from",
    ),
    (f"{QUIRK}: adverbs of time", "now|today|currently|recently"),
    (ANSWERS, "age|range|bracket|group|mark|or so|or (?:older|younger|under|over|more|less)|ish|plus|is|would|being"),
)
NO_AGE: tuple[Rule, ...] = (
    (f"{QUIRK}: comparatives", "younger|older|later|earlier"),
    (f"{QUIRK}: adverbs and prepositions of time and space", "ago|apart|before|after|between"),
    (ANSWERS, "experience|of (?!age)"),
)
# An age that another is counted from.
FROM_THERE = r"\d (?:years?|yrs?|months?) (?:younger|older) than ?$"
COMPARED = (
    r"\b(?:typical (?:of|for)|average|like|for|compared?(?: (?:to|with))?|someone of|somebody of)(?: an?| the)? ?$"
)


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
    for match in compile_pattern(any_of(QUANTITIES)).finditer(text):
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
        if match["more"]:
            value += int(match["more"]) * YEARS[match["smaller"][0]] / YEARS[unit[0]]
        yield Quantity(match.start(), match.end(), value, unit, bool(match["old"]) or unit in ("yo", "y/o"), decade)


def _group(text: str, quantities: Sequence[Quantity]) -> Iterator[list[Quantity]]:
    """Those that are a range together: "25-30", "between 25 and 30", "13, 14 or 15", "late 20s to early 30s"."""
    group = [*quantities[:1]]
    for first, second in pairwise(quantities):
        between = text[first.end : second.start]
        bounded = between.strip() in ("and", "and the") and compile_pattern(BETWEEN).search(text, 0, group[0].start)
        limited = compile_pattern(rf",? (?:but|and) {any_of(MOST)} ").fullmatch(between) and compile_pattern(
            rf"\b{any_of(LEAST)} $"
        ).search(text, 0, group[0].start)
        listed = between.strip() == "," and compile_pattern(RANGE_GOES_ON).match(text, second.end)
        if bounded or limited or listed or compile_pattern(RANGE_JOIN).fullmatch(between):
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
    lighter = LIGHTER * bool(compile_pattern(COMPARED).search(left))
    if len(group) == 1 and compile_pattern(rf"\b{any_of([*LEAST, *MOST])} $").search(left):
        lighter += 2 * LIGHTER
    explicit, decade = any(each.explicit for each in group), any(each.decade for each in group)
    if explicit or decade:
        return (EXPLICIT if len(group) == 1 and not decade else RANGE) + lighter
    if compile_pattern(FROM_THERE).search(left):
        return None
    follows = compile_pattern(rf" ?(?:$|[.,;:!?()'+-]|{any_of(FOLLOWS)}\b)")
    if compile_pattern(f" {any_of(NO_AGE)}").match(right) or not (last.unit or follows.match(right)):
        return None
    cue, cue_after = rf"\b{any_of(CUES)}\b[^.;\d]{{0,40}}$", rf" ?{any_of(CUES_AFTER)}\b"
    if compile_pattern(cue).search(left) or compile_pattern(cue_after).match(right):
        return RANGE if len(group) > 1 else EXPLICIT
    if compile_pattern(rf"(?:^|[:=~,(]|\b{any_of(LEADS)}) ?$").search(left):
        return (RANGE if len(group) > 1 else NUMBER) + lighter
    return None
