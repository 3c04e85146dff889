"""Writer of the original's weight files: torch's zip format, shard by shard, one tensor in memory at a time."""

import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

# transformers 4.31's default, which makes two shards of a 7B model.
SHARD_BYTES = 10 * 1000**3
STORAGES = {"float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float32": "FloatStorage"}
# torch maps files, and wants its tensors at multiples of this.
ALIGNMENT = 64
ZIP_HEADER_BYTES = 30
ZIP64_EXTRA_BYTES = 20


class SavedTensor(NamedTuple):
    """A tensor to write; `read` is called once, when its turn comes."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * jnp.dtype(self.dtype).itemsize


def write_shards(
    folder: Path, tensors: Sequence[SavedTensor], progress: Callable[[int], object], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes `pytorch_model.bin`, or shards of at most `shard_bytes` and their index, as `save_pretrained` does.

    `progress` is called with the bytes of each tensor written.
    """
    shards: list[list[SavedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        return write_torch(folder / "pytorch_model.bin", shards[0], progress)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        write_torch(folder / name, shard, progress)
        weight_map |= dict.fromkeys((tensor.key for tensor in shard), name)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def write_torch(file: Path, tensors: Iterable[SavedTensor], progress: Callable[[int], object]) -> None:
    """One file that `torch.load` reads, mapped or not: a stored zip of a pickled dict and each tensor's bytes."""
    tensors = list(tensors)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _store(archive, "data.pkl", _pickle(tensors))
        _store(archive, "byteorder", b"little")
        for number, tensor in enumerate(tensors):
            array = tensor.read()
            if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
                raise ValueError(f"{tensor.key}: {array.dtype}{array.shape} is not {tensor.dtype}{tensor.shape}")
            _store(archive, f"data/{number}", np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            progress(tensor.nbytes)
        _store(archive, "version", b"3\n")


def _store(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds an uncompressed record whose bytes start at a multiple of ALIGNMENT, padded by a field that readers skip."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    entry.file_size = len(data)
    large = entry.file_size * 1.05 > zipfile.ZIP64_LIMIT
    assert archive.fp is not None
    start = archive.fp.tell() + ZIP_HEADER_BYTES + len(entry.filename) + ZIP64_EXTRA_BYTES * large
    padding = -(start + 4) % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(entry, "w") as record:
        record.write(data)


def _pickle(tensors: Iterable[SavedTensor]) -> bytes:
    """The pickle of `{key: tensor, ...}` as torch writes it (protocol 2); each storage is a record of the archive."""
    parts = [b"\x80\x02}("]  # protocol 2, an empty dict, and a mark below its items
    for number, tensor in enumerate(tensors):
        strides = [int(np.prod(tensor.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(tensor.shape))]
        size = int(np.prod(tensor.shape, dtype=np.int64))
        kind = _name("torch", STORAGES[tensor.dtype])
        arguments = (
            # The storage, by its persistent id.
            _tuple(_text("storage"), kind, _text(str(number)), _text("cpu"), _int(size)) + b"Q",
            _int(0),
            _tuple(*map(_int, tensor.shape)),
            _tuple(*map(_int, strides)),
            b"\x89",  # requires_grad: False
            _name("collections", "OrderedDict") + b")R",  # no backward hooks
        )
        parts += [_text(tensor.key), _name("torch._utils", "_rebuild_tensor_v2"), _tuple(*arguments), b"R"]
    return b"".join([*parts, b"u."])


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _int(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"
