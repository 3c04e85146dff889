"""Lazy readers of the original's files: `.bin` through torch, and safetensors. The only module that imports torch.

Files are mapped, not read: a tensor's pages come in when it is looked at and go when it is released.
"""

import ctypes
import json
import mmap
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from facellava_jax.errors import FaceLlavaError
from facellava_jax.extras import require

DTYPES = ("float16", "bfloat16", "float32")
SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# A pickle of the original's own classes, with nothing in it that a checkpoint needs.
NEVER_OPENED = "training_args.bin"
TORCH_MINIMUM = (2, 6)

Json = dict[str, Any]


class SourceError(FaceLlavaError):
    """A checkpoint that cannot be imported as it is; the message names the file, tensor or field and the remedy."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a mapped file: `view()` looks at it without a copy, `release()` gives its pages back."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    view: Callable[[], np.ndarray]
    release: Callable[[], None]


def open_folder(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint folder, single file or shards; empty where it holds no weights.

    Raises SourceError for an index that names files outside the folder, for missing or damaged shards, and for a tensor
    that is absent from its shard, present in two, or not in the index.
    """
    for name in WEIGHT_FILES:
        if (index := folder / f"{name}.index.json").is_file():
            return _open_shards(folder, index)
        if (folder / name).is_file():
            return open_file(folder / name)
    for name in WEIGHT_FILES:
        if shards := sorted(folder.glob("-*-of-*.".join(name.split(".")))):
            raise SourceError(f"{folder / name}.index.json is missing, but {shards[0].name} is there: copy it too")
    return {}


def open_file(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one `.bin` or `.safetensors` file. Raises SourceError."""
    if file.name == NEVER_OPENED:
        raise SourceError(f"{file} holds no weights: name the file that does")
    if not file.is_file():
        raise SourceError(f"{file} is missing: copy the checkpoint again, all of it")
    return _open_safetensors(file) if file.suffix == ".safetensors" else _open_torch(file)


def read_json(file: Path) -> Json:
    """A JSON object from a file. Raises SourceError for a missing or malformed one, and for a name given twice."""

    def unique(pairs: list[tuple[str, Any]]) -> Json:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise SourceError(f"{file}: {max(names, key=names.count)!r} is there twice: correct it")
        return dict(pairs)

    try:
        value = json.loads(file.read_text(), object_pairs_hook=unique)
    except FileNotFoundError:
        raise SourceError(f"{file} is missing: it belongs to the checkpoint, copy it too") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} is not JSON ({error}): copy it again") from None
    if not isinstance(value, dict):
        raise SourceError(f"{file} is not a JSON object: copy it again")
    return value


def some(names: list[str]) -> str:
    """A few names, then how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _open_shards(folder: Path, index: Path) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise SourceError(f"{index} has no weight_map from tensors to files: copy it again")
    tensors: dict[str, LazyTensor] = {}
    for shard in dict.fromkeys(weight_map.values()):
        if not re.fullmatch(r"[\w-][\w.-]*\.(bin|safetensors)", shard):
            raise SourceError(f"{index} names {shard!r}, which is no weight file of its own folder: correct the index")
        for key, tensor in open_file(folder / shard).items():
            if key in tensors:
                raise SourceError(f"{key} is in both {tensors[key].file} and {folder / shard}: remove one of them")
            if key not in weight_map:
                raise SourceError(f"{key} of {folder / shard} is not in {index.name}: copy the checkpoint again")
            tensors[key] = tensor
    for key, shard in weight_map.items():
        if key not in tensors or tensors[key].file.name != shard:
            raise SourceError(f"{index.name} has {key} in {folder / shard}, where it is not: copy that file again")
    return tensors


def _open_torch(file: Path) -> dict[str, LazyTensor]:
    torch = require("torch", "convert")
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH_MINIMUM:
        raise SourceError(f"torch {torch.__version__} does not load {file.name} safely: pip install 'torch>=2.6'")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise SourceError(f"{file} holds more than tensors, and is not opened: save its state dict alone") from None
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, TypeError, AttributeError) as error:
        with file.open("rb") as stream:
            if stream.read(1) == pickle.PROTO:
                raise SourceError(
                    f"{file} is a plain pickle, or of torch's format before 1.6, and is not opened: if you trust it, "
                    "load it and save it again with torch"
                ) from None
        raise SourceError(f"{file} is damaged or truncated ({str(error).splitlines()[0]}): copy it again") from None
    if not isinstance(content, Mapping):
        raise SourceError(f"{file} holds a {type(content).__name__}, not tensors by name: save its state dict alone")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise SourceError(f"{file}: {key!r} is a {type(value).__name__}, not a tensor: save the state dict alone")
    return {key: _from_torch(file, value.detach(), torch) for key, value in content.items()}


def _from_torch(file: Path, tensor: Any, torch: Any) -> LazyTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")

    def view() -> np.ndarray:
        dense = tensor.contiguous()
        array: np.ndarray
        if dtype == "bfloat16":
            array = dense.view(torch.int16).numpy().view(jnp.bfloat16)
            return array
        array = dense.numpy()
        return array

    return LazyTensor(
        file,
        tuple(tensor.shape),
        dtype,
        view,
        lambda: _give_back(tensor.data_ptr(), tensor.numel() * tensor.element_size()),
    )


def _give_back(address: int, size: int) -> None:
    """Drops the pages of a private, unmodified file mapping from memory; a later look reads them again."""
    start = address - address % mmap.PAGESIZE
    if size:
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(address + size - start), ctypes.c_int(mmap.MADV_DONTNEED)
        )


def _open_safetensors(file: Path) -> dict[str, LazyTensor]:
    """The format: the header's length in 8 bytes, a JSON header, then the tensors' bytes."""
    try:
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        header.pop("__metadata__", None)
        return {key: _from_safetensors(file, key, entry, mapped, start) for key, entry in header.items()}
    except SourceError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise SourceError(f"{file} is damaged or truncated (its header cannot be read): copy it again") from None


def _from_safetensors(file: Path, key: str, entry: Json, mapped: mmap.mmap, start: int) -> LazyTensor:
    shape, dtype = tuple(entry["shape"]), str(SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]))
    first, last = (start + offset for offset in entry["data_offsets"])
    if not start <= first <= last <= len(mapped):
        raise SourceError(f"{file}: {key} lies beyond the end of the file: it is truncated, copy it again")
    if dtype in DTYPES and int(np.prod(shape, dtype=np.int64)) * jnp.dtype(dtype).itemsize != last - first:
        raise SourceError(f"{file}: {key} has {last - first} bytes, which is not {dtype}{shape}: copy the file again")
    floor = first - first % mmap.PAGESIZE

    def release() -> None:
        mapped.madvise(mmap.MADV_DONTNEED, floor, last - floor)

    def view() -> np.ndarray:
        return np.frombuffer(mapped, np.uint8)[first:last].view(jnp.dtype(dtype)).reshape(shape)

    return LazyTensor(file, shape, dtype, view, release)
