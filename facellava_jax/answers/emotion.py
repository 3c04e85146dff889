"""The emotion that an answer states."""

from functools import cache

from .claims import HEAVIER, LIGHTER, Claim, read_statements, settle
from .words import QUIRK, Lexicon, Mention, Row, Rule, Weighed, any_of, compile_pattern

EMOTIONS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear", "contempt")

STRONG, WEAK = 4, 1
CLASSES = "names of the data sets' classes (DFEW, CREMA-D, RAF-DB, AffectNet) and their word families"
SHAVER = "prototype analysis of emotion words: Shaver et al., J. Personality and Social Psychology 52 (1987)"
ATLAS = "the states of each emotion in Ekman's Atlas of Emotions (atlasofemotions.org)"
EVERYDAY = "everyday words of the same meaning (Merriam-Webster's thesaurus)"
SIGNS = "Ekman and Friesen, Unmasking the Face (1975): what a face does; counts where no emotion is named"
# What is meant, by whose word, how much it counts, and the words. None: a phrase that is about something else.
WORDS: tuple[Row, ...] = (
    ("happiness", CLASSES, STRONG, "happiness, happy, happily, happier"),
    (
        *("happiness", SHAVER, STRONG),
        "joy, joyful, joyfully, joyous, cheerful, cheerfully, cheerfulness, delight, delighted, amusement, amused, "
        "bliss, blissful, glee, gleeful, gleefully, gladness, glad, enjoyment, elation, elated, jubilation, jubilant, "
        "euphoria, euphoric, ecstasy, ecstatic, contentment, jolly, jovial, enthusiasm, enthusiastic, excitement, "
        "excited",
    ),
    ("happiness", EVERYDAY, STRONG, "overjoyed, thrilled, merry, merriment, pleased, pleasure"),
    (
        *("happiness", SIGNS, WEAK),
        "smile, smiles, smiling, smiled, grin, grins, grinning, laugh, laughs, laughing, laughter, beaming",
    ),
    ("sadness", CLASSES, STRONG, "sadness, sad, sadly, sadder, saddened"),
    (
        *("sadness", SHAVER, STRONG),
        "sorrow, sorrowful, sorrowfully, misery, miserable, grief, gloom, gloomy, unhappiness, unhappy, unhappily, "
        "melancholy, melancholic, despair, depression, depressed, dejection, dejected, anguish, anguished, "
        "disappointment, disappointed, hopelessness, hopeless, dismay, woe, glum",
    ),
    ("sadness", ATLAS, STRONG, "discouraged, discouragement, distraught, despairing, helplessness"),
    (
        "sadness",
        EVERYDAY,
        STRONG,
        "grieving, mournful, mourning, heartbroken, downcast, despondent, tearful, somber, sombre",
    ),
    ("sadness", SIGNS, WEAK, "cry, cries, crying, weep, weeps, weeping, sobbing, tears"),
    ("neutral", CLASSES, STRONG, "neutral, neutrally, neutrality"),
    (
        *("neutral", EVERYDAY, STRONG),
        "expressionless, emotionless, unemotional, impassive, deadpan, blank face, blank expression, blank stare",
    ),
    ("neutral", SIGNS, WEAK, "calm, calmly, composed, relaxed, serene, at rest"),
    ("anger", CLASSES, STRONG, "anger, angry, angrily, angrier, angered"),
    (
        *("anger", SHAVER, STRONG),
        "rage, raging, fury, furious, furiously, outrage, outraged, hostility, hostile, irritation, irritated, "
        "annoyance, annoyed, exasperation, exasperated, frustration, frustrated, resentment, resentful, wrath, "
        "aggravation, aggravated, agitated, bitterness, hatred, ferocity",
    ),
    ("anger", EVERYDAY, STRONG, "mad, enraged, irate, infuriated, pissed off, pissed, livid"),
    ("surprise", CLASSES, STRONG, "surprise, surprised"),
    ("surprise", SHAVER, STRONG, "amazement, amazed, astonishment, astonished"),
    (
        "surprise",
        EVERYDAY,
        STRONG,
        "shock, shocked, startled, astounded, stunned, dumbfounded, taken aback, flabbergasted",
    ),
    ("disgust", CLASSES, STRONG, "disgust, disgusted, disgustedly"),
    ("disgust", SHAVER, STRONG, "revulsion, loathing"),
    ("disgust", ATLAS, STRONG, "aversion, distaste, repugnance, abhorrence"),
    ("disgust", EVERYDAY, STRONG, "revolted, repulsed, repulsion, grossed out, nauseated"),
    ("fear", CLASSES, STRONG, "fear, fearful, fearfully, afraid"),
    (
        *("fear", SHAVER, STRONG),
        "alarm, alarmed, fright, frightened, horror, horrified, terror, terrified, panic, panicked, panicking, "
        "hysteria, anxiety, anxious, anxiously, nervousness, nervous, nervously, apprehension, apprehensive, worry, "
        "worried, dread",
    ),
    ("fear", ATLAS, STRONG, "trepidation"),
    ("fear", EVERYDAY, STRONG, "scared, petrified, spooked"),
    ("contempt", CLASSES, STRONG, "contempt, contemptuous, contemptuously"),
    ("contempt", SHAVER, STRONG, "scorn, scornful, scornfully"),
    ("contempt", EVERYDAY, STRONG, "disdain, disdainful, disdainfully, derision"),
    ("contempt", SIGNS, WEAK, "sneer, sneers, sneering, smirk, smirks, smirking"),
    (
        None,
        EVERYDAY,
        0,
        "i am afraid, happy to help, glad to help, happy to assist, no surprise, smile lines, laugh lines, "
        "surprise party, happy birthday, happy song, happy music, happy ending, sad song, sad music, sad ending",
    ),
)
# No emotion is the neutral one (its class in the data sets), unless it is one that cannot be told.
NO_EMOTION: tuple[Rule, ...] = (
    (
        f"{QUIRK}: clause negation and words negative in meaning",
        r"\b(?:no|not (?:show|showing|display|displaying|express|expressing|convey|exhibit|reveal)|without|lack of"
        r"|lacks|absence of|devoid of|void of) (?:any )?(?:[a-z]+ ){0,2}?"
        r"(?:emotions?|emotional expression|facial expression)\b"
        r"(?! (?:can be|could be) (?:told|determined|identified|recogni[sz]ed|inferred)| (?:other than|except|but"
        r"|besides)\b)",
    ),
)
# Before a word in its clause, these say that the emotion is what is spoken of.
VERDICT: tuple[Rule, ...] = (
    ("the question's own word: emotion", "emotions?|emotional"),
    (EVERYDAY, "expression|expresses|feelings?|feels|mood|affect"),
)
# A clause without a finite verb tells how one looks rather than what one feels: "..., her brows raised in surprise".
ABSOLUTE: tuple[Rule, ...] = ((f"{QUIRK}: absolute clauses", r",\s(?:and )?(?:his|her|their|its|the) "),)
FINITE: tuple[Rule, ...] = (
    (f"{QUIRK}: primary verbs", "is|are|was|were|has|have|had|does|do|did"),
    (f"{QUIRK}: modal auxiliaries", "can|could|may|might|must|will|would|should"),
    (f"{QUIRK}: copular verbs", "looks|seems?|appears?|becomes?|feels?|turns?|remains?|ends?|starts?"),
    (
        f"{EVERYDAY}: to show",
        "shows?|expresses|displays?|suggests?|indicates?|points?|conveys?|reveals?|exhibits?|reflects?|betrays?|signals?"
        "|communicates?|speaks?|tells?|makes?",
    ),
)


