"""CelebA's attributes that an answer speaks of."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from .claims import Claim, read_statements, settle
from .words import ANSWERS, QUIRK, Lexicon, Mention, Rule, any_of, compile_pattern

# CelebA's names in its order: Liu et al., Deep Learning Face Attributes in the Wild (2015), list_attr_celeba.txt.
ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)

Values = tuple[tuple[str, bool], ...]
CELEBA = "CelebA's own name"
EVERYDAY = "everyday words of the same meaning (Merriam-Webster's thesaurus)"
OPPOSITE = "the opposite, as Merriam-Webster's thesaurus gives it"
KIND = "a kind of it, or what it takes"
IMAGE = "image, picture, photo, photograph, video, frame, portrait"
# Attributes that a phrase of its own names: what it says, by whose word, and the phrases.
PHRASES: tuple[tuple[str, str, str], ...] = (
    ("+5_o_Clock_Shadow", CELEBA, "5 o clock shadow, 5 o'clock shadow, five o'clock shadow"),
    ("+5_o_Clock_Shadow", EVERYDAY, "stubble, stubbly, unshaven"),
    ("+Attractive", CELEBA, "attractive"),
    ("+Attractive", EVERYDAY, "good looking, handsome, beautiful, gorgeous, pretty face"),
    ("+Attractive -Male", EVERYDAY, "pretty woman, pretty lady"),
    ("+Attractive -Male +Young", EVERYDAY, "pretty girl"),
    ("-Attractive", OPPOSITE, "unattractive, ugly"),
    ("+Bags_Under_Eyes", CELEBA, "bags under eyes, bags under the eyes, bags under his eyes, bags under her eyes"),
    (
        "+Bags_Under_Eyes",
        EVERYDAY,
        "bags under their eyes, bags below the eyes, eye bags, eyebags, bags beneath the eyes, bags under them, bags "
        "beneath them",
    ),
    ("+Bags_Under_Eyes", EVERYDAY, "dark circles"),
    ("+Bald", CELEBA, "bald"),
    ("+Bald", EVERYDAY, "baldness, balding, bald headed, hairless, no hair, shaved head, shaven head"),
    ("-Bald", OPPOSITE, "full head of hair"),
    ("+Bangs", CELEBA, "bangs"),
    ("+Bangs", EVERYDAY, "fringe"),
    ("+Blond_Hair", KIND, "blonde, blond"),
    ("+Blurry", CELEBA, "blurry"),
    ("+Brown_Hair", KIND, "brunette, brunet"),
    ("+Chubby", CELEBA, "chubby"),
    ("+Chubby", EVERYDAY, "plump, overweight, obese, fat, pudgy, chubbiness"),
    ("-Chubby", OPPOSITE, "slim, skinny"),
    ("+Double_Chin", CELEBA, "double chin"),
    ("+Eyeglasses", CELEBA, "eyeglasses"),
    ("+Eyeglasses", EVERYDAY, "glasses, spectacles, bespectacled, eyewear"),
    ("+Eyeglasses", KIND, "sunglasses, reading glasses"),
    ("+Goatee", CELEBA, "goatee"),
    (
        "-Heavy_Makeup",
        KIND,
        "no makeup, without makeup, no make up, without make up, not wear makeup, not wearing makeup, without any "
        "makeup, without any make up, not wear any makeup, not wearing any makeup, not wearing any make up",
    ),
    ("+Male", CELEBA, "male, males"),
    ("+Male", KIND, "man, gentleman, guy, masculine"),
    ("+Male +Young", KIND, "boy"),
    ("-Male", OPPOSITE, "female, females"),
    ("-Male", KIND, "woman, lady, feminine"),
    ("-Male +Young", KIND, "girl"),
    ("+Mustache", CELEBA, "mustache"),
    ("+Mustache", EVERYDAY, "moustache, mustaches"),
    ("+No_Beard", CELEBA, "no beard"),
    ("+No_Beard", EVERYDAY, "beardless"),
    ("-No_Beard", OPPOSITE, "beard, bearded, facial hair"),
    (
        "+No_Beard -Mustache -Goatee",
        KIND,
        "clean shaven, cleanly shaven, smooth shaven, no facial hair, free of facial hair",
    ),
    ("+No_Beard -Mustache -Goatee", KIND, "without facial hair, without any facial hair, lacks facial hair"),
    ("+Receding_Hairline", CELEBA, "receding hairline"),
    ("+Sideburns", CELEBA, "sideburns"),
    ("+Sideburns", EVERYDAY, "sideburn, mutton chops"),
    ("+Smiling", CELEBA, "smiling"),
    ("+Smiling", KIND, "smile, smiles, smiled, grin, grins, grinning, laughing, laughs, beaming"),
    ("-Smiling", OPPOSITE, "unsmiling, frown, frowns, frowning, scowling"),
    ("+Wearing_Earrings", CELEBA, "wearing earrings"),
    ("+Wearing_Earrings", KIND, "earrings, earring, ear studs, ear rings"),
    ("+Wearing_Hat", CELEBA, "wearing hat"),
    ("+Wearing_Hat", KIND, "hat, hats, cap, beanie, fedora, headwear, beret"),
    ("+Wearing_Lipstick", CELEBA, "wearing lipstick"),
    ("+Wearing_Lipstick", KIND, "lipstick"),
    ("+Wearing_Necklace", CELEBA, "wearing necklace"),
    ("+Wearing_Necklace", KIND, "necklace, necklaces, pendant"),
    ("+Wearing_Necktie", CELEBA, "wearing necktie"),
    ("+Wearing_Necktie", KIND, "necktie, tie, bow tie"),
    ("+Young", CELEBA, "young"),
    ("+Young", EVERYDAY, "youthful, younger, in his youth, in her youth"),
    ("+Young", KIND, "teenager, teenage, toddler, infant, baby"),
    ("-Young", OPPOSITE, "old, older, elderly, aged"),
    ("-Young", KIND, "middle aged, senior"),
    # These are about something else.
    (
        "",
        EVERYDAY,
        "years old, year old, months old, month old, how old, older than, younger than, smile lines, his or her, "
        "to tie, tie up, tie back, tie his, tie her, tie their, ties his, ties her, tie dye, tie dyed, bald eagle, "
        "bald eagles",
    ),
    (
        "",
        EVERYDAY,
        "he or she, she or he, her or his, him or her, he/she, his/her, blond beard, blond eyebrows, blurry "
        "background, background is blurry",
    ),
    ("", EVERYDAY, ", ".join(f"{age} {image}" for age in ("old", "older") for image in IMAGE.split(", "))),
)
# Who is spoken of. A pronoun counts less than a noun: it may be another's.
PRONOUNS: Mapping[str, bool] = {
    **dict.fromkeys(("he", "him", "his", "himself"), True),
    **dict.fromkeys(("she", "her", "hers", "herself"), False),
}
PLAIN, WEAK = 4, 1
# Of these a denial of something else says nothing: "no beard on the young man's face".
ABOUT_WHOM = {"Male", "Young"}
DEFINITE = r"\b(?:the|this|that) (?:[a-z]+ )?$"

HAIR = "hair, hairs, haired, hair color, hair colour"
BROWS = "eyebrows, eyebrow, brows, brow"
LIPS, NOSE, EYES, FACE, MOUTH = "lips, lip", "nose, nosed", "eyes, eyed", "face, faced, face shape", "mouth, mouthed"
# Attributes of a part: what it says, by whose word, the part, and what it is like.
FEATURES: tuple[tuple[str, str, str, str], ...] = (
    ("+Arched_Eyebrows", CELEBA, BROWS, "arched"),
    ("+Arched_Eyebrows", EVERYDAY, BROWS, "curved"),
    ("+Big_Lips", CELEBA, LIPS, "big"),
    ("+Big_Lips", EVERYDAY, LIPS, "full, fuller, large, thick, plump"),
    ("-Big_Lips", OPPOSITE, LIPS, "thin, small, narrow"),
    ("+Big_Nose", CELEBA, NOSE, "big"),
    ("+Big_Nose", EVERYDAY, NOSE, "large, prominent, broad"),
    ("-Big_Nose", OPPOSITE, NOSE, "small, tiny, petite, little"),
    ("+Black_Hair", CELEBA, HAIR, "black"),
    ("+Black_Hair", EVERYDAY, HAIR, "raven"),
    ("+Blond_Hair", CELEBA, HAIR, "blond, blonde"),
    ("+Blond_Hair", EVERYDAY, HAIR, "golden, flaxen"),
    ("+Blurry", CELEBA, IMAGE, "blurry"),
    ("+Blurry", EVERYDAY, IMAGE, "blurred, fuzzy, unsharp, out of focus"),
    ("-Blurry", OPPOSITE, IMAGE, "sharp, clear, crisp, in focus"),
    ("+Brown_Hair", CELEBA, HAIR, "brown"),
    ("+Brown_Hair", EVERYDAY, HAIR, "chestnut, brunette"),
    ("+Bushy_Eyebrows", CELEBA, BROWS, "bushy"),
    ("+Bushy_Eyebrows", EVERYDAY, BROWS, "thick, dense, full"),
    ("-Bushy_Eyebrows", OPPOSITE, BROWS, "thin, sparse"),
    ("+Chubby", EVERYDAY, FACE, "full, fleshy"),
    ("", EVERYDAY, FACE, "full of"),
    ("-Chubby", OPPOSITE, FACE, "thin, slender, lean, gaunt"),
    ("+Gray_Hair", CELEBA, HAIR, "gray, grey"),
    ("+Gray_Hair", KIND, HAIR, "graying, greying, silver, white, salt and pepper"),
    ("+Heavy_Makeup", CELEBA, "makeup, make up", "heavy"),
    ("+Heavy_Makeup", EVERYDAY, "makeup, make up", "thick, bold, dramatic, strong, full"),
    ("-Heavy_Makeup", OPPOSITE, "makeup, make up", "light, little, minimal, natural, subtle"),
    ("+High_Cheekbones", CELEBA, "cheekbones, cheek bones", "high"),
    ("+High_Cheekbones", EVERYDAY, "cheekbones, cheek bones", "prominent, pronounced, defined, sculpted"),
    ("-High_Cheekbones", OPPOSITE, "cheekbones, cheek bones", "low, flat"),
    ("+Mouth_Slightly_Open", CELEBA, MOUTH, "open, slightly open"),
    ("+Mouth_Slightly_Open", EVERYDAY, MOUTH, "opened, agape, ajar, parted"),
    ("+Mouth_Slightly_Open", KIND, LIPS, "parted, apart, open"),
    ("-Mouth_Slightly_Open", OPPOSITE, MOUTH, "closed, shut"),
    ("-Mouth_Slightly_Open", OPPOSITE, LIPS, "closed, shut, together, sealed"),
    ("+Narrow_Eyes", CELEBA, EYES, "narrow"),
    ("+Narrow_Eyes", EVERYDAY, EYES, "narrowed, squinting, squinted"),
    ("-Narrow_Eyes", OPPOSITE, EYES, "wide, big, large, round"),
    ("+Oval_Face", CELEBA, FACE, "oval, oval shaped"),
    ("-Oval_Face", OPPOSITE, FACE, "round, square, rectangular, heart shaped"),
    ("+Pale_Skin", CELEBA, "skin, skinned, complexion, skin tone", "pale"),
    ("+Pale_Skin", KIND, FACE, "pale"),
    ("+Pale_Skin", EVERYDAY, "skin, skinned, complexion, skin tone", "fair, light, porcelain"),
    ("-Pale_Skin", OPPOSITE, "skin, skinned, complexion, skin tone", "dark, tan, tanned, olive, brown, black, bronzed"),
    ("+Pointy_Nose", CELEBA, NOSE, "pointy"),
    ("+Pointy_Nose", EVERYDAY, NOSE, "pointed, sharp"),
    ("-Pointy_Nose", OPPOSITE, NOSE, "rounded, blunt, flat, bulbous"),
    ("+Receding_Hairline", CELEBA, "hairline, hair line", "receding"),
    ("+Receding_Hairline", EVERYDAY, "hairline, hair line", "receded, recedes, high"),
    ("-Receding_Hairline", OPPOSITE, "hairline, hair line", "full, low"),
    ("+Rosy_Cheeks", CELEBA, "cheeks, cheek", "rosy"),
    ("+Rosy_Cheeks", EVERYDAY, "cheeks, cheek", "flushed, blushing, pink, red, reddish, ruddy"),
    ("+Receding_Hairline", EVERYDAY, HAIR, "receding"),
    ("+Straight_Hair", CELEBA, HAIR, "straight"),
    ("+Wavy_Hair", CELEBA, HAIR, "wavy"),
    ("+Wavy_Hair", KIND, HAIR, "curly, curled, curls"),
)
# Words among those that say what a part is like, before it and after it, and those that lead from it to these.
AMONG: tuple[Rule, ...] = (
    (f"{QUIRK}: coordinators, determiners and of-phrases of number", "and or a an both pair of"),
    (f"{QUIRK}: degree adverbs", "very rather quite slightly somewhat fairly extremely really partly partially"),
    (f"{QUIRK}: degree adverbs", "completely well half naturally"),
    (
        ANSWERS,
        "long short medium length shoulder shaggy fine thick thin dark light dirty ash jet strawberry reddish golden "
        "silky shiny neat messy cropped pressed red pink styled combed back natural soft smooth wide dyed curly "
        "straight",
    ),
)
AFTER: tuple[Rule, ...] = (
    (f"{QUIRK}: negation and coordination", "not no longer anymore neither nor but rather than instead both"),
    (f"{QUIRK}: focusing adverbs", "just only also"),
    (ANSWERS, "be to in color colour"),
)
LINKS: tuple[Rule, ...] = (
    (
        f"{QUIRK}: copular verbs",
        "is are was were look looks looked appear appears appeared seem seems seemed being be",
    ),
    (f"{QUIRK}: relative pronouns", "that which"),
)
# "The face has an oval shape."
OF_ITS_OWN = (
    r" (?:has|have|had|is of|are of|of) (?:an? )?(?:[a-z]+,? ){1,3}(?:shape|form|tone|texture|colou?r|contour)\b"
)
# What is worn, unless it is somewhere else.
WORN = ("Wearing_", "Eyeglasses")
ELSEWHERE: tuple[Rule, ...] = (
    (
        f"{QUIRK}: prepositions of position; the places are the answers'",
        r" (?:(?:that )?(?:is|are|lies?|lying|hangs?|hanging|sits?|sitting|placed|resting|kept) )*"
        r"(?:on|in|near|beside|next to|behind|under) (?:the|a|an|his|her|their) (?:[a-z]+ )?"
        r"(?:table|desk|shelf|wall|background|chair|hands?|rack|floor|ground|bed|hook|bag|pocket)\b",
    ),
)
# Glasses that are worn, but not before the eyes.
RAISED: tuple[Rule, ...] = (
    (
        f"{QUIRK}: prepositions of position; the places are the answers'",
        r" (?:(?:is|are|worn|perched|pushed|resting|placed|up|back) )*(?:on top of|atop|above|on|over|onto) "
        r"(?:the|a|an|his|her|their) (?:[a-z]+ )?(?:head|hair|forehead|hat|cap)\b",
    ),
)
# A sentence that goes on about what the one before it was about.
IT = (
    r"\W*(?:(?:but|and|actually|no|wait|rather|instead)\W+)*(it|they|these|those) "
    r"(?:is|are|was|were|looks?|appears?|seems?)\b"
)


def _read_values(text: str) -> Values:
    """("Male", True), ("Young", False) for "+Male -Young"."""
    return tuple((name[1:], name[0] == "+") for name in text.split())


def _read_words(rules: Sequence[Rule]) -> frozenset[str]:
    return frozenset(word for _, words in rules for word in words.split())


@cache
def _phrases() -> Lexicon[Values]:
    return Lexicon((phrase, _read_values(says)) for says, _, phrases in PHRASES for phrase in phrases.split(", "))


@cache
def _parts() -> Lexicon[str]:
    return Lexicon((part, parts) for parts in {row[2] for row in FEATURES} for part in parts.split(", "))


@cache
def _likenesses(parts: str) -> Lexicon[Values]:
    return Lexicon(
        (like, _read_values(says)) for says, _, each, likes in FEATURES if each == parts for like in likes.split(", ")
    )


@cache
def _among(parts: str) -> frozenset[str]:
    """Words that may stand among those that say what these parts are like."""
    likes = " ".join(likes for *_, each, likes in FEATURES if each == parts)
    return frozenset([*likes.replace(",", "").split(), *_read_words(AMONG)])


@cache
def _after() -> tuple[frozenset[str], frozenset[str]]:
    """Words that lead from a part to what it is like, and those that may stand among these."""
    return _read_words(LINKS), _read_words([*AFTER, *LINKS])


def _find_parts(text: str, about: str | None) -> list[Mention[str]]:
    """Parts of the face; a sentence that goes on with "it" or "they" is about the last one before it."""
    parts = [*_parts().find(text)]
    if about and (match := compile_pattern(IT).match(text)):
        parts.insert(0, Mention(match.start(1), match.end(1), about))
    return parts


def _find_features(text: str, parts: Sequence[Mention[str]]) -> Iterator[Mention[Values]]:
    """What is said of parts in the words right before and after them: "long, black hair", "hair is long and black"."""
    words = [*Lexicon.WORD.finditer(text)]
    starts = [word.start() for word in words]
    for part in parts:
        among = _among(part.value)
        first = bisect_left(starts, part.start)
        while first and words[first - 1].group() in among and _joins(text, words[first - 1].end(), starts[first]):
            first -= 1
        for like in _find_likenesses(text, part.value, starts[first], part.start):
            yield replace(like, end=part.end)
        if owned := compile_pattern(OF_ITS_OWN).match(text, part.end):
            yield from _find_likenesses(text, part.value, part.end, owned.end())

        links, after = _after()
        last, end = bisect_left(starts, part.end), part.end
        linked = text.startswith(":", end) or (last < len(words) and words[last].group() in links)
        if not linked and not text.startswith(" ", end):
            continue
        # "Blond hair and a brown beard": an article begins another part.
        allowed = among | after if linked else among - {"a", "an"}
        while last < len(words) and words[last].group() in allowed and _joins(text, end, starts[last]):
            end = words[last].end()
            last += 1
        yield from _find_likenesses(text, part.value, part.end, end)


def _find_likenesses(text: str, parts: str, start: int, end: int) -> Iterator[Mention[Values]]:
    for mention in _likenesses(parts).find(text[start:end]):
        yield Mention(start + mention.start, start + mention.end, mention.value)


def _joins(text: str, start: int, end: int) -> bool:
    return text[start:end].strip() in ("", ",", ":")


def parse_attributes(text: str) -> dict[str, bool] | None:
    """Those of ATTRIBUTES that are spoken of, with whether they are there; to deny one is to say that it is not."""
    claims: dict[str, list[Claim[bool]]] = {}
    about: str | None = None
    for statement in read_statements(text):
        parts = _find_parts(statement.text, about)
        about = parts[-1].value if parts else about
        features = [*_find_features(statement.text, parts)]
        phrases = [
            phrase
            for phrase in _phrases().find(statement.text)
            if not any(phrase.start <= feature.start < phrase.end for feature in features)
        ]
        others = [phrase for phrase in phrases if not phrase.value]
        for mention in sorted([*phrases, *features], key=lambda mention: mention.start):
            start, end = mention.start, mention.end
            stated = statement.states(start, end)
            elsewhere = compile_pattern(any_of(ELSEWHERE)).match(statement.text, end)
            raised = compile_pattern(any_of(RAISED)).match(statement.text, end)
            for name, value in mention.value:
                if (elsewhere and name.startswith(WORN)) or (raised and name == "Eyeglasses"):
                    continue
                if name in ABOUT_WHOM and compile_pattern(DEFINITE).search(statement.text, 0, start):
                    stated = True
                if stated is not None:
                    claims.setdefault(name, []).append(statement.claim(value is stated, start, end, PLAIN))
        for word in Lexicon.WORD.finditer(statement.text):
            male = PRONOUNS.get(word.group())
            if male is not None and not any(phrase.start <= word.start() < phrase.end for phrase in others):
                claims.setdefault("Male", []).append(statement.claim(male, word.start(), word.end(), WEAK))
    labels = {name: settle(claims[name]) for name in ATTRIBUTES if name in claims}
    return {name: value for name, value in labels.items() if value is not None} or None
