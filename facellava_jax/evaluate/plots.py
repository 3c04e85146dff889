"""A picture of each task's results."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from .metrics import Metric, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"
DPI = 120


def draw_task(task: str, measured: Mapping[str, Any], predictions: Sequence[Prediction], title: str) -> bytes:
    """A PNG: a confusion matrix, bars of F1 or accuracy, or the errors of ages; calibration where scored."""
    details = measured["details"]
    panels = [draw_calibration] if "calibration" in details else []
    size = (6.4 + 4.6 * len(panels), 5.4)
    if task == "age":
        size = (11.0, 5.0)
    elif task == "attributes":
        size = (6.4, 1.4 + 0.22 * len(details["per_attribute"]))
    elif task == "action-units":
        size = (max(5.0, 1.6 + 0.55 * len(details["per_unit"])), 4.2)
    figure = require("matplotlib.figure", "eval").Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=12)
    if task == "age":
        scatter, histogram = figure.subplots(1, 2)
        draw_ages(scatter, predictions)
        draw_errors(histogram, predictions)
    else:
        first, *others = figure.subplots(1, 1 + len(panels), squeeze=False, width_ratios=[1.3, *[1] * len(panels)])[0]
        if task == "attributes":
            draw_attributes(first, details["per_attribute"], measured["mean_accuracy"])
        elif task == "action-units":
            draw_units(first, details["per_unit"], measured["mean_f1"])
        else:
            draw_confusion(first, details["confusion"])
        for axes, draw in zip(others, panels, strict=True):
            draw(axes, details["calibration"])
    file = io.BytesIO()
    # Without the library's version, which would be all that differs between two machines' files.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def draw_confusion(axes: "Axes", confusion: Mapping[str, Any]) -> None:
    """Shares of each true class by colour, examples in numbers; classes that are never answered have no column."""
    counts = np.array(confusion["counts"])
    asked = len(confusion["truth"])
    kept = [column for column in range(counts.shape[1]) if column < asked or counts[:, column].any()]
    counts = counts[:, kept]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if counts[row, column]:
            text = f"{share:.0%}\n{counts[row, column]:,}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black"
            )
    axes.set_xticks(range(len(kept)), [confusion["answer"][column] for column in kept], rotation=40, ha="right")
    axes.set_yticks(range(asked), confusion["truth"])
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")


def draw_calibration(axes: "Axes", bins: Sequence[Mapping[str, float]]) -> None:
    """How often the best candidate is right, by its probability; points are as large as their bins."""
    confidence, accuracy, n = (np.array([each[name] for each in bins]) for name in ("confidence", "accuracy", "n"))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1)
    axes.scatter(confidence, accuracy, s=20 + 200 * n / n.max(), color=BLUE, alpha=0.8, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the best candidate", ylabel="share that is right")
    axes.set_title("calibration", fontsize=10)
    axes.grid(alpha=0.25)


def draw_units(axes: "Axes", per_unit: Mapping[str, Mapping[str, Any]], mean: Metric) -> None:
    """F1 with its interval; a unit without one is named as such."""
    names = [*per_unit]
    values, errors = _bars([per_unit[name]["f1"] for name in names])
    places = range(len(names))
    axes.bar(places, values, yerr=errors, color=BLUE, ecolor=GREY, capsize=3, width=0.7)
    for place, name in enumerate(names):
        if per_unit[name]["f1"]["value"] is None:
            axes.text(place, 0.02, "none", ha="center", fontsize=8, color=GREY)
    if mean["value"] is not None:
        axes.axhline(mean["value"], color=ORANGE, linewidth=1, label=f"mean {mean['value']:.3f}")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(ylim=(0, 1), ylabel="F1")
    axes.set_xticks(places, names, rotation=45)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def draw_attributes(axes: "Axes", per_attribute: Mapping[str, Mapping[str, Any]], mean: Metric) -> None:
    """Accuracy with its interval, the best at the top."""
    known = [name for name, row in per_attribute.items() if row["accuracy"]["value"] is not None]
    names = sorted(known, key=lambda name: per_attribute[name]["accuracy"]["value"])
    values, errors = _bars([per_attribute[name]["accuracy"] for name in names])
    places = range(len(names))
    axes.barh(places, values, xerr=errors, color=BLUE, ecolor=GREY, capsize=2, height=0.75)
    axes.set_yticks(places, [name.replace("_", " ") for name in names], fontsize=8)
    if mean["value"] is not None:
        axes.axvline(mean["value"], color=ORANGE, linewidth=1, label=f"mean {mean['value']:.3f}")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(xlim=(0, 1), ylim=(-0.6, max(len(names), 1) - 0.4), xlabel="accuracy")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def draw_ages(axes: "Axes", predictions: Sequence[Prediction]) -> None:
    """Answered against true age, for the answers that name one."""
    truth, label = _ages(predictions)
    top = max([100.0, *truth, *label])
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--")
    axes.scatter(truth, label, s=12, color=BLUE, alpha=min(0.7, max(0.05, 200 / max(len(truth), 1))), linewidths=0)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="true age", ylabel="age in the answer")
    axes.grid(alpha=0.25)


def draw_errors(axes: "Axes", predictions: Sequence[Prediction]) -> None:
    """How many answers are so many years off."""
    truth, label = _ages(predictions)
    errors = np.subtract(label, truth)
    reach = max(10.0, float(np.abs(errors).max(initial=0)))
    # Each bar in the middle of as many whole years as its neighbours: ages are mostly named in whole years.
    width = int(reach // 20) + 1
    bars = int(reach // width) + 1
    axes.hist(errors, bins=((np.arange(-bars, bars + 2) - 0.5) * width).tolist(), color=BLUE)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    if len(errors):
        axes.axvline(errors.mean(), color=ORANGE, linewidth=1, label=f"mean {errors.mean():+.2f}")
        axes.legend(frameon=False)
    axes.set(xlabel="years above the true age", ylabel="answers")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _ages(predictions: Sequence[Prediction]) -> tuple[list[float], list[float]]:
    pairs = [(each.truth, each.label) for each in predictions if isinstance(each.label, float | int)]
    truth, label = zip(*pairs, strict=True) if pairs else ((), ())
    return [*truth], [*label]


def _bars(metrics: Sequence[Metric]) -> tuple[list[float], np.ndarray]:
    """Heights, and how far the intervals reach below and above."""
    values = [metric["value"] or 0.0 for metric in metrics]
    # Of few examples the interval may not hold the value.
    ends = [
        (max(0.0, value - metric["low"]), max(0.0, metric["high"] - value)) if metric["low"] is not None else (0.0, 0.0)
        for value, metric in zip(values, metrics, strict=True)
    ]
    return values, np.array(ends).reshape(-1, 2).T
