"""Make the result of a run the model that ships with the package, its parameters in float16, and draw the run's loss.

python scripts/pack_nano.py nano/run
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

from facellava_jax.checkpoint import cast, layer_shapes, read_array, read_config, read_manifest, write_checkpoint
from facellava_jax.config import NANO, nano
from facellava_jax.errors import FaceLlavaError
from facellava_jax.extras import require
from facellava_jax.program import write
from facellava_jax.run import RESULT, read_metrics

CURVE = NANO.parent.parent / "docs" / "nano.png"
WINDOW = 25  # steps that the curve is averaged over


@dataclass(frozen=True)
class Arguments:
    run: tyro.conf.Positional[Path]
    """The folder of a run of configs/nano.py."""


def main(arguments: Arguments) -> None:
    try:
        pack(arguments.run)
    except (FaceLlavaError, OSError) as error:
        sys.exit(f"pack_nano: {error}")


def pack(run: Path) -> None:
    result = run / RESULT
    config, source = read_config(result), read_manifest(result)["source"]
    if config != nano() or "steps" not in source:
        sys.exit(f"pack_nano: {result} is not what configs/nano.py trains: name a run of it")
    aside, old = NANO.with_name("nano.new"), NANO.with_name("nano.old")
    tokenizer = [file for file in sorted((result / "tokenizer").iterdir()) if file.is_file()]
    steps = source["steps"]
    source = {"run": "configs/nano.py", "steps": steps}  # where that was is nobody's business
    paths = layer_shapes(config)
    shutil.rmtree(aside, ignore_errors=True)  # of a call that was stopped
    with write_checkpoint(aside, config, dict.fromkeys(paths, "float16"), tokenizer, source) as put:
        for path in paths:
            put(path, cast(read_array(result, path), jnp.dtype("float16"), path))
    shutil.rmtree(old, ignore_errors=True)
    NANO.rename(old)
    aside.rename(NANO)
    shutil.rmtree(old)
    draw_curve([row["loss"] for row in read_metrics(run)])
    size = sum(file.stat().st_size for file in NANO.rglob("*") if file.is_file())
    write(f"{NANO}: {size / 1e6:.1f} MB, {steps} steps\n")


def draw_curve(losses: Sequence[float]) -> None:
    figure = require("matplotlib.figure", "eval").Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, len(losses) + 1), losses, color="#cbd5e0", linewidth=0.5)
    window = min(WINDOW, len(losses))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(np.arange(window, len(losses) + 1), smooth, color="#2b6cb0", linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss per token", yscale="log")
    axes.grid(alpha=0.25, which="both")
    figure.savefig(CURVE, metadata={"Software": None})


if __name__ == "__main__":
    main(tyro.cli(Arguments))
