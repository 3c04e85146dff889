"""Generation on the device: prefill a batch of prompts, then decode in a while loop, a chunk at a time."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from .axes import Batch, KVCache
from .models.facellava import FaceLlava

NO_TOKEN = -1  # what a row holds after its end


class Sampling(NamedTuple):
    """How each row picks its tokens, as arrays, so that no choice of them compiles anything anew.

    Temperature 0 is greedy; `top_k` 0 and `top_p` 1 are off. Draws depend on the row's seed and step alone, so that a
    row of a batch is what it is on its own.
    """

    temperature: Float[Array | np.ndarray, " B"]
    top_k: Int[Array | np.ndarray, " B"]
    top_p: Float[Array | np.ndarray, " B"]
    seed: UInt32[Array | np.ndarray, " B"]


class Decoding(NamedTuple):
    """A batch on its way: the cache's slots are the L of the prompts, then one for each token to come (A of them)."""

    cache: KVCache
    visible: Bool[Array, "B S"]
    logits: Float[Array, "B V"]
    lengths: Int[Array, " B"]
    tokens: Int[Array, "B A"]
    step: Int[Array, ""]
    done: Bool[Array, " B"]


class Generator:
    """Compiled prefill and decoding of one model."""

    def __init__(self, model: FaceLlava) -> None:
        self.graphdef, self.params = nnx.split(model)

    def prefill(self, batch: Batch, answer_slots: int) -> Decoding:
        """Reads the prompts; the answers can grow to `answer_slots` tokens."""
        return _prefill(self.graphdef, self.params, batch, answer_slots)

    def decode(self, state: Decoding, sampling: Sampling, eos_id: int, until: int) -> Decoding:
        """Goes on until `until` tokens are there in all, or every row has ended. The old state is donated."""
        return _decode(self.graphdef, self.params, state, sampling, np.int32(eos_id), np.int32(until))


@partial(jax.jit, static_argnames=("graphdef", "answer_slots"))
def _prefill(graphdef: nnx.GraphDef, params: nnx.State, batch: Batch, answer_slots: int) -> Decoding:
    model = nnx.merge(graphdef, params)
    rows, length = batch.tokens.shape
    cache = model.decoder.make_cache(rows, length + answer_slots)
    h_BLD, cache = model(batch, cache)
    lengths_B = jnp.asarray(batch.lengths)
    last_B1D = jnp.take_along_axis(h_BLD, (lengths_B - 1)[:, None, None], axis=1)
    return Decoding(
        cache=cache,
        visible=jnp.arange(length + answer_slots) < lengths_B[:, None],
        logits=model.decoder.logits(last_B1D)[:, 0],
        lengths=lengths_B,
        tokens=jnp.full((rows, answer_slots), NO_TOKEN),
        step=jnp.int32(0),
        # Rows that only fill the batch up have nothing to say.
        done=lengths_B == 0,
    )


@partial(jax.jit, static_argnames="graphdef", donate_argnames="state")
def _decode(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    state: Decoding,
    sampling: Sampling,
    eos_id: Int[Array, ""],
    until: Int[Array, ""],
) -> Decoding:
    model = nnx.merge(graphdef, params)
    prompt_slots = state.visible.shape[1] - state.tokens.shape[1]

    def go_on(state: Decoding) -> Bool[Array, ""]:
        return (state.step < until) & ~state.done.all()

    def advance(state: Decoding) -> Decoding:
        token_B = jnp.where(state.done, NO_TOKEN, pick_tokens(state.logits, sampling, state.step))
        # All rows write the same slot, whatever their length: the mask and the positions tell them apart.
        slot = prompt_slots + state.step
        visible_BS = state.visible.at[:, slot].set(True)
        h_B1D, cache = model.decoder(
            model.decoder.embed(jnp.maximum(token_B, 0)[:, None]),
            (state.lengths + state.step)[:, None],
            visible_BS[:, None],
            state.cache,
            slot,
        )
        return Decoding(
            cache=cache,
            visible=visible_BS,
            logits=model.decoder.logits(h_B1D)[:, 0],
            lengths=state.lengths,
            tokens=state.tokens.at[:, state.step].set(token_B),
            step=state.step + 1,
            done=state.done | (token_B == eos_id),
        )

    return jax.lax.while_loop(go_on, advance, state)


def pick_tokens(logits_BV: Float[Array, "B V"], sampling: Sampling, step: Int[Array, ""]) -> Int[Array, " B"]:
    """One token a row: the likeliest, or a draw from the tempered distribution cut to `top_k`, then to `top_p`.

    `top_p` keeps the smallest set of likeliest tokens that holds at least that share (Holtzman et al. 2020).
    """
    greedy_B = jnp.argmax(logits_BV, axis=-1)

    def draw() -> Int[Array, " B"]:
        warm_B1 = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)[:, None]
        order_BV = jnp.argsort(-logits_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1) / warm_B1
        rank_V = jnp.arange(logits_BV.shape[-1])
        kept_BV = (rank_V < sampling.top_k[:, None]) | (sampling.top_k[:, None] == 0)
        share_BV = jax.nn.softmax(jnp.where(kept_BV, sorted_BV, -jnp.inf), axis=-1)
        before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
        # The sum may round to 1 before the end: a share of 1 keeps all, whatever it rounds to.
        kept_BV &= (before_BV < sampling.top_p[:, None]) | (rank_V == 0) | (sampling.top_p[:, None] == 1)
        keys_B = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), step))(sampling.seed)
        choice_B = jax.vmap(jax.random.categorical)(keys_B, jnp.where(kept_BV, sorted_BV, -jnp.inf))
        drawn_B = jnp.take_along_axis(order_BV, choice_B[:, None], axis=-1)[:, 0]
        return jnp.where(sampling.temperature > 0, drawn_B, greedy_B)

    # Sorting the vocabulary costs more than a small model's step: greedy batches go without.
    return jax.lax.cond((sampling.temperature > 0).any(), draw, lambda: greedy_B)
