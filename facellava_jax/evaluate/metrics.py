"""Metrics of predictions, each with a bootstrap interval and the paper's number beside it.

An answer that says nothing about its task (a label of None) is wrong, in a way that cannot flatter:

- emotion, deepfake: its class is "unparsed", which is never the true one.
- action units: it misses every unit that is there. It claims none, so precision does not know of it.
- attributes: it is wrong about all of them.
- age: its error is that of the worst age from 0 to 100. The mean over the answers that name an age is in the details.

What does not occur is left out: UAR is the mean over the classes that are among the truths, and an action unit that is
neither among the truths nor among the answers has no F1 and no part in the mean.

An attribute that an answer does not speak of is taken as absent, because answers name what is there ("She wears
glasses."). `No_Beard` is the name of an absence: a face whose beard nobody mentions has none. What share of the
attributes is spoken of, and the accuracy over these alone, are in the details.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np

from ..answers import ATTRIBUTES, EMOTIONS, Label, Task
from ..extras import require
from .benchmark import Benchmark, BenchmarkError
from .intervals import Interval, Ratio, bootstrap_ratios, divide, mean_of_known
from .probabilities import measure_auc, measure_calibration

UNPARSED = "unparsed"
VERDICTS = ("real", "fake")
ABSENCES = {"No_Beard"}
AGES = (0.0, 100.0)
"""Years among which an answer without an age has the one that is farthest from the truth."""
CLOSE = 5.0
"""Years off that still count as near."""
DECADE = 10

Metric = dict[str, Any]
"""`value`, `low` and `high` (the 95 % interval), `n` (examples it is over), `paper`; `why` where the value is None."""
Measured = tuple[dict[str, Metric], dict[str, Any]]
"""Metrics by name, and details."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An answer about an example, and what is true of it."""

    name: str
    task: Task
    truth: Label
    label: Label | None
    """What `answers.parse` finds in the answer, or the candidate with the highest score."""
    answer: str
    scores: Mapping[str, float] | None = None
    """The probability of each candidate label, where candidates were scored."""


