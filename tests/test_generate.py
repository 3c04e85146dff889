"""generate.py: decoding with a cache against plain forward passes, and draws against their distribution."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from facellava_jax.axes import Batch
from facellava_jax.config import tiny
from facellava_jax.data import Sample, Visual, collate
from facellava_jax.generate import NO_TOKEN, Generator, Sampling, pick_tokens
from facellava_jax.models.facellava import FaceLlava
from facellava_jax.text import Medium

CONFIG = tiny().model
NO_EOS = 599  # an id beyond what the tests' rows come to


def visual(rng: np.random.Generator, kind: Any, frames: int) -> Visual:
    points = rng.random((frames, 68, 2), np.float32)
    return Visual(Medium(kind, frames), rng.normal(size=(frames, 56, 56, 3)).astype(np.float32), points)


def sampling(rows: int, temperature: Any = 0.0, top_k: Any = 0, top_p: Any = 1.0, seed: Any = 0) -> Sampling:
    """One setting for all rows, or one for each."""
    each = {"temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "seed": np.uint32}
    values = (temperature, top_k, top_p, seed)
    return Sampling(*(np.broadcast_to(np.asarray(v, t), rows) for v, t in zip(values, each.values(), strict=True)))


@pytest.fixture(scope="module")
def model(make_model: Callable[..., FaceLlava]) -> FaceLlava:
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def generator(model: FaceLlava) -> Generator:
    return Generator(model)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Rows of 5, 21, 70 and 3 tokens: text, an image, a clip, text."""
    rng = np.random.default_rng(0)
    image, clip = visual(rng, "image", 1), visual(rng, "video", 4)
    return [
        Sample([1, 5, 6, 7, 8], []),
        Sample([1, 9, -200, 10, 11, 12], [image]),
        Sample([1, *[-200] * 4, 13], [clip]),
        Sample([1, 14, 15], []),
    ]


@pytest.fixture(scope="module")
def batch(samples: list[Sample]) -> Batch:
    return collate(samples, CONFIG)


def generate(
    generator: Generator, batch: Batch, sampling: Sampling, stops: list[int], eos_id: int = NO_EOS
) -> np.ndarray:
    """The tokens of each row, decoded up to each of `stops`."""
    state = generator.prefill(batch, 32)
    for until in stops:
        state = generator.decode(state, sampling, eos_id, until)
    return np.asarray(state.tokens)[:, : stops[-1]]


@pytest.fixture(scope="module")
def greedy(generator: Generator, batch: Batch) -> np.ndarray:
    return generate(generator, batch, sampling(4), [24])


def test_decoding_with_a_cache_equals_whole_forward_passes(
    model: FaceLlava, generator: Generator, batch: Batch, greedy: np.ndarray
) -> None:
    """Each new token, and its logits, are those of a pass over the prompt and all tokens before it."""

    @nnx.jit
    def last_logits(model: FaceLlava, batch: Batch) -> jax.Array:
        h_BLD, _ = model(batch)
        last_B1D = jnp.take_along_axis(h_BLD, (jnp.asarray(batch.lengths) - 1)[:, None, None], axis=1)
        return model.decoder.logits(last_B1D)[:, 0]

    assert batch.lengths.tolist() == [5, 21, 70, 3]
    assert len(set(greedy.ravel().tolist())) > 20
    state = generator.prefill(batch, 32)
    tokens, lengths = batch.tokens.copy(), batch.lengths.copy()
    for step in range(24):
        logits = np.asarray(last_logits(model, batch._replace(tokens=tokens, lengths=lengths)))
        np.testing.assert_allclose(state.logits, logits, atol=2e-5, rtol=0)
        np.testing.assert_array_equal(greedy[:, step], logits.argmax(axis=1))
        state = generator.decode(state, sampling(4), NO_EOS, step + 1)
        tokens[np.arange(4), lengths] = greedy[:, step]
        lengths = lengths + 1


def test_chunks_make_no_difference(generator: Generator, batch: Batch, greedy: np.ndarray) -> None:
    drawing = sampling(
        4, temperature=[0.0, 1.0, 2.0, 0.7], top_k=[0, 0, 50, 0], top_p=[1, 0.9, 1, 1], seed=[0, 1, 2, 3]
    )
    whole = generate(generator, batch, drawing, [24])
    np.testing.assert_array_equal(whole, generate(generator, batch, drawing, [1, 2, 9, 9, 24]))
    np.testing.assert_array_equal(whole[0], greedy[0])
    assert (whole[1:] != greedy[1:]).any(axis=1).all()


