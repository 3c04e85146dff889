"""What a sentence states, denies or leaves open.

Works as NegEx does (Chapman et al., J. Biomedical Informatics 34, 2001) with ConText's hypotheticals (Harkema et al.,
J. Biomedical Informatics 42, 2009): a trigger reaches from its place to the end of its clause, and some reach back.
TRIGGERS and AFTERWARDS are their kinds of triggers, ENDS their terminators, with the words of such answers.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Literal

from .words import compile_pattern

Kind = Literal["deny all", "compare", "state", "open", "deny noun", "deny list", "deny"]

# What reaches forward. Where two begin at one place, the upper row holds.
TRIGGERS: Mapping[Kind, tuple[str, ...]] = {
    # A heading that denies all that follows it, up to one of STATES_ALL.
    "deny all": (
        r"(?:absent|inactive|missing|negative|not (?:present|visible|active|seen|observed|detected|found))"
        r"(?: [a-z]+){0,3} ?:",
        r"(?:absent|inactive|missing) (?:[a-z]+ )?(?:units?|aus?) (?:is|are|was|were|include)",
        r"no ?:(?= ?aus? ?\d)",
    ),
    # Denies what it has between its words, and states what follows it.
    "compare": (
        r"less (?:[a-z]+ ){1,3}than(?! \d)",
        r"not so much (?:[a-z]+ ){1,3}as",
        r"not (?:[a-z]+ ){1,3}so much as",
    ),
    # Denies nothing, though it has a word that would.
    "state": (
        r"no(?=\s*[,.:!])|(?<=[:=] )no(?= aus? ?\d+ ?[:=])",
        r"no (?:doubt|question|wonder|lack of|reason to doubt)",
        r"not (?:only|just|merely|simply|without|in doubt|to mention)",
        r"not (?:hide|conceal|contain|suppress)",
        r"without (?:a |any )?doubt",
        r"nothing (?:but|less than)",
        # A comparative that is denied is a superlative: "could not be happier".
        r"(?:(?:could|can) not be|never (?:been|looked|felt|seemed))"
        r"(?= (?!either|under|over|older|younger)(?:more\b|[a-z]+er\b))",
        r"as if|as though|even if|not a day (?:over|older than)",
        r"(?:no |not )?(?:much |any )?(?:younger|older|more|less|fewer) than(?= \d)",
        r"not (?:yet|quite|much over|much under)(?= \d)",
        r"if i (?:had|have) to|would be(?= \d)",
        r"would (?:only |just |still |rather )?(?:say|guess|estimate|place|put|call|describe|classify|label|go|pick"
        r"|choose|judge|lean|opt|settle|report|list|score)",
    ),
    "open": (
        r"whether|if|unless|would|unable to|impossible to|unclear|uncertain|unsure|not sure",
        r"not (?:able|possible) to|not enough|insufficient|decide between",
        r"(?:hard|difficult|tricky|no way) to (?:say|tell|determine|know|judge)",
        r"not (?:determine|tell|say|identify|assess|judge|know|confirm|rule out|exclude|deny|recogni[sz]e)",
    ),
    # Deny a list, however it is joined; the first kind up to where something is made of that.
    "deny noun": (
        r"(?:no|not (?:[a-z]+ ){0,3}any|little|without any) (?:[a-z]+ )?"
        r"(?:signs?|evidence|traces?|hints?|indications?|indicators?|suggestion) (?:of|that|for|to)",
        r"without|free (?:of|from)|devoid of|(?:lack|lacks|lacked|lacking)(?: of)?|absence of",
    ),
    "deny list": (r"neither|none of|nothing|(?:fail|fails|failed) to|rules? out|excludes?",),
    # Denies what it names, and what "or" joins to it.
    "deny": (
        r"no|not|never|nor|non|nobody|zero|hardly|scarcely|unlikely|doubt|doubts|doubtful|than|unlike",
        r"rather than|instead of|as opposed to|in contrast to|different from|anything but|far from",
        r"(?:mistaken|confused|taken) (?:for|with)",
        r"too (?:[a-z]+ ){1,2}to be|(?:wrong|incorrect|a mistake) to",
        r"(?:hard|difficult) to (?:believe|accept|imagine)",
    ),
}
BE = r"(?:(?:is|are|was|were|being|be|does|do|did|can|could|has|have|should|seems?|appears?|remains?) )"
SEEN = (
    r"(?:[a-z]+ly )?(?:present|visible|active|activated|observed|seen|detected|shown|evident|apparent|found|there"
    r"|noticeable|displayed|expressed|indicated|identified|involved|discernible|detectable|worn|appear|show|in use)\b"
)
VALUE_END = r"(?=\s*(?:$|[,():]|\.(?!\d)|- ))"
# What reaches back to what is said of it, as in "AU4 and AU7 are not active"; values only to what they are of.
AFTERWARDS: Mapping[Literal["open", "deny", "value"], tuple[str, ...]] = {
    "open": (
        rf"\b{BE}not (?:be )?(?:determined|told|judged|assessed|ruled out|excluded|confirmed)\b",
        rf"\b{BE}(?:unclear|uncertain|debatable|hidden|(?:too )?(?:hard|difficult) to (?:see|make out|discern))\b",
        # What something else would look like.
        r"\bwould (?:not )?(?:[a-z]+ly |also )?(?:show|have|need|require|look|involve|include|appear|display|exhibit"
        r"|produce|cause|bring|raise|lift|pull|widen|mean|create|leave)\b",
    ),
    "deny": (
        rf"\b{BE}?(?:not|never|hardly|no longer) (?:to )?(?:be )?(?:seem to be |appear to be )?{SEEN}",
        rf"\b{BE}not(?=\s*(?:$|[.,!)]))",
        rf"\b{BE}?(?:being )?(?:[a-z]+ly |also |all |both )?(?:absent|missing|inactive|lacking|unlikely|out)\b(?! of)",
        r"\b(?:can be|are|is|was|were) (?:ruled out|excluded|out of the question|off)\b",
        rf"\b{BE}(?:[a-z]+ly |very |rather )?(?:doubtful|dubious|questionable|suspect|in (?:doubt|question))\b",
        r"\bintensity:? (?:of )?0\b",
        # What only looks so: "AU7 could be confused with AU6, but it is AU6".
        r"\b(?:could|can|might|may) (?:easily )?be (?:mistaken|confused|taken) (?:for|with) [^,;.]*,? but (?:here )?"
        r"(?:it|this) is (?!not)",
    ),
    "value": (
        rf"(?<=[:=(-])\s?(?:no|n|not|none|false|absent|inactive|off|n/a|-1|0(?:\.0+)?(?:%|/\d+)?){VALUE_END}",
        r"(?<=[:=])\s?(?:false|absent|inactive|off|0(?:\.0+)?)(?= aus? ?\d)",
        r"(?<=[:=])\s?no(?= aus? ?\d+ ?[:=])",
        rf"(?<=[\w)]) (?:no|off){VALUE_END}",
        r"(?<=[:=(-])\s?(?:no|not any|little or no) (?:[a-z]+ )?(?:activity|activation|movement|evidence|signs?)\b",
    ),
}
STATES_ALL = r"(?<!not )\b(?:present|active|activated|visible|seen|observed|detected|found)(?: [a-z]+){0,3} ?:"
# Where the reach of a trigger ends; in lists it goes on over commas and "and".
EXCEPTION = (
    r"\b(?:other (?:[a-z]+ ){1,3}than|except|excepting|apart from|aside from|other than|with the exception of)\b"
)
ENDS = (
    r"[,;:()]| - |\b(?:but|however|although|though|yet|while|whereas|which|then|because|and|so that|hence|thus"
    rf"|therefore)\b|\bso (?=(?:i|we|it|he|she|they|the|this|that|his|her|their)\b)|{EXCEPTION}"
)
CONCLUDES = (
    r"\b(?:makes?|means?|suggests?|indicates?|implies|imply|supports?|points? to|leads?|confirms?|proves?|concludes?)\b"
)
# A clause that begins without a mark or a conjunction, and what it would belong to as its object: "without artifacts it
# looks real", but "no evidence the video is real".
SUBJECT = (
    r"\b(?P<subject>(?:i|we) (?:am|are|think|believe|conclude|judge|consider|lean|find|take|say"
    r"|would (?:say|guess|call|judge|conclude))"
    r"|(?:it|this|he|she|they|(?:the|this) (?:[a-z]+ )?(?:video|clip|image|footage|picture|photo|recording|face|person"
    r"|man|woman|subject|expression)) (?:is|are|was|were|must|looks?|seems?|appears?))\b"
)
GOVERNS = (
    r"(?:^|\b(?:that|like|though|if|as|whether|think|thought|believe[ds]?|say|said|says|suggests?|means?|impl(?:y|ies)"
    r"|indicates?|shows?|proves?|suspect|feel|claim|conclude|assume|guess|seems?|appears?|makes?|convinced|sure|certain"
    r"|likely|possible|true|case|way|chance|evidence|signs?|hints?|indications?|proof|reason|doubt|clear|obvious|to"
    r"|be|than|what|how|why|when|where|matter|whatsoever)) $"
)
# A list has none of these words.
VERBS = (
    r"\b(?:is|are|was|were|be|been|being|has|have|had|shows?|looks?|seems?|appears?|wears?|expresses|displays?|does|do"
    r"|did|can|could|may|might|must|will|would|should|suggests?|indicates?|points?|becomes?|feels?|i|he|she|it|they|who"
    r"|which|that|with|but|not|no|also|only|while|whereas|although|though|however|then|because)\b"
)
# Nor does what is denied afterwards reach back over what is stated so.
STATED_AFTERWARDS = r"\b(?:present|active|visible|yes|true|on)\b"
LONGEST_LIST = 160  # characters


@cache
def _triggers() -> re.Pattern[str]:
    rows = (f"(?P<{kind.replace(' ', '_')}>{'|'.join(words)})" for kind, words in TRIGGERS.items())
    return re.compile(rf"(?<!\w)(?:{'|'.join(rows)})(?!\w)")


@cache
def _list_tail(joins: str) -> re.Pattern[str]:
    return re.compile(rf"(?:[^,;:]{{1,60}},){{0,8}}[^,;:]{{0,60}}?\b(?:{joins})\b")


class Sentence:
    """A sentence of plain words."""

    def __init__(self, text: str) -> None:
        self.text = text

    def states(self, start: int, end: int) -> bool | None:
        """Whether what stands from `start` up to `end` is stated (True) or denied (False); None where it is open."""
        before, after = self._said_before[start], self._said_after(start, end)
        if before is None or after is None:
            return None
        return before is after

    @cached_property
    def _said_before(self) -> list[bool | None]:
        """By character, what the nearest trigger before it that reaches it says; True where there is none."""
        said: list[bool | None] = [True] * len(self.text)
        for match in _triggers().finditer(self.text):
            kind = str(match.lastgroup)
            start, stated = match.end(), {"state": True, "compare": True, "open": None}.get(kind, False)
            if kind == "compare":
                said[match.start() : start] = [False] * (start - match.start())
            end = self._find_end(start, kind)
            said[start:end] = [stated] * (end - start)
        for match in compile_pattern(EXCEPTION).finditer(self.text):
            # Nothing but this: stated. All but this: denied.
            start, end = match.end(), self._find_end(match.end(), "open")
            stated = False in said[: match.start()] or any(after < start for after, _ in self._afterwards)
            said[start:end] = [stated] * (end - start)
        return said

    def _find_end(self, start: int, kind: str) -> int:
        """Up to where a trigger reaches that ends at `start`."""
        if kind == "deny_all":
            heading = compile_pattern(STATES_ALL).search(self.text, start)
            return heading.start() if heading else len(self.text)
        broad = kind in ("deny_noun", "deny_list", "open")
        ends = compile_pattern(ENDS, *[CONCLUDES] * (kind == "deny_noun"), *[SUBJECT] * kind.startswith("deny"))
        governs = compile_pattern(GOVERNS)
        tail, verbs = _list_tail("or|nor|and" if broad else "or|nor"), compile_pattern(VERBS)
        opened = 0
        for match in ends.finditer(self.text, start):
            word = match.group()
            rest = self.text[match.end() : match.end() + LONGEST_LIST]
            goes_on = word == "which" and kind == "open"
            if word in "()":
                opened += 1 if word == "(" else -1
                goes_on = opened >= 0
            elif word == ",":
                listed = tail.match(rest)
                goes_on = listed is not None and not verbs.search(listed.group())
            elif word == "and":
                goes_on = broad and not verbs.match(rest.lstrip())
            elif match.lastgroup == "subject":
                goes_on = governs.search(self.text[start : match.start()]) is not None
            if not goes_on:
                return match.start()
        return len(self.text)

    @cached_property
    def _afterwards(self) -> list[tuple[int, str]]:
        """Where something begins that reaches back, and its kind."""
        found = [
            (match.start(), kind)
            for kind, words in AFTERWARDS.items()
            for match in compile_pattern(*words).finditer(self.text)
        ]
        return sorted(found)

    def _said_after(self, start: int, end: int) -> bool | None:
        index = bisect_left(self._afterwards, end, key=lambda each: each[0])
        if index == len(self._afterwards):
            return True
        after, kind = self._afterwards[index]
        # "AU4 (the brows drop): no"
        gap = re.sub(r"^ ?\([^()]*\)(?=[ :=-]*$)", "", self.text[end : min(after, end + LONGEST_LIST)])
        between = gap.strip(" :=(-)")
        enclosed = gap.count("(") > gap.count(")")
        if after > end + LONGEST_LIST or (between and (kind == "value" or enclosed)):
            return True
        if compile_pattern(r"[.;:!?]| - ", VERBS, STATED_AFTERWARDS).search(between):
            return True
        if compile_pattern(r"[,/+&]|\b(?:and|or)\b").search(between):
            # A list is denied as a whole where it is what the sentence is about: "AU4 and AU7 are not active".
            subject = self.text[max(self.text.rfind(mark, 0, start) for mark in ",;:(") + 1 : start]
            if compile_pattern(VERBS).search(subject):
                return True
        return None if kind == "open" else False
