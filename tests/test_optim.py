"""optim.py against torch's AdamW and clipping and transformers' schedule, put together as in the original's trainer."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from facellava_jax.experiment import OptimConfig
from facellava_jax.optim import clip, decays, global_norm, make_optimizer, make_schedule

# Of numbers about 1, after six steps of 0.02; 5e-7 is measured.
CLOSE = 2e-6
SHAPES = {
    "decoder/layers/q_proj/kernel": (2, 5, 4),
    "decoder/layers/input_layernorm/scale": (2, 5),
    "decoder/embed_tokens/embedding": (7, 5),
    "mm_projector/linears/0/kernel": (3, 5),
    "mm_projector/linears/0/bias": (5,),
    "landmarks_cross_attn/ln/bias": (5,),
}


def draw(seed: int, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in SHAPES.items()}


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(learning_rate=0.02),
        OptimConfig(learning_rate=0.02, weight_decay=0.3, projector_learning_rate=0.005, warmup_ratio=0.4),
        OptimConfig(learning_rate=0.02, weight_decay=0.1, clip_norm=None, b1=0.8, b2=0.95, eps=1e-2),
        OptimConfig(learning_rate=0.02, projector_learning_rate=0.0, clip_norm=20.0),
    ],
    ids=["recipe", "decay_projector_warmup", "betas_unclipped", "projector_off_clip_now_and_then"],
)
def test_updates_are_torchs(config: OptimConfig) -> None:
    steps = 6
    params = {path: jnp.asarray(array) for path, array in draw(0).items()}
    # As in transformers' Trainer: nothing decays that is a bias or belongs to a norm.
    theirs = {path: torch.nn.Parameter(torch.from_numpy(array)) for path, array in draw(0).items()}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [parameter],
                "weight_decay": 0.0 if path.endswith(("bias", "scale")) else config.weight_decay,
                "lr": config.projector_learning_rate
                if path.startswith("mm_projector") and config.projector_learning_rate is not None
                else config.learning_rate,
            }
            for path, parameter in theirs.items()
        ],
        betas=(config.b1, config.b2),
        eps=config.eps,
    )
    warmup = int(np.ceil(config.warmup_ratio * steps))
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    ours = make_optimizer(config, steps)
    state = ours.init(params)
    norms = []
    for step in range(steps):
        grads = draw(step + 1, scale=0.1 * 3**step)
        assert float(ours.learning_rate(step)) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        updates, state = ours.update({path: jnp.asarray(grad) for path, grad in grads.items()}, state, params)
        params = {path: array + updates[path] for path, array in params.items()}
        for path, parameter in theirs.items():
            parameter.grad = torch.from_numpy(grads[path])
        norms.append(float(global_norm(grads)))
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), config.clip_norm)
        optimizer.step()
        schedule.step()
    assert min(norms) < 1 < 20 < max(norms)
    for path, parameter in theirs.items():
        np.testing.assert_allclose(params[path], parameter.detach().numpy(), atol=CLOSE, rtol=0, err_msg=path)


def test_learning_rates_are_those_of_the_originals_log() -> None:
    """Golden 16: six steps at 1e-3 and a warm-up of 3 %. (Its log's line n tells the rate of step n + 1.)"""
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3), 6)
    logged = [0.001, 0.0009045084971874737, 0.0006545084971874737, 0.00034549150281252633, 9.549150281252633e-05, 0.0]
    rates = [float(optimizer.learning_rate(step)) for step in range(7)]
    np.testing.assert_allclose(rates, [0.0, *logged], atol=1e-10)


def test_schedules() -> None:
    constant = make_schedule(OptimConfig(schedule="constant", warmup_ratio=0.2), 10)
    np.testing.assert_allclose([constant(step) for step in (0, 1, 2, 9, 50)], [0, 0.5, 1, 1, 1])
    cosine = make_schedule(OptimConfig(warmup_ratio=0.0), 10)
    np.testing.assert_allclose([cosine(step) for step in (0, 5, 10, 15)], [1, 0.5, 0, 0], atol=1e-7)
    for ratio in (0.0, 1.0):
        one = make_schedule(OptimConfig(warmup_ratio=ratio), 1)
        assert np.isfinite([one(step) for step in (0, 1)]).all()


def test_only_matrices_and_embeddings_decay() -> None:
    assert {path for path in SHAPES if decays(path)} == {
        "decoder/layers/q_proj/kernel",
        "decoder/embed_tokens/embedding",
        "mm_projector/linears/0/kernel",
    }
    assert decays("decoder/layers/q_proj/lora_a") and decays("image_tower/class_embedding")


def test_clipping() -> None:
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    assert float(global_norm(grads)) == 5.0
    assert clip(grads, None) is grads
    np.testing.assert_array_equal(clip(grads, 6.0)["b"], grads["b"])
    np.testing.assert_allclose(clip(grads, 1.0)["a"], [3 / (5 + 1e-6), 0.0], rtol=1e-6)
    zeros = {"a": jnp.zeros(2)}
    np.testing.assert_array_equal(clip(zeros, 1.0)["a"], 0.0)


def test_the_first_step_of_a_warm_up_changes_nothing() -> None:
    config = replace(OptimConfig(learning_rate=1.0), warmup_ratio=0.5)
    optimizer = make_optimizer(config, 4)
    params = {"a/kernel": jnp.ones(3)}
    updates, state = optimizer.update({"a/kernel": jnp.ones(3)}, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["a/kernel"], 0.0)
    updates, _ = optimizer.update({"a/kernel": jnp.ones(3)}, state, params)
    np.testing.assert_allclose(updates["a/kernel"], -0.5, rtol=1e-4)
