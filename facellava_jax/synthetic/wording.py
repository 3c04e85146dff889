"""What is asked and answered about a rendered face. Answers say what is drawn, and nothing else."""

from collections.abc import Collection, Sequence

import numpy as np

from ..request import QUESTIONS, Task
from .actions import NAMES, Emotion
from .forgery import FAULTS, Fault
from .person import Person

# Beside the question of QUESTIONS. {} is the medium.
MORE_QUESTIONS: dict[Task, tuple[str, ...]] = {
    "emotion": (
        "Which emotion does the person in the {} show?",
        "What does the face in this {} express?",
        "How does the person in the {} feel, judging by the face?",
        "Name the emotion that can be seen in the {}.",
    ),
    "age": (
        "How old is the person in the {}?",
        "Estimate the age of the person in this {}.",
        "What age would you give the face in the {}, and why?",
    ),
    "attributes": (
        "What does the person in the {} look like?",
        "Describe the face in this {}.",
        "Which features of the face can be seen in the {}?",
    ),
    "action-units": (
        "Name the facial action units that are active in the {}.",
        "Which action units can be seen on the face in this {}?",
        "List the action units of the face in the {}.",
    ),
    "deepfake": (
        "Has the face in the {} been tampered with?",
        "Is this {} real or fake?",
        "Can the face in the {} be trusted to be genuine?",
    ),
}
SIGNS = {
    1: "the inner ends of the brows are raised",
    2: "the outer ends of the brows are raised",
    4: "the brows are drawn down and together",
    5: "the upper lids are raised, so that the eyes are wide",
    6: "the cheeks are raised, with lines at the corners of the eyes",
    7: "the lids are tightened",
    9: "the nose is wrinkled",
    12: "the corners of the lips are pulled up",
    15: "the corners of the lips are pulled down",
    17: "the chin is pushed up",
    20: "the lips are stretched sideways",
    23: "the lips are tightened and narrow",
    24: "the lips are pressed together",
    25: "the lips are parted",
    26: "the jaw has dropped",
}
AT_REST = ("No part of the face is tensed.", "The face is at rest.", "Brows, eyes and mouth are relaxed.")
VERDICTS = (
    "The emotion shown is {}.",
    "Together this expresses {}.",
    "So the person shows {}.",
    "The face expresses {}.",
)
NEUTRAL_VERDICTS = ("The expression is neutral.", "The emotion shown is neutral.", "So the face is neutral.")
NO_UNITS = ("No facial action units are active: the face is at rest.", "The face shows no action units.")
FAULT_SIGNS: dict[Fault, tuple[str, ...]] = {
    "colour": (
        "the inner part of the face has another colour than the skin around it",
        "the skin of the face does not match that of forehead and neck",
    ),
    "edge": ("a sharp edge runs around the inner part of the face", "the inner face is blurred and ends in a seam"),
    "jitter": (
        "the features jump from frame to frame against the head",
        "eyes, nose and mouth tremble while the head moves smoothly",
    ),
}
REAL_SIGNS = (
    "The skin has one colour from the forehead to the chin, and no seam runs through the face.",
    "Face, ears and neck match, and no edge is to be seen.",
    "Light and skin are the same all over the face.",
)
# CelebA's names that are drawn: how an answer says that they are there, and that they are not.
ATTRIBUTES: dict[str, tuple[str, str]] = {
    "Male": ("a man", "a woman"),
    "Young": ("young", "not young"),
    "Bald": ("bald", "not bald"),
    "Bangs": ("bangs", "no bangs"),
    "Black_Hair": ("black hair", "no black hair"),
    "Blond_Hair": ("blond hair", "no blond hair"),
    "Brown_Hair": ("brown hair", "no brown hair"),
    "Gray_Hair": ("gray hair", "no gray hair"),
    "Bushy_Eyebrows": ("bushy eyebrows", "no bushy eyebrows"),
    "Big_Nose": ("a big nose", "no big nose"),
    "Big_Lips": ("big lips", "no big lips"),
    "Chubby": ("chubby", "not chubby"),
    "Pale_Skin": ("pale skin", "no pale skin"),
    "Rosy_Cheeks": ("rosy cheeks", "no rosy cheeks"),
    "No_Beard": ("no beard", "a beard"),
    "Goatee": ("a goatee", "no goatee"),
    "Mustache": ("a mustache", "no mustache"),
    "Eyeglasses": ("eyeglasses", "no eyeglasses"),
    "Wearing_Hat": ("a hat", "no hat"),
    "Wearing_Earrings": ("earrings", "no earrings"),
    "Wearing_Lipstick": ("lipstick", "no lipstick"),
    "Heavy_Makeup": ("heavy makeup", "no heavy makeup"),
    "Smiling": ("smiling", "not smiling"),
    "Mouth_Slightly_Open": ("mouth slightly open", "mouth closed"),
}
# Attributes by the sentence that names them, and that sentence's words before and between.
IS = ("Young", "Bald", "Chubby", "Smiling")
HAS = (
    *("Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bushy_Eyebrows", "Big_Nose", "Big_Lips"),
    *("Pale_Skin", "Rosy_Cheeks", "Goatee", "Mustache"),
)
WEARS = ("Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Lipstick", "Heavy_Makeup")
GROUPS = (IS, HAS, WEARS)
# Rounds without a picture: about action units and expressions as such.
TEXT_QUESTIONS = ("What is AU{}?", "What does action unit {} stand for?", "Which movement of the face is AU{}?")


