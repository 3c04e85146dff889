"""Tables, pictures and the page of an evaluation's results."""

import base64
import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facellava_jax.answers import Label, Task
from facellava_jax.evaluate.benchmark import Benchmark, Selection
from facellava_jax.evaluate.failures import contrast, pick_silent, pick_wrong
from facellava_jax.evaluate.metrics import Prediction, measure
from facellava_jax.evaluate.page import element
from facellava_jax.evaluate.plots import draw_task
from facellava_jax.evaluate.report import write_results
from facellava_jax.evaluate.table import MAIN, format_results, format_runs, read_results
from facellava_jax.results import ResultsError

EVIL = '</td><script>alert("1")</script> & <img src=http://example.org/x>\x00\ud800'
RUN = {
    "benchmark": "faces",
    "split": "test",
    "method": "generate",
    "limit": None,
    "model": "checkpoints/nano",
    "checkpoint_sha256": "a1",
    "versions": {"jax": "0.10.1"},
}


def make_benchmark(**fields: Any) -> Benchmark:
    defaults = {
        "name": "faces",
        "title": "Faces",
        "task": None,
        "splits": ("test",),
        "layout": "",
        "source": "A paper.",
    }
    return Benchmark(**{**defaults, "read": lambda *_: Selection([], {}), **fields})


def predict(task: Task, truth: Label, label: Label | None, **fields: Any) -> Prediction:
    return Prediction(**{"name": f"{task}.png", "task": task, "truth": truth, "label": label, "answer": EVIL, **fields})


# Of each task a right answer, a wrong one, and one that says nothing.
PREDICTIONS = [
    predict("emotion", "fear", "fear"),
    predict("emotion", "anger", "fear", name=EVIL),
    predict("emotion", "anger", None),
    predict("age", 30.0, 31.0),
    predict("age", 50.0, 70.0),
    predict("age", 50.0, None),
    predict("attributes", {"Bald": True, "Smiling": True}, {"Bald": True, "Smiling": True}),
    predict("attributes", {"Bald": True, "Smiling": True}, {"Smiling": True}),
    predict("attributes", {"Bald": False, "Smiling": True}, None),
    predict("action-units", frozenset({1, 2}), frozenset({1, 2})),
    predict("action-units", frozenset({1, 2}), frozenset({2, 12})),
    predict("action-units", frozenset(), None),
    predict("deepfake", "fake", "fake", scores={"real": 0.1, "fake": 0.9}),
    predict("deepfake", "fake", "real", scores={"real": 0.6, "fake": 0.4}),
    predict("deepfake", "real", "real", scores={"real": 0.7, "fake": 0.3}),
]
TASKS = ("emotion", "age", "attributes", "action-units", "deepfake")


class Page(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    write_results(out, make_benchmark(), PREDICTIONS, RUN)
    return out


def test_the_files_of_a_run(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "report.html",
        *(f"{task}.png" for task in TASKS),
    }
    results = read_results(folder)
    assert results["tasks"] == json.loads(json.dumps(measure(make_benchmark(), PREDICTIONS)))
    assert results["run"].items() >= {**RUN, "title": "Faces", "source": "A paper."}.items()
    assert results["tasks"]["emotion"]["accuracy"].keys() == {"value", "low", "high", "n", "paper"}


def test_writing_again_changes_no_byte(folder: Path, tmp_path: Path) -> None:
    returned = write_results(tmp_path, make_benchmark(), PREDICTIONS, RUN)
    assert returned == read_results(folder)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_pictures_are_pictures(folder: Path) -> None:
    for task in TASKS:
        picture = cv2.imread(str(folder / f"{task}.png"))
        assert min(picture.shape[:2]) > 200
        assert len(np.unique(picture)) > 20


def test_the_page_loads_nothing_and_answers_are_text(folder: Path) -> None:
    text = (folder / "report.html").read_bytes().decode()
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert len(page.links) == len(TASKS)
    for link, task in zip(page.links, measure(make_benchmark(), PREDICTIONS), strict=True):
        kind, content = link.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == (folder / f"{task}.png").read_bytes()
    # An answer, and the name of an example; of each task one is wrong, and one says nothing but for deepfake.
    assert page.text.count('</td><script>alert("1")</script> & <img src=http://example.org/x>') == 9 + 1
    assert "default-src 'none'" in html.unescape(text)
    assert "checkpoints/nano" in page.text
    assert "0.10.1" in page.text


def test_elements_escape_what_is_no_html() -> None:
    inner = element("b", "<i>", title='"<>')
    assert element("p", inner, "&") == '<p><b title="&quot;&lt;&gt;">&lt;i&gt;</b>&amp;</p>'
    assert element("img", src="a&b") == '<img src="a&amp;b"/>'


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ResultsError, match=r"^.*report.html cannot be written \(.+\): mend that and run this again$"):
        write_results(tmp_path, make_benchmark(), PREDICTIONS[:3], RUN)
    assert {path.name for path in tmp_path.iterdir()} == {"emotion.png", "report.html"}


