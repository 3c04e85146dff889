"""The result of a run: a checkpoint folder like that of an import, with what was trained in the place of what was."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..checkpoint import cast, disk_paths, layer_shapes, read_array, read_manifest, write_checkpoint
from ..config import Config, DType, ModelConfig
from ..experiment import Experiment
from ..lora import merge_adapter, without_lora
from ..models.facellava import abstract_params
from ..step import TrainState
from ..text import TOKENIZER_FILES
from .start import is_adapter

FOLDER = "model"


def write_result(run: Path, experiment: Experiment, model: ModelConfig, state: TrainState) -> None:
    """Writes RUN/model, in the place of an earlier result.

    Frozen parameters are those of `start`, bit for bit; what trained is in the dtype that it has in `start`, what was
    drawn in the experiment's. Adapters of LoRA are merged, or, where the experiment keeps them apart, in float32.

    Every process calls this; the first one writes. Raises CheckpointError where the disk is full.
    """
    assert experiment.tokenizer
    config = _describe_model(experiment, model)
    stored = read_manifest(experiment.start)["parameters"] if experiment.start else {}
    dtypes: dict[str, DType] = {
        path: stored[path]["dtype"] if path in stored else "float32" if is_adapter(path) else experiment.dtype
        for path in layer_shapes(config)
    }
    params = state.frozen | state.trainable
    lora = model.decoder.lora if not config.model.decoder.lora else None

    def fetch_beside(path: str, layer: int, leaf: str) -> np.ndarray:
        return _fetch(params[f"{path.rpartition('/')[0]}/{leaf}"], layer)

    def collect() -> Iterator[tuple[str, np.ndarray]]:
        for path, abstract in abstract_params(config.model).items():
            for layer, name in enumerate(names := disk_paths(path, abstract.shape)):
                if name in stored and path not in state.trainable:
                    # Not that of the state, which is rounded to the dtype of arithmetic.
                    assert experiment.start
                    array = read_array(experiment.start, name)
                else:
                    array = _fetch(params[path], None if names == [path] else layer)
                array = merge_adapter(name, array, lora, functools.partial(fetch_beside, path, layer))
                yield name, cast(array, jnp.dtype(dtypes[name]), name)

    if jax.process_index():
        for _ in collect():
            pass  # what is divided over hosts is gathered by all of them
        return
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    tokenizer = [file for name in TOKENIZER_FILES if (file := experiment.tokenizer / name).is_file()]
    source = _describe_source(run, experiment, int(state.step))
    with write_checkpoint(run / FOLDER, config, dtypes, tokenizer, source) as write:
        for path, array in collect():
            write(path, array)


def _describe_model(experiment: Experiment, model: ModelConfig) -> Config:
    """What the result's config.json says."""
    assert experiment.model
    given = experiment.model.model
    decoder = dataclasses.replace(given.decoder, lora=model.decoder.lora)
    result = dataclasses.replace(given, decoder=decoder, dtype=given.dtype if experiment.start else experiment.dtype)
    return dataclasses.replace(experiment.model, model=without_lora(result) if experiment.merge_lora else result)


def _describe_source(run: Path, experiment: Experiment, step: int) -> dict[str, Any]:
    """What the manifest says of where the weights are from; an export needs what `start` came with."""
    source = read_manifest(experiment.start)["source"] if experiment.start else {}
    return {**source, "run": str(run.absolute()), "steps": step, "experiment": json.loads(experiment.to_json())}


def _fetch(array: jax.Array, layer: int | None) -> np.ndarray:
    """An array, or a layer of it, from all devices to this host."""
    assert isinstance(array.sharding, NamedSharding)
    gather = _make_gather(array.sharding.mesh)
    return np.asarray(gather(array, layer or 0, stacked=layer is not None))


@functools.cache
def _make_gather(mesh: Mesh) -> Callable[..., jax.Array]:
    def take(array: jax.Array, layer: jax.Array, stacked: bool) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(array, layer, keepdims=False) if stacked else array

    return jax.jit(take, static_argnames="stacked", out_shardings=NamedSharding(mesh, PartitionSpec()))
