"""data: the order of a run, from indexes alone."""

import pickle
import time
import tracemalloc
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from facellava_jax.data import DataError, Places
from facellava_jax.data.index import Index
from facellava_jax.data.plan import EMPTY, Plan


def make_index(images: Any, videos: Any) -> Index:
    images, videos = np.asarray(images, np.uint8), np.asarray(videos, np.uint8)
    nothing = np.zeros(len(images), np.uint8)
    return Index(
        *(images, videos, nothing, nothing),
        *(nothing.astype(np.int32), nothing.astype(bool), nothing.astype(np.uint64)),
    )


def make_plan(*sizes: int, weights: Any = None, batch_size: int = 4, epochs: int = 1, seed: int = 0) -> Plan:
    """Of lists of so many records: a third text, a third pictures (1 to 3 in each), a third clips; lengths to 300."""
    rng = np.random.default_rng(5)
    indexes, lengths = [], []
    for size in sizes:
        number = np.arange(size)
        indexes.append(make_index(np.where(number % 3 == 1, 1 + number % 4 % 3, 0), number % 3 == 2))
        lengths.append(rng.integers(1, 300, size).astype(np.int32))
    weights = weights or [1.0] * len(sizes)
    return Plan(indexes, lengths, weights, batch_size=batch_size, epochs=epochs, seed=seed)


def records_of(plan: Plan, first: int = 0, end: int | None = None) -> list[int]:
    batches = [plan.batch(step).records for step in range(first, plan.steps if end is None else end)]
    records = np.concatenate(batches)
    return records[records != EMPTY].tolist()


def test_every_record_is_shown_once_in_a_batch_that_it_fits() -> None:
    plan = make_plan(100, 40)
    assert sorted(records_of(plan)) == list(range(140))
    rng, kinds = np.random.default_rng(5), Counter()
    lengths = np.concatenate([rng.integers(1, 300, size) for size in (100, 40)])
    for step in range(plan.steps):
        places, length, records = plan.batch(step)
        kinds[places, length] += 1
        assert records.shape == (4,)
        for record in records[records != EMPTY].tolist():
            number = plan.locate(record)[1]
            assert places == Places.of((1 + number % 4 % 3) * (number % 3 == 1), int(number % 3 == 2))
            assert length == next(size for size in (64, 128, 256, 384) if size >= lengths[record])
    assert {places for places, _ in kinds} == {Places(0, 0), Places(1, 0), Places(2, 0), Places(4, 0), Places(0, 1)}
    # One batch of each shape at most has empty rows, and these are its last.
    short = Counter()
    for step in range(plan.steps):
        places, length, records = plan.batch(step)
        empty = records == EMPTY
        short[places, length] += empty.any()
        assert not empty.all() and (np.diff(empty.astype(int)) >= 0).all()
    assert max(short.values()) == 1


def test_records_are_located_in_their_lists() -> None:
    plan = make_plan(3, 0, 2)
    assert [plan.locate(number) for number in range(5)] == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]


def test_the_order_is_the_seeds() -> None:
    one, same, other = make_plan(60), make_plan(60), make_plan(60, seed=1)
    assert records_of(one) == records_of(same) != records_of(other)
    assert sorted(records_of(other)) == sorted(records_of(one))
    assert one.fingerprint == same.fingerprint
    sent = pickle.loads(pickle.dumps(one))
    assert records_of(sent) == records_of(one) and sent.fingerprint == one.fingerprint
    fingerprints = {one.fingerprint, other.fingerprint, make_plan(61).fingerprint, make_plan(30, 30).fingerprint}
    fingerprints |= {make_plan(60, batch_size=5).fingerprint, make_plan(60, weights=[2.0]).fingerprint}
    assert len(fingerprints) == 6
    # It is the same everywhere and always: this is what the generator's stream gives today.
    assert make_plan(12).select(0).tolist() == [0, 8, 9, 3, 7, 5, 1, 11, 2, 10, 6, 4]


def test_batches_and_records_are_shuffled() -> None:
    plan = make_plan(300, batch_size=2, epochs=2)
    shapes = [plan.batch(step)[:2] for step in range(plan.steps)]
    changes = sum(before != after for before, after in pairwise(shapes))
    assert changes > 0.7 * len(shapes)
    half = plan.count_steps(0)
    first, second = records_of(plan, 0, half), records_of(plan, half)
    assert sorted(first) == sorted(second) == list(range(300))
    assert first != second
    assert abs(np.corrcoef(first, range(300))[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (1.0, [[1], [1], [1], [1]]),
        (2.0, [[2], [2], [2], [2]]),
        (0.5, [[0, 1]] * 4),
        (1.5, [[1, 2]] * 4),
        (0.25, [[0, 1]] * 4),
    ],
)
def test_weights_say_how_often_an_epoch_shows_a_record(weight: float, shown: list[list[int]]) -> None:
    plan = make_plan(20, 8, weights=[weight, 1.0], epochs=4)
    ends = np.cumsum([0, *(plan.count_steps(epoch) for epoch in range(4))])
    assert ends[-1] == plan.steps
    total = Counter[int]()
    for epoch, allowed in enumerate(shown):
        counts = Counter(records_of(plan, ends[epoch], ends[epoch + 1]))
        assert sorted({counts[record] for record in range(20)}) == allowed
        assert sum(counts[record] for record in range(20)) == 20 * weight
        assert all(counts[record] == 1 for record in range(20, 28))
        total += counts
    # Halves are new ones until all are through.
    assert {total[record] for record in range(20)} == {int(4 * weight)}


def test_what_was_shown_before_a_step() -> None:
    plan = make_plan(50, weights=[1.5], epochs=3)
    for until in (0, 1, plan.count_steps(0), plan.count_steps(0) + 3, plan.steps):
        counts = Counter(records_of(plan, 0, until)) if until else Counter()
        assert plan.show(until, slice(0, 4)).tolist() == [counts[record] for record in range(50)]
    hosts = [plan.show(plan.steps, slice(first, first + 2)) for first in (0, 2)]
    assert (sum(hosts) == plan.show(plan.steps, slice(0, 4))).all() and hosts[1].sum() < hosts[0].sum()


def test_no_record_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no record to train on"):
        make_plan(0)
    with pytest.raises(DataError, match="the weights are so low"):
        make_plan(3, weights=[0.1])


def test_a_million_records_are_planned_in_little_time_and_memory() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 10**6)
    index, lengths = make_index(kinds, 1 - kinds), rng.integers(100, 3000, 10**6).astype(np.int32)
    tracemalloc.start()
    begin = time.perf_counter()
    plan = Plan([index], [lengths], [1.0], batch_size=168, epochs=1, seed=0)
    plan.batch(plan.steps // 2)
    seconds = time.perf_counter() - begin
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 20 and kept < 60e6
    assert 10**6 <= plan.steps * 168 < 1.01 * 10**6
