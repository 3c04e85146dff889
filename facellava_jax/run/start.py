"""What a run starts from: a checkpoint, parameters drawn from a seed, or both."""

import dataclasses
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from ..checkpoint import load_params, read_config
from ..config import Config, ModelConfig
from ..experiment import Experiment
from ..lora import ADAPTERS
from ..models.facellava import FaceLlava, abstract_params
from ..sharding import tree_shardings
from ..text import Tokenizer
from .folder import RunError


def resolve_experiment(experiment: Experiment) -> Experiment:
    """The experiment with its model and tokenizer filled in, and with absolute paths.

    Raises RunError where there is nothing to start from, CheckpointError for a `start` that is no checkpoint.
    """
    start = experiment.start
    if start is None:
        for name in ("model", "tokenizer"):
            if getattr(experiment, name) is None:
                raise RunError(f"{name} is None and so is start: name a checkpoint to start from, or give a {name}")
    else:
        model = experiment.model or read_config(start)
        experiment = dataclasses.replace(experiment, model=model, tokenizer=experiment.tokenizer or start / "tokenizer")
    return _make_absolute(experiment)


def _make_absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, tuple):
        return tuple(map(_make_absolute, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _make_absolute(field) for name, field in fields.items()})
    return value


def load_tokenizer(folder: Path, config: Config) -> Tokenizer:
    """Raises TextError for a folder without a tokenizer, and RunError for one that the model is too small for."""
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) > config.model.decoder.vocab_size:
        raise RunError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {config.model.decoder.vocab_size}: "
            "name the tokenizer that belongs to the model"
        )
    return tokenizer


def find_missing(start: Path | None, model: ModelConfig) -> set[str]:
    """The parameters that a model has and `start` lacks, by path.

    Raises RunError where `start` has others, or of other shapes.
    """
    expected = abstract_params(model)
    if start is None:
        return set(expected)
    given = abstract_params(read_config(start).model)
    if stray := sorted(given.keys() - expected.keys()):
        raise RunError(f"{start}: {stray[0]} is not part of the model: give the model a place for it")
    for path, abstract in given.items():
        if abstract.shape != expected[path].shape:
            raise RunError(
                f"{start}: {path} has shape {abstract.shape}, and the model asks for {expected[path].shape}: "
                "mend the model, or choose another start"
            )
    return expected.keys() - given.keys()


def make_params(
    experiment: Experiment, model: ModelConfig, mesh: Mesh, say: Callable[[str], None]
) -> dict[str, jax.Array]:
    """The parameters of the first step, divided over the mesh: those of `start`, and drawn ones where it lacks some.

    Raises RunError where `start` does not fit the model, and CheckpointError where it is damaged.
    """
    start = experiment.start
    missing = find_missing(start, model)
    params: dict[str, jax.Array] = {}
    if start:
        params = load_params(start, shardings=tree_shardings(abstract_params(read_config(start).model), mesh))
        new = sorted({path.rpartition("/")[0] for path in missing if not is_adapter(path)})
        if new:
            say(f"{start} lacks {', '.join(new)}: drawn with seed {experiment.seed}")
    return params | draw_params(model, missing, experiment.seed, mesh)


def draw_params(model: ModelConfig, paths: Collection[str], seed: int, mesh: Mesh) -> dict[str, jax.Array]:
    """New parameters in float32, as `FaceLlava` draws them; the same on every mesh, and whatever else is drawn."""

    def draw() -> dict[str, jax.Array]:
        _, state = nnx.split(FaceLlava(model, nnx.Rngs(seed)), nnx.Param)
        named = {"/".join(map(str, path)): param[...] for path, param in nnx.to_flat_state(state)}
        return {path: named[path] for path in paths}

    if not paths:
        return {}
    return jax.jit(draw, out_shardings=tree_shardings(jax.eval_shape(draw), mesh))()


def is_adapter(path: str) -> bool:
    """Whether a parameter is part of LoRA."""
    return any(fnmatchcase(path, pattern) for pattern in ADAPTERS)