def choose(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def ask(task: Task, kind: str, which: str, rng: np.random.Generator, varied: bool) -> str:
    """A question about a medium: `which` is "" or says which of several, such as "first "."""
    question, words = QUESTIONS[task]
    if varied and rng.random() < 0.6:
        question = choose(rng, MORE_QUESTIONS[task])
    return question.format(which + words[kind])


def answer_emotion(emotion: Emotion, units: Collection[int], rng: np.random.Generator) -> str:
    """What the face does, then the emotion, in the last sentence."""
    if emotion == "neutral":
        return f"{choose(rng, AT_REST)} {choose(rng, NEUTRAL_VERDICTS)}"
    signs = _join([SIGNS[unit] for unit in sorted(units)])
    return f"{_sentence(signs)} {choose(rng, VERDICTS).format(emotion)}"


def answer_units(units: Collection[int], rng: np.random.Generator) -> str:
    if not units:
        return choose(rng, NO_UNITS)
    codes = {unit: f"AU{unit} ({NAMES[unit]})" for unit in sorted(units)}
    if rng.random() < 0.3:
        return " ".join(_sentence(f"{SIGNS[unit]}: {code}") for unit, code in codes.items())
    opening = choose(rng, ("The active action units are {}.", "The face shows {}.", "These are active: {}."))
    return opening.format(_join(list(codes.values())))


def answer_age(person: Person, rng: np.random.Generator) -> str:
    """The age, then its signs."""
    age = person.age
    if age < 13:
        signs = ["the eyes are large, and nose and chin small", "the face is that of a child"]
    elif age < 22:
        signs = ["the skin is smooth and without lines", "the features are hardly grown up"]
    elif age < 40:
        signs = [
            "only faint lines run beside the nose and below the eyes",
            "the skin is firm, with the first faint lines",
        ]
    elif age < 60:
        signs = [
            "lines cross the forehead, and folds run beside the nose",
            "lines show at the eyes and beside the mouth",
        ]
    else:
        signs = ["deep wrinkles run across forehead and cheeks", "the skin is furrowed, and the lips are thin"]
    text = choose(rng, signs)
    if person.grey > 0.3 and person.hair_length != "bald" and not person.hat:
        text += ". The hair is turning gray" if person.grey < 0.75 else ". The hair is gray"
    # A one-year-old is "1 years old": an answer's beginning is of one form.
    return f"{age} years old. {_sentence(text)}"


def answer_attributes(labels: dict[str, bool], rng: np.random.Generator) -> str:
    """What the face is, has and wears, then what it is not and has not: every attribute of `labels` is named."""
    who = ATTRIBUTES["Male"][not labels["Male"]] if "Male" in labels else "a child"
    mouth = ATTRIBUTES["Mouth_Slightly_Open"][not labels["Mouth_Slightly_Open"]]
    true, false = (
        {group: [ATTRIBUTES[name][not value] for name in group if labels.get(name) is value] for group in GROUPS}
        for value in (True, False)
    )
    # The attribute that is itself an absence stands among what it says.
    (false if labels["No_Beard"] else true)[HAS].append(ATTRIBUTES["No_Beard"][not labels["No_Beard"]])
    subject = choose(rng, ("This is", "The face is that of", "It shows"))
    sentences = [
        f"{subject} {who}.",
        f"The person is {_join([*true[IS], *false[IS]])}, with the {mouth}."
        if true[IS] or false[IS]
        else f"The {mouth}.",
    ]
    for verb, group in (("has", HAS), ("wears", WEARS)):
        for phrases in (true[group], false[group]):
            if phrases:
                sentences.append(f"The person {verb} {_join(phrases)}.")
    return " ".join(sentences)


def answer_deepfake(faults: Collection[Fault], rng: np.random.Generator) -> str:
    """Fake or Real, then why."""
    if not faults:
        return f"Real. {choose(rng, REAL_SIGNS)}"
    return f"Fake. {_sentence(_join([choose(rng, FAULT_SIGNS[fault]) for fault in FAULTS if fault in faults]))}"


def talk_of_units(rng: np.random.Generator) -> tuple[str, str]:
    """A question about no picture, and its answer."""
    unit = int(rng.choice(list(NAMES)))
    return choose(rng, TEXT_QUESTIONS).format(unit), f"AU{unit} ({NAMES[unit]}): {SIGNS[unit]}."


def _join(phrases: Sequence[str]) -> str:
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
