"""Checkpoint folders: `config.json`, `params/` (Orbax, each layer an array of its own), `tokenizer/`, `manifest.json`.

Weights are written array by array, straight from the caller's memory, so that a model of any size passes through a
small process. Reading allocates one stacked array at a time and nothing beside it.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from glob import escape
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import Config, DType
from .errors import FaceLlavaError
from .models.facellava import abstract_params

FORMAT = 1
CHUNK_BYTES = 32 << 20
# Bytes handed to the writer that may still be on their way to the disk.
IN_FLIGHT_BYTES = 96 << 20
READERS = 4

Json = dict[str, Any]


class CheckpointError(FaceLlavaError):
    """A checkpoint folder that cannot be read or written; the message names the file or array and the remedy."""


@contextlib.contextmanager
def write_aside(out: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A new folder beside `out` that becomes `out` when the block ends, and is removed when the block fails.

    SIGINT and SIGTERM wait until the block ends or calls the function that comes with the folder, which raises
    KeyboardInterrupt (with the signal's number) for one that came. What a killed process left beside `out` is removed
    first. Raises CheckpointError where `out` exists and where the disk is full.
    """
    out = out.absolute()
    _refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f"{escape(out.name)}.partial-*"):
        with _locked(stale) as locked:
            if locked:
                shutil.rmtree(stale)
    aside = out.with_name(f"{out.name}.partial-{secrets.token_hex(4)}")
    with _deferred_signals() as check_signals:
        aside.mkdir()
        try:
            with _locked(aside):
                yield aside, check_signals
                check_signals()
                _refuse_existing(out)
                aside.rename(out)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(_unwritable(out, error)) from None
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


@contextlib.contextmanager
def write_checkpoint(
    out: Path, config: Config, dtypes: Mapping[str, DType], tokenizer: Iterable[Path], source: Json
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A checkpoint folder, written whole or not at all; gives `write(path, array)`, to be called once for each array.

    Args:
        out: the folder to be.
        config: becomes `config.json`.
        dtypes: path -> dtype of each array, as `layer_paths` names them.
        tokenizer: files to copy into `tokenizer/`.
        source: kept in the manifest: where the weights came from. Read when the block ends.

    The arrays given to `write` must not change before the block ends. Raises CheckpointError where `out` exists.
    """
    shapes = layer_shapes(config)
    if wrong := dtypes.keys() ^ shapes.keys():
        raise CheckpointError(f"{out}: {sorted(wrong)[0]} is not a parameter of both the config and the weights")
    with write_aside(out) as (folder, check_signals):
        config.save(folder / "config.json")
        (folder / "tokenizer").mkdir()
        for file in tokenizer:
            shutil.copyfile(file, folder / "tokenizer" / file.name)
        _write_tree(folder / "params", dtypes)
        stores = {path: _create_array(folder / "params", path, shapes[path], dtypes[path]) for path in dtypes}
        pending: deque[tuple[Any, int]] = deque()

        def wait_until(in_flight: int) -> None:
            try:
                while pending and sum(size for _, size in pending) > in_flight:
                    pending.popleft()[0].result()
            except (ValueError, OSError) as error:
                raise CheckpointError(_unwritable(out, error)) from None

        def write(path: str, array: np.ndarray) -> None:
            if array.shape != shapes[path] or array.dtype != jnp.dtype(dtypes[path]):
                raise CheckpointError(f"{path}: {array.dtype}{array.shape} is not {dtypes[path]}{shapes[path]}")
            check_signals()
            store = stores.pop(path).result()
            rows = store.chunk_layout.write_chunk.shape[0]
            for start in range(0, len(array), rows):
                piece = array[start : start + rows]
                wait_until(max(0, IN_FLIGHT_BYTES - piece.nbytes))
                future = store[start : start + len(piece)].write(piece, can_reference_source_data_indefinitely=True)
                pending.append((future, piece.nbytes))
            if array.nbytes > IN_FLIGHT_BYTES:
                wait_until(0)

        try:
            yield write
            wait_until(0)
        finally:
            # What is still under way must not write into a folder that is being removed.
            for future in (*stores.values(), *(future for future, _ in pending)):
                with contextlib.suppress(ValueError, OSError):
                    future.result()
        if stores:
            raise CheckpointError(f"{out}: {min(stores)} was not written")
        manifest = {
            "format": FORMAT,
            "source": source,
            "files": {
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
                for file in (folder / "config.json", *sorted((folder / "tokenizer").iterdir()))
            },
            "parameters": {
                path: {
                    "shape": shapes[path],
                    "dtype": dtypes[path],
                    "bytes": math.prod(shapes[path]) * jnp.dtype(dtypes[path]).itemsize,
                }
                for path in sorted(shapes)
            },
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


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
            if name != "config.json" and not ((folder / name).is_file() and _sha256(folder / name) == entry["sha256"]):
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
            names = _unstack(path, abstract.shape)
            kind = jnp.dtype(dtype) if dtype else jnp.result_type(*(jnp.dtype(stored[name]["dtype"]) for name in names))
            sharding = shardings[path] if shardings else single
            read = functools.partial(_read_stacked, folder, path, names, kind, pool)
            params[path] = jax.make_array_from_callback(abstract.shape, sharding, read, dtype=kind)
            # One at a time: a read that runs ahead would hold a second stacked array.
            params[path].block_until_ready()
    return params


def read_array(folder: Path, path: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """One array of a checkpoint, or a part of it, by a path of `layer_paths`. Raises CheckpointError."""
    import tensorstore as ts

    spec = {**_array_spec(folder / "params", path), "fill_missing_data_reads": False}
    try:
        store = ts.open(spec, open=True, read=True, context=_storage()).result()
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
        for name in _unstack(path, abstract.shape)
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


def _unstack(path: str, shape: tuple[int, ...]) -> list[str]:
    """The paths on disk of one parameter: one for each layer where it is stacked."""
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


def _write_tree(folder: Path, paths: Iterable[str]) -> None:
    """An Orbax checkpoint with a scalar in every place, for the arrays to replace: Orbax's own files describe it."""
    import orbax.checkpoint as ocp

    tree: Json = {}
    for path in paths:
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = np.zeros((), np.float32)
    logger = logging.getLogger("absl")
    level = logger.level
    # Orbax warns that there is no OCDBT file to merge, which is what `use_ocdbt=False` asks for, and logs what it raises.
    logger.setLevel(logging.CRITICAL)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)) as checkpointer:
            checkpointer.save(folder, tree)
    finally:
        logger.setLevel(level)


