"""Checkpoint folders: `config.json`, `params/` (Orbax, each layer an array of its own), `tokenizer/`, `manifest.json`.

Weights are written array by array, straight from the caller's memory, so that a model of any size passes through a
small process. Reading allocates one stacked array at a time and nothing beside it.
"""

from .aside import CheckpointError, write_aside
from .read import FORMAT, cast, layer_shapes, load_params, read_array, read_config, read_manifest
from .write import write_checkpoint

__all__ = [
    "FORMAT",
    "CheckpointError",
    "cast",
    "layer_shapes",
    "load_params",
    "read_array",
    "read_config",
    "read_manifest",
    "write_aside",
    "write_checkpoint",
]
