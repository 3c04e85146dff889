"""Results as plain text: a table of one run, and one that joins several in the paper's layout."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..results import ResultsError
from .metrics import Metric

RESULTS = "results.json"

# What stands in tables, in this order.
TITLES = {
    "uar": "UAR",
    "war": "WAR",
    "accuracy": "accuracy",
    "mean_f1": "mean F1",
    "mae": "MAE, years",
    "within_5": "at most 5 years off",
    "mean_accuracy": "mean accuracy",
    "auc": "AUC",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    # Of the details.
    "mae_parsed": "MAE of the ages named, years",
    "bias_parsed": "mean error of these, years",
    "said": "attributes spoken of",
    "accuracy_of_said": "accuracy over these",
}
# What a run without a number of the paper beside it is compared by.
MAIN = {
    "emotion": ("uar", "accuracy"),
    "action-units": ("mean_f1",),
    "age": ("mae",),
    "attributes": ("mean_accuracy",),
    "deepfake": ("accuracy",),
}
# The paper's tables, one after the other; data sets that are in none of them come last.
ORDER = ("dfew", "crema-d", "raf-db", "disfa", "bp4d", "morph2", "utkface", "celeba", "ffpp")
PER = ("per_class", "per_unit", "per_age", "per_attribute")
"""The details that tell an item's metrics by its name."""
YEARS = {"mae", "mae_parsed", "bias_parsed"}
"""Metrics in years; all others are shares."""
NONE = "-"
METHODS = {"generate": "", "score": ", scored"}
TEXTS = ("benchmark", "title", "model", "method")
"""What is told of a run in words."""

Row = Sequence[str]


def read_results(folder: Path) -> dict[str, Any]:
    """A folder's results.json. Raises ResultsError for one that is not there, or that no evaluation has written."""
    file = folder / RESULTS
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        missing = {"tasks", "run"} - {*results} or {*TEXTS} - {*results["run"]}
        wrong = not missing and not _is_whole(results["tasks"], results["run"])
    except OSError as error:
        raise ResultsError(f"{file}: {error.strerror}: name a folder that `facellava eval` has finished") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        wrong, missing = True, set()
    if missing:
        raise ResultsError(f"{file} has no {sorted(missing)[0]!r}: name a folder of `facellava eval`")
    if wrong:
        raise ResultsError(f"{file} is damaged: run `facellava eval` with its --out again")
    return dict(results)