def _create_array(folder: Path, path: str, shape: tuple[int, ...], dtype: DType) -> Any:
    """The future of a tensorstore: uncompressed, with checksums, in pieces along the first axis."""
    import tensorstore as ts

    row_bytes = math.prod(shape[1:]) * jnp.dtype(dtype).itemsize
    chunk = [max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:]]
    return ts.open(
        {
            **_array_spec(folder, path),
            "metadata": {
                "shape": shape,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
                "data_type": dtype,
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            },
            "store_data_equal_to_fill_value": True,
        },
        create=True,
        delete_existing=True,
        context=_storage(),
    )


def _array_spec(folder: Path, path: str) -> Json:
    """Where Orbax keeps an array: a folder of its own, named by its path with dots."""
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / path.replace("/", "."))}}


@functools.cache
def _storage() -> Any:
    """What all arrays share: threads, and the leave to write to the disk when the system likes, as with cp."""
    import tensorstore as ts

    return ts.Context({"file_io_sync": False})


@contextlib.contextmanager
def _deferred_signals() -> Iterator[Callable[[], None]]:
    """Puts off SIGINT and SIGTERM to where they can be acted on; the function raises KeyboardInterrupt if one came.

    An exception raised wherever a signal happens to find the interpreter can be lost in a callback, or leave threads
    writing into a folder that is being removed.
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise KeyboardInterrupt(came[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda caught, _: came.append(caught)) for number in numbers]
    try:
        yield check
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, holds the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists: remove it or choose another name")


def _unwritable(out: Path, error: Exception) -> str:
    return f"{out} cannot be written ({str(error).splitlines()[0]}): make room or choose another disk"


def _require_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        what = f"has no {name}" if folder.is_dir() else "is no folder"
        raise CheckpointError(f"{folder} {what}: give a checkpoint folder, as facellava-convert import writes it")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
