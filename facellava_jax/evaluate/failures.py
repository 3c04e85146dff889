"""Answers to look at: those that are wrong, and those that say nothing about their task."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..answers import Label
from .metrics import CLOSE, Prediction, read_attribute

WRONG, SILENT = 20, 10
"""How many are shown of each."""
SEED = 0


def pick_wrong(predictions: Sequence[Prediction], details: Mapping[str, Any]) -> list[Prediction]:
    """Those that are farthest from the truth, of equals some at random: by years, units, attributes."""
    wrong = [(each, far) for each in predictions if each.label is not None and (far := _distance(each, details))]
    order = sorted(_shuffle(wrong), key=lambda pair: -pair[1])
    return [prediction for prediction, _ in order[:WRONG]]


def pick_silent(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Some without a label, at random."""
    return _shuffle([prediction for prediction in predictions if prediction.label is None])[:SILENT]


def contrast(prediction: Prediction) -> tuple[str, str]:
    """Truth and label in words; of attributes, those that are wrong, and without a label those that are there."""
    truth, label = prediction.truth, prediction.label
    if isinstance(truth, dict) and label is None:
        truth = {name: there for name, there in truth.items() if there}
    elif isinstance(truth, dict):
        names = _wrong_attributes(prediction)
        truth = {name: truth[name] for name in names}
        label = {name: not there for name, there in truth.items()}
    return format_label(truth), format_label(label)


def format_label(label: Label | None) -> str:
    """A label in a few words."""
    if label is None:
        return "nothing"
    if isinstance(label, frozenset):
        return ", ".join(f"AU{unit}" for unit in sorted(label)) or "no action units"
    if isinstance(label, dict):
        return ", ".join(("" if there else "not ") + name.replace("_", " ") for name, there in label.items())
    return label if isinstance(label, str) else f"{label:g}"


def _distance(prediction: Prediction, details: Mapping[str, Any]) -> float:
    """How wrong a label is; 0 where it is right, or near enough."""
    truth, label = prediction.truth, prediction.label
    if isinstance(truth, frozenset):
        return float(sum(f"AU{unit}" in details["per_unit"] for unit in truth ^ cast(frozenset[int], label)))
    if isinstance(truth, dict):
        return float(len(_wrong_attributes(prediction)))
    if isinstance(truth, str):
        return float(truth != label)
    years = abs(cast(float, label) - truth)
    return years if years > CLOSE else 0.0


def _wrong_attributes(prediction: Prediction) -> list[str]:
    truth, label = cast(dict[str, bool], prediction.truth), cast(dict[str, bool], prediction.label)
    return [name for name, there in truth.items() if read_attribute(label, name) != there]


def _shuffle(items: list[Any]) -> list[Any]:
    return [items[index] for index in np.random.default_rng(SEED).permutation(len(items))]
