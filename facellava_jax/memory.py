"""Whether a model fits into the memory of the device."""

import math
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from .config import Config
from .models.facellava import abstract_params
from .request import PredictError
from .sharding import count_places, tree_shardings


def check_memory(folder: Path, config: Config, batch_size: int, mesh: Mesh | None = None) -> None:
    """Raises PredictError where parameters and a batch's cache need more memory than the device has free.

    Of a mesh that is its fullest device; those of a CPU share one memory.
    """
    decoder = config.model.decoder
    size = np.dtype(config.model.dtype).itemsize
    params = abstract_params(config.model)
    shapes = {path: param.shape for path, param in params.items()}
    cache = 2 * decoder.num_hidden_layers * decoder.max_length * decoder.num_key_value_heads * decoder.head_dim
    rows, sharing = batch_size, 1
    if mesh:
        shapes = {path: sharding.shard_shape(shapes[path]) for path, sharding in tree_shardings(params, mesh).items()}
        rows = -(-batch_size // count_places(mesh))
        sharing = mesh.size if jax.default_backend() == "cpu" else 1
    needed = sharing * (sum(map(math.prod, shapes.values())) + rows * cache) * size
    free = free_memory()
    if free is not None and needed > free:
        remedy = "use a machine with more memory" if batch_size == 1 else "use a smaller --batch-size, or more memory"
        if size > 2:
            remedy = f"--dtype bfloat16 needs {needed / size * 2 / 2**30:.1f} GiB, or {remedy}"
        raise PredictError(
            f"{folder}: needs {needed / 2**30:.1f} GiB in {config.model.dtype}, and {free / 2**30:.1f} GiB are free: "
            f"{remedy}"
        )


def free_memory() -> int | None:
    """Bytes that the first device has left, on CPU the host; None where nothing tells."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    # A container may have less than its host.
    most, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if most.exists() and (limit := most.read_text().strip()) != "max":
        free = min(free, int(limit) - int(used.read_text()))
    return free
