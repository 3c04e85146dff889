"""Checkpoint folders: `config.json`, `params/` (Orbax, each layer an array of its own), `tokenizer/`, `manifest.json`.

Weights are written array by array, straight from the caller's memory, so that a model of any size passes through a
small process. Reading allocates one stacked array at a time and nothing beside it.
"""

from .aside import CheckpointError, deferred_signals, write_aside
from .digest import digest_checkpoint
from .read import FORMAT, cast, disk_paths, layer_shapes, load_params, read_array, read_config, read_manifest
from .write import silence_orbax, write_checkpoint

__all__ = [
    "FORMAT",
    "CheckpointError",
    "cast",
    "deferred_signals",
    "digest_checkpoint",
    "disk_paths",
    "layer_shapes",
    "load_params",
    "read_array",
    "read_config",
    "read_manifest",
    "silence_orbax",
    "write_aside",
    "write_checkpoint",
]
