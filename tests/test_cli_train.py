"""facellava train: files of experiments, their fields on the command line, errors of one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facellava_jax import train as training
from facellava_jax.cli_train import load_experiment
from facellava_jax.config import ConfigError
from facellava_jax.experiment import Experiment

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Experiment, Path]]:
    """What the command trains, in the place of training."""
    calls: list[tuple[Experiment, Path]] = []
    monkeypatch.setattr(training, "train", lambda experiment, out: calls.append((experiment, out)))
    return calls


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_file_is_an_experiment(
    file: Path, facellava: Callable[..., Any], received: list[tuple[Experiment, Path]], tmp_path: Path
) -> None:
    expected, flags = load_experiment(file), os.environ["XLA_FLAGS"]
    assert facellava("train", file, "--out", tmp_path) == (0, "", "")
    assert os.environ["XLA_FLAGS"] == flags  # which say enough: with others, all would be compiled anew
    assert received == [(expected, tmp_path)]
    (tmp_path / "experiment.json").write_text(expected.to_json())
    assert Experiment.load(tmp_path / "experiment.json") == expected


def test_fields_are_overridden_by_dotted_names(
    facellava: Callable[..., Any], received: list[tuple[Experiment, Path]], tmp_path: Path
) -> None:
    file = tmp_path / "short.py"
    file.write_text(
        "from pathlib import Path\n"
        "from facellava_jax.experiment import *\n"
        "config = Experiment(data=DataConfig(sources=(Source(path=Path('a.json')), Source(path=Path('b.json')))))\n"
    )
    command = (
        "--steps 7 --data.sources.1.weight 0.5 --optim.clip-norm None --start ck --trainable 'decoder/*' --no-remat"
    )
    assert facellava(f"train --no-remat --out run {command}", file).status == 0
    ((experiment, out),) = received
    assert out == Path("run") and experiment.steps == 7 and experiment.start == Path("ck") and not experiment.remat
    assert [source.weight for source in experiment.data.sources] == [1.0, 0.5]
    assert experiment.optim.clip_norm is None and experiment.trainable == ("decoder/*",)
    listed = facellava("train", file, "--help").out
    for field in ("--optim.learning-rate", "--mesh.fsdp", "--data.sources.1.path", "--checkpoint-every"):
        assert field in listed
    assert "Train a model as a file of configs/ says" in listed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "binds nothing to the name `config`: let it be an Experiment"),
        ("config = 3", "binds a int to the name `config`"),
        ("config = 3 +", "line 1: SyntaxError: "),
        ("\nimport absent_thing\n", "line 2: ModuleNotFoundError: No module named 'absent_thing'"),
        ("import json\n\njson.loads('{')\n", "mine.py, line 3: JSONDecodeError: "),
        ("import ast\n\n\nast.parse('a\\n b =')\n", "mine.py, line 4: IndentationError: "),
        ("config = '\0'", "mine.py: "),
        ("from facellava_jax.experiment import *\nconfig = Experiment(keep=0)", "keep 0: use at least 1"),
        (None, "No such file or directory: name a file like those of configs/"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    text: str | None, message: str, facellava: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    status, out, err = facellava("train", file, "--out", tmp_path / "run")
    assert (status, out) == (1, "") and message in err and len(err.splitlines()) == 1 and str(file) in err
    assert not (tmp_path / "run").exists()


def test_what_is_no_python_file_and_bad_fields(facellava: Callable[..., Any], tmp_path: Path) -> None:
    status, _, err = facellava("train", tmp_path, "--out", tmp_path / "run")
    assert (status, err) == (1, f"facellava: {tmp_path} is no Python file: name one whose name ends in .py\n")
    debug = next(file for file in CONFIGS if file.stem == "debug")
    status, _, err = facellava("train", debug, "--out", tmp_path / "run", "--keep", "0")
    assert status == 1 and "keep 0: use at least 1" in err
    status, _, err = facellava("train", debug, "--out", tmp_path / "run", "--no-such-field", "0")
    assert status == 2 and "--no-such-field" in err


def test_load_experiment_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.py"):
        load_experiment(tmp_path / "absent.py")


@pytest.mark.slow
def test_the_debug_run(facellava: Callable[..., Any], tmp_path: Path) -> None:
    debug = next(file for file in CONFIGS if file.stem == "debug")
    assert facellava("train", debug, "--out", tmp_path / "run", "--mesh.fsdp", "8").status == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    folders = (tmp_path / "run" / "checkpoints").iterdir()
    assert sorted(folder.name for folder in folders) == ["20", "24"]
    command = "predict --prompt 'What is this?' --max-new-tokens 3 --model"
    status, out, _ = facellava(command, tmp_path / "run" / "model")
    assert status == 0 and out
