"""Reading a checkpoint folder: its config, its manifest, its arrays one stacked array at a time."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config, DType
from ..models.facellava import abstract_params
from .aside import CheckpointError

FORMAT = 1
READERS = 4

Json = dict[str, Any]


def read_config(folder: Path) -> Config:
    """A checkpoint folder's configuration. Raises CheckpointError where there is none, ConfigError for a bad one."""
    for name in ("config.json", "manifest.json"):
        _require_file(folder, name)
    return Config.load(folder / "config.json")


def read_manifest(folder: Path) -> Json:
    """What `manifest.json` says: `format`, `source`, `files`, and `parameters` (path -> shape, dtype, bytes).

    Raises CheckpointError for a folder without one, one of a later format, and a tokenizer file that has changed.
    """
    _require_file(folder, "manifest.json")
    file = folder / "manifest.json"
    try:
        manifest: Json = json.loads(file.read_text())
        version, _ = manifest["format"], manifest["source"]
        if version != FORMAT:
            raise CheckpointError(
                f"{file} is of format {version}, and this release reads {FORMAT}: update facellava-jax"
            )
        for name, entry in manifest["files"].items():
            # config.json is meant to be edited; weights carry checksums of their own.
            if name != "config.json" and not ((folder / name).is_file() and sha256(folder / name) == entry["sha256"]):
                raise CheckpointError(f"{folder / name} is missing or has changed: import the checkpoint again")
        for path, entry in manifest["parameters"].items():
            entry["shape"] = tuple(entry["shape"])
            if entry["dtype"] not in ("float32", "bfloat16", "float16"):
                raise CheckpointError(f"{file}: {path} has dtype {entry['dtype']}: import the checkpoint again")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{file} is damaged: import the checkpoint again") from None
    return manifest


def load_params(
    folder: Path, *, dtype: DType | None = None, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> dict[str, jax.Array]:
    """The weights by path, layers stacked, as `build_model` takes them.

    Args:
        folder: a checkpoint folder.
        dtype: cast to this; None keeps each array's own (the widest of its layers).
        shardings: path -> sharding; each process reads no more than its own part. None puts all on the first device.

    Raises CheckpointError for a folder that is none, and for an array that is missing, damaged, of a shape that does
    not fit `config.json`, or too large for `dtype`.
    """
    config, stored = read_config(folder), read_manifest(folder)["parameters"]
    expected = layer_shapes(config)
    if wrong := sorted(expected.keys() ^ stored.keys()):
        state = "is missing" if wrong[0] in expected else "is not part of the model that config.json describes"
        raise CheckpointError(f"{folder}: {wrong[0]} {state}: restore config.json or import the checkpoint again")
    for path, shape in expected.items():
        if stored[path]["shape"] != shape:
            raise CheckpointError(
                f"{folder}: {path} has shape {stored[path]['shape']}, but config.json asks for {shape}: "
                "restore config.json or import the checkpoint again"
            )
    single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params: dict[str, jax.Array] = {}
    with ThreadPoolExecutor(READERS) as pool:
        for path, abstract in abstract_params(config.model).items():
            names = disk_paths(path, abstract.shape)
            kind = jnp.dtype(dtype) if dtype else jnp.result_type(*(jnp.dtype(stored[name]["dtype"]) for name in names))
            sharding = shardings[path] if shardings else single
            read = functools.partial(_read_stacked, folder, path, names, kind, pool)
            params[path] = jax.make_array_from_callback(abstract.shape, sharding, read, dtype=kind)
            # One at a time: a read that runs ahead would hold a second stacked array.
            params[path].block_until_ready()
    return params


def read_array(folder: Path, path: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """One array of a checkpoint, or a part of it, by a path of `layer_shapes`. Raises CheckpointError."""
    import tensorstore as ts

    spec = {**array_spec(folder / "params", path), "fill_missing_data_reads": False}
    try:
        store = ts.open(spec, open=True, read=True, context=storage()).result()
        array: np.ndarray = store[index].read().result()
    except (ValueError, OSError):
        raise CheckpointError(f"{folder}: {path} is damaged or missing: import the checkpoint again") from None
    return array


@functools.cache
def layer_shapes(config: Config) -> Mapping[str, tuple[int, ...]]:
    """Path -> shape of every array on disk: `decoder/layers/7/q_proj/kernel` for a row of a stacked array."""
    return {
        name: abstract.shape if name == path else abstract.shape[1:]
        for path, abstract in abstract_params(config.model).items()
        for name in disk_paths(path, abstract.shape)
    }


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """`array` in `dtype`. Raises CheckpointError, with `name`, for a number that float16 cannot hold."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype == np.float16 and not np.array_equal(np.isfinite(result), np.isfinite(array)):
        raise CheckpointError(f"{name} holds numbers beyond float16's 65504: use bfloat16 or float32")
    return result


def disk_paths(path: str, shape: tuple[int, ...]) -> list[str]:
    """The paths on disk of one parameter of this shape: one for each layer where it is stacked."""
    head, stacked, tail = path.partition("/layers/")
    return [f"{head}/layers/{layer}/{tail}" for layer in range(shape[0])] if stacked else [path]


def _read_stacked(
    folder: Path,
    path: str,
    names: list[str],
    dtype: np.dtype,
    pool: ThreadPoolExecutor,
    index: tuple[slice, ...] | None,
) -> np.ndarray:
    """The part `index` of a parameter, its layers read side by side into one array."""
    assert index is not None  # None is for extended dtypes, such as random keys.
    if names == [path]:
        return _checked(folder, path, index, dtype)
    wanted = names[index[0]]
    first = _checked(folder, wanted[0], index[1:], dtype)
    stacked = _aligned((len(wanted), *first.shape), dtype)
    stacked[0] = first

    def fill(layer: int) -> None:
        stacked[layer] = _checked(folder, wanted[layer], index[1:], dtype)

    for _ in pool.map(fill, range(1, len(wanted))):
        pass
    return stacked


def _checked(folder: Path, path: str, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
    try:
        return cast(read_array(folder, path, index), dtype, f"{folder}: {path}")
    except IndexError:
        raise CheckpointError(f"{folder}: {path} is damaged: import the checkpoint again") from None


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that JAX on CPU takes over without a copy: it wants addresses that are multiples of 64."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def array_spec(folder: Path, path: str) -> Json:
    """Where Orbax keeps an array: a folder of its own, named by its path with dots."""
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder.resolve() / path.replace("/", "."))}}


@functools.cache
def storage() -> Any:
    """What all arrays share: threads, and the leave to write to the disk when the system likes, as with cp."""
    import tensorstore as ts

    return ts.Context({"file_io_sync": False})


def _require_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        what = f"has no {name}" if folder.is_dir() else "is no folder"
        raise CheckpointError(f"{folder} {what}: give a checkpoint folder, as facellava-convert import writes it")


def sha256(file: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
