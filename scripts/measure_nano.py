"""What a small model knows of rendered faces that it has not seen, and what it would guess without seeing them.

python scripts/measure_nano.py OUT [--model CKPT]

Held-out faces are rendered, and asked about with their landmarks; with landmarks that are found in the pictures, as
`facellava predict` does (three of a thousand clips have frames without a face, and keep the known ones there); without
landmarks; with grey in the place of the pictures; and with neither pictures nor landmarks. The same command again goes
on where it stopped. OUT/report.png shows the first of the reports.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from facellava_jax.config import NANO
from facellava_jax.errors import FaceLlavaError
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.media import load_image
from facellava_jax.overlay import write_picture
from facellava_jax.synthetic import FOUND, RECORDS, find_landmarks

SIDE, FRAMES = 256, 8
ROWS = (("emotion", "attributes", "deepfake"), ("action-units", "age"))
WIDTH = 1400  # pixels of the joined picture
GREY = np.full((SIDE, SIDE, 3), 127, np.uint8)


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder for data and results."""
    model: Path = NANO
    """The checkpoint folder."""
    samples: int = 1000
    """Held-out faces, a fifth for each task."""
    batch_size: int = 32


def main(arguments: Arguments) -> None:
    out = arguments.out
    whole = out / "whole"
    if not (whole / RECORDS).exists():
        run("data", "render", "--out", whole, "--samples", arguments.samples, "--split", "test")
    records = json.loads((whole / RECORDS).read_text())
    if len(records) != arguments.samples:
        sys.exit(f"measure_nano: {whole} has {len(records)} faces, not {arguments.samples}: choose another folder")
    bare = [drop_landmarks(record) for record in records]
    if not (whole / FOUND).exists():
        for _ in tqdm(find_landmarks(whole), "landmarks", arguments.samples, disable=None):
            pass
    write_list(whole, out / "found", json.loads((whole / FOUND).read_text()))
    write_list(whole, out / "bare", bare)
    write_list(whole, out / "blank", [blank(record) for record in records])
    write_list(whole, out / "blind", [blank(record) for record in bare])
    results = []
    for name in ("whole", "found", "bare", "blank", "blind"):
        results.append(out / f"results-{name}")
        words = ("--model", arguments.model, "--batch-size", arguments.batch_size)
        run("eval", "faceinstruct", "--data", out / name, "--out", results[-1], *words)
    run("report", *results)
    join_pictures(results[0], out / "report.png")


def drop_landmarks(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "landmarks_2d"}


def blank(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with grey in the place of its medium."""
    return {**record, "video": "grey.mp4"} if "video" in record else {**record, "image": "grey.png"}


def write_list(whole: Path, folder: Path, records: list[dict[str, Any]]) -> None:
    """A folder with these records; its pictures and landmarks are those of `whole`."""
    if folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.part")
    aside.mkdir(exist_ok=True)
    for media in filter(Path.is_dir, whole.iterdir()):
        if not (aside / media.name).is_symlink():
            (aside / media.name).symlink_to(media.resolve())
    write_picture(aside / "grey.png", GREY)
    with ClipWriter(aside / "grey.mp4", FRAMES) as writer:
        for frame in range(FRAMES):
            writer.add(GREY, frame / FRAMES)
    (aside / RECORDS).write_text(json.dumps(records, indent=1) + "\n")
    aside.rename(folder)


def join_pictures(results: Path, file: Path) -> None:
    """The pictures of a report as one, in rows of equal width."""
    rows = []
    for tasks in ROWS:
        pictures = [load_image(results / f"{task}.png") for task in tasks]
        height = WIDTH / sum(picture.shape[1] / picture.shape[0] for picture in pictures)
        sizes = [(round(height * picture.shape[1] / picture.shape[0]), round(height)) for picture in pictures]
        scaled = [cv2.resize(*each, interpolation=cv2.INTER_AREA) for each in zip(pictures, sizes, strict=True)]
        row = np.concatenate(scaled, axis=1)
        rows.append(cv2.copyMakeBorder(row, 0, 0, 0, max(0, WIDTH - row.shape[1]), cv2.BORDER_REPLICATE)[:, :WIDTH])
    write_picture(file, np.concatenate(rows))


def run(*words: object) -> None:
    program = Path(sys.executable).with_name("facellava")
    if status := subprocess.run([program, *map(str, words)]).returncode:
        sys.exit(status)  # it has said why


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except (FaceLlavaError, ImportError, OSError) as error:
        sys.exit(f"measure_nano: {error}")
