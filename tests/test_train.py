"""train: runs that are stopped and go on, on one mesh and another; what they leave; what they refuse."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COMMITTED, ROOT

from conversion import verify as verification
from facellava_jax import Predictor
from facellava_jax import train as training
from facellava_jax.checkpoint import layer_shapes, load_params, read_array, read_config, read_manifest, write_checkpoint
from facellava_jax.config import ConfigError, DType, LoraConfig
from facellava_jax.data import BatchLoader, DataError, Places, Quarantine, open_data
from facellava_jax.data.plan import Plan, PlannedBatch
from facellava_jax.experiment import (
    DECODER,
    LANDMARK_BRANCH,
    PROJECTOR,
    DataConfig,
    Experiment,
    MeshConfig,
    OptimConfig,
    Rendering,
    Source,
)
from facellava_jax.folders import FolderError
from facellava_jax.models.facellava import build_model
from facellava_jax.run import Checkpoints, RunError, claim_folder, read_metrics
from facellava_jax.sharding import make_mesh
from facellava_jax.synthetic import render_dataset
from facellava_jax.text import Tokenizer
from facellava_jax.train import train

# Of a step, all but how long it took.
EXACT = ("step", "loss", "grad_norm", "learning_rate", "tokens", "targets", "samples", "skipped", "padding")
SAMPLES, STEPS = 20, 6
LONG = 24  # steps of a run that is killed while it goes on


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of pictures with landmarks, all of one shape of batch."""
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(7)
    records = []
    for number in range(SAMPLES):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (56, 56, 3), np.uint8))
        np.save(folder / f"{number}.npy", rng.uniform(0, 255, 136))
        question, answer = "<image>\nWhat is shown?", f"A face, {'happy' if number % 2 else 'sad'} and {number}."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        media = {"image": f"{number}.png", "landmarks_2d": f"{number}.npy"}
        records.append({"id": str(number), **media, "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


@pytest.fixture(scope="session")
def experiment(checkpoint: Path, pictures: Path) -> Experiment:
    """Six steps of the first stage, with a checkpoint after two, four and six."""
    return Experiment(
        start=checkpoint,
        data=DataConfig(sources=(Source(path=pictures),), batch_size=8, epochs=2),
        optim=OptimConfig(learning_rate=1e-2),
        mesh=MeshConfig(fsdp=8),
        dtype="float32",
        checkpoint_every=2,
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "stage 1": {},
    "stage 2": {"trainable": (*LANDMARK_BRANCH, *PROJECTOR, *DECODER)},
    "lora": {"trainable": (*LANDMARK_BRANCH, *PROJECTOR), "lora": LoraConfig(rank=4, alpha=8.0)},
    "accumulation": {"mesh": MeshConfig(fsdp=4, tensor=2), "accumulate": 2},
}


def vary(experiment: Experiment, variant: str) -> Experiment:
    fields = dict(VARIANTS[variant])
    optim = dataclasses.replace(experiment.optim, accumulate=fields.pop("accumulate", 1))
    return dataclasses.replace(experiment, optim=optim, **fields)


def use_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(training, "make_mesh", lambda config: make_mesh(config, jax.devices()[:count]))


def read_log(run: Path) -> list[dict[str, Any]]:
    return [{name: row[name] for name in EXACT} for row in read_metrics(run)]


def read_state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by its place in the state."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = (run / "checkpoints" / str(step) / "state").resolve()
        tree = checkpointer.metadata(folder).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return flatten(checkpointer.restore(folder, restore_args=arguments))


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Every array by its place; a record's field is named as a checkpoint names it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(leaf) for keys, leaf in leaves}


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    return {path: read_array(folder, path) for path in layer_shapes(read_config(folder))}


def assert_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert one.keys() == other.keys() and len(one) > 20
    assert not [path for path in one if not np.array_equal(one[path], other[path])]


def assert_same_run(one: Path, other: Path, steps: int = STEPS) -> None:
    """Bit for bit: the loss log with its samples, what trained, the optimizer, the result."""
    log = read_log(one)
    assert [row["step"] for row in log] == list(range(1, steps + 1))
    assert log == read_log(other)
    assert_same(read_state(one, steps), read_state(other, steps))
    assert_same(read_weights(one / "model"), read_weights(other / "model"))


def write_config(experiment: Experiment) -> str:
    """A file that binds it."""
    imports = "from pathlib import PosixPath\nfrom facellava_jax.experiment import *\n"
    return f"{imports}config = {experiment!r}\n"


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], Any]) -> None:
    """`action` when the batch of a step, counted from 1, is there, and never again."""
    count = Quarantine.add

    def add(self: Quarantine, loaded: Any) -> None:
        count(self, loaded)
        if loaded.step + 1 == step:
            monkeypatch.setattr(Quarantine, "add", count)
            action()

    monkeypatch.setattr(Quarantine, "add", add)