def measure(benchmark: Benchmark, predictions: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """Metrics of each task by name, beside them `n`, `unparsed` (answers that say nothing) and `details`.

    Raises BenchmarkError for a true class that the benchmark does not have.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for task in get_args(Task):
        group = [prediction for prediction in predictions if prediction.task == task]
        if not group:
            continue
        metrics, details = _measure_task(task, group, benchmark)
        for name, metric in metrics.items():
            metric["paper"] = dict((benchmark.paper or {}).get(name, {})) or None
        unparsed = sum(prediction.label is None for prediction in group)
        tasks[task] = {**metrics, "n": len(group), "unparsed": unparsed, "details": details}
    return tasks


def _measure_task(task: Task, predictions: Sequence[Prediction], benchmark: Benchmark) -> Measured:
    truths = [prediction.truth for prediction in predictions]
    match task:
        case "emotion":
            metrics, details = measure_classes(predictions, benchmark.classes or _occurring(EMOTIONS, truths))
            return {**metrics, "war": dict(metrics["accuracy"])}, details
        case "deepfake":
            return measure_classes(predictions, VERDICTS)
        case "action-units":
            sets = cast(list[frozenset[int]], truths)
            return measure_units(predictions, benchmark.units or tuple(sorted(frozenset().union(*sets))))
        case "attributes":
            said = [name for truth in truths for name in cast(dict[str, bool], truth)]
            return measure_attributes(predictions, benchmark.classes or _occurring(ATTRIBUTES, said))
        case "age":
            return measure_ages(predictions)


def measure_classes(predictions: Sequence[Prediction], classes: Sequence[str]) -> Measured:
    """`accuracy` and `uar`, and where all candidates were scored `brier`, `ece`, and, of "real" and "fake", `auc`."""
    if strange := next((each for each in predictions if each.truth not in classes), None):
        raise BenchmarkError(f"{strange.name}: {strange.truth!r} is true, and the classes are {', '.join(classes)}")
    sklearn = require("sklearn.metrics", "eval")
    truth_N = np.array([prediction.truth for prediction in predictions])
    label_N = np.array([prediction.label or UNPARSED for prediction in predictions])
    right_N = truth_N == label_N
    ratios = {"accuracy": Ratio(right_N, np.ones(len(right_N)))}
    for name in classes:
        ratios[f"recall {name}"] = Ratio(right_N & (truth_N == name), truth_N == name)
        ratios[f"precision {name}"] = Ratio(right_N & (label_N == name), label_N == name)
    intervals = bootstrap_ratios(ratios, {"uar": [f"recall {name}" for name in classes]})
    present = [name for name in classes if name in truth_N]
    values = {
        "accuracy": sklearn.accuracy_score(truth_N, label_N),
        "uar": sklearn.recall_score(truth_N, label_N, labels=present, average="macro", zero_division=0),
    }
    metrics = {name: _metric(value, intervals[name], len(truth_N)) for name, value in values.items()}
    each = {"labels": classes, "average": None, "zero_division": math.nan}
    recalls = sklearn.recall_score(truth_N, label_N, **each)
    precisions = sklearn.precision_score(truth_N, label_N, **each)
    per_class = {}
    for name, recall, precision in zip(classes, recalls, precisions, strict=True):
        n, said = _count(truth_N == name), _count(label_N == name)
        per_class[name] = {
            "support": n,
            "recall": _metric(recall, intervals[f"recall {name}"], n, "not among the truths"),
            "precision": _metric(precision, intervals[f"precision {name}"], said, "not among the answers"),
        }
    columns = [*classes, *sorted({*label_N.tolist()} - {*classes, UNPARSED}), UNPARSED]
    counts = sklearn.confusion_matrix(truth_N, label_N, labels=columns)[: len(classes)]
    confusion = {"truth": [*classes], "answer": columns, "counts": counts.tolist()}
    scored, calibration = measure_scores(predictions, binary=tuple(classes) == VERDICTS)
    return {**metrics, **scored}, {"per_class": per_class, "confusion": confusion, **calibration}


def measure_scores(predictions: Sequence[Prediction], binary: bool) -> Measured:
    """`brier` and `ece`, and for "fake" against "real" `auc`: over the examples whose candidates were scored."""
    scored = [(str(each.truth), each.scores) for each in predictions if each.scores]
    if not scored:
        return {}, {}
    truth, scores = [truth for truth, _ in scored], [scores for _, scores in scored]
    calibration = measure_calibration(truth, scores)
    # A resample is less well calibrated than its examples are, so that percentiles would lie above the value.
    metrics = {
        "brier": _metric(calibration.brier, calibration.brier_interval, len(scored)),
        "ece": _metric(calibration.ece, None, len(scored)),
    }
    if binary:
        fake_N = np.array([name == "fake" for name in truth])
        if len({*truth}) == 2:
            value, interval = measure_auc(fake_N, np.array([row["fake"] for row in scores]))
            metrics["auc"] = _metric(value, interval, len(scored))
        else:
            metrics["auc"] = _metric(math.nan, None, len(scored), f"all examples are {truth[0]}")
    return metrics, {"calibration": calibration.bins}


def measure_units(predictions: Sequence[Prediction], units: Sequence[int]) -> Measured:
    """`mean_f1` over `units`; what an answer says of others is not asked for, and left aside."""
    if not units:
        return {"mean_f1": _metric(math.nan, None, len(predictions), "no action unit is true")}, {"per_unit": {}}
    sklearn = require("sklearn.metrics", "eval")
    truths = [cast(frozenset[int], prediction.truth) for prediction in predictions]
    labels = [cast(frozenset[int], prediction.label or frozenset()) for prediction in predictions]
    ratios, values = {}, {}
    for unit in units:
        truth_N, label_N = (np.array([unit in found for found in sets]) for sets in (truths, labels))
        hit_N = truth_N & label_N
        ratios[f"f1 {unit}"] = Ratio(2 * hit_N, truth_N.astype(int) + label_N)
        ratios[f"recall {unit}"] = Ratio(hit_N, truth_N)
        ratios[f"precision {unit}"] = Ratio(hit_N, label_N)
        for name in ("f1", "recall", "precision"):
            values[f"{name} {unit}"] = getattr(sklearn, f"{name}_score")(truth_N, label_N, zero_division=math.nan)
    of_f1 = [f"f1 {unit}" for unit in units]
    values["mean_f1"] = mean_of_known(np.array([values[name] for name in of_f1]))
    intervals = bootstrap_ratios(ratios, {"mean_f1": of_f1})
    n = len(predictions)
    per_unit = {}
    for unit in units:
        support, said = (sum(unit in found for found in sets) for sets in (truths, labels))
        whys = {
            "f1": (n, "neither among the truths nor among the answers"),
            "recall": (support, "not among the truths"),
            "precision": (said, "not among the answers"),
        }
        per_unit[f"AU{unit}"] = {"support": support} | {
            name: _metric(values[f"{name} {unit}"], intervals[f"{name} {unit}"], over, why)
            for name, (over, why) in whys.items()
        }
    why = "no action unit is true or answered"
    return {"mean_f1": _metric(values["mean_f1"], intervals["mean_f1"], n, why)}, {"per_unit": per_unit}


def measure_attributes(predictions: Sequence[Prediction], names: Sequence[str]) -> Measured:
    """`mean_accuracy` over attributes, each over the examples whose truth says of it."""
    sklearn = require("sklearn.metrics", "eval")
    truths = [cast(dict[str, bool], prediction.truth) for prediction in predictions]
    labels = [cast(dict[str, bool], prediction.label or {}) for prediction in predictions]
    known_NA, truth_NA, said_NA, label_NA = (
        np.array([[fit(row, name) for name in names] for row in rows], bool)
        for rows, fit in (
            (truths, lambda row, name: name in row),
            (truths, lambda row, name: row.get(name, False)),
            (labels, lambda row, name: name in row),
            (labels, read_attribute),
        )
    )
    silent_N = np.array([prediction.label is None for prediction in predictions])
    label_NA = np.where(silent_N[:, None], ~truth_NA, label_NA)
    right_NA, said_NA = (truth_NA == label_NA) & known_NA, said_NA & known_NA
    ratios = {f"accuracy {name}": Ratio(right_NA[:, a], known_NA[:, a]) for a, name in enumerate(names)}
    of_accuracy = [*ratios]
    ratios["of_said"] = Ratio((right_NA & said_NA).sum(axis=1), said_NA.sum(axis=1))
    intervals = bootstrap_ratios(ratios, {"mean_accuracy": of_accuracy})
    per_attribute, accuracies = {}, []
    for a, name in enumerate(names):
        known_N = known_NA[:, a]
        n = _count(known_N)
        accuracies.append(sklearn.accuracy_score(truth_NA[known_N, a], label_NA[known_N, a]) if n else math.nan)
        per_attribute[name] = {
            "support": _count(truth_NA[:, a]),
            "accuracy": _metric(accuracies[-1], intervals[f"accuracy {name}"], n, "no truth says of it"),
            "said": _count(said_NA[:, a]) / n if n else None,
        }
    mean = _metric(mean_of_known(np.array(accuracies)), intervals["mean_accuracy"], len(truths), "no truth says of any")
    known, said = _count(known_NA), _count(said_NA)
    of_said = _count(right_NA & said_NA) / said if said else math.nan
    details = {
        "per_attribute": per_attribute,
        "said": _metric(said / known if known else math.nan, None, known, "no truth says of any"),
        "accuracy_of_said": _metric(of_said, intervals["of_said"], said, "no answer speaks of any"),
    }
    return {"mean_accuracy": mean}, details


def read_attribute(label: dict[str, bool], name: str) -> bool:
    """What an answer says of an attribute, be it by its silence."""
    return label.get(name, name in ABSENCES)


def measure_ages(predictions: Sequence[Prediction]) -> Measured:
    """`mae` in years, and `within_5`: the share of answers that are at most 5 years off."""
    sklearn = require("sklearn.metrics", "eval")
    truth_N = np.array([cast(float, prediction.truth) for prediction in predictions], float)
    said_N = np.array([math.nan if each.label is None else cast(float, each.label) for each in predictions])
    parsed_N = ~np.isnan(said_N)
    youngest, oldest = AGES
    worst_N = np.where(truth_N - youngest > oldest - truth_N, youngest, oldest)
    label_N = np.where(parsed_N, said_N, worst_N)
    signed_N = label_N - truth_N
    error_N, ones_N = np.abs(signed_N), np.ones(len(truth_N))
    decade_N = (truth_N // DECADE).astype(int) * DECADE
    ratios = {
        "mae": Ratio(error_N, ones_N),
        "within_5": Ratio(error_N <= CLOSE, ones_N),
        "mae_parsed": Ratio(error_N * parsed_N, parsed_N),
        "bias_parsed": Ratio(signed_N * parsed_N, parsed_N),
    }
    decades = np.unique(decade_N).tolist()
    ratios |= {f"mae {decade}": Ratio(error_N * (decade_N == decade), decade_N == decade) for decade in decades}
    intervals = bootstrap_ratios(ratios)

    def compare(name: str, among_N: np.ndarray) -> Metric:
        value = sklearn.mean_absolute_error(truth_N[among_N], label_N[among_N]) if among_N.any() else math.nan
        return _metric(value, intervals[name], _count(among_N), "no answer names an age")

    near = _metric(np.mean(error_N <= CLOSE), intervals["within_5"], len(truth_N))
    bias = divide((signed_N * parsed_N).sum(), parsed_N.sum())
    details = {
        "mae_parsed": compare("mae_parsed", parsed_N),
        "bias_parsed": _metric(bias, intervals["bias_parsed"], _count(parsed_N), "no answer names an age"),
        "per_age": {
            f"{decade}-{decade + DECADE - 1}": {
                "support": _count(decade_N == decade),
                "mae": compare(f"mae {decade}", decade_N == decade),
            }
            for decade in decades
        },
    }
    return {"mae": compare("mae", ones_N.astype(bool)), "within_5": near}, details


def _occurring(order: Sequence[str], names: Collection[object]) -> tuple[str, ...]:
    return tuple(name for name in order if name in names)


def _metric(value: float | np.ndarray, interval: Interval | None, n: int, why: str = "") -> Metric:
    if math.isnan(value):
        return {"value": None, "low": None, "high": None, "n": n, "paper": None, "why": why}
    low, high = interval or (None, None)
    return {"value": float(value), "low": low, "high": high, "n": n, "paper": None}


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))
