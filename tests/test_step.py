"""step.py against the original's own training, and against itself: in parts, in chunks, on many devices."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import random_params
from test_models import random_media

from conversion.convert import import_checkpoint
from conversion.rules import entries, to_ours
from conversion.verify import Case
from facellava_jax.axes import Batch
from facellava_jax.checkpoint import load_params, read_config
from facellava_jax.config import Config, ConfigError, LoraConfig, ModelConfig, tiny
from facellava_jax.data import Sample, collate
from facellava_jax.experiment import DECODER, LANDMARK_BRANCH, PROJECTOR, Experiment, MeshConfig, OptimConfig
from facellava_jax.models.facellava import abstract_params, build_model
from facellava_jax.optim import make_optimizer
from facellava_jax.sharding import make_mesh, place_batch, tree_shardings
from facellava_jax.step import (
    TrainState,
    compute_gradients,
    configure_training,
    init_state,
    make_train_step,
    select_trainable,
)

TINY = tiny().model
TEXT = replace(TINY, image_tower=None, video_tower=None, landmarks=None)
STAGE_2 = (*LANDMARK_BRANCH, *PROJECTOR, *DECODER)
# The goldens' optimizer: the learning rate as it is, nothing clipped.
PLAIN = OptimConfig(schedule="constant", warmup_ratio=0.0, clip_norm=None)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
EIGHT = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
# Gradients of two ways to compute the same, of numbers up to 0.1: 8e-8 is measured.
CLOSE = 1e-6


LossAndGrads = tuple[float, dict[str, np.ndarray]]


class Training(NamedTuple):
    """A model and what trains in it, ready to be stepped."""

    config: ModelConfig
    params: dict[str, jax.Array]
    trainable: set[str]

    def start(self, optim: OptimConfig = PLAIN, mesh: Any = ONE, steps: int = 3) -> tuple[TrainState, Any]:
        # Copies, because a step writes over what it is given.
        params = {path: jnp.array(array) for path, array in self.params.items()}
        optimizer = make_optimizer(optim, steps)
        state = init_state(params, self.trainable, optimizer, self.config.dtype, mesh)
        return state, make_train_step(self.config, optimizer, mesh, accumulate=optim.accumulate)

    def gradients(
        self, batch: Batch, mesh: Any = ONE, accumulate: int = 1, remat: bool = True
    ) -> tuple[float, dict[str, np.ndarray]]:
        state, _ = self.start(mesh=mesh)
        run = jax.jit(
            lambda state, batch: compute_gradients(
                state, batch, config=self.config, mesh=mesh, accumulate=accumulate, remat=remat
            )
        )
        loss, grads = run(state, place_batch(batch, mesh))
        return float(loss), jax.tree.map(np.asarray, grads)


def prepare(config: ModelConfig, trainable: tuple[str, ...], **changes: Any) -> Training:
    experiment = Experiment(trainable=trainable, dtype=config.dtype, **changes)
    config = configure_training(experiment, config)
    params = random_params(config)
    return Training(config, params, select_trainable(params, experiment))


@pytest.fixture(scope="module")
def stage_2() -> Training:
    return prepare(TINY, STAGE_2)


@pytest.fixture(scope="module")
def text() -> Training:
    """The decoder alone, which compiles sooner."""
    return prepare(TEXT, DECODER)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Eight rows of all kinds, with labels of different numbers: text, images, clips, with landmarks and without."""
    rng = np.random.default_rng(10)
    rows, length = 8, 100
    tokens = rng.integers(3, 600, (rows, length)).astype(np.int32)
    lengths = np.array([100, 24, 40, 91, 100, 0, 70, 99], np.int32)
    index = np.full((rows, length), -1, np.int32)
    index[2, 4:20] = np.arange(16)
    index[3:5, 2:70] = 16 + np.arange(68)
    at = np.arange(length)
    learnt = (at < lengths[:, None]) & (at >= lengths[:, None] - 1 - 3 * np.arange(rows)[:, None]) & (index < 0)
    return Batch(
        np.where(index < 0, tokens, 0).astype(np.int32),
        index,
        lengths,
        random_media(rng, rows, 1, 1, 56, rng.random((rows, 1)) < 0.5),
        random_media(rng, rows, 1, 4, 56, rng.random((rows, 1)) < 0.5),
        np.where(learnt, tokens, -100).astype(np.int32),
    )