class Killed(BaseException):
    """The end of a process, as far as one that goes on can feign it: nothing catches it."""


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="session")
def straight(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stops."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train(experiment, run)
    return run


def test_a_run_that_was_killed_is_that_which_was_not(
    experiment: Experiment, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for step in (4, 6):
        stop_at(monkeypatch, step, kill)
        with pytest.raises(Killed):
            train(experiment, run)
    # What a process leaves that is killed while it writes.
    before = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(before + '{"step": 5, "lo')
    (run / "checkpoints" / "5.orbax-checkpoint-tmp-1").mkdir()
    train(experiment, run)
    assert (run / "metrics.jsonl").read_text().startswith(before)
    assert_same_run(run, straight)
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["4", "6"]


def test_what_is_frozen_stays_and_the_result_answers(
    experiment: Experiment, straight: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from conversion.convert import import_checkpoint
    from conversion.export import export_checkpoint

    before, after = read_weights(checkpoint), read_weights(straight / "model")
    assert before.keys() == after.keys()
    changed = {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {pattern.split("/")[0] for pattern in LANDMARK_BRANCH}
    assert {path: array.dtype for path, array in before.items()} == {path: array.dtype for path, array in after.items()}
    assert read_manifest(straight / "model")["source"]["steps"] == STEPS
    picture = np.full((60, 60, 3), 90, np.uint8)
    answer = Predictor.load(straight / "model").predict(
        picture, "What is shown?", crop="none", landmarks="none", max_new_tokens=3
    )
    assert answer.tokens == 3
    export_checkpoint(straight / "model", tmp_path / "exported")
    import_checkpoint(tmp_path / "exported", tmp_path / "imported")
    assert_same(read_weights(tmp_path / "imported"), after)
    # Once more, and it says that there is nothing to do.
    written = (straight / "metrics.jsonl").read_bytes()
    train(experiment, straight)
    assert "is a finished run" in capfd.readouterr().err
    assert (straight / "metrics.jsonl").read_bytes() == written


def record_case(ckpt: Path, like: Path, out: Path) -> None:
    """What a checkpoint computes from the inputs of a recorded case, as a case."""
    out.mkdir()
    for name in ("meta.json", "inputs.npz"):
        shutil.copyfile(like / name, out / name)
    case, config = verification.Case.read(like), read_config(ckpt)
    model = build_model(dataclasses.replace(config.model, dtype="float32"), load_params(ckpt, dtype="float32"))
    eos_id = Tokenizer.load(ckpt / "tokenizer").eos_id
    with jax.default_matmul_precision("highest"):
        computed = {
            **verification._run_branches(model, case),
            **verification._run_prompts(model, config, case),
            **verification._run_generation(model, config, eos_id, case),
        }
    # An answer may end sooner than the case's.
    computed["gen_step_logits"] = computed["gen_step_logits"][: len(computed["gen_ids"])]
    np.savez(out / "outputs.npz", **{name: computed.get(name, array) for name, array in case.outputs.items()})


def test_an_export_of_what_was_trained_is_verified(straight: Path, tmp_path: Path) -> None:
    """Against what the result computes, which is no more what the start computed."""
    from conversion.convert import import_checkpoint
    from conversion.export import export_checkpoint

    start = COMMITTED / "03_video_landmarks_simple"
    record_case(straight / "model", start, tmp_path / "case")
    export_checkpoint(straight / "model", tmp_path / "exported")
    import_checkpoint(tmp_path / "exported", tmp_path / "imported", dtype="float32")
    verdicts = {row.array: row.verdict for row in verification.verify(tmp_path / "imported", tmp_path / "case")}
    assert {"logits", "loss", "gen_ids", "video_lm_tokens", "llm_hidden_states"} <= verdicts.keys()
    assert set(verdicts.values()) == {"ok"}
    with np.load(tmp_path / "case" / "outputs.npz") as after, np.load(start / "outputs.npz") as before:
        for name, same in {"video_mm_proj_out": True, "video_lm_tokens": False, "logits": False, "loss": False}.items():
            assert np.allclose(after[name], before[name], atol=1e-3) == same


def test_the_log_tells_of_each_step(straight: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    rows = list(read_metrics(straight))
    assert {number for row in rows[:3] for number in row["samples"]} == set(range(SAMPLES))
    assert sorted(len(row["samples"]) for row in rows) == [4, 4, 8, 8, 8, 8]
    assert rows[0]["learning_rate"] == 0 < rows[1]["learning_rate"]
    for row in rows:
        assert 0 <= row["waiting"] <= 1 and 0 < row["padding"] < 1 and row["mfu"] is None
        assert 0 < row["targets"] < row["tokens"]
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(row["tokens"])
    (events,) = (straight / "tensorboard").iterdir()
    content, values = events.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        values += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "loss"]
        content = content[16 + size :]
    assert values == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def test_sigterm_ends_a_run_with_a_checkpoint(
    facellava: Callable[..., Any],
    experiment: Experiment,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, run = tmp_path / "config.py", tmp_path / "run"
    config.write_text(write_config(experiment))
    stop_at(monkeypatch, 3, terminate)
    status, out, err = facellava("train", config, "--out", run)
    assert (status, out) == (0, "")
    assert err.splitlines()[-2:] == [
        f"{run}: step 3 of 6 is saved",
        f"facellava: stopped; the same command goes on with {run}",
    ]
    assert [row["step"] for row in read_log(run)] == [1, 2, 3]
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["2", "3"]
    stop_at(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert facellava("train", config, "--out", run).status == 130
    assert facellava("train", config, "--out", run).status == 0
    assert_same_run(run, straight)


def test_sigterm_while_faces_are_rendered(
    facellava: Callable[..., Any], experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no checkpoint yet, and none is spoken of; the faces that are done stay."""
    config, run = tmp_path / "config.py", tmp_path / "run"
    data = DataConfig(rendering=Rendering(samples=3, frames=2), batch_size=8)
    config.write_text(write_config(dataclasses.replace(experiment, data=data)))

    def render_two(*arguments: Any) -> Iterator[str]:
        with contextlib.closing(render_dataset(*arguments, workers=1)) as rendered:
            yield from itertools.islice(rendered, 2)
            terminate()

    with monkeypatch.context() as patch:
        patch.setattr(training, "render_dataset", render_two)
        status, _, err = facellava("train", config, "--out", run)
    assert (status, err.splitlines()[-1]) == (0, f"facellava: stopped; the same command goes on with {run}")
    assert "checkpoint" not in err and not (run / "checkpoints").exists()
    before = {file: file.stat().st_mtime_ns for file in (run / "rendered").glob("*/*")}
    (source,) = training.render_data(data, run).sources
    assert len(json.loads(source.path.read_text())) == 3
    assert before and {file: file.stat().st_mtime_ns for file in before} == before


def test_sigint_of_several_processes_is_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which JAX sees, and makes known to the others."""
    came: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(training.multihost_utils, "reached_preemption_sync_point", lambda step: bool(came))
    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with training.catch_signals() as find_signal:
            assert find_signal(1) is None
            signal.raise_signal(signal.SIGINT)
            stopped = find_signal(2)
        assert came == [signal.SIGTERM] and stopped and stopped.args == (signal.SIGTERM,)
        assert signal.getsignal(signal.SIGINT) is before[0]
    finally:
        signal.signal(signal.SIGTERM, before[1])


def test_what_is_not_finite_ends_a_run_and_is_not_saved(experiment: Experiment, tmp_path: Path) -> None:
    optim = OptimConfig(learning_rate=1e38, warmup_ratio=0.5, clip_norm=None)
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"step 3: the loss is nan, .*; the last good checkpoint is .*/checkpoints/2:"):
        train(dataclasses.replace(experiment, optim=optim, checkpoint_every=1), run)
    assert [row["step"] for row in read_log(run)] == [1, 2]
    assert read_state(run, 2)["step"] == 2
    assert all(np.isfinite(array).all() for array in read_state(run, 2).values())
    assert not (run / "model").exists()
    # An update that float32 cannot hold, after a loss and a gradient that it could.
    with pytest.raises(RunError, match=r"step 2: what trains is not finite; there is no checkpoint before it: "):
        huge = dataclasses.replace(optim, weight_decay=10.0)
        train(dataclasses.replace(experiment, optim=huge), tmp_path / "huge")
    assert not list((tmp_path / "huge" / "checkpoints").iterdir())


@pytest.fixture
def damaged_run(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Killed after step 5; its last checkpoint, of step 4, is cut short."""
    run = tmp_path / "run"
    stop_at(monkeypatch, 5, kill)
    with pytest.raises(Killed):
        train(experiment, run)
    for file in (run / "checkpoints" / "4" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-200])
    return run


# Tensorstore, whose read has failed, calls back into an event loop of Orbax that has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_last_good_checkpoint_is_no_damaged_one(
    experiment: Experiment, damaged_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "is_finite", lambda tree: False)
    with pytest.raises(
        RunError, match=r"step 4: what trains is not finite; the last good checkpoint is .*/checkpoints/2:"
    ):
        train(experiment, damaged_run)


# Tensorstore, whose read has failed, calls back into an event loop of Orbax that has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_is_damaged_is_passed_over(
    experiment: Experiment, straight: Path, damaged_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    train(experiment, damaged_run)
    assert "checkpoints/4 is damaged and passed over" in capfd.readouterr().err.replace("\n", "")
    assert_same_run(damaged_run, straight)
    for step in (4, 6):
        (damaged_run / "checkpoints" / str(step) / "state" / "_METADATA").write_text("{}")
    shutil.rmtree(damaged_run / "model")
    with pytest.raises(RunError, match="no checkpoint of the run is whole"):
        train(experiment, damaged_run)


def test_damaged_records_are_listed_once_however_a_run_stops(
    experiment: Experiment,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each epoch meets them, and steps that are taken again do; those without a sound entry are told of before."""
    records = json.loads(pictures.read_text())
    records[3]["image"] = "gone.png"
    records[11]["landmarks_2d"] = "11.png"
    records[17]["conversations"][0]["value"] += "<image>"
    (tmp_path / "data.json").write_text(json.dumps(records))
    sources = (Source(path=tmp_path / "data.json", image_root=pictures.parent),)
    data = dataclasses.replace(experiment.data, sources=sources, max_damaged=0.5)
    experiment = dataclasses.replace(experiment, data=data)
    train(experiment, tmp_path / "straight")
    told = capfd.readouterr().err
    assert "data: 20 records (20 of 1 image), known to be damaged: 1\n" in told
    assert re.search(r"an epoch: 3 steps of 8, in 1 shapes, padding \d\d%\n", told)
    run = tmp_path / "run"
    for step in (3, 6):
        stop_at(monkeypatch, step, kill)
        with pytest.raises(Killed):
            train(experiment, run)
    train(experiment, run)
    assert_same_run(run, tmp_path / "straight")
    listed = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in listed) == ["11", "17", "3"]
    assert (run / "quarantine.jsonl").read_text() == (tmp_path / "straight" / "quarantine.jsonl").read_text()
    assert sum(row["skipped"] for row in read_log(run)) == 6
    told = capfd.readouterr().err
    assert f"{run}: 6 of 40 samples were damaged and skipped: {run}/quarantine.jsonl lists them\n" in told


def test_a_short_run_of_damaged_samples_ends(experiment: Experiment, pictures: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(experiment.data, sources=(Source(path=pictures, image_root=tmp_path),))
    with pytest.raises(DataError, match=r"of \d+ samples are damaged, more than data.max_damaged 0.01 allows"):
        train(dataclasses.replace(experiment, data=data, steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_may_change_until_its_first_step(experiment: Experiment, pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    experiment = dataclasses.replace(experiment, steps=1)
    with pytest.raises(ConfigError, match="nothing"):
        train(dataclasses.replace(experiment, trainable=("nothing/*",)), run)
    data = dataclasses.replace(experiment.data, sources=(Source(path=tmp_path / "typo.json"),))
    with pytest.raises(DataError, match="typo.json: No such file"):
        train(dataclasses.replace(experiment, data=data), run)
    # All samples are damaged: they are listed, and no step is taken.
    data = dataclasses.replace(experiment.data, sources=(Source(path=pictures, image_root=tmp_path),))
    with pytest.raises(DataError, match="samples are damaged"):
        train(dataclasses.replace(experiment, data=data), run)
    train(experiment, run)
    assert Experiment.load(run / "experiment.json").data == experiment.data
    assert not (run / "quarantine.jsonl").exists()
    with pytest.raises(RunError, match="holds a run with trainable"):
        train(dataclasses.replace(experiment, trainable=("nothing/*",)), run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match="holds a run with seed 0, not 1"):
        train(dataclasses.replace(experiment, seed=1), run)


def test_rendered_faces_are_those_of_their_run(experiment: Experiment, tmp_path: Path) -> None:
    """Also before its first step."""
    run = tmp_path / "run"
    few, more = (
        dataclasses.replace(experiment, data=DataConfig(rendering=Rendering(samples=samples))) for samples in (3, 4)
    )
    with claim_folder(run, few):
        pass
    with claim_folder(run, more):
        (run / "rendered").mkdir()
    with pytest.raises(RunError, match=r"holds a run with data.rendering.samples 4, not 3"), claim_folder(run, few):
        pass


def test_what_changes_a_run_is_refused(
    experiment: Experiment, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.json"
    data.write_text(pictures.read_text())
    sources = (Source(path=data, image_root=pictures.parent),)
    start = tmp_path / "start"
    assert experiment.start
    shutil.copytree(experiment.start, start)
    experiment = dataclasses.replace(
        experiment, start=start, data=dataclasses.replace(experiment.data, sources=sources)
    )
    run = tmp_path / "run"
    stop_at(monkeypatch, 3, terminate)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, run)
    faster = dataclasses.replace(experiment, optim=OptimConfig(learning_rate=1.0))
    with pytest.raises(RunError, match=r"holds a run with optim.learning_rate 0.01, not 1.0: "):
        train(faster, run)
    data.write_text(pictures.read_text().replace("happy", "merry"))
    with pytest.raises(RunError, match=r"data.json has changed since the run began: restore it"):
        train(experiment, run)
    data.write_text(pictures.read_text())
    with (start / "manifest.json").open("a") as manifest:
        manifest.write("\n")
    with pytest.raises(RunError, match=r"start has changed since the run began: restore it"):
        train(experiment, run)
    with pytest.raises(ConfigError, match=r"steps 60: data.epochs 2 of the data are 6 steps"):
        train(dataclasses.replace(experiment, steps=60), tmp_path / "long")
    uneven = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=12))
    with pytest.raises(ConfigError, match=r"data.batch_size 12 cannot be divided among .* fsdp 8: use a multiple of 8"):
        train(uneven, tmp_path / "uneven")


def test_a_run_goes_on_elsewhere(
    experiment: Experiment, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other devices the state is the same, and so are the samples; sums are rounded in another order."""
    assert_same_losses(experiment, straight, tmp_path / "run", 3, monkeypatch)


def keep_restored(kept: list[tuple[int, dict[str, np.ndarray]]]) -> Callable[..., Any]:
    """In the place of `Checkpoints.restore`: it, and what it gives is kept, with the number of devices."""
    restore = Checkpoints.restore

    def restore_and_keep(self: Checkpoints, state: Any, say: Callable[[str], None]) -> Any:
        state, position = restore(self, state, say)
        kept.append((len(state.step.sharding.device_set), flatten(state._replace(frozen={})._asdict())))
        return state, position

    return restore_and_keep


def assert_same_losses(
    experiment: Experiment, straight: Path, run: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped after a step on eight devices, and goes on with four, and then with one."""
    stop_at(monkeypatch, stop, terminate)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, run)
    for devices, mesh in ((4, MeshConfig(data=2, tensor=2, fsdp=1)), (1, MeshConfig())):
        saved = read_state(run, stop)
        restored: list[tuple[int, dict[str, np.ndarray]]] = []
        with monkeypatch.context() as patch:
            use_devices(patch, devices)
            patch.setattr(Checkpoints, "restore", keep_restored(restored))
            stop += 1
            if devices > 1:
                stop_at(patch, stop, terminate)
            with pytest.raises(KeyboardInterrupt) if devices > 1 else contextlib.nullcontext():
                train(dataclasses.replace(experiment, mesh=mesh, keep=3), run)
        ((used, state),) = restored
        assert used == devices
        assert_same(state, saved)
    log, expected = read_log(run), read_log(straight)
    for row, other in zip(log, expected, strict=True):
        assert row["samples"] == other["samples"]
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_a_folder_belongs_to_one_process_and_one_run(experiment: Experiment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with claim_folder(run, experiment), pytest.raises(FolderError, match=rf"is in use by process {os.getpid()} on "):
        claim_folder(run, experiment).__enter__()
    with claim_folder(run, experiment):
        assert Experiment.load(run / "experiment.json") == experiment
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(RunError, match="holds holiday.jpg and no run"), claim_folder(tmp_path, experiment):
        pass
    with pytest.raises(FolderError, match="cannot be written to"), claim_folder(tmp_path / "holiday.jpg", experiment):
        pass
    (run / "experiment.json").write_text('{"start": 3}')
    with pytest.raises(ConfigError, match=r"experiment.json: checkpoint_every: missing; restore it"):
        claim_folder(run, experiment).__enter__()


def test_parameters_that_the_start_lacks_are_drawn(
    experiment: Experiment,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The same on every mesh, and whether the start has the rest or nothing."""
    given = read_config(checkpoint)
    bare = dataclasses.replace(given, model=dataclasses.replace(given.model, landmarks=None))
    paths, stored = layer_shapes(bare), read_manifest(checkpoint)["parameters"]
    tokenizer, start = sorted((checkpoint / "tokenizer").iterdir()), tmp_path / "start"
    with write_checkpoint(start, bare, {path: stored[path]["dtype"] for path in paths}, tokenizer, {}) as write:
        for path in paths:
            write(path, read_array(checkpoint, path))
    short = dataclasses.replace(experiment, model=given, steps=1, mesh=MeshConfig())
    part = dataclasses.replace(short, start=start)
    train(part, tmp_path / "part")
    assert "start lacks global_landmarks_projector/linears/0, landmarks_cross_attn/k_proj" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        use_devices(patch, 1)
        train(dataclasses.replace(short, start=None, tokenizer=checkpoint / "tokenizer"), tmp_path / "whole")
    # The first step runs at a rate of 0.
    drawn, whole = read_weights(tmp_path / "part" / "model"), read_weights(tmp_path / "whole" / "model")
    branch = drawn.keys() - paths.keys()
    assert len(branch) > 20
    assert_same({path: drawn[path] for path in branch}, {path: whole[path] for path in branch})
    with pytest.raises(RunError, match="model is None and so is start: name a checkpoint to start from"):
        train(dataclasses.replace(experiment, start=None), tmp_path / "nothing")
    narrow = dataclasses.replace(given.model.decoder, intermediate_size=8)
    other = dataclasses.replace(given, model=dataclasses.replace(given.model, decoder=narrow))
    with pytest.raises(RunError, match=r"decoder/layers/down_proj/kernel has shape \(\d+, \d+, \d+\), and the model"):
        train(dataclasses.replace(experiment, model=other), tmp_path / "narrow")
    with pytest.raises(RunError, match=r"global_landmarks_projector/\S+ is not part of the model"):
        train(dataclasses.replace(experiment, model=bare, trainable=PROJECTOR), tmp_path / "bare")


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until a run has logged a step, while it goes on."""
    log = run / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= step):
        assert process.poll() is None
        time.sleep(0.01)


def count_steps(run: Path) -> int:
    return len(read_log(run)) if (run / "metrics.jsonl").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_three_kills(experiment: Experiment, tmp_path: Path, variant: str, devices: int) -> None:
    """Real ones, at any moment, of a process of its own that has taken steps of its own."""
    experiment = vary(experiment, variant)
    experiment = dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, epochs=LONG // 3),
        mesh=experiment.mesh if devices == 8 else MeshConfig(),
        checkpoint_every=1,
    )
    config, run = tmp_path / "config.py", tmp_path / "run"
    config.write_text(write_config(experiment))
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", "from facellava_jax.cli import main; main()", "train", str(config), "--out"]

    def start(run: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(run)], env={**os.environ, "XLA_FLAGS": flags}, cwd=ROOT)

    assert start(tmp_path / "straight").wait() == 0
    rng = np.random.default_rng(list(VARIANTS).index(variant))
    for _ in range(3):
        before = count_steps(run)
        process = start(run)
        wait_for_step(run, before + int(rng.integers(1, 4)), process)
        time.sleep(float(rng.uniform(0, 0.1)))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert before < count_steps(run) < LONG
    assert start(run).wait() == 0
    assert_same_run(run, tmp_path / "straight", LONG)


@pytest.mark.slow
def test_two_processes_are_one(experiment: Experiment, straight: Path, tmp_path: Path) -> None:
    """As Slurm starts them: the same samples, losses and result; SIGTERM to one of them, or SIGINT, stops both."""
    config, run = tmp_path / "config.py", tmp_path / "run"
    config.write_text(write_config(experiment))
    command = [sys.executable, "-c", "from facellava_jax.cli import main; main()", "train", str(config)]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}

    def start() -> list[subprocess.Popen[bytes]]:
        return [
            subprocess.Popen(
                [*command, "--out", str(run), "--distributed"],
                env={**environment, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
                cwd=ROOT,
            )
            for number in range(2)
        ]

    for number in (signal.SIGTERM, signal.SIGINT):
        processes, before = start(), count_steps(run)
        wait_for_step(run, before + 1, processes[0])
        processes[1].send_signal(number)
        assert [process.wait(120) for process in processes] == [0, 0]
        assert before < count_steps(run) < STEPS
    for _ in range(2):  # what was stopped goes on; what is done says so
        assert [process.wait(120) for process in start()] == [0, 0]
    rows, expected = read_log(run), read_log(straight)
    for row, other in zip(rows, expected, strict=True):
        assert row["samples"] == other["samples"]
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
    ours, theirs = read_weights(run / "model"), read_weights(straight / "model")
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_allclose(array.astype(np.float32), theirs[path].astype(np.float32), atol=2e-2, err_msg=path)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_both(experiment: Experiment, tmp_path: Path, failing: int) -> None:
    """Soon, though the other waits for it for ever: JAX would have both of them wait for a day."""
    config, run = tmp_path / "config.py", tmp_path / "run"
    config.write_text(write_config(dataclasses.replace(experiment, mesh=MeshConfig(data=2))))
    source = (
        "import functools, jax, os, time\n"
        "jax.distributed.initialize = functools.partial(jax.distributed.initialize, heartbeat_timeout_seconds=10)\n"
        "from facellava_jax import cli, train\n"
        f"if os.environ['SLURM_PROCID'] != '{failing}':\n"
        "    train.train = lambda experiment, out: jax.devices() and time.sleep(1000)\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", source, "train", str(config), "--data.sources.0.path", "typo.json"]
    command += ["--out", str(run), "--distributed"]
    environment = {**os.environ, "XLA_FLAGS": "", "SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2"}
    environment |= {"SLURM_STEP_NODELIST": "localhost"}
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        told = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert 0 not in [process.returncode for process in processes]
    assert processes[failing].returncode == 1
    assert re.search(r"facellava: \S+/typo.json: No such file or directory: name a list of records\n$", told[failing])


@pytest.mark.slow
def test_twenty_steps_elsewhere(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = vary(dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, epochs=8)), "stage 2")
    experiment = dataclasses.replace(experiment, mesh=MeshConfig(data=2, fsdp=2, tensor=2), steps=22)
    experiment = dataclasses.replace(experiment, optim=OptimConfig(learning_rate=1e-4))
    train(experiment, tmp_path / "straight")
    assert_same_losses(experiment, tmp_path / "straight", tmp_path / "run", 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_merged_is_lora_apart(experiment: Experiment, tmp_path: Path, dtype: DType) -> None:
    """Also where what is frozen is held in 16 bits: the kernels that are merged into are those of the start."""
    from conversion.convert import import_checkpoint
    from conversion.export import export_checkpoint

    start = tmp_path / "start"
    import_checkpoint(ROOT / "tests" / "goldens" / "03_video_landmarks_simple" / "checkpoint", start, dtype="float32")
    rng = np.random.default_rng(0)
    embeds_BLD = jnp.asarray(rng.normal(size=(2, 16, 64)), jnp.float32)
    hidden = []
    for merged in (True, False):
        lora = dataclasses.replace(vary(experiment, "lora"), start=start, merge_lora=merged, dtype=dtype)
        train(lora, tmp_path / str(merged))
        folder = tmp_path / str(merged) / "model"
        config = read_config(folder)
        assert (config.model.decoder.lora is None) == merged
        assert Predictor.load(folder).predict(prompt="Who?", max_new_tokens=2).tokens == 2
        model = build_model(config.model, load_params(folder))
        hidden.append(np.asarray(model.read(embeds_BLD, jnp.array([16, 9]))[0]))
        export_checkpoint(folder, tmp_path / f"exported {merged}")
    np.testing.assert_allclose(*hidden, atol=1e-5)
    changed = {
        path for path, array in read_weights(start).items() if not np.array_equal(array, read_array(folder, path))
    }
    assert {path.split("/")[0] for path in changed} == {
        "mm_projector",
        *(path.split("/")[0] for path in LANDMARK_BRANCH),
    }


class OneBatch(Plan):
    """All records in every step, as a run that does not sort them by their media has it."""

    def batch(self, step: int) -> PlannedBatch:
        return PlannedBatch(Places(1, 1), int(self.shapes[:, 2].max()), np.arange(4, dtype=np.int32))


def test_a_real_training_run(
    golden_case: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's own, over six epochs: losses, learning rates, final weights (its towers ran in float16)."""
    from conversion.convert import import_checkpoint
    from conversion.rules import entries, to_ours

    case = golden_case("16_e2e_train_stage1")
    start, run = tmp_path / "start", tmp_path / "run"
    import_checkpoint(case / "checkpoint", start, dtype="float32")
    experiment = Experiment(
        start=start,
        data=DataConfig(sources=(Source(path=case / "data" / "data.json"),), batch_size=4, epochs=3),
        optim=OptimConfig(learning_rate=1e-3),
        mesh=MeshConfig(fsdp=4, data=1, tensor=2),
        dtype="float32",
        steps=6,
    )

    def open_one_batch(*arguments: Any) -> BatchLoader:
        loader = open_data(*arguments)
        loader.plan.__class__ = OneBatch
        return loader

    monkeypatch.setattr(training, "open_data", open_one_batch)
    train(experiment, run)
    log = json.loads((case / "e2e.json").read_text())["log"]
    rows = read_log(run)
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in log], atol=2e-4)
    # The log tells the rate of the step that follows.
    rates = [0.0, *(row["learning_rate"] for row in log[:-1])]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-6, atol=1e-12)
    final = np.load(case / "final_landmark_weights.npz")
    apart = whole = 0.0
    for entry in entries(read_config(start)):
        if entry.key in final:
            for path, piece in zip(entry.paths, np.split(final[entry.key], len(entry.paths)), strict=True):
                expected, ours = to_ours(entry.form, piece), read_array(run / "model", path)
                np.testing.assert_allclose(ours, expected, atol=1e-2, err_msg=path)
                apart += float(np.square(ours - expected).sum())
                whole += float(np.square(read_array(start, path) - expected).sum())
    assert apart < 0.01 * whole