@cache
def _lexicon() -> Lexicon[Weighed]:
    return Lexicon.from_rows(WORDS)


def _find(text: str) -> list[Mention[Weighed]]:
    """Words for emotions, without those that qualify the next."""
    none = [
        Mention(match.start(), match.end(), Weighed("neutral", STRONG))
        for match in compile_pattern(any_of(NO_EMOTION)).finditer(text)
    ]
    words = [word for word in _lexicon().find(text) if not any(each.start <= word.start < each.end for each in none)]
    mentions = sorted([*none, *words], key=lambda mention: mention.start)
    qualified = {mention.start - 1 for mention in mentions if mention.value.weight == STRONG}
    return [mention for mention in mentions if mention.end not in qualified or text[mention.end] != " "]


def _is_absolute(clause: str) -> bool:
    absolute = compile_pattern(any_of(ABSOLUTE)).match(clause)
    return bool(absolute) and not compile_pattern(rf"\b{any_of(FINITE)}\b").search(clause)


def parse_emotion(text: str) -> str | None:
    """One of EMOTIONS. Of several at once, "a mix of fear and surprise", the first; of a compound, "fearful surprise"
    or "happily surprised", what is qualified (as Du et al., PNAS 111, 2014, name their compounds).
    """
    claims: list[Claim[str]] = []
    for statement in read_statements(text):
        after = 0
        for mention in _find(statement.text):
            label, weight = mention.value
            if label and statement.states(mention.start, mention.end):
                weight += HEAVIER * statement.leads(rf"\b{any_of(VERDICT)}\b", mention.start)
                weight += LIGHTER * _is_absolute(statement.before(mention.start))
                claims.append(statement.claim(label, mention.start, mention.end, weight, after))
            after = mention.end
    return settle(claims)
