"""The results of a run, written: results.json, a picture of each task, and report.html, which shows them all."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..results import ResultsError
from .benchmark import Benchmark
from .failures import contrast, pick_silent, pick_wrong
from .intervals import PERCENTILES, RESAMPLES, SEED
from .metrics import Metric, Prediction, measure
from .page import Html, element, page
from .plots import draw_task
from .table import (
    METHODS,
    METRIC_HEAD,
    RESULTS,
    TITLES,
    YEARS,
    Row,
    count_answers,
    describe,
    format_interval,
    format_number,
    item_rows,
    list_metrics,
    metric_rows,
    shown,
)

REPORT = "report.html"
TILES = 4
LONGEST_ANSWER = 1500
"""Characters that are shown of an answer."""
NOTE = (
    "Intervals are 95 % percentile bootstrap intervals over examples. Frames of one video and pictures of one person "
    "are alike, so for new people the intervals would be wider. Answers that say nothing about the task count as "
    "wrong; an age that is not named, as the worst from 0 to 100."
)


def write_results(
    out: Path, benchmark: Benchmark, predictions: Sequence[Prediction], run: Mapping[str, Any], host: int = 0
) -> dict[str, Any]:
    """Writes `out`/results.json, report.html and TASK.png for each task, and returns what results.json holds.

    `run` is what the results depend on, "model" and "method" among it; title and source of the benchmark are added.
    Each file appears whole or not at all, results.json last, also where another `host` writes the same. Raises
    ResultsError where one cannot be written.
    """
    intervals = {"percentiles": PERCENTILES, "resamples": RESAMPLES, "seed": SEED}
    results = {
        "tasks": measure(benchmark, predictions),
        "run": {**run, "title": benchmark.title, "source": benchmark.source, "intervals": intervals},
    }
    groups = {task: [each for each in predictions if each.task == task] for task in results["tasks"]}
    title = describe(results["run"])
    pictures = {
        task: draw_task(task, measured, groups[task], f"{title}: {task}") for task, measured in results["tasks"].items()
    }
    files = {f"{task}.png": picture for task, picture in pictures.items()}
    # A name of bytes that are no text has them as references.
    files[REPORT] = render_report(results, groups, pictures).encode(errors="xmlcharrefreplace")
    files[RESULTS] = (json.dumps(results, indent=1, allow_nan=False) + "\n").encode()
    for name, content in files.items():
        _replace(out / name, content, host)
    written: dict[str, Any] = json.loads(files[RESULTS])
    return written


def _replace(file: Path, content: bytes, host: int) -> None:
    aside = file.with_name(f".{file.name}.{host}.part")
    try:
        aside.write_bytes(content)
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ResultsError(f"{file} cannot be written ({error.strerror}): mend that and run this again") from None


def render_report(
    results: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]], pictures: Mapping[str, bytes]
) -> Html:
    """A page in one file that loads nothing and runs nothing. Predictions and PNGs are by task."""
    run = results["run"]
    model = f"{run['model']}{METHODS[run['method']]}"
    sections = [
        _show_task(task, measured, predictions[task], pictures[task]) for task, measured in results["tasks"].items()
    ]
    header = element("header", element("h1", describe(run)), element("p", model, class_="quiet"))
    return page(describe(run), header, *sections, _show_run(run))


def _show_task(task: str, measured: Mapping[str, Any], predictions: Sequence[Prediction], picture: bytes) -> Html:
    source = "data:image/png;base64," + base64.b64encode(picture).decode()
    wrong, silent = pick_wrong(predictions, measured["details"]), pick_silent(predictions)
    return element(
        "section",
        element("h2", task),
        element("p", count_answers(measured), class_="quiet"),
        element("div", *(_tile(name, measured[name]) for name in shown(measured)[:TILES]), class_="tiles"),
        _table(
            [("metric", *METRIC_HEAD[1:]), *metric_rows(measured)],
            [_scale(*pair) for pair in list_metrics(measured).items()],
        ),
        element("figure", element("img", src=source, alt=f"{task}: results as a picture")),
        _table(item_rows(measured["details"])),
        *_show_answers("Wrong answers, the worst first", wrong),
        *_show_answers("Answers that say nothing about the task", silent),
    )


def _tile(name: str, metric: Metric) -> Html:
    beside = [f"95 %: {format_interval(name, metric)}"] if metric["low"] is not None else [metric.get("why", "")]
    if paper := metric["paper"]:
        beside += [
            f"paper {title}: {format_number(name, paper.get(kind))}"
            for kind, title in (("zero_shot", "zero-shot"), ("fine_tuned", "fine-tuned"))
        ]
    value = element("b", format_number(name, metric["value"]))
    return element(
        "div", element("span", TITLES[name]), value, *(element("span", line) for line in beside), class_="tile"
    )


def _scale(name: str, metric: Metric) -> Html:
    """A share from 0 to 1 as a point on a line, its interval a bar, the paper's numbers strokes."""
    if name in YEARS or metric["value"] is None:
        return Html()
    low, high = (100 * (metric[end] if metric[end] is not None else metric["value"]) for end in ("low", "high"))
    strokes = [
        element("line", x1=100 * number, x2=100 * number, y1=0, y2=10, class_="paper")
        for number in (metric["paper"] or {}).values()
    ]
    return element(
        "svg",
        element("rect", x=0, y=4.5, width=100, height=1, class_="track"),
        element("rect", x=low, y=2.5, width=high - low, height=5, class_="interval"),
        *strokes,
        element("circle", cx=100 * metric["value"], cy=5, r=2.2, class_="value"),
        viewBox="0 0 100 10",
        class_="scale",
    )


def _show_answers(title: str, predictions: Sequence[Prediction]) -> list[Html]:
    if not predictions:
        return []
    head = ("example", "truth", "read from the answer", "answer")
    rows = [(each.name, *contrast(each), _shorten(each.answer)) for each in predictions]
    return [element("h3", title), _table([head, *rows], class_="text")]


def _shorten(answer: str) -> str:
    return answer if len(answer) <= LONGEST_ANSWER else answer[:LONGEST_ANSWER] + " [...]"


def _show_run(run: Mapping[str, Any]) -> Html:
    """Plain facts in a table, what has parts folded away as JSON."""
    plain = [(name, str(value)) for name, value in run.items() if not isinstance(value, Mapping) and value is not None]
    parts = {name: value for name, value in run.items() if isinstance(value, Mapping)}
    return element(
        "section",
        element("h2", "run"),
        element("p", NOTE, class_="quiet"),
        _table([("", ""), *plain], class_="text"),
        *(
            element(
                "details", element("summary", name), element("pre", json.dumps(value, indent=1, ensure_ascii=False))
            )
            for name, value in parts.items()
        ),
    )


def _table(rows: Sequence[Row], drawings: Sequence[Html] = (), class_: str = "numbers") -> Html:
    """A table whose first row is its head; a drawing for each of the others, if any, ends it."""
    if not rows:
        return Html()
    head, *body = rows
    extra = [element("td", drawing) for drawing in drawings] or [Html()] * len(body)
    lines = [element("tr", *(element("td", cell) for cell in row), more) for row, more in zip(body, extra, strict=True)]
    heads = [*head, *([""] if drawings else [])]
    top = element("thead", element("tr", *(element("th", cell) for cell in heads)))
    return element("div", element("table", top, element("tbody", *lines), class_=class_), class_="wide")
