"""MORPH II and UTKFace: ages, which the pictures' names say."""

import re
from pathlib import Path

from ..benchmark import Benchmark, Example, Medium, Selection
from .folder import Folder

# Neither has an official split. The lists are those of Cao, Mirjalili and Raschka, Rank Consistent Ordinal Regression
# (CORAL), Pattern Recognition Letters 2020, which others use too; the ages in them are shifted, and not read.
LISTS = "https://github.com/Raschka-research-group/coral-cnn, datasets/train-test-csv"
SPLITS = {"test": True, "all": False}

MORPH_NAME = re.compile(r"(\d+_\d+[MF](\d+))\.jpe?g", re.IGNORECASE)
MORPH_LIST = "morph2_test.csv"
MORPH_LAYOUT = f"""
    Album2/009055_1M54.JPG ..     person, picture, sex, age (or Images)
    {MORPH_LIST}               the test pictures, of {LISTS};
                                  split "all" is every picture, and needs no list
"""
UTK_NAME = re.compile(r"((\d+)(?:_\d+)+) ?(?:\.?jpg)?(?:\.chip)?\.jpg", re.IGNORECASE)
UTK_LIST = "utk_test.csv"
UTK_LAYOUT = f"""
    UTKFace/26_1_2_20170116181301976.jpg.chip.jpg ..     age, gender, race, time; cut to the face
      or part1, part2 and part3                          whole pictures
    {UTK_LIST}                                         the test pictures, of {LISTS};
                                                         split "all" is every picture, and needs no list
"""


def read_morph(path: Path, split: str) -> Selection:
    folder = Folder(path, "MORPH II", MORPH_LAYOUT)
    return _read(folder, split, [folder.find("Album2", "Images")], MORPH_NAME, MORPH_LIST)


def read_utk(path: Path, split: str) -> Selection:
    folder = Folder(path, "UTKFace", UTK_LAYOUT)
    whole = [path / part for part in ("part1", "part2", "part3")]
    pictures = whole if all(part.is_dir() for part in whole) else [folder.find("UTKFace")]
    return _read(folder, split, pictures, UTK_NAME, UTK_LIST)


def _read(folder: Folder, split: str, pictures: list[Path], form: re.Pattern[str], listed: str) -> Selection:
    only_listed = folder.choose(split, SPLITS)
    found = {}
    for parent in pictures:
        for name in sorted(folder.list_names(parent)):
            if match := form.fullmatch(name):
                found[match[1].upper()] = (parent / name, float(match[2]))
    names = list(found)
    if only_listed:
        cells = re.split(r"[,\n]\s*", folder.read_text(folder.find(listed)))
        names = [match[1].upper() for match in map(form.fullmatch, cells) if match]
        if not names:
            raise folder.error(f"{listed}: names no picture")
    if absent := [name for name in names if name not in found]:
        held = "; ".join(map(folder.describe, pictures))
        missing = f"{len(absent):,} of {len(names):,} pictures of {listed} are not there, such as {absent[0]}"
        raise folder.error(f"{missing}; {held}")
    media = ((name, *found[name]) for name in names)
    examples = [Example(name=name, task="age", truth=years, media=(Medium(path=file),)) for name, file, years in media]
    return folder.check(examples, split)


MORPH2 = Benchmark(
    name="morph2",
    title="MORPH II",
    task="age",
    splits=tuple(SPLITS),
    layout=MORPH_LAYOUT,
    source=(
        "Ricanek and Tesafaye, MORPH: A Longitudinal Image Database of Normal Adult Age-Progression, FG 2006; the "
        f"academic release of 2008. It has no official split, and Face-LLaVA's is not published: `test` is {LISTS}, "
        "a random fifth."
    ),
    read=read_morph,
    paper={"mae": {"zero_shot": 3.34, "fine_tuned": 2.02}},
)
UTKFACE = Benchmark(
    name="utkface",
    title="UTKFace",
    task="age",
    splits=tuple(SPLITS),
    layout=UTK_LAYOUT,
    source=(
        "Zhang, Song and Qi, Age Progression/Regression by Conditional Adversarial Autoencoder, CVPR 2017, "
        "https://susanqq.github.io/UTKFace. It has no official split, and Face-LLaVA's is not published: `test` is "
        f"{LISTS}, a random fifth of those between 21 and 60 years old, which most papers take."
    ),
    read=read_utk,
    paper={"mae": {"zero_shot": 4.89, "fine_tuned": 4.06}},
)
