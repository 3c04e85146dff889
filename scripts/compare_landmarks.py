"""What the landmark branch is worth to a small model: the same training with and without it, over several seeds.

python scripts/compare_landmarks.py OUT [--steps N] [--seeds 0 1]

Both sides go through scripts/pretrain_nano.py and configs/nano.py, shortened, with the same seeds for parameters and
order; all see the same rendered faces. The same command again goes on where it stopped.
"""

import runpy
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import tyro

from facellava_jax.experiment import DECODER, PROJECTOR, Experiment, Source
from facellava_jax.synthetic import RECORDS
from facellava_jax.train import train

ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).with_name("facellava")


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder for data, runs and results."""
    train_samples: int = 6000
    """Rendered records to learn from."""
    epochs: tuple[int, int] = (6, 2)
    """Of pretraining."""
    steps: int = 400
    """Of training."""
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 500
    """Held-out faces, a fifth for each task."""


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
                pool.submit(train, shorten(folder, side, seed, arguments), folder / "run").result()
            results.append(folder / "results")
            words = ("--data", out / "test", "--out", results[-1], "--model", folder / "run" / "model")
            run(PROGRAM, "eval", "faceinstruct", *words, "--batch-size", 32)
    run(PROGRAM, "report", *results)


def pretrain(folder: Path, side: str, seed: int, arguments: Arguments) -> None:
    script = ROOT / "scripts" / "pretrain_nano.py"
    faces = arguments.out / "train"
    words = ("--faces", faces, "--samples", arguments.train_samples, "--epochs", *arguments.epochs, "--seed", seed)
    run(sys.executable, script, folder, *words, "--landmarks" if side == "with" else "--no-landmarks")


def shorten(folder: Path, side: str, seed: int, arguments: Arguments) -> Experiment:
    """configs/nano.py, shorter, from a start of its own."""
    nano: Experiment = runpy.run_path(str(ROOT / "configs" / "nano.py"))["config"]
    data = replace(nano.data, sources=(Source(path=arguments.out / "train" / RECORDS),), seed=seed)
    trainable = nano.trainable if side == "with" else (*PROJECTOR, *DECODER)
    return replace(nano, start=folder / "start", data=data, trainable=trainable, steps=arguments.steps, seed=seed)


def run(*words: object) -> None:
    if status := subprocess.run([str(word) for word in words]).returncode:
        sys.exit(status)  # it has said why


if __name__ == "__main__":
    main(tyro.cli(Arguments))
