"""Import: every parameter of the model pulled from the original's tensors, in pieces, into a checkpoint folder."""

import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from facellava_jax.checkpoint import cast, layer_shapes, write_checkpoint
from facellava_jax.config import Config, DType, ModelConfig
from facellava_jax.text import Tokenizer

from .configuration import read_config
from .original import Original, open_original
from .rules import TOWER_FOLDERS, Entry, dropped_reason, entries, to_ours
from .source import DTYPES, Json, LazyTensor, SourceError, some

InitPart = Literal["landmarks", "projector"]

REMEDIES = {
    "decoder": "copy the checkpoint again, or give the one that it builds on with --base DIR",
    "image_tower": "give LanguageBind's weights with --image-tower DIR",
    "video_tower": "give LanguageBind's weights with --video-tower DIR",
    "projector": "give it with --projector FILE, or start a new one with --init-missing projector",
    "landmarks": "start new ones with --init-missing landmarks",
}
THREADS = min(4, os.cpu_count() or 1)
# Below this an array is not worth a second thread.
THREADED_BYTES = 4 << 20
# A thread gives back the pages that it has read after this many bytes.
RELEASE_BYTES = 8 << 20
# Rows that are transposed at a time: few enough that what they read and write stays in a core's cache.
TRANSPOSED_ROWS = 16
# Bits that are all set in infinities and NaN.
EXPONENTS = {"float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80), "float32": (np.uint32, 0x7F800000)}


def import_checkpoint(
    src: Path,
    out: Path,
    *,
    image_tower: Path | None = None,
    video_tower: Path | None = None,
    projector: Path | None = None,
    base: Path | None = None,
    dtype: DType | None = None,
    init_missing: Collection[InitPart] = (),
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes the checkpoint folder `out` from a checkpoint of the original; see `open_original` for the files.

    Args:
        dtype: of all weights; None keeps each tensor's own.
        init_missing: parts that start anew, as the original initialises them, where the source lacks them.
        seed: for these.
        say: takes what the user should know, a line at a time.

    Raises SourceError, with nothing written, for a source that does not hold exactly the model that its config
    describes; CheckpointError where `out` exists or a number does not fit `dtype`.
    """
    if out.resolve() == src.resolve():
        raise SourceError(f"{out} is the checkpoint to import: choose another name for the output")
    original = open_original(src, image_tower=image_tower, video_tower=video_tower, projector=projector, base=base)
    config = configure(original, dtype, init_missing)
    table = list(entries(config))
    initialised = _check(original.tensors, table, init_missing)
    notes = list(original.notes)
    for part, folder in TOWER_FOLDERS.items():
        if getattr(config.model, part) is None:
            say(f"there is no {part}: --{part.replace('_', '-')} DIR takes it from {folder}")
    if config.model.tower_width is None:
        say("there is no tower and so no projector: this model answers questions without media alone")
    if config.model.landmarks is None:
        notes.append("there are no landmark modules: --init-missing landmarks starts new ones")
    if initialised:
        notes.append(f"{len(initialised)} tensors are newly initialised with seed {seed}: {some(initialised)}")
    _check_tokenizer(original.tokenizer, config.model.decoder.vocab_size)
    dtypes: dict[str, DType] = {
        path: dtype or (original.tensors[entry.key].dtype if entry.key in original.tensors else config.model.dtype)  # type: ignore[misc]
        for entry in table
        for path in entry.paths
    }
    shapes = layer_shapes(config)
    total = sum(math.prod(shape) * jnp.dtype(dtypes[path]).itemsize for path, shape in shapes.items())
    not_finite: list[str] = []
    source = _describe(original, table, initialised, seed)
    with (
        write_checkpoint(out, config, dtypes, original.tokenizer, source) as write,
        tqdm(total=total, unit="B", unit_scale=True, desc="import", disable=None) as bar,
    ):
        for note in notes:
            say(note)
        for entry in table:
            tensor = original.tensors.get(entry.key)
            pieces = np.split(tensor.view(), len(entry.paths)) if tensor and entry.paths else [None] * len(entry.paths)
            for path, piece in zip(entry.paths, pieces, strict=True):
                target = jnp.dtype(dtypes[path])
                if tensor is None or piece is None:
                    array = initialise(path, config.model, shapes[path], seed).astype(target)
                else:
                    array, finite = lay_out(to_ours(entry.form, piece), target, entry.key, tensor.release)
                    not_finite += [] if finite else [entry.key]
                write(path, array)
                bar.update(array.nbytes)
            if tensor and entry.paths:
                tensor.release()
        source["not_finite"] = not_finite
    if not_finite:
        say(f"{len(not_finite)} tensors hold NaN or infinity, and were kept as they are: {some(not_finite)}")


def configure(original: Original, dtype: DType | None = None, init_missing: Collection[InitPart] = ()) -> Config:
    """Our configuration of the model that `original` holds. Raises SourceError."""
    embedding = original.tensors.get("model.embed_tokens.weight")
    own = embedding.dtype if embedding and embedding.dtype in DTYPES else "float32"
    has_landmarks = any(key.startswith(("model.landmarks_", "model.global_landmarks_")) for key in original.tensors)
    raw = original.config
    if "mm_projector_type" not in raw and (kind := _projector_of(original.tensors)):
        raw = {**raw, "mm_projector_type": kind}
    return read_config(
        raw,
        original.towers,
        dtype or own,  # type: ignore[arg-type]
        new_landmarks="landmarks" in init_missing and not has_landmarks,
    )


def initialise(path: str, model: ModelConfig, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A new parameter, as the original starts it: normal kernels, but the attention's fused input uniform (Xavier)."""
    leaf = path.rpartition("/")[2]
    if leaf != "kernel":
        return np.full(shape, leaf == "scale", np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    fused = model.landmarks and model.landmarks.cross_attn == "simple"
    if fused and path.removeprefix("landmarks_cross_attn/") in ("q_proj/kernel", "k_proj/kernel", "v_proj/kernel"):
        bound = (6 / (shape[0] + 3 * shape[1])) ** 0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(model.initializer_range)


def lay_out(
    view: np.ndarray, dtype: np.dtype, name: str, release: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, bool]:
    """`view` as a contiguous array of `dtype`, and whether all its numbers are finite.

    Without a copy where it is one already. `release` is called now and then, and gives back pages that have been read.
    Raises CheckpointError, with `name`, for a number that float16 cannot hold.
    """
    turned = not view.flags.c_contiguous
    source = view.T if turned else view
    copied = turned or view.dtype != dtype
    result = np.empty(view.shape, dtype) if copied else view
    target = result.T if turned else result
    row_bytes = max(1, source.nbytes // max(1, len(source)))
    step = TRANSPOSED_ROWS if turned else max(1, (1 << 20) // row_bytes)

    def work(rows: range) -> bool:
        finite, unreleased = True, 0
        for start in rows[::step]:
            stop = min(start + step, rows.stop)
            block = cast(source[start:stop], dtype, name)
            finite &= _all_finite(block)
            if copied:
                target[start:stop] = block
            unreleased += block.nbytes
            if unreleased > RELEASE_BYTES:
                release()
                unreleased = 0
        return finite

    if source.nbytes < THREADED_BYTES:
        return result, work(range(len(source)))
    share = -(-len(source) // THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        stripes = [range(start, min(start + share, len(source))) for start in range(0, len(source), share)]
        return result, all(list(pool.map(work, stripes)))


def _all_finite(block: np.ndarray) -> bool:
    kind, exponent = EXPONENTS[block.dtype.name]
    return block.size == 0 or int((block.view(kind) & kind(exponent)).max()) != exponent


def _check(tensors: Mapping[str, LazyTensor], table: list[Entry], init_missing: Collection[InitPart]) -> list[str]:
    """The tensors to initialise. Raises SourceError unless the source holds exactly the rest of `table`."""
    for entry in table:
        tensor = tensors.get(entry.key)
        if tensor is None or not entry.paths:
            continue
        if tensor.dtype not in DTYPES:
            raise SourceError(f"{entry.key} of {tensor.file} is {tensor.dtype}: save it as one of {', '.join(DTYPES)}")
        if tensor.shape != entry.shape:
            raise SourceError(
                f"{entry.key} of {tensor.file} has shape {tensor.shape}, but config.json asks for {entry.shape}: "
                "use the config.json that belongs to these weights"
            )
    missing = [entry for entry in table if entry.paths and entry.key not in tensors]
    if lacking := [entry for entry in missing if entry.part not in init_missing]:
        part = lacking[0].part
        names = [entry.key for entry in lacking if entry.part == part]
        raise SourceError(f"{part}: {some(names)} missing from the checkpoint: {REMEDIES[part]}")
    known = {entry.key for entry in table}
    if stray := [key for key in tensors if key not in known and dropped_reason(key) is None]:
        raise SourceError(
            f"{some(stray)} of {tensors[stray[0]].file} not part of the model that config.json describes: "
            "use the config.json that belongs to these weights"
        )
    return [entry.key for entry in missing]


def _check_tokenizer(files: Collection[Path], vocab_size: int) -> None:
    """Raises TextError for a tokenizer that cannot be read, and SourceError for one that the model is too small for."""
    folder = next(iter(files)).parent
    try:
        tokenizer = Tokenizer.load(folder)
    except ImportError:
        return  # without SentencePiece nobody can tell before the first prediction
    if len(tokenizer) > vocab_size:
        raise SourceError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}: give the tokenizer that "
            "the checkpoint was trained with"
        )


def _projector_of(tensors: Mapping[str, LazyTensor]) -> str | None:
    """The kind of projector that a file holds, told by its names."""
    names = [key.removeprefix("model.mm_projector.") for key in tensors if key.startswith("model.mm_projector.")]
    depth = sum(name != "weight" and name.endswith("weight") for name in names)
    return f"mlp{depth}x_gelu" if depth else "linear" if names else None


def _describe(original: Original, table: list[Entry], initialised: list[str], seed: int) -> Json:
    """What the manifest keeps of the source."""
    reasons = {entry.key: entry.reason for entry in table if not entry.paths}
    dropped = [reasons.get(key) or dropped_reason(key) for key in original.tensors]
    files = sorted({tensor.file for tensor in original.tensors.values()})
    return {
        "folder": str(original.folder.absolute()),
        "files": {str(file.absolute()): file.stat().st_size for file in files},
        "config": original.config,
        "generation_config": original.generation_config,
        **{f"{part}_config": tower.config for part, tower in original.towers.items()},
        "lora_merged": original.merged,
        "initialised": {"seed": seed, "tensors": initialised} if initialised else {},
        "dropped": dict(Counter(reason for reason in dropped if reason)),
    }
