"""Export: a checkpoint folder back to the original's format, by the tables that import reads forwards."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from facellava_jax.checkpoint import read_array, read_config, read_manifest, write_aside
from facellava_jax.config import Config, LoraConfig
from facellava_jax.lora import merge_adapter

from .configuration import original_config, original_tower_config
from .convert import lay_out
from .original import open_original
from .rules import TIED, TOWER_FOLDERS, Entry, entries, to_original
from .shards import SHARD_BYTES, SavedTensor, write_shards
from .source import DTYPES, Json, LazyTensor, SourceError, some


def export_checkpoint(
    ckpt: Path,
    out: Path,
    *,
    fill_from: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes the folder `out` in the original's format: weights, configs, tokenizer, LanguageBind's configs.

    What the original holds and the model does not is taken from the checkpoint `fill_from`; else it is computed, where
    the original needs it, and left out, where it does not. LoRA is merged, that of the decoder and that which the
    towers came with.

    Raises CheckpointError for a bad `ckpt` or an `out` that exists, SourceError for a bad `fill_from`.
    """
    config, manifest = read_config(ckpt), read_manifest(ckpt)
    tensors, left_out = _collect(ckpt, config, manifest["parameters"], fill_from)
    if left_out:
        say(
            f"left out, because the model does not hold them and the original takes its towers from LanguageBind's "
            f"folders: {some(left_out)} (--fill-from carries them over)"
        )
    for line in _inexpressible(config):
        say(line)
    with (
        write_aside(out) as (folder, check_signals),
        tqdm(total=sum(t.nbytes for t in tensors), unit="B", unit_scale=True, desc="export", disable=None) as bar,
    ):
        for file in sorted((ckpt / "tokenizer").iterdir()):
            shutil.copyfile(file, folder / file.name)
        _write_configs(folder, config, manifest["source"])

        def progress(written: int) -> None:
            check_signals()
            bar.update(written)

        write_shards(folder, list(_read_ahead(tensors)), progress, shard_bytes)


def _collect(
    ckpt: Path, config: Config, parameters: Json, fill_from: Path | None
) -> tuple[list[SavedTensor], list[str]]:
    """The tensors to write, in the original's order, and the names of those that nothing gives."""
    filling = open_original(fill_from).tensors if fill_from else {}
    tensors, left_out = [], []
    for entry in entries(config):
        if entry.paths:
            dtype = parameters[entry.paths[0]]["dtype"]
            read = functools.partial(_read, ckpt, entry, config.model.decoder.lora)
            tensors.append(SavedTensor(entry.key, entry.shape, dtype, read))
        elif entry.key in filling:
            tensor = filling[entry.key]
            if tensor.shape != entry.shape or tensor.dtype not in DTYPES:
                raise SourceError(
                    f"{entry.key} of {tensor.file} is {tensor.dtype}{tensor.shape}, not of shape {entry.shape}: "
                    "fill from the checkpoint that this one was imported from"
                )
            tensors.append(SavedTensor(entry.key, entry.shape, tensor.dtype, functools.partial(_carry, tensor, entry)))
        elif entry.reason == TIED:
            continue  # transformers ties it again
        elif entry.part in ("decoder", "landmarks"):
            compute = functools.partial(_compute, entry, config)
            tensors.append(SavedTensor(entry.key, entry.shape, config.model.dtype, compute))
        else:
            left_out.append(entry.key)
    return tensors, left_out


def _read(ckpt: Path, entry: Entry, lora: LoraConfig | None) -> np.ndarray:
    """A tensor of the original, from the parameters that it became."""
    arrays = [to_original(entry.form, _read_merged(ckpt, path, lora)) for path in entry.paths]
    laid_out = [lay_out(array, array.dtype, entry.key)[0] for array in arrays]
    return (laid_out[0] if len(laid_out) == 1 else np.concatenate(laid_out)).reshape(entry.shape)


def _read_merged(ckpt: Path, path: str, lora: LoraConfig | None) -> np.ndarray:
    """A parameter, with its adapter added where it has one."""
    parent = path.rpartition("/")[0]
    return merge_adapter(path, read_array(ckpt, path), lora, lambda leaf: read_array(ckpt, f"{parent}/{leaf}"))


def _carry(tensor: LazyTensor, entry: Entry) -> np.ndarray:
    array = np.array(lay_out(tensor.view(), jnp.dtype(tensor.dtype), entry.key)[0])
    tensor.release()
    return array


def _compute(entry: Entry, config: Config) -> np.ndarray:
    """What the original's loader expects beside the weights, in the model's dtype: rotary frequencies; an unused norm.

    Towers are not among it: the original reads those from LanguageBind's folders, and passes over these.
    """
    if entry.part == "decoder":
        size = np.float32(config.model.decoder.head_dim)
        exponents = np.arange(0, config.model.decoder.head_dim, 2, dtype=np.float32) / size
        values = np.float32(1) / np.float32(config.model.decoder.rope_theta) ** exponents
    else:
        values = np.full(entry.shape, entry.key.endswith("weight"), np.float32)
    return values.astype(jnp.dtype(config.model.dtype))


def _read_ahead(tensors: list[SavedTensor]) -> Iterator[SavedTensor]:
    """The tensors, each read by a thread while the one before it is written."""
    pool = ThreadPoolExecutor(1)
    ahead: dict[int, Future[np.ndarray]] = {}

    def read(number: int) -> np.ndarray:
        current = ahead.pop(number, None) or pool.submit(tensors[number].read)
        if number + 1 < len(tensors):
            ahead[number + 1] = pool.submit(tensors[number + 1].read)
        return current.result()

    for number, tensor in enumerate(tensors):
        yield tensor._replace(read=functools.partial(read, number))


def _inexpressible(config: Config) -> Iterator[str]:
    """What the original's config has no words for."""
    landmarks = config.model.landmarks
    if landmarks and landmarks.residual_scale != 0.1:
        yield f"the original adds landmarks with a weight of 0.1, this model with {landmarks.residual_scale}"
    if landmarks and landmarks.cross_attn == "masked" and not landmarks.transposed_grid:
        yield "the original swaps rows and columns of the patch grid against the landmarks; this model does not"


def _write_configs(folder: Path, config: Config, source: Json) -> None:
    generation = source.get("generation_config") or {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    _write_json(folder / "config.json", original_config(config, source.get("config") or {}))
    _write_json(folder / "generation_config.json", generation)
    for part, name in TOWER_FOLDERS.items():
        if tower := getattr(config.model, part):
            (folder / name).mkdir()
            _write_json(folder / name / "config.json", original_tower_config(tower, source.get(f"{part}_config")))


def _write_json(file: Path, value: Json) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
