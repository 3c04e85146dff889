"""Training: from an experiment and a folder to a checkpoint that answers. A run that was stopped goes on."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from .checkpoint import deferred_signals, digest_checkpoint
from .config import ConfigError
from .data import BatchLoader, Quarantine, iterate_batches, open_data
from .experiment import DataConfig, Experiment, Source
from .flops import count_step_flops, find_peak
from .models.facellava import abstract_params
from .optim import make_optimizer
from .program import say
from .run import (
    RENDERED,
    RESULT,
    Checkpoints,
    RunError,
    StepReport,
    TakenStep,
    claim_folder,
    load_tokenizer,
    make_params,
    resolve_experiment,
    write_result,
)
from .sharding import count_places, make_mesh, place_batch
from .step import TrainState, configure_training, init_state, make_train_step, select_trainable
from .synthetic import RECORDS, render_dataset

Position = dict[str, Any]


def train(experiment: Experiment, out: Path) -> None:
    """Runs an experiment in the folder `out`, from its last checkpoint to its end; the result is `out`/model.

    Every process of a run calls it, with the same folder. SIGINT and SIGTERM end it after the step under way and a
    checkpoint, in KeyboardInterrupt with the signal's number. Raises RunError for a folder that cannot be used, a loss
    or gradient that is not finite, and data or a start that have changed; beside it what the parts raise for their
    inputs, and ImportError without the extra `train`.
    """
    experiment = resolve_experiment(experiment)
    assert experiment.model and experiment.tokenizer
    host, hosts = jax.process_index(), jax.process_count()
    with claim_folder(out, experiment) if host == 0 else contextlib.nullcontext():
        model = configure_training(experiment, experiment.model.model)
        trainable = select_trainable(abstract_params(model), experiment)
        mesh = make_mesh(experiment.mesh)
        check_rows(experiment, mesh)

        config = replace(experiment.model, model=model)
        data = render_data(experiment.data, out)
        tokenizer = load_tokenizer(experiment.tokenizer, config)
        loader = open_data(data, config, tokenizer, out / "index", host, hosts, say if host == 0 else None)
        steps = count_steps(experiment, loader)
        position = describe_position(experiment, loader)

        with Checkpoints(out, experiment.keep) as checkpoints:
            if (checkpoints.last or 0) >= steps and (out / RESULT).exists():
                say(f"{out} is a finished run: its result is {out / RESULT}")
                return
            optimizer = make_optimizer(experiment.optim, steps)
            # The parameters are given away: the state takes them over.
            state = init_state(make_params(experiment, model, mesh, say), trainable, optimizer, experiment.dtype, mesh)
            state, saved_position = checkpoints.restore(state, say)
            check_position(out, saved_position, position)
            done = int(state.step)

            train_step = make_train_step(
                model, optimizer, mesh, accumulate=experiment.optim.accumulate, remat=experiment.remat
            )
            quarantine = Quarantine(out / name_quarantine(host), data.max_damaged, loader, done, steps)
            peak = find_peak(jax.devices()[0].device_kind, experiment.dtype, mesh.size)
            stopped: KeyboardInterrupt | None = None
            pending: TakenStep | None = None
            with (
                contextlib.closing(iterate_batches(loader, start=done, workers=data.workers)) as batches,
                StepReport(out, done, steps, peak) as report,
                catch_signals() as find_signal,
            ):
                while done < steps and not stopped:
                    asked = time.perf_counter()
                    loaded = next(batches)
                    waiting = time.perf_counter() - asked
                    quarantine.add(loaded)
                    batch = place_batch(loaded.batch, mesh)
                    state, metrics = train_step(state, batch)
                    done += 1
                    if pending:
                        report_step(report, pending, checkpoints)  # while the devices are at the next
                    flops = count_step_flops(model, batch, trainable)
                    pending = TakenStep.of(done, loaded, metrics, batch.tokens.size, flops, waiting)
                    stopped = find_signal(done)
                    if stopped or done == steps or done % experiment.checkpoint_every == 0:
                        report_step(report, pending, checkpoints)
                        pending = None
                        save_state(state, done, position, checkpoints)
            if stopped:
                checkpoints.wait()
                say(f"{out}: step {done} of {steps} is saved")
                raise stopped
        if quarantine.damaged:
            say(
                f"{out}: {quarantine.damaged} of {quarantine.met} samples were damaged and skipped: {quarantine.file} "
                "lists them"
            )
        write_result(out, experiment, model, state)
        if host == 0:
            say(f"{out}: all {steps} steps are done: the result is {out / RESULT}")


def report_step(report: StepReport, taken: TakenStep, checkpoints: Checkpoints) -> None:
    """Waits for a step's numbers, and reports them.

    Raises RunError where they are not finite. They lag a step behind what is computed, but not behind what is saved.
    """
    loss, grad_norm = (float(taken.metrics[name]) for name in ("loss", "grad_norm"))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise describe_divergence(taken.step, f"the loss is {loss}, the gradient's norm {grad_norm}", checkpoints)
    report.write(taken)


def save_state(state: TrainState, step: int, position: Position, checkpoints: Checkpoints) -> None:
    """Raises RunError for a state that is not finite, though the step's gradient was."""
    if not is_finite((state.trainable, state.opt_state)):
        raise describe_divergence(step, "what trains is not finite", checkpoints)
    checkpoints.save(state, step, position)