@pytest.fixture(scope="module")
def text_batch(batch: Batch) -> Batch:
    """The same, with words where media stood."""
    tokens = np.where(batch.tokens > 0, batch.tokens, 7).astype(np.int32)
    return Batch(tokens, np.full_like(tokens, -1), batch.lengths, None, None, batch.labels)


@pytest.fixture(scope="module")
def whole(stage_2: Training, batch: Batch) -> LossAndGrads:
    """Loss and gradients of the whole batch at once, on one device."""
    return stage_2.gradients(batch)


@pytest.fixture(scope="module")
def whole_text(text: Training, text_batch: Batch) -> LossAndGrads:
    return text.gradients(text_batch)


def assert_same(got: LossAndGrads, expected: LossAndGrads) -> None:
    np.testing.assert_allclose(got[0], expected[0], rtol=CLOSE)
    assert got[1].keys() == expected[1].keys()
    for path, grad in expected[1].items():
        np.testing.assert_allclose(got[1][path], grad, atol=CLOSE, rtol=0, err_msg=path)


# --- the original's own steps


class Golden(NamedTuple):
    training: Training
    batch: Batch
    rate: float
    arrays: dict[str, np.ndarray]
    config: Config

    def ours(self, kind: str) -> dict[str, np.ndarray]:
        """What the original recorded as `kind` of every parameter that trains, by our paths and layers."""
        named = {}
        for entry in entries(self.config):
            if f"{kind}/{entry.key}" in self.arrays and entry.paths:
                tensors = np.split(self.arrays[f"{kind}/{entry.key}"], len(entry.paths))
                named |= {path: to_ours(entry.form, part) for path, part in zip(entry.paths, tensors, strict=True)}
        return named


def by_layer(stacked: dict[str, Any]) -> dict[str, np.ndarray]:
    named = {}
    for path, array in stacked.items():
        head, layers, tail = path.partition("/layers/")
        parts = {f"{head}/layers/{i}/{tail}": part for i, part in enumerate(array)} if layers else {path: array}
        named |= {name: np.asarray(part) for name, part in parts.items()}
    return named