def _is_whole(tasks: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether tables can be made of it. Raises Type-, Attribute-, Key- or OverflowError for some of what is not."""
    texts = [run[name] for name in TEXTS] + [
        value for name in ("split", "checkpoint_sha256") if (value := run.get(name))
    ]
    metrics = [measured[name] for task, measured in tasks.items() for name in (*shown(measured), *MAIN[task])]
    numbers = [metric[name] for metric in metrics for name in ("value", "low", "high")]
    numbers += [number for metric in metrics for number in (metric["paper"] or {}).values()]
    return (
        bool(tasks)
        and all(isinstance(text, str) for text in texts)
        and run["method"] in METHODS
        and isinstance(run.get("limit") or 0, int)
        and all(number is None or math.isfinite(number) for number in numbers)
    )


def format_results(results: Mapping[str, Any]) -> str:
    """The tables of one run: its metrics beside the paper's, then those of each class, unit, decade or attribute."""
    blocks = []
    for task, measured in results["tasks"].items():
        blocks.append(f"{describe(results['run'])}, {task}: {count_answers(measured)}\n")
        blocks.append(align([METRIC_HEAD, *metric_rows(measured)]))
        if items := item_rows(measured["details"]):
            blocks.append(align(items))
    return "\n".join(blocks)


def format_runs(runs: Mapping[Path, Mapping[str, Any]]) -> str:
    """The results of several folders as one table: a row for each metric that the paper has, a column for each model.

    Metrics of data sets that are not in the paper, and of tasks it has no number of, are those that it uses for others.
    """
    columns = _name_columns(runs)
    cells: dict[tuple[str, str, str, str], dict[str, Metric]] = {}
    for folder, results in runs.items():
        for task, measured in results["tasks"].items():
            own = [name for name in shown(measured) if measured[name]["paper"]]
            for name in own or [name for name in shown(measured) if name in MAIN[task]]:
                key = (results["run"]["benchmark"], task, describe(results["run"]), name)
                cells.setdefault(key, {})[columns[folder]] = measured[name]
    models = [*dict.fromkeys(columns.values())]
    rows: list[Row] = [("task", "data", "metric", "paper zero-shot", "paper fine-tuned", *models)]
    for (_, task, data, name), metrics in sorted(cells.items(), key=lambda cell: _place(*cell[0])):
        paper: Metric = next((metric["paper"] for metric in metrics.values() if metric["paper"]), {})
        numbers = [format_number(name, paper.get(kind)) for kind in ("zero_shot", "fine_tuned")]
        values = [format_metric(name, metrics.get(model)) for model in models]
        rows.append((task, data, TITLES[name], *numbers, *values))
    return align(rows, left=3)


METRIC_HEAD = ("", "value", "95 % interval", "paper zero-shot", "paper fine-tuned")


def metric_rows(measured: Mapping[str, Any]) -> list[Row]:
    """Title, value, interval, and the paper's two numbers with the value's difference from each."""
    rows: list[Row] = []
    for name, metric in list_metrics(measured).items():
        paper = metric["paper"] or {}
        interval = format_interval(name, metric) or metric.get("why", "")
        beside = [_compare(name, metric["value"], paper.get(kind)) for kind in ("zero_shot", "fine_tuned")]
        rows.append((TITLES[name], format_number(name, metric["value"]), interval, *beside))
    return rows


def item_rows(details: Mapping[str, Any]) -> list[Row]:
    """A head, and a row for each class, unit, decade or attribute; nothing where there is none."""
    kind = next(name for name in PER if name in details)
    rows: list[Row] = []
    for item, values in details[kind].items():
        cells = {"examples" if kind != "per_attribute" else "present": f"{values['support']:,}"}
        for name, value in values.items():
            if name != "support":
                cells[name] = format_metric(name, value if isinstance(value, dict) else {"value": value})
        rows = rows or [(kind.removeprefix("per_"), *cells)]
        rows.append((item.replace("_", " "), *cells.values()))
    return rows


def count_answers(measured: Mapping[str, Any]) -> str:
    """ "3,068 examples, 12 unparsed" """
    return f"{measured['n']:,} examples, {measured['unparsed']:,} unparsed"


def describe(run: Mapping[str, Any]) -> str:
    """ "DFEW fold1", with the number of examples where only some were drawn."""
    drawn = f"({run['limit']:,} drawn)" if run.get("limit") else None
    return " ".join(filter(None, [run["title"], run.get("split"), drawn]))


def shown(measured: Mapping[str, Any]) -> list[str]:
    """The metrics of a task for a table, those that the paper has first; accuracy only once, as WAR if it is there."""
    names = [name for name in TITLES if name in measured]
    twice = "accuracy" if (measured.get("war") or {}).get("paper") else "war"
    once = [name for name in names if name != twice or "war" not in measured]
    return sorted(once, key=lambda name: measured[name]["paper"] is None)


def list_metrics(measured: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a task for a table of their own, those over only some of the answers last."""
    details = measured["details"]
    return {name: measured[name] for name in shown(measured)} | {
        name: details[name] for name in TITLES if name in details
    }


def format_metric(name: str, metric: Mapping[str, Any] | None) -> str:
    if not metric:
        return NONE
    return " ".join(filter(None, [format_number(name, metric["value"]), format_interval(name, metric)]))


def format_number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return NONE
    return f"{value:{sign}.2f}" if name in YEARS else f"{value:{sign}.3f}"


def format_interval(name: str, metric: Mapping[str, Any]) -> str:
    if metric.get("low") is None:
        return ""
    return f"[{format_number(name, metric['low'])}, {format_number(name, metric['high'])}]"


def align(rows: Sequence[Row], left: int = 1) -> str:
    """Columns as wide as they need be, the first `left` of them flush left; a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [cell.ljust(width) if number < left else cell.rjust(width) for number, (cell, width) in enumerate(pairs)]
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    head, *body = ("  ".join(row).rstrip() + "\n" for row in cells)
    return "".join([head, "  ".join("-" * width for width in widths) + "\n", *body])


def _compare(name: str, value: float | None, paper: float | None) -> str:
    if value is None or paper is None:
        return format_number(name, paper)
    return f"{format_number(name, paper)} ({format_number(name, value - paper, '+')})"


def _name_columns(runs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """By folder the heading of its column: its model, where that tells the folders' results apart, else itself."""
    heading: Callable[[Path, Path], tuple[str, ...]]
    columns: dict[Path, str] = {}
    for heading in (
        lambda model, folder: model.parts[-2:],
        lambda model, folder: model.parts,
        lambda model, folder: folder.parts,
    ):
        models, told = set(), []
        for folder, results in runs.items():
            run = results["run"]
            columns[folder] = str(Path(*heading(Path(run["model"]), folder))) + METHODS[run["method"]]
            models.add((columns[folder], run.get("checkpoint_sha256")))
            told += [(columns[folder], describe(run), task) for task in results["tasks"]]
        if len(told) == len({*told}) and len(models) == len({*columns.values()}):
            break
    return columns


def _place(benchmark: str, task: str, data: str, name: str) -> tuple[int, int, str, int]:
    """Where a row of the joined table stands: task by task, and data sets as in the paper."""
    place = ORDER.index(benchmark) if benchmark in ORDER else len(ORDER)
    return [*MAIN].index(task), place, data, [*TITLES].index(name)
