"""What the landmark branch is worth to a small model: the same training with and without it, over several seeds.

python scripts/compare_landmarks.py OUT [--epochs 6 4] [--seeds 0 1]

Both sides go through scripts/pretrain_nano.py and configs/nano.py, shortened, on pictures alone, and with the landmarks
of the rendering alone, with the same seeds for parameters and order; all see the same rendered faces. The same command
again goes on where it stopped.
"""

import json
import runpy
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import tyro

from facellava_jax.experiment import Experiment, Source
from facellava_jax.synthetic import RECORDS
from facellava_jax.train import train

ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).with_name("facellava")


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder for data, runs and results."""
    train_samples: int = 5000
    """Records to render; those with clips are left out."""
    epochs: tuple[int, int] = (6, 4)
    """Of pretraining, and of training."""
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 1000
    """Held-out faces: a fifth for each of the tasks that are asked of pictures, and of those that are not asked."""


def main(arguments: Arguments) -> None:
    out = arguments.out
    for split, samples in {"train": arguments.train_samples, "test": arguments.samples}.items():
        if not (out / split / RECORDS).exists():
            run(PROGRAM, "data", "render", "--out", out / split, "--samples", samples, "--split", split)
    results = []
    for seed in arguments.seeds:
        for side in ("with", "without"):
            folder = out / f"{side}-{seed}"
            pretrain(folder, side, seed, arguments)
            # In a process of its own, which gives an accelerator back when it ends.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(train, shorten(folder, seed, arguments), folder / "run").result()
            results.append(folder / "results")
            held_out = keep_pictures(out / "test")
            words = ("--data", held_out, "--out", results[-1], "--model", folder / "run" / "model")
            run(PROGRAM, "eval", "faceinstruct", *words, "--batch-size", 32)
    run(PROGRAM, "report", *results)


def pretrain(folder: Path, side: str, seed: int, arguments: Arguments) -> None:
    script = ROOT / "scripts" / "pretrain_nano.py"
    faces = arguments.out / "train"
    words = ("--faces", faces, "--samples", arguments.train_samples, "--seed", seed)
    epochs = ("--epochs", arguments.epochs[0], 0, 0)
    run(sys.executable, script, folder, *words, *epochs, "--landmarks" if side == "with" else "--no-landmarks")


def keep_pictures(folder: Path) -> Path:
    """A folder with those records of another that show pictures alone."""
    kept = folder.with_name(f"{folder.name}-pictures")
    if not (kept / RECORDS).exists():
        (kept / "images").unlink(missing_ok=True)  # of a call that was stopped
        kept.mkdir(exist_ok=True)
        (kept / "images").symlink_to((folder / "images").resolve())
        records = json.loads((folder / RECORDS).read_text())
        aside = kept / f".{RECORDS}.part"
        kept_records = [record for record in records if "image" in record and "video" not in record]
        aside.write_text(json.dumps(kept_records))
        aside.replace(kept / RECORDS)
    return kept


def shorten(folder: Path, seed: int, arguments: Arguments) -> Experiment:
    """configs/nano.py, shorter, from a start of its own."""
    nano: Experiment = runpy.run_path(str(ROOT / "configs" / "nano.py"))["config"]
    source = Source(path=keep_pictures(arguments.out / "train") / RECORDS)
    data = replace(nano.data, sources=(source,), epochs=arguments.epochs[1], seed=seed)
    return replace(nano, start=folder / "start", data=data, seed=seed)


def run(*words: object) -> None:
    if status := subprocess.run([str(word) for word in words]).returncode:
        sys.exit(status)  # it has said why


if __name__ == "__main__":
    main(tyro.cli(Arguments))