@jax.jit
def is_finite(tree: Any) -> jax.Array:
    """Whether all numbers of all arrays are."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(array)) for array in jax.tree.leaves(tree)]))


def describe_divergence(step: int, what: str, checkpoints: Checkpoints) -> RunError:
    checkpoints.wait()
    good = "there is no checkpoint before it"
    if checkpoints.good is not None:
        good = f"the last good checkpoint is {checkpoints.folder / str(checkpoints.good)}"
    return RunError(
        f"step {step}: {what}; {good}: look at that step's samples, or begin another run with a lower "
        "optim.learning_rate"
    )


@contextlib.contextmanager
def catch_signals() -> Iterator[Callable[[int], KeyboardInterrupt | None]]:
    """Puts off SIGINT and SIGTERM; the function says after a step whether one came. Hosts agree on the step.

    Of several processes JAX watches for SIGTERM, and for nothing else: there SIGINT becomes one.
    """
    if jax.process_count() > 1:
        preempted = KeyboardInterrupt(signal.SIGTERM)
        with interrupts_as_termination():
            yield lambda step: preempted if multihost_utils.reached_preemption_sync_point(step) else None
        return
    with deferred_signals() as check:

        def find(step: int) -> KeyboardInterrupt | None:
            try:
                check()
            except KeyboardInterrupt as interrupt:
                return interrupt
            return None

        yield find


@contextlib.contextmanager
def interrupts_as_termination() -> Iterator[None]:
    """In the main thread, which alone is told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_rows(experiment: Experiment, mesh: Mesh) -> None:
    """Raises ConfigError for batches that cannot be divided among the devices."""
    rows, parts = experiment.data.batch_size, experiment.optim.accumulate
    places = count_places(mesh)
    if rows % (parts * places):
        raise ConfigError(
            f"data.batch_size {rows} cannot be divided among optim.accumulate {parts} x mesh data x fsdp {places}: "
            f"use a multiple of {parts * places}"
        )


def render_data(data: DataConfig, out: Path) -> DataConfig:
    """The data with rendered faces as one more source; those that are not there yet are rendered."""
    if data.rendering is None:
        return data
    folder = out / RENDERED
    records = folder / RECORDS
    if jax.process_index() == 0 and not records.exists():
        faces = data.rendering
        rendered = render_dataset(folder, faces.samples, faces.seed, "train", faces.frames)
        bar = tqdm(rendered, total=faces.samples, unit="sample", desc="render", disable=None, leave=False)
        with contextlib.closing(rendered):
            for _ in bar:
                pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("rendered")
    return replace(data, sources=(*data.sources, Source(path=records)))


def count_steps(experiment: Experiment, loader: BatchLoader) -> int:
    """The steps of a run. Raises ConfigError for more than its data last for."""
    if experiment.steps is not None and experiment.steps > loader.plan.steps:
        raise ConfigError(
            f"steps {experiment.steps}: data.epochs {experiment.data.epochs} of the data are {loader.plan.steps} "
            "steps: raise data.epochs, or lower steps"
        )
    return experiment.steps or loader.plan.steps


def describe_position(experiment: Experiment, loader: BatchLoader) -> Position:
    """What a checkpoint says of the run beside its arrays. The place in the data is the step, in this order."""
    return {
        "experiment": json.loads(experiment.to_json()),
        "start": digest_checkpoint(experiment.start) if experiment.start else None,
        "sources": [[str(source.path), source.records.digest] for source in loader.sources],
        "order": loader.plan.fingerprint,
    }


def check_position(out: Path, saved: Position | None, present: Position) -> None:
    """Raises RunError where a checkpoint was saved with another start or other data than there are now."""
    if saved is None:
        return
    remedy = f"restore it, or begin another run than {out}"
    if saved["start"] != present["start"]:
        raise RunError(f"{present['experiment']['start']} has changed since the run began: {remedy}")
    for (_, before), (name, now) in zip(saved["sources"], present["sources"], strict=True):
        if before != now:
            raise RunError(f"{name} has changed since the run began: {remedy}")
    if saved["order"] != present["order"]:
        raise RunError(f"{out}: this release orders the data in another way than that which began the run: {remedy}")


def name_quarantine(host: int) -> str:
    """Each host lists what it has skipped itself."""
    return f"quarantine-{host}.jsonl" if host else "quarantine.jsonl"
