"""The main job from end to end: faces are rendered, found, cropped and landmarked, and the small model answers.

    python scripts/demo.py [FOLDER]

First a checkpoint of the PyTorch original is imported, and checked against the numbers that the original computes; it
is tiny and its weights are random. Then `nano`, the model that ships with the package, is asked about a picture and a
clip of people whom it has not seen, in all five tasks. All files go to FOLDER, .cache/demo by default: `answers.png`
shows what was seen and said.
"""

import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from facellava_jax import Predictor
from facellava_jax.overlay import draw_views, write_picture
from facellava_jax.program import write
from facellava_jax.request import Task
from facellava_jax.synthetic import Medium, label_sample, render_sample

CASE = Path(__file__).parent.parent / "tests" / "goldens" / "03_video_landmarks_simple"
FOLDER = Path(".cache/demo")
SEED = 11  # of the people
BORDER = (48, 0, 160, 160)  # pixels that the room extends above, below, and to both sides of what is rendered
RATE = 8  # frames per second
# Numbers of rendered samples, and what is asked of them.
ASKED: dict[str, tuple[int, tuple[Task, ...]]] = {
    "picture.png": (3, ("age", "attributes", "action-units")),
    "clip.mp4": (0, ("emotion", "deepfake")),
}
WIDTH, LINE, MARGIN = 1288, 26, 16  # pixels of the result


def main(folder: Path) -> None:
    if folder == FOLDER:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo
    elif folder.exists():
        sys.exit(f"demo: {folder} exists: choose another name")
    folder.mkdir(parents=True)
    run("facellava-convert", "import", CASE / "checkpoint", folder / "checkpoint")
    run("facellava-convert", "verify", folder / "checkpoint", CASE)

    for name, (number, _) in ASKED.items():
        write_medium(folder / name, render_sample(SEED, "test", number).media[0])
        run("facellava", "faces", folder / name, "--out", folder / "faces")

    write("\n>>> predictor = Predictor.load()\n")
    predictor = Predictor.load()
    sheet = []
    for name, (number, tasks) in ASKED.items():
        lines = []
        for task in tasks:
            write(f'>>> predictor.predict("{folder / name}", task="{task}").text\n')
            answer = predictor.predict(folder / name, task=task)
            write(f"{answer.text}\n")
            lines += [f"{name}, {task}: {answer.question}", f"    {answer.text}"]
        lines.append(describe_truth(number, tasks))
        sheet += [draw_views(folder / name, answer.views), write_lines(lines)]
    write_picture(folder / "answers.png", stack(sheet))
    write(f"\nThe small model knows rendered faces only. Look at {folder / 'answers.png'}\n")


def write_medium(path: Path, medium: Medium) -> None:
    """What is rendered, in a room around it: a picture, or a clip."""
    top, bottom, left, right = BORDER
    frames = []
    for frame in medium.film.frames:
        room = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_REPLICATE)
        soft = cv2.GaussianBlur(room, (0, 0), 12)
        soft[top : top + len(frame), left : left + len(frame)] = frame
        frames.append(cv2.cvtColor(soft, cv2.COLOR_RGB2BGR))
    if medium.kind == "image":
        cv2.imwrite(str(path), frames[0])
        return
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, frames[0].shape[1::-1])
    for each in frames:
        writer.write(each)
    writer.release()


def describe_truth(number: int, tasks: Sequence[Task]) -> str:
    """What was rendered, as far as it was asked."""
    labels = {"deepfake": "real", **label_sample(SEED, "test", number)[0]}
    words = []
    for task in tasks:
        label = labels[task]
        if isinstance(label, dict):
            label = ", ".join(name for name, value in label.items() if value)
        words.append(f"{task} {label}")
    return f"(rendered: {'; '.join(words)})"


def write_lines(lines: Sequence[str]) -> np.ndarray:
    wrapped = [part for line in lines for part in textwrap.wrap(line, 110, subsequent_indent="    ") or [""]]
    canvas = np.full((LINE * len(wrapped) + MARGIN, WIDTH, 3), 255, np.uint8)
    for number, line in enumerate(wrapped, start=1):
        cv2.putText(canvas, line, (MARGIN, LINE * number), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    return canvas


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """One below the other, scaled to WIDTH at most."""
    rows = []
    for picture in pictures:
        scale = min(1.0, WIDTH / picture.shape[1])
        scaled = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows.append(
            cv2.copyMakeBorder(scaled, 0, 0, 0, WIDTH - scaled.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255))
        )
    return np.concatenate(rows)


def run(*words: object) -> None:
    """Runs a command as a user would type it, and shows it."""
    arguments = [str(word) for word in words]
    write(f"\n$ {shlex.join(arguments)}\n")
    program = Path(sys.executable).with_name(arguments[0])
    subprocess.run([program, *arguments[1:]], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
