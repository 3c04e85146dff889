"""What the landmark branch is worth to a small model: the same training with and without it, over several seeds.

python scripts/compare_landmarks.py OUT [--steps N] [--seeds 0 1]

Each run is configs/nano.py with its own seeds for parameters and order, and fewer steps; all see the same rendered
faces. The same command again goes on where it stopped.
"""

import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from facellava_jax.experiment import Experiment, Source
from facellava_jax.train import train

CONFIG = Path(__file__).parent.parent / "configs" / "nano.py"


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder for data, runs and results."""
    steps: int = 1500
    seeds: tuple[int, ...] = (0, 1)
    samples: int = 1000
    """Held-out faces, a fifth for each task."""


def main(arguments: Arguments) -> None:
    out = arguments.out
    nano: Experiment = runpy.run_path(str(CONFIG))["config"]
    assert nano.model and nano.data.rendering
    models = {"with": nano.model, "without": replace(nano.model, model=replace(nano.model.model, landmarks=None))}
    sources = (Source(path=out / "train" / "data.json"),)
    rendered = {"train": nano.data.rendering.samples, "test": arguments.samples}
    for split, samples in rendered.items():
        if not (out / split).exists():
            words = ("--samples", samples, "--seed", nano.data.rendering.seed, "--split", split)
            run("data", "render", "--out", out / split, *words)
    results = []
    for seed in arguments.seeds:
        for side, model in models.items():
            data = replace(nano.data, rendering=None, sources=sources, seed=seed)
            experiment = replace(nano, model=model, data=data, steps=arguments.steps, seed=seed)
            name = f"{side}-{seed}"
            train(experiment, out / f"run-{name}")
            results.append(out / f"results-{name}")
            words = ("--data", out / "test", "--out", results[-1], "--model", out / f"run-{name}" / "model")
            run("eval", "faceinstruct", *words, "--batch-size", 32)
    run("report", *results)


def run(*words: object) -> None:
    program = Path(sys.executable).with_name("facellava")
    subprocess.run([program, *map(str, words)], check=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
