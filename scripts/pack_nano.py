"""Make the result of a run the model that ships with the package, its parameters in float16.

python scripts/pack_nano.py RUN/model
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import tyro

from facellava_jax.checkpoint import cast, layer_shapes, read_array, read_config, read_manifest, write_checkpoint
from facellava_jax.config import NANO
from facellava_jax.program import write


@dataclass(frozen=True)
class Arguments:
    result: tyro.conf.Positional[Path]
    """The checkpoint folder that a run of configs/nano.py has written."""


def main(arguments: Arguments) -> None:
    config, source = read_config(arguments.result), read_manifest(arguments.result)["source"]
    # Where it was trained is nobody's business.
    experiment = {**source["experiment"], "tokenizer": str((NANO / "tokenizer").relative_to(NANO.parent.parent))}
    aside = NANO.with_name("nano.new")
    tokenizer = [file for file in sorted((arguments.result / "tokenizer").iterdir()) if file.is_file()]
    source = {"experiment": experiment, "steps": source["steps"]}
    paths = layer_shapes(config)
    with write_checkpoint(aside, config, dict.fromkeys(paths, "float16"), tokenizer, source) as put:
        for path in paths:
            put(path, cast(read_array(arguments.result, path), jnp.dtype("float16"), path))
    shutil.rmtree(NANO)
    aside.rename(NANO)
    size = sum(file.stat().st_size for file in NANO.rglob("*") if file.is_file())
    write(f"{NANO}: {size / 1e6:.1f} MB, {source['steps']} steps\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
