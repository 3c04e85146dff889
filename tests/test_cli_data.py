"""`facellava data`: lists are prepared and checked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TOK600, Run

from facellava_jax.config import tiny

TALK = [{"from": "human", "value": "<image>\nWho is it?"}, {"from": "gpt", "value": "A man."}]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `list.json` of three pictures, two of which are there, and `model`, without weights."""
    import cv2

    shutil.copytree(TOK600, tmp_path / "model" / "tokenizer")
    tiny().save(tmp_path / "model" / "config.json")
    (tmp_path / "model" / "manifest.json").touch()
    (tmp_path / "media").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "media" / f"{number}.png"), np.full((30, 40, 3), 90 * number, np.uint8))
    records = [{"id": f"r{number}", "image": f"{number}.png", "conversations": TALK} for number in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prepare(desk: Path, facellava: Run) -> None:
    prepared = facellava("data prepare list.json --image-root media --out out --frames 4 --workers 1")
    assert prepared.status == 0 and prepared.out == ""
    assert prepared.err.splitlines()[-1] == (
        "facellava: 1 of 3 records are damaged, and training will skip them: out/shards.jsonl says why"
    )
    assert "2.png: no such file" in (desk / "out" / "shards.jsonl").read_text()
    again = facellava("data prepare list.json --image-root media --out out --frames 4 --workers 1")
    assert again == prepared
    other = facellava("data prepare list.json --image-root media --out out --frames 8")
    assert other.status == 1 and "out: holds another list" in other.err and other.err.count("\n") == 1


def test_check(desk: Path, facellava: Run) -> None:
    checked = facellava("data check list.json --image-root media --model model --workers 1 --json report.json")
    assert (checked.status, checked.err) == (
        1,
        "facellava: 1 of 3 records are damaged: training will skip them\n",
    )
    assert "list.json: 3 records (3 of 1 image)" in checked.out
    assert "r2: media/2.png: no such file: check the path" in checked.out
    assert json.loads((desk / "report.json").read_text())["damaged"] == 1
    shutil.copy(desk / "media" / "1.png", desk / "media" / "2.png")
    checked = facellava("data check list.json --image-root media --model model --workers 1")
    assert (checked.status, checked.err) == (0, "") and "0 damaged" in checked.out
    assert facellava("data prepare list.json --image-root media --out out --frames 4 --workers 1").status == 0
    both = facellava("data check list.json out --model model --workers 1")
    assert both.status == 1 and "6 records, 3 damaged" in both.out  # the list without its root


def test_check_of_an_experiment(desk: Path, facellava: Run) -> None:
    """Its sources, model and batch; what is given beside it counts more."""
    (desk / "mine.py").write_text(
        "from pathlib import Path\n"
        "from facellava_jax.experiment import *\n"
        "source = Source(path=Path('list.json'), image_root=Path('media'), weight=4.0)\n"
        "config = Experiment(start=Path('model'), data=DataConfig(sources=(source,), batch_size=2))\n"
    )
    checked = facellava("data check mine.py --workers 1")
    assert (checked.status, checked.err) == (1, "facellava: 1 of 3 records are damaged: training will skip them\n")
    assert "list.json: 3 records (3 of 1 image)" in checked.out and "; 6 steps, padding" in checked.out
    assert "; 3 steps, padding" in facellava("data check mine.py --workers 1 --batch-size 4").out
    for wrong in ("mine.py list.json", "mine.py --model model", "mine.py --image-root media"):
        refused = facellava("data check", *wrong.split())
        assert refused.status == 1 and "mine.py says what is read by which model: leave other" in refused.err
    refused = facellava("data check list.json")
    assert refused.status == 1 and "--model is needed to measure list.json" in refused.err
    with (desk / "mine.py").open("a") as file:
        file.write("import dataclasses\n")
        file.write("config = dataclasses.replace(config, data=DataConfig(rendering=Rendering(samples=1)))\n")
    refused = facellava("data check mine.py --workers 1")
    assert refused.status == 1 and refused.err.splitlines() == [
        "facellava: the faces that mine.py renders are there when it trains: they are not looked at",
        "facellava: there is no record to train on: name lists that have some",
    ]


def test_check_of_a_name_that_no_file_can_have(desk: Path, facellava: Run) -> None:
    records = json.loads((desk / "list.json").read_text())
    records[0]["image"] = "x" * 300 + ".png"
    (desk / "long.json").write_text(json.dumps(records))
    checked = facellava("data check long.json --image-root media --model model --workers 1")
    assert checked.status == 1 and "xxx.png: File name too long: check the path" in checked.out


def test_half_a_surrogate_pair_is_written_as_in_json(desk: Path, facellava: Run) -> None:
    records = [
        {"id": "half \ud800", "image": "0.png", "conversations": TALK},
        {"id": "whole \U0001f600", "image": "gone \udc00.png", "conversations": TALK},
    ]
    (desk / "half.json").write_text(json.dumps(records))
    arguments = "half.json --image-root media --workers 1"
    checked = facellava(f"data check {arguments} --model model --json report.json")
    assert checked.status == 1 and "1 of 2 records are damaged" in checked.err
    (source,) = json.loads((desk / "report.json").read_text())["sources"]
    assert source["problems"][0]["examples"] == {
        "whole \U0001f600": "media/gone \udc00.png: no such file: check the path"
    }
    assert "whole \U0001f600" in (desk / "report.json").read_text()
    assert facellava(f"data prepare {arguments} --out out --frames 4").status == 0
    checked = facellava("data check out --model model --workers 1 --json report.json")
    assert r"media/gone \udc00.png: no such file" in checked.out and checked.status == 1


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("data check gone.json --model model", "gone.json: No such file or directory"),
        ("data check list.json --model gone", "gone"),
        ("data check list.json --model model --json gone/report.json", "gone: no such folder: make it first"),
        ("data check media --model model", "media: no prepared data there"),
        ("data prepare list.json --out media", "media: no prepared data there"),
        ("data prepare list.json --out out --workers 0", "workers 0: use at least 1"),
        ("data prepare list.json --out out --frames 0", "0 frames of each clip"),
    ],
)
def test_what_cannot_be_is_one_line(desk: Path, facellava: Run, command: str, fault: str) -> None:
    outcome = facellava(command)
    assert (outcome.status, outcome.out) == (1, "")
    assert fault in outcome.err and outcome.err.count("\n") == 1
    assert not (desk / "out").exists()
