"""One step of training: state and batch in, state and metrics out, as a pure function that is compiled once a shape."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .axes import Batch
from .config import ConfigError, DType, ModelConfig
from .experiment import Experiment
from .lora import ADAPTERS
from .models.facellava import FaceLlava
from .optim import Optimizer, global_norm
from .sharding import assemble, constrain, constrain_rows, count_places, tree_shardings
from .text import IGNORE

# Positions whose logits stand in memory at a time.
LOSS_CHUNK = 256

Metrics = dict[str, Array]
LossAndGrads = tuple[Float[Array, ""], dict[str, Array]]


class TrainState(NamedTuple):
    """All that a step changes, and the frozen parameters beside it.

    `step` counts the steps taken; `trainable` and `opt_state` are float32, `frozen` is in the compute dtype.
    """

    step: Int[Array, ""]
    trainable: dict[str, Array]
    frozen: dict[str, Array]
    opt_state: Any


def configure_training(experiment: Experiment, model: ModelConfig) -> ModelConfig:
    """The model as the experiment trains it: its arithmetic and its adapters."""
    decoder = replace(model.decoder, lora=experiment.lora or model.decoder.lora)
    return replace(model, dtype=experiment.dtype, decoder=decoder)


def select_trainable(paths: Iterable[str], experiment: Experiment) -> set[str]:
    """The paths of the parameters that train: those of `trainable`, and the adapters of `lora`.

    Raises ConfigError for a pattern that no parameter matches, and for one that matches a kernel under adapters.
    """
    paths = set(paths)
    chosen: set[str] = set()
    for pattern in (*experiment.trainable, *(ADAPTERS if experiment.lora else ())):
        matched = {path for path in paths if fnmatchcase(path, pattern)}
        if not matched:
            raise ConfigError(f"trainable: no parameter of the model matches {pattern!r}: correct or remove it")
        chosen |= matched
    adapted = {f"{path.removesuffix('/lora_a')}/kernel" for path in paths if path.endswith("/lora_a")}
    if experiment.lora and adapted & chosen:
        raise ConfigError(
            f"trainable takes in {min(adapted & chosen)}, which lora keeps frozen: leave it out, or train without lora"
        )
    if not chosen:
        raise ConfigError("trainable is empty: name what trains, landmarks_projector/* for example")
    return chosen


def init_state(
    params: Mapping[str, jax.Array], trainable: Iterable[str], optimizer: Optimizer, dtype: DType, mesh: Mesh
) -> TrainState:
    """The state before the first step, on the mesh's devices.

    Args:
        params: by path. They are given away: where one has its dtype and place already it is taken over, not copied,
            and the first step writes over it.
        trainable: paths; all others are frozen.
        optimizer: of `make_optimizer`.
        dtype: of what is frozen.
        mesh: of `make_mesh`.
    """
    trainable = set(trainable)
    shardings = tree_shardings(dict(params), mesh)

    def place(path: str, dtype: DType) -> jax.Array:
        return jax.device_put(params[path].astype(dtype), shardings[path])

    trained = {path: place(path, "float32") for path in params if path in trainable}
    frozen = {path: place(path, dtype) for path in params if path not in trainable}
    opt_shardings = tree_shardings(jax.eval_shape(optimizer.init, trained), mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(trained)
    return TrainState(jax.device_put(jnp.int32(0), tree_shardings(jnp.int32(0), mesh)), trained, frozen, opt_state)


def make_train_step(
    config: ModelConfig, optimizer: Optimizer, mesh: Mesh, *, accumulate: int = 1, remat: bool = True
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step`, compiled, of a state and a batch on the mesh; the state that is passed in is used up."""
    compute = partial(compute_gradients, config=config, mesh=mesh, accumulate=accumulate, remat=remat)
    return jax.jit(partial(train_step, compute=compute, optimizer=optimizer, mesh=mesh), donate_argnums=0)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    compute: Callable[[TrainState, Batch], LossAndGrads],
    optimizer: Optimizer,
    mesh: Mesh,
) -> tuple[TrainState, Metrics]:
    """One update from one batch, with the gradients that `compute` gives.

    The metrics are scalars: `loss` (mean over labelled tokens, before the update), `grad_norm` (before clipping),
    `learning_rate` (that of this update), `tokens` (labelled ones) and `length` (positions that are not padding).
    Raises ConfigError for a batch whose rows cannot be divided among parts and devices.
    """
    loss, grads = compute(state, batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    trainable = {path: array + updates[path] for path, array in state.trainable.items()}
    metrics = {
        "loss": loss,
        "grad_norm": global_norm(grads),
        "learning_rate": optimizer.learning_rate(state.step),
        "tokens": count_targets(batch),
        "length": jnp.sum(batch.lengths),
    }
    return constrain(TrainState(state.step + 1, trainable, state.frozen, opt_state), mesh), metrics


def compute_gradients(
    state: TrainState, batch: Batch, *, config: ModelConfig, mesh: Mesh, accumulate: int = 1, remat: bool = True
) -> LossAndGrads:
    """The batch's loss, and the gradient of what trains, in float32. Nothing is kept or computed for what is frozen.

    The batch is computed in `accumulate` parts one after another: rows 0, n, 2n, ... first, so that each part takes
    rows from every device. The result is that of the whole: each token weighs the same. With `remat` the activations
    within a layer are computed again in the backward pass.
    """
    count = jnp.maximum(count_targets(batch), 1)

    def compute_loss(trainable: dict[str, Array], part: Batch) -> Float[Array, ""]:
        model = assemble(config, trainable | state.frozen, mesh, remat=remat)
        return sum_losses(model, part, mesh) / count

    def add_part(total: LossAndGrads, part: Batch) -> tuple[LossAndGrads, None]:
        loss, grads = jax.value_and_grad(compute_loss)(state.trainable, part)
        return jax.tree.map(jnp.add, total, (loss, constrain(grads, mesh))), None

    nothing = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.trainable)
    return jax.lax.scan(add_part, nothing, split_rows(batch, accumulate, mesh))[0]