def test_failures_are_the_farthest_from_the_truth() -> None:
    predictions = [predict("age", 50.0, 50.0 + off, name=str(off)) for off in (0, 4, 5, 6, 20, -30)]
    silent = predict("age", 50.0, None)
    details = measure(make_benchmark(), [*predictions, silent])["age"]["details"]
    assert [each.name for each in pick_wrong([*predictions, silent], details)] == ["-30", "20", "6"]
    assert pick_silent([*predictions, silent]) == [silent]
    many = [predict("emotion", "fear", "anger", name=str(n)) for n in range(50)]
    names = [each.name for each in pick_wrong(many, {})]
    assert len({*names}) == 20
    assert names != [str(n) for n in range(20)]


def test_units_that_are_not_scored_are_no_failure() -> None:
    predictions = [predict("action-units", frozenset({1}), frozenset({1, 12}))]
    assert pick_wrong(predictions, {"per_unit": {"AU1": {}}}) == []
    assert pick_wrong(predictions, {"per_unit": {"AU12": {}}}) == predictions


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (predict("emotion", "fear", None), ("fear", "nothing")),
        (predict("age", 30.0, 27.5), ("30", "27.5")),
        (predict("action-units", frozenset({12, 1}), frozenset()), ("AU1, AU12", "no action units")),
        (
            predict("attributes", {"Bald": True, "No_Beard": False, "Male": True}, {"Male": True}),
            ("Bald, not No Beard", "not Bald, No Beard"),
        ),
        (predict("attributes", {"Bald": True, "Big_Nose": False}, None), ("Bald", "nothing")),
    ],
)
def test_truth_and_label_in_words(prediction: Prediction, words: tuple[str, str]) -> None:
    assert contrast(prediction) == words


def test_the_table_of_a_run() -> None:
    paper = {"mae": {"zero_shot": 3.34, "fine_tuned": 2.02}}
    predictions = [predict("age", 30.0, 31.0), predict("age", 52.0, 49.0)]
    tasks = measure(make_benchmark(task="age", paper=paper), predictions)
    assert format_results({"tasks": tasks, "run": {**RUN, "title": "MORPH II", "limit": 2}}) == (
        "MORPH II test (2 drawn), age: 2 examples, 0 unparsed\n"
        "\n"
        "                              value   95 % interval  paper zero-shot  paper fine-tuned\n"
        "----------------------------  -----  --------------  ---------------  ----------------\n"
        "MAE, years                     2.00    [1.00, 3.00]     3.34 (-1.34)      2.02 (-0.02)\n"
        "at most 5 years off           1.000  [1.000, 1.000]                -                 -\n"
        "MAE of the ages named, years   2.00    [1.00, 3.00]                -                 -\n"
        "mean error of these, years    -1.00   [-3.00, 1.00]                -                 -\n"
        "\n"
        "age    examples                mae\n"
        "-----  --------  -----------------\n"
        "30-39         1  1.00 [1.00, 1.00]\n"
        "50-59         1  3.00 [3.00, 3.00]\n"
    )


def test_every_task_has_a_table() -> None:
    text = format_results({"tasks": measure(make_benchmark(), PREDICTIONS), "run": {**RUN, "title": "Faces"}})
    assert [line for line in text.splitlines() if line.startswith("Faces")] == [
        f"Faces test, {task}: 3 examples, {unparsed} unparsed"
        for task, unparsed in zip(
            ("emotion", "age", "attributes", "action-units", "deepfake"), (1, 1, 1, 1, 0), strict=True
        )
    ]
    assert not re.search("nan|None", text)


EMOTIONS = [predict("emotion", "fear", "fear"), predict("emotion", "fear", "fear")]
PAPER = {"uar": {"zero_shot": 0.469, "fine_tuned": 0.625}, "war": {"zero_shot": 0.564, "fine_tuned": 0.745}}


def make_results(name: str, title: str, predictions: list[Prediction], paper: Any = None, **run: Any) -> dict[str, Any]:
    tasks = measure(make_benchmark(paper=paper), predictions)
    return {"tasks": tasks, "run": {**RUN, "benchmark": name, "title": title, **run}}


def cells(runs: dict[Path, dict[str, Any]]) -> list[list[str]]:
    return [re.split("  +", line) for line in format_runs(runs).splitlines() if not line.startswith("-")]


def test_runs_are_joined_in_the_papers_layout() -> None:
    other = {"model": "checkpoints/7b", "checkpoint_sha256": "b2"}
    runs = {
        Path("a"): make_results("mine", "Mine", EMOTIONS),
        Path("b"): make_results("morph2", "MORPH II", [predict("age", 30.0, 31.0)]),
        Path("c"): make_results("dfew", "DFEW", EMOTIONS, PAPER),
        Path("d"): make_results("dfew", "DFEW", EMOTIONS, PAPER, **other, method="score"),
    }
    one = "1.000 [1.000, 1.000]"
    assert cells(runs) == [
        ["task", "data", "metric", "paper zero-shot", "paper fine-tuned", "checkpoints/nano", "checkpoints/7b, scored"],
        ["emotion", "DFEW test", "UAR", "0.469", "0.625", one, one],
        ["emotion", "DFEW test", "WAR", "0.564", "0.745", one, one],
        ["emotion", "Mine test", "UAR", "-", "-", one, "-"],
        ["emotion", "Mine test", "accuracy", "-", "-", one, "-"],
        ["age", "MORPH II test", "MAE, years", "-", "-", "1.00 [1.00, 1.00]", "-"],
    ]


