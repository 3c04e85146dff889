"""What scored candidates tell beyond the best of them: how well they rank, and how far they can be believed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..extras import require
from .intervals import Interval, Ratio, bootstrap, bootstrap_ratios, divide

BINS = 10


class Calibration(NamedTuple):
    """How far probabilities of the best candidate are those of its being right."""

    brier: float
    """Half the mean squared distance from the truth, over all candidates: 0 to 1; of two, that of either."""
    brier_interval: Interval
    ece: float
    """The mean distance between confidence and accuracy, over `BINS` bins of equal width."""
    bins: list[dict[str, float]]
    """Of the bins that are not empty: `confidence`, `accuracy`, `n`."""


def measure_calibration(truth: Sequence[str], scores: Sequence[Mapping[str, float]]) -> Calibration:
    """Of N examples' true labels and their candidates' probabilities, which are scaled to a sum of 1."""
    labels = sorted({*truth, *(label for row in scores for label in row)})
    scores_NC = np.array([[row.get(label, 0.0) for label in labels] for row in scores])
    scores_NC /= scores_NC.sum(axis=1, keepdims=True)
    true_NC = np.array(truth)[:, None] == np.array(labels)
    losses_N = ((scores_NC - true_NC) ** 2).sum(axis=1) / 2
    intervals = bootstrap_ratios({"brier": Ratio(losses_N, np.ones(len(losses_N)))})
    confidence_N = scores_NC.max(axis=1)
    right_N = true_NC[np.arange(len(truth)), scores_NC.argmax(axis=1)]
    bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    n_B = np.bincount(bin_N, minlength=BINS)
    confidence_B = divide(np.bincount(bin_N, confidence_N, BINS), n_B)
    accuracy_B = divide(np.bincount(bin_N, right_N, BINS), n_B)
    filled = np.flatnonzero(n_B)
    ece = np.abs(confidence_B - accuracy_B)[filled] @ n_B[filled] / len(truth)
    bins = [
        {"confidence": float(confidence_B[each]), "accuracy": float(accuracy_B[each]), "n": int(n_B[each])}
        for each in filled
    ]
    return Calibration(float(losses_N.mean()), intervals["brier"], float(ece), bins)


def measure_auc(positive_N: np.ndarray, score_N: np.ndarray) -> tuple[float, Interval]:
    """The chance that a positive example has a higher score than a negative one, a tie being half; both must occur."""
    value = float(require("sklearn.metrics", "eval").roc_auc_score(positive_N, score_N))
    distinct, rank_N = np.unique(score_N, return_inverse=True)

    def compute(counts_RK: np.ndarray) -> np.ndarray:
        negative_RS, positive_RS = np.split(counts_RK.astype(float), 2, axis=1)
        below_RS = np.cumsum(negative_RS, axis=1) - negative_RS / 2
        pairs_R = positive_RS.sum(axis=1) * negative_RS.sum(axis=1)
        return divide((positive_RS * below_RS).sum(axis=1), pairs_R)[:, None]

    ends = bootstrap(rank_N + len(distinct) * positive_N, 2 * len(distinct), compute)
    return value, Interval(*map(float, ends[:, 0]))