def test_a_row_draws_what_it_draws_alone(generator: Generator, samples: list[Sample], batch: Batch) -> None:
    """Whatever rows stand beside it, and wherever in the batch it is."""
    options = [(1.0, 0, 1.0, 7), (0.8, 40, 1.0, 7), (1.5, 0, 0.7, 2**32 - 1), (0.0, 0, 1.0, 0)]
    together = generate(generator, batch, sampling(4, *zip(*options, strict=True)), [16])
    order = [2, 3, 0, 1]
    moved_batch = collate([samples[row] for row in order], CONFIG)
    moved = generate(generator, moved_batch, sampling(4, *zip(*(options[row] for row in order), strict=True)), [16])
    np.testing.assert_array_equal(moved, together[order])
    for row, option in enumerate(options):
        alone = generate(generator, collate([samples[row]], CONFIG), sampling(1, *option), [16])
        np.testing.assert_array_equal(alone[0], together[row])


def test_seeds_of_equal_prompts_tell_them_apart(generator: Generator, samples: list[Sample]) -> None:
    batch = collate([samples[0]] * 4, CONFIG)
    tokens = generate(generator, batch, sampling(4, temperature=1.0, seed=[5, 6, 5, 7]), [16])
    np.testing.assert_array_equal(tokens[0], tokens[2])
    assert len({tuple(row) for row in tokens.tolist()}) == 3


def test_a_row_that_ends_leaves_the_others(generator: Generator, batch: Batch, greedy: np.ndarray) -> None:
    """With a token of one row as the end, each row is its greedy answer up to that token, and the loop ends early."""
    eos = int(greedy[1, 5])
    expected = greedy.copy()
    for row in expected:
        ends = np.flatnonzero(row == eos)
        if len(ends):
            row[ends[0] + 1 :] = NO_TOKEN
    assert (expected == NO_TOKEN).any() and (expected[:, -1] != NO_TOKEN).any()
    np.testing.assert_array_equal(generate(generator, batch, sampling(4), [24], eos), expected)


def test_decoding_stops_when_every_row_has_ended(
    generator: Generator, samples: list[Sample], greedy: np.ndarray
) -> None:
    eos = int(greedy[1, 5])
    first = greedy[1].tolist().index(eos)
    state = generator.prefill(collate([samples[1]], CONFIG), 32)
    state = generator.decode(state, sampling(1), eos, 32)
    assert int(state.step) == first + 1
    assert bool(state.done.all())
    assert np.asarray(state.tokens)[0].tolist() == greedy[1, : first + 1].tolist() + [NO_TOKEN] * (31 - first)


def test_rows_that_fill_the_batch_up_are_done_from_the_start(
    generator: Generator, samples: list[Sample], greedy: np.ndarray
) -> None:
    batch = collate(samples[:3], CONFIG, rows=4)
    state = generator.prefill(batch, 32)
    assert np.asarray(state.done).tolist() == [False, False, False, True]
    state = generator.decode(state, sampling(4), NO_EOS, 24)
    np.testing.assert_array_equal(np.asarray(state.tokens)[:3, :24], greedy[:3])
    assert (np.asarray(state.tokens)[3] == NO_TOKEN).all()


def test_the_old_state_is_donated(generator: Generator, batch: Batch) -> None:
    """The cache is updated in place: there is never a second one."""
    state = generator.prefill(batch, 32)
    where = state.cache.k.unsafe_buffer_pointer()
    after = generator.decode(state, sampling(4), NO_EOS, 3)
    assert all(array.is_deleted() for array in jax.tree.leaves(state))
    assert after.cache.k.unsafe_buffer_pointer() == where


# --- picking one token


def pick(logits: Any, step: int = 0, **options: Any) -> np.ndarray:
    logits_BV = jnp.atleast_2d(jnp.asarray(logits, jnp.float32))
    return np.asarray(jax.jit(pick_tokens)(logits_BV, sampling(len(logits_BV), **options), jnp.int32(step)))


def draw(logits: Any, count: int = 20_000, **options: Any) -> np.ndarray:
    """How often each token is drawn in as many rows of seeds 0, 1, ..."""
    rows = np.broadcast_to(np.asarray(logits, np.float32), (count, len(logits)))
    return np.bincount(pick(rows, seed=np.arange(count), **options), minlength=len(logits))