def split_rows(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """The batch in parts along a new first axis; part p holds rows p, p + accumulate, p + 2 accumulate, ..."""
    rows, places = batch.tokens.shape[0], count_places(mesh)
    if rows % (accumulate * places):
        raise ConfigError(
            f"data.batch_size {rows} is no multiple of {accumulate * places}: optim.accumulate {accumulate} x "
            f"mesh.data x mesh.fsdp {places}"
        )
    parts = jax.tree.map(
        lambda array: jnp.swapaxes(jnp.reshape(array, (rows // accumulate, accumulate, *array.shape[1:])), 0, 1), batch
    )
    return constrain_rows(parts, mesh, axis=1)


def count_targets(batch: Batch) -> Int[Array, ""]:
    """Tokens that something is learnt from."""
    return jnp.sum(shift_labels(batch) != IGNORE)


def shift_labels(batch: Batch) -> Int[Array, "B L"]:
    """At each position the label of the next, which is what its logits are to predict."""
    assert batch.labels is not None, "a batch to learn from has labels"
    return jnp.pad(jnp.asarray(batch.labels)[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)


def sum_losses(model: FaceLlava, batch: Batch, mesh: Mesh) -> Float[Array, ""]:
    """The sum over labelled tokens of minus the log of their probability, in float32.

    Logits are computed a few hundred positions at a time, and again in the backward pass: those of a whole batch would
    be the largest array of all (2 GB for four rows of 4096 positions and 32,000 tokens).
    """
    embeds_BLD = constrain_rows(model.splice(batch, model.encode(batch)), mesh)
    h_BLD, _ = model.read(embeds_BLD, jnp.asarray(batch.lengths))
    rows, length = batch.tokens.shape
    chunks = -(-length // LOSS_CHUNK)
    size = -(-length // chunks)

    def cut(array: Array, fill: int) -> Array:
        padded = jnp.pad(
            array, ((0, 0), (0, chunks * size - length), *((0, 0),) * (array.ndim - 2)), constant_values=fill
        )
        return constrain_rows(jnp.swapaxes(padded.reshape(rows, chunks, size, *array.shape[2:]), 0, 1), mesh, axis=1)

    @jax.checkpoint
    def add_chunk(
        total: Float[Array, ""], chunk: tuple[Float[Array, "B l D"], Int[Array, "B l"]]
    ) -> tuple[Float[Array, ""], None]:
        h_BlD, targets_Bl = chunk
        logits_BlV = model.decoder.logits(h_BlD)
        known_Bl = targets_Bl != IGNORE
        chosen_Bl = jnp.take_along_axis(logits_BlV, jnp.where(known_Bl, targets_Bl, 0)[..., None], axis=-1)[..., 0]
        losses_Bl = jax.nn.logsumexp(logits_BlV, axis=-1) - chosen_Bl
        return total + jnp.sum(jnp.where(known_Bl, losses_Bl, 0.0)), None

    return jax.lax.scan(add_chunk, jnp.float32(0), (cut(h_BLD, 0), cut(shift_labels(batch), IGNORE)))[0]
