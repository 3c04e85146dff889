"""CelebA: forty attributes of each face."""

import re
from pathlib import Path

from ...answers import ATTRIBUTES
from ..benchmark import Benchmark, Example, Medium, Selection
from .folder import Folder

CELEBA_SPLITS = {"test": "2", "valid": "1", "train": "0"}
CELEBA_LAYOUT = """
    Img/img_align_celeba/000001.jpg ..
    Anno/list_attr_celeba.txt            the number of pictures, 40 names, and lines such as 000001.jpg -1 1 1 ..
    Eval/list_eval_partition.txt         lines such as 000001.jpg 0
    (or all three at the top, or Kaggle's list_attr_celeba.csv, list_eval_partition.csv and img_align_celeba)
"""


def read_celeba(path: Path, split: str) -> Selection:
    folder = Folder(path, "CelebA", CELEBA_LAYOUT)
    part = folder.choose(split, CELEBA_SPLITS)
    pictures = folder.find("Img/img_align_celeba", "img_align_celeba")
    if "img_align_celeba" in folder.list_names(pictures):  # as Kaggle's archive unpacks
        pictures /= "img_align_celeba"
    partition = _find(folder, "Eval", "list_eval_partition")
    labels = _find(folder, "Anno", "list_attr_celeba")
    rows = folder.match_lines(partition, r"(\d+\.jpg)[\s,]+([012])", "a picture's name and 0, 1 or 2", headings=1)
    chosen = {row[1] for row in rows if row[2] == part}
    names = _read_heading(folder, labels)
    expected = f"a picture's name and {len(names)} times 1 or -1"
    examples = []
    for row in folder.match_lines(labels, rf"(\d+\.jpg)((?:[\s,]+-?1){{{len(names)}}})", expected, headings=2):
        if row[1] in chosen:
            values = re.findall(r"-?1", row[2])
            truth = {name: value == "1" for name, value in zip(names, values, strict=True)}
            examples.append(
                Example(name=row[1], task="attributes", truth=truth, media=(Medium(path=pictures / row[1]),))
            )
    if len(examples) < len(chosen):
        unlabelled = sorted(chosen - {example.name for example in examples})
        where = labels.relative_to(path)
        raise folder.error(f"{len(unlabelled):,} pictures of the split are not in {where}, such as {unlabelled[0]}")
    return folder.check(examples, split)


def _find(folder: Folder, parent: str, name: str) -> Path:
    return folder.find(f"{parent}/{name}.txt", f"{name}.txt", f"{name}.csv")


def _read_heading(folder: Folder, labels: Path) -> list[str]:
    """The attributes' names, in the order of the columns."""
    heading = " ".join(folder.read_text(labels).split("\n", 2)[:2])
    names = [word for word in re.split(r"[\s,]+", heading) if word in ATTRIBUTES]
    if sorted(names) != sorted(ATTRIBUTES):
        absent = next((name for name in ATTRIBUTES if name not in names), "one, and has another twice")
        raise folder.error(f"{labels.relative_to(folder.path)}: the heading of 40 attributes lacks {absent}")
    return names


CELEBA = Benchmark(
    name="celeba",
    title="CelebA",
    task="attributes",
    splits=tuple(CELEBA_SPLITS),
    layout=CELEBA_LAYOUT,
    source=(
        "Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015, "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: aligned pictures, with the official partition (19,962 test "
        "pictures)."
    ),
    read=read_celeba,
    classes=ATTRIBUTES,
    paper={"mean_accuracy": {"zero_shot": 0.868, "fine_tuned": 0.901}},
)
