"""Who is drawn: a person is a number, from which everything about them follows."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
Number = float | int  # a whole one is as good
Colour = tuple[Number, Number, Number]  # RGB, 0 to 255
HairLength = Literal["bald", "short", "medium", "long"]
Beard = Literal["none", "mustache", "goatee", "full"]
HairColour = Literal["black", "brown", "blond"]

ADULT = 18  # years at which growth ends
BEARD_AGE, MAKEUP_AGE, BALD_AGE, THIN_LIPS_AGE = 18, 17, 32, 55
MAX_AGE = 90

# From fair to dark, as a camera sees them in soft light.
SKIN = ((247, 216, 196), (236, 194, 166), (220, 172, 138), (190, 138, 102), (146, 100, 72), (102, 68, 50))
HAIR: dict[HairColour, tuple[Colour, ...]] = {
    "black": ((30, 25, 24), (42, 35, 33)),
    "brown": ((92, 60, 38), (122, 82, 52)),
    "blond": ((214, 176, 110), (230, 200, 140)),
}
GREY_HAIR: Colour = (205, 204, 202)
EYES: tuple[Colour, ...] = ((72, 46, 30), (96, 64, 38), (112, 96, 56), (92, 116, 92), (96, 128, 160), (70, 104, 150))
LIPSTICK: tuple[Colour, ...] = ((176, 22, 44), (196, 40, 84), (150, 24, 60), (204, 60, 60))
CLOTH: tuple[Colour, ...] = ((52, 66, 94), (120, 40, 44), (70, 92, 70), (210, 206, 198), (40, 40, 44), (150, 120, 84))
SHADOW: tuple[Colour, ...] = ((120, 82, 120), (84, 96, 140), (110, 76, 60), (70, 110, 104))


class Shape(NamedTuple):
    """How a face differs from the mean one; 0 is the mean, and about -1 to 1 is usual."""

    length: float
    jaw: float
    eye_size: float
    eye_spacing: float
    brow_height: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lips: float
    chin: float
    cheeks: float


@dataclass(frozen=True, kw_only=True)
class Person:
    """What is drawn of somebody whatever they do. Everything named here is plain to see, or absent."""

    number: int
    age: int
    male: bool
    shape: Shape
    skin: Colour
    pale: bool
    rosy: bool
    hair_length: HairLength
    hair_colour: HairColour
    grey: float
    """The share of grey hair, 0 to 1."""
    bangs: bool
    wavy: bool
    parting: float
    """Where the hair parts, from -1 (left of the picture) to 1."""
    recession: float
    """How far the hairline has gone back, 0 to 1."""
    beard: Beard
    bushy: bool
    big_nose: bool
    big_lips: bool
    chubby: bool
    eyes: Colour
    glasses: bool
    hat: bool
    hat_colour: Colour
    visor: bool
    lipstick: Colour | None
    eye_shadow: Colour | None
    """Of heavy make-up; none without."""
    earrings: bool
    cloth: Colour

    @property
    def growth(self) -> float:
        """From 0 at birth to 1 in an adult."""
        return float(np.clip(self.age / ADULT, 0, 1)) ** 0.7

    @property
    def hair(self) -> Colour:
        """The colour of the hair, grey and its own mixed."""
        low, high = HAIR[self.hair_colour]
        mix = (self.number % 97) / 96
        own = np.array(low) * (1 - mix) + np.array(high) * mix
        red, green, blue = own * (1 - self.grey) + np.array(GREY_HAIR) * self.grey
        return float(red), float(green), float(blue)

    def ageing(self, onset: int) -> float:
        """How far a sign of age has come that begins at `onset` years, 0 to 1 at MAX_AGE."""
        return float(np.clip((self.age - onset) / (MAX_AGE - onset), 0, 1)) ** 0.75


def number_person(rng: np.random.Generator, split: Split) -> int:
    """Somebody's number: even in training, odd in the test, so that nobody is in both."""
    return 2 * int(rng.integers(2**40)) + SPLITS.index(split)