@pytest.mark.parametrize(
    ("second", "columns"),
    [
        ({"split": "fold2"}, ["checkpoints/nano"]),
        ({"limit": 2}, ["checkpoints/nano"]),
        ({"method": "score"}, ["checkpoints/nano", "checkpoints/nano, scored"]),
        ({"model": "old/checkpoints/nano", "checkpoint_sha256": "b2"}, ["checkpoints/nano", "old/checkpoints/nano"]),
        ({"checkpoint_sha256": "b2"}, ["runs/a", "runs/b"]),
        ({}, ["runs/a", "runs/b"]),
    ],
)
def test_columns_tell_results_apart(second: dict[str, Any], columns: list[str]) -> None:
    runs = {
        Path("runs/a"): make_results("dfew", "DFEW", EMOTIONS, PAPER),
        Path("runs/b"): make_results("dfew", "DFEW", EMOTIONS, PAPER, **second),
    }
    head, *rows = cells(runs)
    assert head[5:] == columns
    assert sum(cell.startswith("1.000") for row in rows for cell in row) == 4


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "No such file or directory: name a folder that `facellava eval` has finished"),
        ("{", "is damaged"),
        ("[]", "has no 'run'"),
        ('{"tasks": {}, "run": {"benchmark": "faces", "title": "Faces", "method": "generate"}}', "has no 'model'"),
        ('{"tasks": {}, "run": 1}', "is damaged"),
    ],
)
def test_folders_without_results_are_named(content: str | None, error: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ResultsError, match=f"^{re.escape(str(tmp_path / 'results.json'))}.*{re.escape(error)}[^\n]*$"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["run", "model"], 2),
        (["run", "benchmark"], None),
        (["run", "title"], []),
        (["run", "method"], "guess"),
        (["run", "split"], 1),
        (["run", "limit"], "3"),
        (["run", "checkpoint_sha256"], {"a": 1}),
        (["tasks"], []),
        (["tasks"], {}),
        (["tasks", "beauty"], {}),
        (["tasks", "emotion"], 1),
        (["tasks", "emotion", "uar"], 0.5),
        (["tasks", "emotion", "uar"], {"value": 0.5}),
        (["tasks", "emotion"], {}),
        (["tasks", "emotion", "uar", "value"], "0.5"),
        (["tasks", "emotion", "uar", "value"], math.nan),
        (["tasks", "emotion", "uar", "value"], 10**400),
        (["tasks", "age", "mae", "high"], math.inf),
        (["tasks", "emotion", "uar", "paper"], {"zero_shot": "0.5"}),
        (["tasks", "emotion", "uar", "paper"], {"zero_shot": math.nan}),
    ],
)
def test_results_that_no_table_can_be_made_of_are_damaged(
    folder: Path, tmp_path: Path, place: list[str], value: object
) -> None:
    results = inner = json.loads((folder / "results.json").read_text())
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ResultsError, match=r"^.*results\.json is damaged: run `facellava eval` with its --out again$"):
        read_results(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_without_its_main_metric_is_damaged(folder: Path, tmp_path: Path, task: str) -> None:
    for metric in MAIN[task]:
        results = json.loads((folder / "results.json").read_text())
        del results["tasks"][task][metric]
        (tmp_path / "results.json").write_text(json.dumps(results))
        with pytest.raises(ResultsError, match=r"^.*results\.json is damaged: .*$"):
            read_results(tmp_path)


def test_two_hosts_that_write_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that one has written a file aside, the other writes them all."""
    write, others = Path.write_bytes, []

    def interrupted(path: Path, content: bytes) -> int:
        count = write(path, content)
        if not others:
            others.append(path)
            write_results(tmp_path, make_benchmark(), PREDICTIONS, RUN, host=1)
        return count

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    write_results(tmp_path, make_benchmark(), PREDICTIONS, RUN, host=0)
    assert others and {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        "report.html",
        *(f"{task}.png" for task in TASKS),
    }


@pytest.mark.parametrize("task", TASKS)
def test_pictures_and_tables_of_answers_that_say_nothing(task: Task) -> None:
    """Of what is not there neither a warning nor a failure comes."""
    truths = {"emotion": "fear", "age": 30.0, "attributes": {}, "action-units": frozenset(), "deepfake": "real"}
    predictions = [predict(task, truths[task], None)]
    tasks = measure(make_benchmark(), predictions)
    assert draw_task(task, tasks[task], predictions, "Faces").startswith(b"\x89PNG")
    assert "1 examples, 1 unparsed" in format_results({"tasks": tasks, "run": {**RUN, "title": "Faces"}})