def expected_shares(logits: Any, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """The distribution to draw from: tempered, cut to `top_k`, then to `top_p`; of equals the first is kept."""
    warm = np.asarray(logits, np.float64) / temperature
    order = sorted(range(len(warm)), key=lambda token: (-warm[token], token))
    kept = order[: top_k or None]
    shares = {token: np.exp(warm[token] - warm[order[0]]) for token in kept}
    total, held, nucleus = sum(shares.values()), 0.0, []
    for token in kept:
        nucleus.append(token)
        held += shares[token] / total
        if held >= top_p:
            break
    out = np.zeros(len(warm))
    out[nucleus] = [shares[token] for token in nucleus]
    return out / out.sum()


UNEVEN = [0.3, 2.0, -1.0, 1.2, 0.9, -0.4, 1.7, 0.0]


@pytest.mark.parametrize(
    ("logits", "options", "kept"),
    [
        pytest.param(UNEVEN, {}, 8, id="all"),
        pytest.param(UNEVEN, {"temperature": 0.3}, 8, id="cold"),
        pytest.param(UNEVEN, {"temperature": 5.0}, 8, id="hot"),
        pytest.param(UNEVEN, {"top_k": 3}, 3, id="top_k"),
        pytest.param(UNEVEN, {"top_k": 100}, 8, id="top_k_above_the_vocabulary"),
        pytest.param(UNEVEN, {"top_k": 1}, 1, id="top_k_1"),
        pytest.param(UNEVEN, {"top_p": 0.6}, 3, id="top_p"),
        pytest.param(UNEVEN, {"top_p": 1e-6}, 1, id="top_p_tiny"),
        pytest.param(UNEVEN, {"top_k": 4, "top_p": 0.7, "temperature": 0.8}, 2, id="top_p_of_what_top_k_leaves"),
        pytest.param(UNEVEN, {"top_k": 4, "top_p": 0.9}, 4, id="top_p_near_all_of_what_top_k_leaves"),
        pytest.param(np.log([4, 2, 1, 1]), {"top_p": 0.74}, 2, id="top_p_below_the_boundary"),
        pytest.param([1.0, 1.0, 1.0, 1.0], {"top_p": 0.5}, 2, id="top_p_at_the_boundary_of_equals"),
        pytest.param([1.0, 1.0, 1.0, 1.0], {"top_p": 0.51}, 3, id="top_p_past_the_boundary_of_equals"),
        pytest.param([1.0, 1.0, 1.0, 1.0], {"top_k": 3}, 3, id="top_k_among_equals"),
        pytest.param([0.0, 5.0, 5.0, 0.0], {"top_k": 2}, 2, id="top_k_of_two_equals"),
    ],
)
def test_draws_follow_the_distribution(logits: Any, options: dict[str, Any], kept: int) -> None:
    """A chi-square test on 20,000 draws with fixed seeds, and no draw outside the tokens that are kept."""
    options = {"temperature": 1.0, **options}
    shares = expected_shares(logits, **options)
    counts = draw(logits, **options)
    assert np.count_nonzero(shares) == kept
    assert not counts[shares == 0].any()
    # Tokens too rare for the test count as one.
    rare = shares * counts.sum() < 5
    observed, wanted = (np.append(x[~rare], x[rare].sum()) for x in (counts, shares * counts.sum()))
    assert (counts[~rare] > 0).all()
    if kept > 1:
        assert stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


def test_a_wrong_distribution_would_be_noticed() -> None:
    counts = draw(UNEVEN, temperature=1.1)
    assert stats.chisquare(counts, expected_shares(UNEVEN) * counts.sum()).pvalue < 1e-3


def test_steps_draw_anew() -> None:
    rows = np.zeros((500, 8), np.float32)
    first, second = (pick(rows, step, temperature=1.0, seed=np.arange(500)) for step in (0, 1))
    table = np.zeros((8, 8))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


LIKELIEST = {
    "greedy": {},
    "cold": {"temperature": 1e-6},
    "coldest": {"temperature": 1e-38},
    "top_k_1": {"temperature": 1.0, "top_k": 1},
    "top_p_tiny": {"temperature": 1.0, "top_p": 1e-9},
}


@pytest.mark.parametrize("options", LIKELIEST.values(), ids=LIKELIEST)
def test_the_likeliest_token(options: dict[str, Any]) -> None:
    """Also where dividing by the temperature overflows, and where all logits are far below 0."""
    rng = np.random.default_rng(0)
    logits = rng.permuted(np.tile(np.arange(50) / 8, (200, 1)), axis=1) - 10 * (np.arange(200)[:, None] % 7)
    np.testing.assert_array_equal(pick(logits, seed=np.arange(200), **options), logits.argmax(axis=1))


@pytest.mark.parametrize("name", ["greedy", "top_k_1", "top_p_tiny"])
def test_of_equals_the_first_is_the_likeliest(name: str) -> None:
    logits = np.random.default_rng(0).integers(0, 3, (200, 50))
    np.testing.assert_array_equal(pick(logits, seed=np.arange(200), **LIKELIEST[name]), logits.argmax(axis=1))


def test_rows_pick_in_their_own_way() -> None:
    """Options are data: greedy, hot, top-k and top-p rows share a batch, and each is as in a batch of its kind."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(64, 30)).astype(np.float32)
    kinds = [(0.0, 0, 1.0), (2.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.5)]
    options = [kinds[row % 4] for row in range(64)]
    temperature, top_k, top_p = zip(*options, strict=True)
    mixed = pick(logits, temperature=temperature, top_k=top_k, top_p=top_p, seed=np.arange(64))
    for kind, (t, k, p) in enumerate(kinds):
        own = pick(logits, temperature=t, top_k=k, top_p=p, seed=np.arange(64))
        np.testing.assert_array_equal(mixed[kind::4], own[kind::4])
