"""Generation on the device: prefill a batch of prompts, then decode in a while loop, a chunk at a time, or score."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int, UInt32

from .axes import Batch, KVCache
from .models.facellava import FaceLlava
from .sharding import Tree, assemble, constrain_cache, constrain_rows, count_places, place_batch

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


class Branches(NamedTuple):
    """Answers to the prompt of each row, one after another in its A places, each without its last token.

    `targets` are the tokens that follow each, `answers` the number of the answer that it is of, -1 where nothing is,
    and `positions` its place in that answer.
    """

    tokens: Int[Array | np.ndarray, "B A"]
    targets: Int[Array | np.ndarray, "B A"]
    answers: Int[Array | np.ndarray, "B A"]
    positions: Int[Array | np.ndarray, "B A"]


class Generator:
    """Compiled prefill, decoding and scoring of one model.

    With a mesh, on which the model's parameters lie, a batch's rows are divided over its devices: `places` divides
    their number.
    """

    def __init__(self, model: FaceLlava, mesh: Mesh | None = None) -> None:
        self.graphdef, self.params = nnx.split(model)
        self.mesh = mesh
        self.places = count_places(mesh) if mesh else 1

    def prefill(self, batch: Batch, answer_slots: int) -> Decoding:
        """Reads the prompts; the answers can grow to `answer_slots` tokens."""
        return _prefill(self.graphdef, self.params, self.mesh, self._place(batch), answer_slots)

    def decode(self, state: Decoding, sampling: Sampling, eos_id: int, until: int) -> Decoding:
        """Goes on until `until` tokens are there in all, or every row has ended. The old state is donated."""
        return _decode(self.graphdef, self.params, self.mesh, state, sampling, np.int32(eos_id), np.int32(until))

    def score(self, batch: Batch, branches: Branches) -> Float32[Array, "B A"]:
        """The log-probability of each target; at an answer's first place that of its first token is counted in."""
        return _score(self.graphdef, self.params, self.mesh, self._place(batch), self._place(branches))

    def _place(self, rows: Tree) -> Tree:
        return place_batch(rows, self.mesh) if self.mesh else rows


def _merge(graphdef: nnx.GraphDef, params: nnx.State, mesh: Mesh | None) -> FaceLlava:
    model = nnx.merge(graphdef, params)
    if mesh is None:
        return model
    flat = {"/".join(map(str, path)): param[...] for path, param in nnx.to_flat_state(params)}
    return assemble(model.config, flat, mesh, remat=False)


@partial(jax.jit, static_argnames=("graphdef", "mesh", "answer_slots"))
def _prefill(graphdef: nnx.GraphDef, params: nnx.State, mesh: Mesh | None, batch: Batch, answer_slots: int) -> Decoding:
    return _settle(_read(_merge(graphdef, params, mesh), mesh, batch, answer_slots), mesh)


def _read(model: FaceLlava, mesh: Mesh | None, batch: Batch, answer_slots: int) -> Decoding:
    """The prompts in the cache, and what comes after them."""
    rows, length = batch.tokens.shape
    empty = model.decoder.make_cache(rows, length + answer_slots)
    embeds_BLD = model.splice(batch, model.encode(batch))
    if mesh:
        empty, embeds_BLD = constrain_cache(empty, mesh), constrain_rows(embeds_BLD, mesh)
    lengths_B = jnp.asarray(batch.lengths)
    h_BLD, cache = model.read(embeds_BLD, lengths_B, empty)
    assert cache  # one that is given is filled
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


def _settle(state: Decoding, mesh: Mesh | None) -> Decoding:
    """The state where it lies before and after every chunk, so that going on compiles once and copies nothing."""
    if mesh is None:
        return state
    rows = {name: value for name, value in state._asdict().items() if name not in ("cache", "step")}
    return state._replace(cache=constrain_cache(state.cache, mesh), **constrain_rows(rows, mesh))


@partial(jax.jit, static_argnames=("graphdef", "mesh"), donate_argnames="state")
def _decode(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    mesh: Mesh | None,
    state: Decoding,
    sampling: Sampling,
    eos_id: Int[Array, ""],
    until: Int[Array, ""],
) -> Decoding:
    model = _merge(graphdef, params, mesh)
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
        assert cache
        return Decoding(
            cache=cache,
            visible=visible_BS,
            logits=model.decoder.logits(h_B1D)[:, 0],
            lengths=state.lengths,
            tokens=state.tokens.at[:, state.step].set(token_B),
            step=state.step + 1,
            done=state.done | (token_B == eos_id),
        )

    return _settle(jax.lax.while_loop(go_on, advance, state), mesh)


@partial(jax.jit, static_argnames=("graphdef", "mesh"))
def _score(
    graphdef: nnx.GraphDef, params: nnx.State, mesh: Mesh | None, batch: Batch, branches: Branches
) -> Float32[Array, "B A"]:
    model = _merge(graphdef, params, mesh)
    state = _read(model, mesh, batch, branches.tokens.shape[1])
    slot, tokens_BA = batch.tokens.shape[1], jnp.asarray(branches.tokens)
    # A token sees the prompt, of which there is one copy for all answers, and those before it in its own answer.
    same_BAA = branches.answers[:, :, None] == branches.answers[:, None]
    earlier_BAA = branches.positions[:, :, None] >= branches.positions[:, None]
    prompt_BAL = jnp.broadcast_to(state.visible[:, None, :slot], (*tokens_BA.shape, slot))
    h_BAD, _ = model.decoder(
        model.decoder.embed(tokens_BA),
        state.lengths[:, None] + branches.positions,
        jnp.concatenate([prompt_BAL, same_BAA & earlier_BAA], axis=2),
        state.cache,
        slot,
    )
    logits_BAV = model.decoder.logits(h_BAD)
    next_BA = jnp.take_along_axis(logits_BAV, branches.targets[..., None], axis=2)[..., 0]
    next_BA -= jax.nn.logsumexp(logits_BAV, axis=2)
    first_BA = jnp.take_along_axis(state.logits, tokens_BA, axis=1)
    first_BA -= jax.nn.logsumexp(state.logits, axis=1, keepdims=True)
    return next_BA + jnp.where(branches.positions == 0, first_BA, 0.0)


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
