"""The facial action units that an answer states."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from .claims import Statement, read_statements
from .words import ANSWERS, QUIRK, Lexicon, Mention, Rule, any_of, compile_pattern

# Names of the Facial Action Coding System: Ekman, Friesen and Hager, 2002; where 1978's is another, it follows.
NAMES: Mapping[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser and lid compressor, cheek raiser",
    7: "lid tightener",
    8: "lips toward each other, lips towards each other",
    9: "nose wrinkler",
    10: "upper lip raiser",
    11: "nasolabial furrow deepener, nasolabial deepener",
    12: "lip corner puller",
    13: "sharp lip puller, cheek puffer",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker, lip puckerer",
    19: "tongue show",
    20: "lip stretcher",
    21: "neck tightener",
    22: "lip funneler, lip funneller",
    23: "lip tightener",
    24: "lip presser, lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
    28: "lips suck, lip suck",
    29: "jaw thrust",
    30: "jaw sideways",
    31: "jaw clencher",
    32: "lip bite, bite",
    33: "cheek blow, blow",
    34: "cheek puff, puff",
    35: "cheek suck",
    36: "tongue bulge",
    37: "lip wipe",
    38: "nostril dilator",
    39: "nostril compressor",
    43: "eye closure, eyes closed",
    45: "blink",
    46: "wink",
}
# Units of eyes and head (FACS 1978 and 2002), which answers name by their codes alone. 0 is the neutral face.
CODES = {0, *NAMES, 41, 42, 44, *range(51, 59), *range(61, 67)}
FACS = "Facial Action Coding System: Ekman, Friesen and Hager, 2002"
INFLECTED = "inflections and derivations (Merriam-Webster)"
# Other forms of the names' last words: the word, the source, the forms. They are read where an answer gives no code:
# beside codes they describe.
FORMS: tuple[tuple[str, str, str], ...] = (
    ("raiser", INFLECTED, "raise, raised, raising, raisers"),
    ("lowerer", INFLECTED, "lower, lowered, lowering"),
    ("tightener", INFLECTED, "tighten, tightened, tightening"),
    ("wrinkler", INFLECTED, "wrinkle, wrinkled, wrinkling"),
    ("puller", INFLECTED, "pull, pulled, pulling"),
    ("depressor", INFLECTED, "depress, depressed, depression"),
    ("stretcher", INFLECTED, "stretch, stretched, stretching"),
    ("pressor", INFLECTED, "press, pressed, pressing"),
    ("part", INFLECTED, "parted, parting"),
    ("drop", INFLECTED, "dropped, dropping, drops"),
    ("dimpler", INFLECTED, "dimples, dimpling"),
    ("puckerer", INFLECTED, "puckered, puckering"),
)
# What leads to codes, a code, and what joins codes to a list.
LEADS: tuple[Rule, ...] = (
    (
        f"{FACS}: action units and their codes, with words of answers",
        r"\b(?:au'?s?|(?:action )?units?|facs)(?: cod(?:e|es|ing))?(?: (?:that|which|are|is|were|include|active"
        r"|activated|present|visible|shown|seen|detected|observed|not|inactive|absent|missing|numbers?|codes?|here"
        r"|in the image)){0,5} ?[:=]? ?(?=\d)",
    ),
    (
        ANSWERS,
        r"^\W*(?:active|activated|present|visible|detected|predicted|inactive|absent) ?: ?"
        r"(?=\d{1,2}(?:\W*$| ?[,+&]| and \d))",
    ),
)
CODE: tuple[Rule, ...] = (
    (f"{FACS}: a number, its side and its strength (A to E)", r"(\d{1,2})[lrtbu]?[a-e]?(?![a-z\d%]|\.\d)"),
    ("OpenFace (Baltrusaitis et al., FG 2018): columns AU01_r and AU01_c", "(?: [rc](?= ?[:=,]))?"),
)
JOIN = r" ?(?:\([^()]*\))? ?(?:, ?(?:and |or )?|and |or |& ?|\+ ?|/ ?|- ?)"
# Of a number in a list: what may follow one that is a code.
FOLLOWS: tuple[Rule, ...] = (
    (ANSWERS, r" ?(?:$|[,.;:)/+&(-])"),
    (f"{QUIRK}: conjunctions, prepositions and verbs", r" (?:and|or|with|at|in|on|which|that|are|is|were|was|can)\b"),
    (ANSWERS, r" (?:active|visible|present)\b"),
)
ONLY_NUMBERS = r"(?:\d{1,2}|and|[\s,.;+&/()-])+"
# The heading of a table or a list, and its lines that begin with a code.
HEADINGS: tuple[Rule, ...] = (
    (ANSWERS, r"(?m:^)[^\w\n]*(?:the )?(?:[a-z]+ )?(?:aus?|action units?)(?: (?:codes?|numbers?))? ?(?::.*)?(?m:$)"),
)
LINES: tuple[Rule, ...] = (
    (
        ANSWERS,
        r"(?m:^)([^\w\n]*)(?=\d{1,2} ?(?:[ :]*(?m:$)|[:=(,] ?"
        r"(?:yes|no|y|n|present|absent|active|inactive|true|false|on|off|[01]\b)))",
    ),
)
# Between a code and its name.
BESIDE = r"\s*[(:-]?\s*(?:the )?(?:(?:aus?|(?:action )?units?) ?)?"
NOTHING: tuple[Rule, ...] = (
    (
        f"{QUIRK}: clause negation by no, none, not ... any",
        r"\b(?:no|none of the|not (?:a single|one)|zero) (?:[a-z]+ ){0,3}?(?:action units?|aus?)\b(?! ?\d)"
        r"|\b(?:no|any) (?:[a-z]+ ){0,2}?(?:facial|muscle) (?:movements?|activity|activation)\b"
        r"|\bnot (?!determine|identify|tell|say|recogni|assess|provide)(?:[a-z]+ ){0,3}any (?:[a-z]+ ){0,2}"
        r"(?:action units?|aus)\b",
    ),
    (
        ANSWERS,
        r"\b(?:action units?|aus?)(?: [a-z]+){0,3} ?: ?none\b"
        r"|\ball (?:[a-z]+ ){0,3}?(?:action units|aus) (?:are|were) (?:inactive|absent|off|not active)\b"
        r"|^\W*none\W*$",
    ),
)


@cache
def _names() -> Lexicon[int]:
    return Lexicon((name, unit) for unit, names in NAMES.items() for name in names.split(", "))


@cache
def _forms() -> Lexicon[int]:
    """Names in other forms, and of brows as well as of a brow."""
    return Lexicon(
        (form, unit) for unit, names in NAMES.items() for name in names.split(", ") for form in _inflect(name)
    )


@cache
def _read_forms() -> dict[str, list[str]]:
    return {word: forms.split(", ") for word, _, forms in FORMS}


def _inflect(name: str) -> Iterator[str]:
    stem, _, last = name.rpartition(" ")
    plurals = (stem.replace(part, f"{part}s") for part in ("brow", "lip", "lid", "cheek", "corner"))
    for part in {stem, stem.replace("brow", "eyebrow"), *plurals}:
        yield f"{part} {last}".strip()
        for form in _read_forms().get(last, ()):
            yield f"{part} {form}".strip()
            if form.endswith("ed"):
                yield from (f"{part} {verb} {form}" for verb in ("is", "are", "has", "have"))
                yield f"{form} {part}"


def _find_codes(text: str) -> Iterator[Mention[int]]:
    pattern = "".join(part for _, part in CODE)
    code, joined = compile_pattern(pattern), compile_pattern(rf"{JOIN}(?:(?P<lead>aus? ?)?{pattern})")
    for lead in compile_pattern(any_of(LEADS)).finditer(text):
        match = code.match(text, lead.end())
        while match:
            number = match.lastindex or 0
            yield Mention(match.start(number), match.end(), int(match[number]))
            following = joined.match(text, match.end())
            if not following or following["lead"] or not compile_pattern(any_of(FOLLOWS)).match(text, following.end()):
                break
            match = following


def _find_mentions(text: str, codes: Sequence[Mention[int]], names: Lexicon[int]) -> Iterator[Mention[int]]:
    """Codes, each up to the end of the name after it, and names, without those beside a code, which say the same."""
    beside, named = compile_pattern(BESIDE), [*(_forms() if codes else names).find(text)]
    for code in codes:
        ends = [name.end for name in named if beside.fullmatch(text, code.end, name.start)]
        yield replace(code, end=max(ends, default=code.end))
    for name in names.find(text):
        if not any(
            beside.fullmatch(text, code.end, name.start) or beside.fullmatch(text, name.end, code.start)
            for code in codes
        ):
            yield name


def _states(statement: Statement, mention: Mention[int]) -> bool | None:
    stated, share = statement.states(mention.start, mention.end), statement.share(mention.end)
    return stated and share >= 0.5 if share is not None else stated


def _mark_codes(text: str) -> str:
    """The lines below a heading, with "au" before the codes that they begin with."""
    if heading := compile_pattern(any_of(HEADINGS)).search(text):
        return text[: heading.end()] + compile_pattern(any_of(LINES)).sub(r"\1au ", text[heading.end() :])
    return text


def parse_units(text: str) -> frozenset[int] | None:
    """Numbers of the action units that are active; none where the answer only says which are not."""
    if compile_pattern(ONLY_NUMBERS).fullmatch(text) and (numbers := re.findall(r"\d+", text)):
        return frozenset(map(int, numbers)) & CODES - {0} or None
    statements = read_statements(_mark_codes(text))
    codes = [[code for code in _find_codes(statement.text) if code.value in CODES] for statement in statements]
    names = _names() if any(codes) else _forms()
    active: dict[int, bool] = {}
    spoken = False
    for statement, found in zip(statements, codes, strict=True):
        mentions = sorted(_find_mentions(statement.text, found, names), key=lambda mention: mention.start)
        said = {mention.value: stated for mention in mentions if (stated := _states(statement, mention)) is not None}
        if statement.revises and any(said.values()):
            active.clear()
        active |= said
        spoken |= bool(said) or bool(compile_pattern(any_of(NOTHING)).search(statement.text))
    return frozenset(unit for unit, stated in active.items() if stated and unit) if spoken else None
