"""The programs in scripts/: each says how it is used, and the benchmark beside transformers measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
PROGRAMS = sorted(file.name for file in SCRIPTS.glob("*.py") if "tyro.cli(" in file.read_text())


def run_script(name: str, *arguments: str) -> str:
    """Its standard output; it must succeed and leave standard error empty."""
    # The tests' eight CPU devices would slow what is measured.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    return process.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(name: str) -> None:
    assert "usage:" in run_script(name, "--help")


@pytest.mark.slow
def test_bench_first_token(tmp_path: Path) -> None:
    heading, parity, _, columns, *rows = run_script(
        "bench_first_token.py", "--pairs", "1", "--json", str(tmp_path / "numbers.json")
    ).splitlines()
    assert "float32" in heading and "the same 64 greedy tokens" in parity
    assert columns.split() == ["median", "unit", "facellava_jax", "transformers", "ours/theirs"]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert 0 < numbers["largest_logit_difference"] < 1e-3
    measures = numbers["measures"]
    assert [measure["measure"].partition(":")[0].partition(",")[0] for measure in measures] == [
        "import facellava_jax",
        "import Predictor",
        "first token",
        "first token",
        "warm process",
        "warm process",
        "warm process",
    ]
    # Every measure has its line, and its ratio is that of the medians.
    assert len(rows) == len(measures) + sum(len(measure["stages"]) for measure in measures)
    for measure in measures:
        row = next(row for row in rows if row.startswith(measure["measure"]))
        ours, theirs, ratio = map(float, row.split()[-3:])
        assert min(ours, theirs) > 0 and ours / theirs == pytest.approx(ratio, rel=0.01, abs=0.005)
        if measure["stages"]:
            parts = sum(stage["medians"]["facellava_jax"] for stage in measure["stages"])
            assert parts == pytest.approx(measure["medians"]["facellava_jax"])


@pytest.mark.slow
def test_bench_score(tmp_path: Path) -> None:
    small = ("--width", "128", "--layers", "2", "--pairs", "3", "--json", str(tmp_path / "numbers.json"))
    heading, _, columns, *rows = run_script("bench_score.py", *small).splitlines()
    assert "float32" in heading and "7 candidates; 3 turns" in heading
    assert columns.split() == ["median", "seconds", "to", "at", "once"]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["largest_difference"] < 1e-4
    medians, ratios = numbers["medians"], numbers["ratios"]
    assert [*medians] == ["at once", "one by one", "as rows", "plain"]
    for row, side in zip(rows, medians, strict=True):
        seconds, ratio = map(float, row.removeprefix(side).split())
        assert seconds == pytest.approx(medians[side], abs=1e-3) and ratio == pytest.approx(ratios[side], abs=0.01)
        assert ratios[side] == pytest.approx(medians[side] / medians["at once"])
        assert len(numbers["runs"][side]) == 3
    # What one reading of the prompt is worth, for seven candidates.
    assert min(ratios["one by one"], ratios["plain"]) >= 3


def test_bench_faces(tmp_path: Path) -> None:
    lines = run_script(
        "bench_faces.py", "--pairs", "1", "--seconds", "0.5", "--out", str(tmp_path / "numbers.json")
    ).splitlines()
    assert "crops of 12 frames" in lines[0]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert 0 < numbers["largest_landmark_difference"] < 0.05
    ours, files, *_ = numbers["medians"]
    assert (ours, files) == ("in memory", "files, OpenCV")
    assert numbers["ratios"][files] == pytest.approx(numbers["medians"][files] / numbers["medians"][ours])
    rows = {line.strip().rpartition("  ")[0].split("   ")[0]: line.split() for line in lines[3:] if line}
    for side, seconds in numbers["medians"].items():
        assert float(rows[side][-3]) == pytest.approx(seconds, abs=1e-3)
        assert sum(numbers["runs"][side][0].values()) == pytest.approx(seconds)
    rates = numbers["frames_per_second_per_core"]
    for step in ("detection", "landmarks", "detection and landmarks"):
        assert float(rows[step][-1]) == pytest.approx(rates[step], abs=0.1)
    assert rates["detection"] > rates["detection and landmarks"]
