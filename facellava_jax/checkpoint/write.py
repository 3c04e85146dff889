"""Writing a checkpoint folder, array by array, straight from the caller's memory."""

import contextlib
import json
import logging
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..config import Config, DType
from .aside import CheckpointError, unwritable, write_aside
from .read import FORMAT, Json, array_spec, layer_shapes, sha256, storage

CHUNK_BYTES = 32 << 20
# Bytes handed to the writer that may still be on their way to the disk.
IN_FLIGHT_BYTES = 96 << 20


@contextlib.contextmanager
def write_checkpoint(
    out: Path, config: Config, dtypes: Mapping[str, DType], tokenizer: Iterable[Path], source: Json
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A checkpoint folder, written whole or not at all; gives `write(path, array)`, to be called once for each array.

    Args:
        out: the folder to be.
        config: becomes `config.json`.
        dtypes: path -> dtype of each array, as `layer_shapes` names them.
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
                raise CheckpointError(unwritable(out, error)) from None

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
                str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
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
    # Of several processes only this one writes: Orbax must not wait for the others.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix="alone"
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, multiprocessing_options=alone)
    with silence_orbax(), ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(folder, tree)
    success = folder / "commit_success.txt"
    if success.exists():  # it names the folder, which is not yet where it will be, and nobody's business
        success.write_text("Checkpoint commit was successful\n")


@contextlib.contextmanager
def silence_orbax() -> Iterator[None]:
    """Keeps its log off standard error: it warns of what it is asked for, and logs what it raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _create_array(folder: Path, path: str, shape: tuple[int, ...], dtype: DType) -> Any:
    """The future of a tensorstore: uncompressed, with checksums, in pieces along the first axis."""
    import tensorstore as ts

    row_bytes = math.prod(shape[1:]) * jnp.dtype(dtype).itemsize
    chunk = [max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:]]
    return ts.open(
        {
            **array_spec(folder, path),
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
        context=storage(),
    )
