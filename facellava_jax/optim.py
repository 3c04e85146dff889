"""AdamW as the original's trainer runs it: warm-up and cosine, clipping, decay of matrices alone, rates of their own.

Parameters are flat dicts by path.
"""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .experiment import PROJECTOR, OptimConfig
from .extras import require

Tree = Mapping[str, Any]


class Optimizer(NamedTuple):
    """An optax optimizer, and the learning rate that it applies at each step (the projector's is in proportion)."""

    init: Callable[[Tree], Any]
    update: Callable[[Tree, Any, Tree], tuple[Tree, Any]]
    learning_rate: Callable[[int | Int[Array, ""]], Float[Array, ""]]


def make_optimizer(config: OptimConfig, steps: int) -> Optimizer:
    """The optimizer of a run of so many steps.

    Raises ImportError where optax is not installed.
    """
    optax = require("optax", "train")
    factor = make_schedule(config, steps)
    chain = optax.chain(
        optax.stateless(lambda grads, params: clip(grads, config.clip_norm)),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: {path: decays(path) for path in params}),
        optax.stateless(
            lambda updates, params: {path: base_rate(path, config) * update for path, update in updates.items()}
        ),
        optax.scale_by_schedule(lambda step: -factor(step)),
    )
    return Optimizer(chain.init, chain.update, lambda step: config.learning_rate * factor(step))


def make_schedule(config: OptimConfig, steps: int) -> Callable[[int | Int[Array, ""]], Float[Array, ""]]:
    """The factor, from 0 to 1, of every learning rate at a step, counted from 0.

    It rises from 0 in the first ceil(warmup_ratio * steps) steps, so that the first of them changes nothing, and falls
    to 0 after the last step (transformers' get_cosine_schedule_with_warmup).
    """
    warmup = math.ceil(config.warmup_ratio * steps)

    def factor(step: int | Int[Array, ""]) -> Float[Array, ""]:
        progress = jnp.minimum((step - warmup) / max(1, steps - warmup), 1.0)
        level = 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) if config.schedule == "cosine" else 1.0
        return jnp.where(step < warmup, step / max(1, warmup), level)

    return factor


def decays(path: str) -> bool:
    """Whether weight decay applies: to everything but biases and norms."""
    return path.rpartition("/")[2] not in ("bias", "scale")


def base_rate(path: str, config: OptimConfig) -> float:
    """A parameter's learning rate before the schedule."""
    own = config.projector_learning_rate
    if own is not None and any(fnmatchcase(path, pattern) for pattern in PROJECTOR):
        return own
    return config.learning_rate


def clip(grads: Tree, max_norm: float | None) -> Tree:
    """Gradients scaled down to a global norm of `max_norm`, as torch's clip_grad_norm_ does it."""
    if max_norm is None:
        return grads
    scale = jnp.minimum(max_norm / (global_norm(grads) + 1e-6), 1.0)
    return {path: grad * scale for path, grad in grads.items()}


def global_norm(grads: Tree) -> Float[Array, ""]:
    """The Euclidean norm of all gradients together."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(grad)) for grad in jax.tree.leaves(grads)), jnp.float32(0)))