def draw_person(number: int) -> Person:
    """The person of a number; every number is somebody else."""
    rng = np.random.default_rng((number, 68))
    age = int(rng.integers(1, MAX_AGE + 1))
    male = bool(rng.random() < 0.5)
    adult = age >= ADULT

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    big_nose, big_lips, bushy = chance(0.25), chance(0.3), chance(0.5 if male else 0.12)
    big_nose, bushy = big_nose and age >= 14, bushy and age >= 14
    big_lips, chubby = big_lips and age < THIN_LIPS_AGE, chance(0.2)
    small = rng.uniform(-1, 1, len(Shape._fields))
    shape = Shape(*small.tolist())._replace(
        nose_width=2.3 if big_nose else 0.5 * small[6],
        lips=2.0 if big_lips else 0.5 * small[8] - 0.4,
        cheeks=2.6 if chubby else 0.4 * small[10] - 0.4,
        jaw=0.6 * small[1] + (0.7 if male and adult else -0.5),
    )
    hair_colour: HairColour = ("black", "brown", "blond")[rng.integers(3)]
    melanin = rng.uniform(0, 0.5) if hair_colour == "blond" else rng.uniform(0.1, 1)
    pale = chance(0.25)
    melanin = 0.0 if pale else max(melanin, 0.22)
    low = min(int(melanin * (len(SKIN) - 1)), len(SKIN) - 2)
    share = melanin * (len(SKIN) - 1) - low
    skin = np.array(SKIN[low]) * (1 - share) + np.array(SKIN[low + 1]) * share
    skin = skin * rng.uniform(0.97, 1.03, 3)
    bald = male and age >= BALD_AGE and chance(0.3)
    lengths: tuple[HairLength, ...] = ("short", "short", "short", "medium") if male else ("short", "medium", "long")
    hair_length: HairLength = "bald" if bald else lengths[rng.integers(len(lengths))]
    grey = float(np.clip((age - 38 + rng.normal(0, 3)) / 32, 0, 1))
    beards: tuple[Beard, ...] = ("none", "none", "mustache", "goatee", "full")
    makeup = not male and age >= MAKEUP_AGE
    heavy = makeup and chance(0.4)
    hat = chance(0.2)
    red, green, blue = np.clip(skin, 0, 255).tolist()
    return Person(
        number=number,
        age=age,
        male=male,
        shape=shape,
        skin=(red, green, blue),
        pale=pale,
        rosy=chance(0.3) and melanin < 0.55,
        hair_length=hair_length,
        hair_colour=hair_colour,
        grey=grey if adult else 0.0,
        bangs=hair_length != "bald" and not hat and chance(0.3),
        wavy=chance(0.4),
        parting=float(rng.uniform(-0.6, 0.6)),
        recession=float(np.clip((age - 30) / 50, 0, 1)) * (0.9 if male else 0.3) * float(rng.uniform(0.5, 1)),
        beard=beards[rng.integers(len(beards))] if male and age >= BEARD_AGE else "none",
        bushy=bushy,
        big_nose=big_nose,
        big_lips=big_lips,
        chubby=chubby,
        eyes=EYES[rng.integers(4 if melanin > 0.6 else len(EYES))],
        glasses=age >= 6 and chance(0.25),
        hat=hat,
        hat_colour=CLOTH[rng.integers(len(CLOTH))],
        visor=chance(0.5),
        lipstick=LIPSTICK[rng.integers(len(LIPSTICK))] if heavy or (makeup and chance(0.35)) else None,
        eye_shadow=SHADOW[rng.integers(len(SHADOW))] if heavy else None,
        earrings=not male and age >= 10 and hair_length != "long" and chance(0.4),
        cloth=CLOTH[rng.integers(len(CLOTH))],
    )
