"""`facellava eval` and `facellava report`: data sets in their folders, tables on the terminal, errors that explain."""

from pathlib import Path

import miniatures
import numpy as np
import pytest
from conftest import Run

from facellava_jax import cli_eval
from facellava_jax.evaluate.benchmarks import BENCHMARKS
from facellava_jax.evaluate.facts import Evaluation

EVAL = "--model model --max-new-tokens 6"


@pytest.fixture
def desk(checkpoint: Path, astronaut: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `raf`, seven pictures of the same face, and `model`."""
    face = np.ascontiguousarray(astronaut[40:240, 120:320])
    miniatures.build("raf-db", tmp_path / "raf", lambda truth, kind: face)
    (tmp_path / "model").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_evaluations_and_their_report(desk: Path, facellava: Run) -> None:
    status, out, err = facellava(f"eval raf-db --data raf --out free {EVAL}")
    assert status == 0
    assert "accuracy" in out and "0.780" in out and "7 examples" in out
    assert f"face crops and landmarks are kept in {desk / 'raf.faces'}\n" in err
    assert facellava(f"eval raf-db --data raf --out free {EVAL}") == (0, out, "")
    assert facellava(f"eval raf-db --data raf --out scored --method score {EVAL}").status == 0
    for name in ("predictions.jsonl", "results.json", "emotion.png", "report.html"):
        assert (desk / "scored" / name).stat().st_size
    status, table, err = facellava("report free scored")
    assert (status, err) == (0, "") and "RAF-DB" in table
    value = next(word for word in out.split("accuracy")[1].split() if word.startswith("0."))
    assert value in table


def test_unreadable_media_can_be_skipped(desk: Path, facellava: Run) -> None:
    next((desk / "raf").rglob("*.jpg")).write_bytes(b"\xff\xd8\xff")
    status, out, err = facellava(f"eval raf-db --data raf --out results {EVAL}")
    assert (status, out) == (1, "") and err.endswith("or count them as wrong with --skip-unreadable\n")
    status, out, err = facellava(f"eval raf-db --data raf --out results {EVAL} --skip-unreadable")
    assert status == 0 and "7 examples" in out
    assert "1 of 7 examples could not be read and count as wrong; without --skip-unreadable" in err


def test_a_wrong_folder_is_answered_with_the_layout(desk: Path, facellava: Run) -> None:
    (desk / "raf" / "basic" / "EmoLabel" / "list_patition_label.txt").unlink()
    status, out, err = facellava(f"eval raf-db --data raf --out results {EVAL}")
    assert (status, out) == (1, "")
    first, *layout = err.splitlines()
    assert first.startswith("facellava: raf: there is no basic/EmoLabel/list_patition_label.txt")
    assert len(layout) > 3 and "list_patition_label.txt" in err.split("\n", 1)[1]
    assert not (desk / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (f"eval imagenet --data raf --out results {EVAL}", "benchmark 'imagenet' is not one of dfew, crema-d, raf-db"),
        (f"eval raf-db --data raf --out raf {EVAL}", "raf lies in the data, raf: choose another --out"),
        (f"eval raf-db --data raf --out . {EVAL}", ". holds model and no evaluation: choose another --out"),
        (f"eval raf-db --data raf --out results {EVAL} --batch-size 0", "batch_size 0: use at least 1"),
        (
            f"eval raf-db --data raf --out results {EVAL} --cache raf/faces",
            "raf/faces lies in the data, raf: ",
        ),
        (f"eval raf-db --data raf --out results {EVAL} --cache .", ". holds no faces of this release: remove it"),
        (f"eval raf-db --data raf --out results {EVAL} --split dev", "RAF-DB has no split 'dev': choose test or train"),
        ("report", "no folder to report on: name at least one"),
        ("eval raf-db --data raf --out results --model raf", "raf has no config.json: give a checkpoint folder"),
        ("report raf", "raf/results.json: No such file or directory: name a folder"),
    ],
)
def test_bad_input_is_one_line(desk: Path, facellava: Run, arguments: str, line: str) -> None:
    status, out, err = facellava(arguments)
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert err.startswith(f"facellava: {line}")


def test_fields_reach_the_evaluation(desk: Path, facellava: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[Evaluation, dict[str, object]]] = []
    monkeypatch.setattr(
        "facellava_jax.evaluate.run.evaluate", lambda evaluation, out, **rest: received.append((evaluation, rest))
    )
    assert facellava(
        "eval faceinstruct --data raf --out results --model model --split all --task age --method score --limit 5 "
        "--seed 3 --batch-size 2 --max-new-tokens 9 --dtype bfloat16 --cache faces --workers 2 --mesh.fsdp 2 "
        "--skip-unreadable"
    ) == (0, "", "")
    ((evaluation, rest),) = received
    assert evaluation == Evaluation(
        benchmark="faceinstruct",
        data=Path("raf"),
        model=Path("model"),
        split="all",
        task="age",
        method="score",
        limit=5,
        seed=3,
        max_new_tokens=9,
        dtype="bfloat16",
    )
    assert rest.pop("mesh") == cli_eval.MeshConfig(data=-1, fsdp=2)
    assert rest.pop("skip_unreadable") is True
    assert rest == {"batch_size": 2, "cache": Path("faces"), "workers": 2, "host": 0, "hosts": 1}


def test_help_names_the_data_sets(facellava: Run) -> None:
    text = " ".join(facellava("eval --help").out.replace("│", " ").split())
    assert all(name in text for name in BENCHMARKS)
    assert "DIR" in facellava("report --help").out
    listed = facellava("--help").out
    assert "eval" in listed and "report" in listed
