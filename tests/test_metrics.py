"""Metrics by hand, against scikit-learn, and their intervals."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn

from facellava_jax.answers import EMOTIONS, Label, Task
from facellava_jax.evaluate import intervals
from facellava_jax.evaluate.benchmark import Benchmark, BenchmarkError, Selection
from facellava_jax.evaluate.intervals import PERCENTILES, SEED, Ratio, bootstrap_ratios
from facellava_jax.evaluate.metrics import Prediction, measure

SEVEN = EMOTIONS[:7]


def make_benchmark(task: Task | None, **fields: Any) -> Benchmark:
    return Benchmark(
        name="faces",
        title="Faces",
        task=task,
        splits=("test",),
        layout="",
        source="",
        read=lambda *_: Selection([], {}),
        **fields,
    )


def predict(
    task: Task,
    truths: Sequence[Label],
    labels: Sequence[Label | None],
    scores: Sequence[dict[str, float]] | None = None,
) -> list[Prediction]:
    return [
        Prediction(name=str(n), task=task, truth=truth, label=label, answer=str(label), scores=scores and scores[n])
        for n, (truth, label) in enumerate(zip(truths, labels, strict=True))
    ]


def measure_task(predictions: list[Prediction], **fields: Any) -> dict[str, Any]:
    (task,) = {each.task for each in predictions}
    results = measure(make_benchmark(task, **fields), predictions)
    json.dumps(results, allow_nan=False)
    assert list(results) == [task]
    return results[task]


def values(metrics: dict[str, Any], *names: str) -> list[float]:
    return [metrics[name]["value"] for name in names]


def test_emotions_by_hand() -> None:
    predictions = predict(
        "emotion",
        ["happiness", "happiness", "happiness", "sadness"],
        ["happiness", "contempt", None, "happiness"],
    )
    measured = measure_task(
        predictions,
        classes=("happiness", "sadness", "neutral"),
        paper={"uar": {"zero_shot": 0.469, "fine_tuned": 0.625}},
    )
    # Recalls are 1/3 and 0; neutral is not among the truths.
    assert values(measured, "accuracy", "war", "uar") == pytest.approx([1 / 4, 1 / 4, 1 / 6])
    assert (measured["n"], measured["unparsed"]) == (4, 1)
    assert measured["uar"]["paper"] == {"zero_shot": 0.469, "fine_tuned": 0.625}
    assert measured["war"]["paper"] is None
    per_class = measured["details"]["per_class"]
    assert [row["support"] for row in per_class.values()] == [3, 1, 0]
    assert [row["recall"]["value"] for row in per_class.values()] == [pytest.approx(1 / 3), 0, None]
    assert [row["recall"]["n"] for row in per_class.values()] == [3, 1, 0]
    assert [row["precision"]["value"] for row in per_class.values()] == [1 / 2, None, None]
    assert [row["precision"]["n"] for row in per_class.values()] == [2, 0, 0]
    assert per_class["neutral"]["recall"]["why"] == "not among the truths"
    assert measured["details"]["confusion"] == {
        "truth": ["happiness", "sadness", "neutral"],
        "answer": ["happiness", "sadness", "neutral", "contempt", "unparsed"],
        "counts": [[1, 0, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    }


def test_truths_that_are_none_of_the_classes_are_named() -> None:
    for predictions, fields, classes in (
        (predict("emotion", ["fear", "contempt"], ["fear", "fear"]), {"classes": ("fear", "anger")}, "fear, anger"),
        (predict("deepfake", ["real", "contempt"], ["real", None]), {}, "real, fake"),
    ):
        with pytest.raises(BenchmarkError, match=f"^1: 'contempt' is true, and the classes are {classes}$"):
            measure_task(predictions, **fields)


def test_classes_are_those_of_the_truths_where_the_data_set_names_none() -> None:
    measured = measure_task(predict("emotion", ["fear", "anger", "fear"], ["fear", "disgust", "anger"]))
    assert list(measured["details"]["per_class"]) == ["anger", "fear"]
    assert values(measured, "accuracy", "uar") == pytest.approx([1 / 3, 1 / 4])


def test_action_units_by_hand() -> None:
    predictions = predict(
        "action-units",
        [frozenset({1}), frozenset({1, 2}), frozenset(), frozenset({2}), frozenset({1})],
        [frozenset({1}), frozenset({2, 12}), frozenset(), frozenset({1}), None],
    )
    measured = measure_task(predictions, units=(1, 2, 4))
    per_unit = measured["details"]["per_unit"]
    # AU1: one hit, one claimed, two missed; AU2: one hit, one missed; AU4 is nowhere, AU12 not asked for.
    assert [row["f1"]["value"] for row in per_unit.values()] == [pytest.approx(2 / 5), pytest.approx(2 / 3), None]
    assert [row["recall"]["value"] for row in per_unit.values()] == [pytest.approx(1 / 3), 1 / 2, None]
    assert [row["precision"]["value"] for row in per_unit.values()] == [1 / 2, 1, None]
    assert [row["support"] for row in per_unit.values()] == [3, 2, 0]
    assert list(per_unit) == ["AU1", "AU2", "AU4"]
    assert measured["mean_f1"]["value"] == pytest.approx((2 / 5 + 2 / 3) / 2)
    assert (measured["n"], measured["unparsed"]) == (5, 1)


def test_a_unit_that_is_claimed_and_never_there_counts() -> None:
    measured = measure_task(
        predict("action-units", [frozenset({1}), frozenset()], [frozenset({1, 4})] * 2), units=(1, 4)
    )
    assert [row["f1"]["value"] for row in measured["details"]["per_unit"].values()] == [pytest.approx(2 / 3), 0]
    assert measured["mean_f1"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("units", [(), (1,)])
def test_action_units_without_any(units: tuple[int, ...]) -> None:
    measured = measure_task(predict("action-units", [frozenset()] * 2, [frozenset(), None]), units=units)
    assert measured["mean_f1"]["value"] is None
    assert measured["mean_f1"]["why"]


def test_attributes_by_hand() -> None:
    predictions = predict(
        "attributes",
        [
            {"Smiling": True, "No_Beard": True, "Male": False},
            {"Smiling": False, "No_Beard": False},
            {"Smiling": False, "No_Beard": False, "Male": True},
        ],
        [{"Smiling": True, "Bald": True}, None, {"Male": False, "No_Beard": False}],
    )
    measured = measure_task(predictions)
    per_attribute = measured["details"]["per_attribute"]
    assert list(per_attribute) == ["Male", "No_Beard", "Smiling"]
    # Not spoken of: not male, no smile, and no beard. Nothing said at all: all wrong.
    assert [row["accuracy"]["value"] for row in per_attribute.values()] == pytest.approx([1 / 2, 2 / 3, 2 / 3])
    assert [row["accuracy"]["n"] for row in per_attribute.values()] == [2, 3, 3]
    assert [row["said"] for row in per_attribute.values()] == pytest.approx([1 / 2, 1 / 3, 1 / 3])
    assert measured["mean_accuracy"]["value"] == pytest.approx(11 / 18)
    assert measured["details"]["said"]["value"] == 3 / 8
    assert measured["details"]["accuracy_of_said"]["value"] == pytest.approx(2 / 3)
    assert measured["unparsed"] == 1


def test_ages_by_hand() -> None:
    measured = measure_task(predict("age", [20.0, 40.0, 60.0, 30.0, 1.5], [22.0, 35.0, None, 36.5, 1.5]))
    # The age that is not named is off by 60.
    assert values(measured, "mae", "within_5") == pytest.approx([(2 + 5 + 60 + 6.5) / 5, 3 / 5])
    details = measured["details"]
    assert values(details, "mae_parsed", "bias_parsed") == pytest.approx([13.5 / 4, 3.5 / 4])
    assert (details["mae_parsed"]["n"], measured["unparsed"]) == (4, 1)
    assert {name: row["mae"]["value"] for name, row in details["per_age"].items()} == {
        "0-9": 0,
        "20-29": 2,
        "30-39": 6.5,
        "40-49": 5,
        "60-69": 60,
    }


def test_ages_that_nobody_names() -> None:
    measured = measure_task(predict("age", [20.0, 70.0], [None, None]))
    assert measured["mae"]["value"] == 75
    assert measured["details"]["mae_parsed"]["value"] is None


def test_verdicts_by_hand() -> None:
    fakes = [0.5, 0.2, 0.5, 0.9]
    predictions = predict(
        "deepfake",
        ["real", "real", "fake", "fake"],
        ["fake", "real", "fake", "fake"],
        [{"real": 1 - fake, "fake": fake} for fake in fakes],
    )
    measured = measure_task(predictions)
    assert values(measured, "accuracy", "uar") == [3 / 4, 3 / 4]
    # Of four pairs three are in order, and one is a tie.
    assert measured["auc"]["value"] == pytest.approx(3.5 / 4)
    assert measured["brier"]["value"] == pytest.approx((0.25 + 0.04 + 0.25 + 0.01) / 4)
    # At 0.5 half are right; 0.8 and 0.9 are.
    assert measured["ece"]["value"] == pytest.approx((0.2 + 0.1) / 4)
    assert [each["n"] for each in measured["details"]["calibration"]] == [2, 1, 1]


def test_verdicts_of_one_class_have_no_auc() -> None:
    measured = measure_task(predict("deepfake", ["fake"] * 3, ["fake"] * 3, [{"real": 0.1, "fake": 0.9}] * 3))
    assert measured["auc"]["value"] is None
    assert measured["auc"]["why"] == "all examples are fake"
    assert measured["details"]["per_class"]["real"]["recall"]["value"] is None
    assert measured["uar"]["value"] == 1


def test_answers_without_scores_have_no_calibration() -> None:
    measured = measure_task(predict("deepfake", ["real", "fake"], ["fake", "fake"]))
    assert not {"auc", "brier", "ece"} & measured.keys()


def test_tasks_stand_apart() -> None:
    predictions = predict("age", [20.0], [21.0]) + predict("deepfake", ["real"], [None])
    results = measure(make_benchmark(None), predictions)
    assert {task: (each["n"], each["unparsed"]) for task, each in results.items()} == {
        "age": (1, 0),
        "deepfake": (1, 1),
    }
    assert measure(make_benchmark(None), []) == {}


def draw_emotions(n: int) -> list[Prediction]:
    rng = np.random.default_rng(1)
    truths = rng.choice(SEVEN[:5], n)
    labels = [truth if rng.random() < 0.5 else (*EMOTIONS, None)[rng.integers(9)] for truth in truths.tolist()]
    return predict("emotion", truths.tolist(), labels, [dict(zip(SEVEN, row, strict=True)) for row in draw_scores(n)])


def draw_scores(n: int) -> list[list[float]]:
    return np.random.default_rng(2).dirichlet(np.ones(7), n).tolist()


def draw_verdicts(n: int) -> list[Prediction]:
    rng = np.random.default_rng(3)
    truths = rng.choice(["real", "fake"], n, p=[0.2, 0.8]).tolist()
    # Rounded, for ties.
    fakes = np.clip(rng.normal([0.4 if truth == "real" else 0.6 for truth in truths], 0.2), 0, 1).round(1).tolist()
    return predict(
        "deepfake",
        truths,
        ["fake" if fake > 0.5 else "real" for fake in fakes],
        [{"real": 1 - fake, "fake": fake} for fake in fakes],
    )


def draw_units(n: int) -> list[Prediction]:
    rng = np.random.default_rng(4)
    sets = rng.random((2, n, 3)) < [0.5, 0.2, 0.05]
    truths, labels = ([frozenset(np.flatnonzero(row).tolist()) for row in each] for each in sets)
    return predict("action-units", truths, labels)


def _classes(predictions: Sequence[Prediction]) -> tuple[list[Any], list[Any]]:
    return [each.truth for each in predictions], [each.label or "unparsed" for each in predictions]


def uar(predictions: Sequence[Prediction]) -> float:
    truth, label = _classes(predictions)
    return sklearn.recall_score(truth, label, labels=sorted({*truth}), average="macro", zero_division=0)


def auc(predictions: Sequence[Prediction]) -> float:
    return sklearn.roc_auc_score(
        [each.truth == "fake" for each in predictions], [(each.scores or {})["fake"] for each in predictions]
    )


def brier(predictions: Sequence[Prediction]) -> float:
    scores = np.array([list((each.scores or {}).values()) for each in predictions])
    order = np.argsort(SEVEN)
    return sklearn.brier_score_loss(
        [each.truth for each in predictions], scores[:, order], labels=sorted(SEVEN), scale_by_half=True
    )


def mean_f1(predictions: Sequence[Prediction]) -> float:
    truth, label = (
        np.array([[unit in found for unit in range(3)] for found in sets])
        for sets in ([each.truth for each in predictions], [each.label for each in predictions])
    )
    return sklearn.f1_score(truth, label, average="macro", zero_division=np.nan)


@pytest.mark.parametrize(
    ("draw", "name", "compute"),
    [
        (draw_emotions, "uar", uar),
        (draw_emotions, "brier", brier),
        (draw_verdicts, "auc", auc),
        (draw_units, "mean_f1", mean_f1),
    ],
)
def test_values_and_intervals_are_those_of_scikit_learn_on_each_resample(
    draw: Callable[[int], list[Prediction]],
    name: str,
    compute: Callable[[Sequence[Prediction]], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 60)
    monkeypatch.setattr(intervals, "CHUNK", 1000)
    predictions = draw(80)
    measured = measure_task(predictions, units=(0, 1, 2), classes=SEVEN)
    rng = np.random.default_rng(SEED)
    resampled = [compute([predictions[index] for index in rng.integers(80, size=80)]) for _ in range(60)]
    metric = measured[name]
    assert metric["value"] == pytest.approx(compute(predictions), abs=1e-12)
    assert (metric["low"], metric["high"]) == pytest.approx(np.percentile(resampled, PERCENTILES), abs=1e-12)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, trials = np.random.default_rng(5), 120
    held = 0
    for _ in range(trials):
        right = rng.random(100) < 0.7
        low, high = bootstrap_ratios({"share": Ratio(right, np.ones(100))})["share"]
        held += low <= 0.7 <= high
    assert 0.88 <= held / trials <= 0.99


def test_the_same_predictions_have_the_same_results() -> None:
    predictions = draw_emotions(50)
    benchmark = make_benchmark("emotion", classes=SEVEN)
    assert measure(benchmark, predictions) == measure(benchmark, predictions)


def test_an_interval_of_one_example_is_a_point() -> None:
    measured = measure_task(predict("age", [30.0], [33.0]))
    assert [measured["mae"][name] for name in ("low", "value", "high", "n", "paper")] == [3, 3, 3, 1, None]