@pytest.fixture(
    scope="module",
    params=[
        "11a_train_stage1_simple",
        "11b_train_stage1_masked",
        "11c_train_stage1_landmark_tokens",
        "12_train_stage2_full",
    ],
)
def golden(
    request: pytest.FixtureRequest, golden_case: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Golden:
    folder = golden_case(request.param)
    out = tmp_path_factory.mktemp("golden") / "checkpoint"
    import_checkpoint(folder / "checkpoint", out, dtype="float32")
    config, case = read_config(out), Case.read(folder)
    samples = [
        Sample(ids[mask == 1].tolist(), [case.visual(entry) for entry in entries], labels[mask == 1])
        for ids, mask, labels, entries in zip(
            case.need("input_ids"), case.need("attention_mask"), case.need("labels"), case.assign(), strict=True
        )
    ]
    recorded = json.loads((folder / "train.json").read_text())
    experiment = Experiment(trainable=STAGE_2 if recorded["stage"] == "stage2" else LANDMARK_BRANCH, dtype="float32")
    model = configure_training(experiment, config.model)
    params = load_params(out)
    training = Training(model, params, select_trainable(params, experiment))
    batch = collate(samples, config.model, max_length=config.text.max_length)
    with np.load(folder / "train.npz") as arrays:
        return Golden(training, batch, recorded["lr"], dict(arrays), config)


def test_gradients_are_the_originals(golden: Golden) -> None:
    _, grads = golden.training.gradients(golden.batch)
    got, expected = by_layer(grads), golden.ours("grad")
    assert got.keys() == expected.keys()
    for path, grad in expected.items():
        np.testing.assert_allclose(got[path], grad, atol=1e-5, rtol=1e-3, err_msg=path)


def test_three_steps_are_the_originals(golden: Golden) -> None:
    state, step = golden.training.start(replace(PLAIN, learning_rate=golden.rate))
    first = by_layer(state.trainable)
    losses, norms = [], []
    for number in range(4):
        state, metrics = step(state, place_batch(golden.batch, ONE))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
        if number == 0:
            after = by_layer(state.trainable)
    np.testing.assert_allclose(losses, golden.arrays["losses"], rtol=1e-6)
    np.testing.assert_allclose(norms[0], golden.arrays["grad_norm"], rtol=1e-5)
    # Adam's first step is the gradient's sign: it says something where that is not lost in rounding.
    expected, grads = golden.ours("step1"), golden.ours("grad")
    for path, array in expected.items():
        told = np.abs(grads[path]) > 1e-7
        moved, should = (after[path] - first[path])[told], (array - first[path])[told]
        np.testing.assert_allclose(moved, should, atol=golden.rate * 1e-2, rtol=0, err_msg=path)


# --- the same in other ways


def test_loss_is_the_mean_over_labelled_tokens(stage_2: Training, batch: Batch, whole: LossAndGrads) -> None:
    def read_logits(params: dict[str, jax.Array], batch: Batch) -> jax.Array:
        model = build_model(stage_2.config, params)
        return model.decoder.logits(model(batch)[0])

    logits = torch.from_numpy(np.array(jax.jit(read_logits)(stage_2.params, batch)))
    labels = torch.from_numpy(batch.labels).long()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    np.testing.assert_allclose(whole[0], expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("chunk", [48, 1])
def test_chunks_of_the_loss_make_the_whole(
    chunk: int, text: Training, text_batch: Batch, whole_text: LossAndGrads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 makes three chunks of 34, two positions of them empty."""
    monkeypatch.setattr("facellava_jax.step.LOSS_CHUNK", chunk)
    assert_same(text.gradients(text_batch), whole_text)


def test_parts_make_the_whole(stage_2: Training, batch: Batch, whole: LossAndGrads) -> None:
    """Rows have from 0 to 22 labels, so that a mean of means would be another."""
    assert_same(stage_2.gradients(batch, accumulate=4), whole)


def test_four_parts_of_eight_equal_a_batch_of_32(text: Training, text_batch: Batch) -> None:
    order = np.random.default_rng(0).permutation(32) % 8
    many = jax.tree.map(lambda array: array[order], text_batch)
    assert_same(text.gradients(many, accumulate=4), text.gradients(many))


def test_remat_changes_no_gradient_and_takes_less_memory(
    text: Training, text_batch: Batch, whole_text: LossAndGrads
) -> None:
    assert_same(text.gradients(text_batch, remat=False), whole_text)
    deep = replace(TEXT, decoder=replace(TEXT.decoder, num_hidden_layers=12))
    with_remat, without = (temporary_bytes(deep, DECODER, text_batch, remat=remat) for remat in (True, False))
    assert with_remat < without / 2


def temporary_bytes(config: ModelConfig, trainable: tuple[str, ...], batch: Batch, remat: bool = True) -> int:
    """What a step takes beside the state; compiled, not run."""
    params = abstract_params(config)
    chosen = select_trainable(params, Experiment(trainable=trainable, dtype=config.dtype))
    optimizer = make_optimizer(PLAIN, 1)
    state = jax.eval_shape(lambda params: init_state(params, chosen, optimizer, config.dtype, ONE), params)
    step = make_train_step(config, optimizer, ONE, remat=remat)
    return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes


def test_frozen_towers_keep_no_activations(batch: Batch) -> None:
    """Memory does not grow with a frozen tower's depth; that of one that trains does."""
    config = replace(TINY, image_tower=None)
    deep = replace(config, video_tower=replace(TINY.video_tower, num_hidden_layers=13))
    clips = batch._replace(images=None)
    layer = batch.videos.pixels.shape[0] * 4 * 17 * 48 * 4  # one float32 array of the activations
    frozen = [temporary_bytes(each, LANDMARK_BRANCH, clips) for each in (config, deep)]
    trained = [temporary_bytes(each, ("video_tower/*",), clips) for each in (config, deep)]
    assert frozen[1] - frozen[0] < layer
    assert trained[1] - trained[0] > 9 * layer


def test_only_what_trains_changes_or_has_moments(batch: Batch) -> None:
    training = prepare(TINY, LANDMARK_BRANCH)
    before = {path: np.asarray(array) for path, array in training.params.items()}
    state, step = training.start(replace(PLAIN, learning_rate=1e-2))
    for _ in range(2):
        state, _ = step(state, place_batch(batch, ONE))
    branch = {path for path in before if path.startswith(("landmarks_", "global_landmarks_"))}
    assert state.trainable.keys() == training.trainable == branch
    assert int(state.step) == 2
    for path, array in state.frozen.items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    for path, array in state.trainable.items():
        assert np.abs(np.asarray(array) - before[path]).max() > 0, path
    moments = sum(array.size for array in jax.tree.leaves(state.opt_state) if array.ndim)
    assert moments == 2 * sum(array.size for array in state.trainable.values())


def test_rows_of_padding_give_nothing(text: Training, text_batch: Batch, whole_text: LossAndGrads) -> None:
    """Row 5 is of length 0: whatever it holds, and whether it is there."""
    rows = [0, 1, 2, 3, 4, 6, 7]
    assert_same(text.gradients(jax.tree.map(lambda array: array[rows], text_batch)), whole_text)
    tokens = np.where(text_batch.lengths[:, None] == 0, 9, text_batch.tokens).astype(np.int32)
    assert_same(text.gradients(text_batch._replace(tokens=tokens)), whole_text)


def test_a_batch_without_labels_is_no_loss_and_no_step(text: Training, text_batch: Batch) -> None:
    state, step = text.start()
    before = {path: np.asarray(array) for path, array in state.trainable.items()}
    empty = text_batch._replace(labels=np.full_like(text_batch.labels, -100), lengths=np.zeros(8, np.int32))
    state, metrics = step(state, place_batch(empty, ONE))
    assert [float(metrics[name]) for name in ("loss", "grad_norm", "tokens", "length")] == [0.0] * 4
    for path, array in state.trainable.items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)


def test_metrics(text: Training, text_batch: Batch, whole_text: LossAndGrads) -> None:
    state, step = text.start(OptimConfig(learning_rate=0.5, warmup_ratio=0.5), steps=4)
    every = []
    for _ in range(3):
        state, metrics = step(state, place_batch(text_batch, ONE))
        every.append(metrics)
    assert [float(metrics["learning_rate"]) for metrics in every] == [0.0, 0.25, 0.5]
    # The first step changes nothing.
    np.testing.assert_allclose([float(metrics["loss"]) for metrics in every[:2]], whole_text[0], rtol=1e-6)
    norm = np.sqrt(sum(np.square(grad).sum() for grad in whole_text[1].values()))
    assert float(every[0]["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert int(every[0]["tokens"]) == (text_batch.labels[:, 1:] != -100).sum() > 50
    assert int(every[0]["length"]) == text_batch.lengths.sum()


@pytest.mark.parametrize("tied", [False, True])
def test_the_padding_token_learns_nothing_from_being_read(tied: bool, text_batch: Batch) -> None:
    """As in the original, where its embedding has `padding_idx` 0. A tied head still learns to predict it."""
    training = prepare(replace(TEXT, decoder=replace(TEXT.decoder, tie_word_embeddings=tied)), DECODER)
    tokens = np.where(np.arange(100) % 7 == 3, 0, text_batch.tokens).astype(np.int32)
    _, grads = training.gradients(text_batch._replace(tokens=tokens))
    table = grads["decoder/embed_tokens/embedding"]
    assert np.abs(table[tokens[0, 1]]).max() > 1e-4
    assert (np.abs(table[0]).max() > 0) == tied


# --- bfloat16


def test_bfloat16_computes_and_float32_is_kept(text_batch: Batch, whole_text: LossAndGrads) -> None:
    training = prepare(replace(TEXT, dtype="bfloat16"), ("decoder/layers/*",))
    state, step = training.start(replace(PLAIN, learning_rate=1e-5))
    before = {path: np.asarray(array) for path, array in state.trainable.items()}
    state, metrics = step(state, place_batch(text_batch, ONE))
    assert {array.dtype.name for array in state.trainable.values()} == {"float32"}
    assert {array.dtype.name for array in state.frozen.values()} == {"bfloat16"}
    assert {array.dtype.name for array in jax.tree.leaves(state.opt_state)} == {"float32", "int32"}
    assert 1e-6 < abs(float(metrics["loss"]) - whole_text[0]) < 0.05
    # Steps far below what bfloat16 tells apart from 1 are there.
    moved = np.concatenate([(np.asarray(state.trainable[path]) - before[path]).ravel() for path in before])
    assert (np.abs(moved) > 5e-6).mean() > 0.9
    assert np.abs(moved).max() < 2e-5


def test_bfloat16_gradients_are_close(text: Training, text_batch: Batch) -> None:
    """Also that of an embedding that is read often, a long sum."""
    repeated = text_batch._replace(tokens=np.full_like(text_batch.tokens, 5))
    repeated.tokens[:, ::9] = text_batch.tokens[:, ::9]
    _, exact = text.gradients(repeated)
    _, rounded = prepare(replace(TEXT, dtype="bfloat16"), DECODER).gradients(repeated)
    for path, grad in exact.items():
        assert rounded[path].dtype == np.float32
        assert np.linalg.norm(rounded[path] - grad) < 0.05 * np.linalg.norm(grad), path


# --- what trains


def test_patterns_choose_what_trains() -> None:
    paths = abstract_params(TINY)

    def choose(*patterns: str) -> set[str]:
        return select_trainable(paths, Experiment(trainable=patterns))

    assert choose("*") == paths.keys()
    assert choose("*/norm/scale", "mm_projector/linears/1/*") == {
        "decoder/norm/scale",
        "mm_projector/linears/1/kernel",
        "mm_projector/linears/1/bias",
    }
    with pytest.raises(ConfigError, match=r"no parameter of the model matches 'mm_projektor/\*'"):
        choose("decoder/*", "mm_projektor/*")
    with pytest.raises(ConfigError, match="trainable is empty"):
        choose()


# --- many devices


def test_rows_that_cannot_be_divided_are_refused(text: Training, text_batch: Batch) -> None:
    state, _ = text.start(mesh=EIGHT)
    with pytest.raises(ConfigError, match=r"batch_size 8 is no multiple of 12: optim\.accumulate 3 x .* mesh\.fsdp 4"):
        compute_gradients(state, text_batch, config=text.config, mesh=EIGHT, accumulate=3)


def test_eight_devices_compute_what_one_does(stage_2: Training, batch: Batch, whole: LossAndGrads) -> None:
    """All three axes at once: where XLA is left to divide the products itself, its gradients are wrong here."""
    assert_same(stage_2.gradients(batch, EIGHT), whole)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (1, 2, 4), (4, 1, 2)], ids=str)
def test_every_mesh_computes_what_one_device_does(
    sizes: tuple[int, int, int], text: Training, text_batch: Batch, whole_text: LossAndGrads
) -> None:
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    assert_same(text.gradients(text_batch, mesh), whole_text)


def test_steps_on_eight_devices_are_those_on_one(batch: Batch) -> None:
    """Adapters, projector and landmark branch, clipped, in parts."""
    config = replace(TINY, video_tower=None)
    training = prepare(config, (*LANDMARK_BRANCH, *PROJECTOR), lora=LoraConfig(rank=4, alpha=4.0))
    # As random_params draws them the adapters dwarf the kernels, and make much of little.
    params = {path: array * 0.1 if "/lora_" in path else array for path, array in training.params.items()}
    training = training._replace(params=params)
    images = batch._replace(videos=None, visual_index=np.where(batch.visual_index < 16, batch.visual_index, -1))
    # A large eps, because Adam's first steps make signs of what is rounding alone.
    optim = OptimConfig(learning_rate=1e-2, eps=1e-3, warmup_ratio=0.0, accumulate=2)
    runs = []
    for mesh in (ONE, EIGHT):
        state, step = training.start(optim, mesh)
        losses = []
        for _ in range(3):
            state, metrics = step(state, place_batch(images, mesh))
            losses.append(float(metrics["loss"]))
        runs.append((losses, state))
    (losses, one), (losses_8, eight) = runs
    np.testing.assert_allclose(losses_8, losses, atol=1e-5)
    assert losses[2] < losses[0] - 1e-3
    for path, array in one.trainable.items():
        np.testing.assert_allclose(eight.trainable[path], array, atol=1e-5, rtol=0, err_msg=path)
    placed = tree_shardings(eight, EIGHT)
    assert jax.tree.all(jax.tree.map(lambda array, at: array.sharding.is_equivalent_to(at, array.ndim), eight, placed))


def test_parameters_are_divided_and_gathered_a_layer_at_a_time(text_batch: Batch) -> None:
    deep = prepare(replace(TEXT, decoder=replace(TEXT.decoder, num_hidden_layers=48)), DECODER)
    mesh = make_mesh(MeshConfig())
    state, step = deep.start(mesh=mesh)
    arrays = jax.tree.leaves(state)
    assert sum(array.addressable_shards[0].data.nbytes for array in arrays) < sum(map(nbytes, arrays)) / 8 * 1.05
    compiled = step.lower(state, place_batch(text_batch, mesh)).compile()
    # Were the layers gathered at once, they and their gradients alone would take twice this.
    stacked = sum(array.nbytes for path, array in deep.params.items() if path.startswith("decoder/layers/"))
    assert compiled.memory_analysis().temp_size_in_bytes < stacked
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    assert len(sizes) > 7
    assert max(sizes) == deep.params["decoder/lm_head/kernel"].size


def nbytes(array: jax.Array) -> int:
    return array.nbytes
