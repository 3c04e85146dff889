"""Everything that the README shows runs, word for word."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from facellava_jax.synthetic import render_dataset

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def desk(golden_case: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names, its checkpoint a small one."""
    case = golden_case("03_video_landmarks_simple")
    shutil.copytree(case / "checkpoint", tmp_path / "FaceLLaVA")
    for tower in ("LanguageBind_Image", "LanguageBind_Video_merge"):
        shutil.copytree(case / tower, tmp_path / tower)
    shutil.copytree(case, tmp_path / "recorded-case")
    (tmp_path / "pictures").mkdir()
    face = cv2.cvtColor(data.astronaut()[:256, 96:352], cv2.COLOR_RGB2BGR)
    for name in ("face.png", "pictures/1.png", "pictures/2.jpg"):
        cv2.imwrite(str(tmp_path / name), face)
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 24, (256, 256))
    for shift in range(12):
        writer.write(np.roll(face, shift, axis=1))
    writer.release()
    np.save(tmp_path / "landmarks.npy", np.linspace(20, 236, 136).astype(np.float32))
    for _ in render_dataset(tmp_path / "rendered", 5, 0, "test", 2, workers=1):
        pass
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_python(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands in blocks("bash"):
        subprocess.run(["bash", "-euc", commands], check=True, env=os.environ | {"PATH": path})
    answers = (desk / "answers.csv").read_text()
    assert "1.png,ok," in answers and "2.jpg,ok," in answers
    predicting, _ = blocks("python")
    names: dict[str, object] = {}
    exec(predicting, names)
    answer: Any = names["answer"]
    assert answer.text and len(answer.face) == len(answer.landmarks) == 8
    assert (desk / "seen.png").stat().st_size and (desk / "attention.png").stat().st_size
    assert (desk / "results" / "report.html").stat().st_size


@pytest.mark.slow
def test_training(desk: Path, checkpoint: Path) -> None:
    (desk / "configs").symlink_to(Path(__file__).parent.parent / "configs")
    (desk / "checkpoints").mkdir()
    (desk / "checkpoints" / "facellava-7b").symlink_to(checkpoint)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shutil.rmtree(desk / "rendered")  # which the commands make themselves
    (commands,) = blocks("sh")
    subprocess.run(["bash", "-euc", commands], check=True, env=os.environ | {"PATH": path})
    assert (desk / "runs" / "debug" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_training_the_small_model(tmp_path: Path) -> None:
    for folder in ("scripts", "configs"):
        (tmp_path / folder).symlink_to(Path(__file__).parent.parent / folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (commands,) = blocks("shell")
    shorter = {"python": "--samples 250 --epochs 1 1 1", "facellava": "--steps 2"}
    for command in commands.splitlines():
        words = f"{command} {shorter[command.split()[0]]}"
        subprocess.run(["bash", "-euc", words], check=True, cwd=tmp_path, env=os.environ | {"PATH": path})
    assert (tmp_path / "nano" / "run" / "model" / "config.json").is_file()


def test_recording_a_case(golden_case: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays that PyTorch gave stand for those of the user's own run."""
    from conversion.convert import import_checkpoint
    from conversion.verify import verify

    case = golden_case("02_image_landmarks_simple")
    inputs, outputs = np.load(case / "inputs.npz"), np.load(case / "outputs.npz")
    names = {
        "input_ids": inputs["input_ids"][:1],
        "attention_mask": inputs["attention_mask"][:1],
        "pixels": inputs["image_0"],
        "landmarks": inputs["landmarks_0"],
        "logits": outputs["logits"][:1],
        "merged": outputs["attention_mask_merged"][:1],
        "prompt_ids": outputs["gen_prompt_ids"],
        "ids": outputs["gen_ids"],
    }
    monkeypatch.chdir(tmp_path)
    _, recording = blocks("python")
    exec(recording, names)
    import_checkpoint(case / "checkpoint", tmp_path / "checkpoint")
    rows = verify(tmp_path / "checkpoint", tmp_path / "my-case")
    assert [row.verdict for row in rows] == ["ok"] * 3
