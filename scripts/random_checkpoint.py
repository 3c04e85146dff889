"""Write a random checkpoint in the original's format: every tensor that the original saves, of plausible scale.

python scripts/random_checkpoint.py OUT --tokenizer DIR --size tiny|medium|7b
"""

import functools
import json
import math
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Literal

import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from conversion.configuration import original_config, original_tower_config
from conversion.rules import TOWER_FOLDERS, Entry, entries
from conversion.shards import SHARD_BYTES, SavedTensor, write_shards
from facellava_jax.checkpoint import CheckpointError, write_aside
from facellava_jax.config import Config, DType, facellava_7b, tiny
from facellava_jax.text import TOKENIZER_FILES

# Drawn once; each tensor is a stretch of it from a place of its own, so that 7 billion numbers take seconds.
POOL = 1 << 22
# Decoder layers that, in 16 bits, make 4.6 GB.
MEDIUM_LAYERS = 6


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder to write; must not exist."""
    tokenizer: Path
    """The folder whose tokenizer files are copied."""
    size: Literal["tiny", "medium", "7b"] = "tiny"
    """medium: the full towers and widths, and six decoder layers (4.6 GB)."""
    dtype: DType = "float16"
    seed: int = 0
    shard_bytes: int = SHARD_BYTES


def configure(size: str, dtype: DType) -> Config:
    config = tiny() if size == "tiny" else facellava_7b()
    model = replace(config.model, dtype=dtype)
    if size == "medium":
        model = replace(model, decoder=replace(model.decoder, num_hidden_layers=MEDIUM_LAYERS))
    return replace(config, model=model)


class Drawer:
    """Norms near one, biases near zero, matrices that keep the size of what passes through them."""

    def __init__(self, dtype: DType, seed: int) -> None:
        self._dtype = jnp.dtype(dtype)
        self._seed = seed
        self._pool = np.random.default_rng(seed).standard_normal(POOL, np.float32)
        self._scaled = functools.cache(lambda scale, mean: (self._pool * np.float32(scale) + mean).astype(self._dtype))

    def draw(self, entry: Entry) -> np.ndarray:
        start = np.random.default_rng([self._seed, zlib.crc32(entry.key.encode())]).integers(POOL // 2)
        if len(entry.shape) > 1:
            pool = self._scaled(math.prod(entry.shape[1:]) ** -0.5, np.float32(0))
        else:
            pool = self._scaled(0.02, np.float32(entry.key.endswith("weight")))
        return np.resize(pool[start:], math.prod(entry.shape)).reshape(entry.shape)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    config = configure(arguments.size, arguments.dtype)
    drawer = Drawer(arguments.dtype, arguments.seed)
    tensors = [
        SavedTensor(entry.key, entry.shape, arguments.dtype, functools.partial(drawer.draw, entry))
        for entry in entries(config)
    ]
    try:
        with write_aside(arguments.out) as (folder, _):
            (folder / "config.json").write_text(json.dumps(original_config(config, {}), indent=2) + "\n")
            for part, name in TOWER_FOLDERS.items():
                if tower := getattr(config.model, part):
                    (folder / name).mkdir()
                    text = json.dumps(original_tower_config(tower, None), indent=2) + "\n"
                    (folder / name / "config.json").write_text(text)
            for name in TOKENIZER_FILES:
                if (arguments.tokenizer / name).is_file():
                    copyfile(arguments.tokenizer / name, folder / name)
            with tqdm(total=sum(tensor.nbytes for tensor in tensors), unit="B", unit_scale=True, disable=None) as bar:
                write_shards(folder, tensors, bar.update, arguments.shard_bytes)
    except (CheckpointError, OSError) as error:
        sys.exit(f"random_checkpoint: {error}")


if __name__ == "__main__":
    main()
