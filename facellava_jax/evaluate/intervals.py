"""Bootstrap intervals: where a figure could have been, had other examples been drawn."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES, SEED = 1000, 0
PERCENTILES = (2.5, 97.5)
# Counts that are held at a time.
CHUNK = 4_000_000


class Interval(NamedTuple):
    low: float
    high: float


class Ratio(NamedTuple):
    """A figure that is one sum over the examples, divided by another: a share, a mean, a recall, an F1."""

    part: np.ndarray
    whole: np.ndarray


def bootstrap_ratios(ratios: Mapping[str, Ratio], means: Mapping[str, list[str]] | None = None) -> dict[str, Interval]:
    """The interval of each ratio, and of means over several of them: all of the same resamples.

    A ratio that a resample leaves undefined, as the recall of a class that was not drawn, has no part in its mean.
    """
    rows, outcomes_N = np.unique(np.stack([*_columns(ratios)], axis=1), axis=0, return_inverse=True)
    parts_KM, wholes_KM = np.split(rows, 2, axis=1)
    column = {name: number for number, name in enumerate(ratios)}
    groups = {name: [column[each] for each in group] for name, group in (means or {}).items()}

    def compute(counts_RK: np.ndarray) -> np.ndarray:
        values_RM = divide(counts_RK @ parts_KM, counts_RK @ wholes_KM)
        return np.column_stack([values_RM, *(mean_of_known(values_RM[:, group]) for group in groups.values())])

    ends = bootstrap(outcomes_N.ravel(), len(rows), compute)
    return {name: Interval(*map(float, pair)) for name, pair in zip([*ratios, *groups], ends.T, strict=True)}


def _columns(ratios: Mapping[str, Ratio]) -> list[np.ndarray]:
    parts = [np.asarray(ratio.part, float) for ratio in ratios.values()]
    return parts + [np.asarray(ratio.whole, float) for ratio in ratios.values()]


def bootstrap(outcomes_N: np.ndarray, kinds: int, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The 95 % percentile intervals (2, M) of M figures.

    `outcomes_N` says which of `kinds` outcomes each example had. As many examples are drawn with replacement, always by
    the same draws; `compute` takes counts of the outcomes (R, kinds), a resample a row, and gives the figures (R, M).
    Resamples where one is NaN are left out; an interval of nothing else is NaN.
    """
    rng, n = np.random.default_rng(SEED), len(outcomes_N)
    parts = []
    for rows in np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * kinds // CHUNK)):
        counts = [np.bincount(outcomes_N[rng.integers(n, size=n)], minlength=kinds) for _ in rows]
        parts.append(compute(np.stack(counts)))
    values_RM = np.concatenate(parts)
    ends = np.full((2, values_RM.shape[1]), np.nan)
    known = ~np.isnan(values_RM).all(axis=0)
    if known.any():
        ends[:, known] = np.nanpercentile(values_RM[:, known], PERCENTILES, axis=0)
    return ends


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where nothing is."""
    return divide(np.nansum(values, axis=-1), (~np.isnan(values)).sum(axis=-1))


def divide(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    """NaN where `whole` is 0."""
    part = np.asarray(part, float)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=np.asarray(whole) != 0)
