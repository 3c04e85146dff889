"""The main job from end to end: a PyTorch checkpoint is imported, checked, and asked about a picture and a clip.

    python scripts/demo.py [FOLDER]

The checkpoint is a tiny one with random weights, recorded together with what the PyTorch original computes from it; so
the numbers can be checked, and the words mean nothing. The picture is NASA's photograph of the astronaut Eileen
Collins, which scikit-image carries; the clip pans and zooms over it. All files go to FOLDER, .cache/demo by default.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from facellava_jax.program import write

CASE = Path(__file__).parent.parent / "tests" / "goldens" / "03_video_landmarks_simple"
FACE_XY = (224, 115)  # centre of the face in the 512 x 512 photograph
FRAMES, FRAMES_PER_SECOND = 48, 24


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint, picture, clip = folder / "checkpoint", folder / "astronaut.png", folder / "astronaut.mp4"
    write_media(picture, clip)
    run("facellava-convert", "import", CASE / "checkpoint", checkpoint)
    run("facellava-convert", "verify", checkpoint, CASE)
    for media, task in ((picture, "age"), (picture, "action-units"), (clip, "emotion"), (clip, "deepfake")):
        run("facellava", "predict", media, "--task", task, "--model", checkpoint, "--max-new-tokens", 24)
    write("\nThe checkpoint is tiny and its weights are random: every number agrees with the PyTorch original's, and\n")
    write("the words mean nothing. Import real weights in the same way, with facellava-convert import.\n")


def write_media(picture: Path, clip: Path) -> None:
    """The photograph, and two seconds of a camera that closes in on the face."""
    photograph = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(picture), photograph)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, (256, 256))
    for progress in np.linspace(0, 1, FRAMES):
        side = 512 - 256 * progress
        left, top = (np.clip(progress * (at - 128), 0, 512 - side) for at in FACE_XY)
        scale = 256 / side
        move = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
        writer.write(cv2.warpAffine(photograph, move, (256, 256), flags=cv2.INTER_AREA))
    writer.release()


def run(*words: object) -> None:
    """Runs a command as a user would type it, and shows it."""
    arguments = [str(word) for word in words]
    write(f"\n$ {shlex.join(arguments)}\n")
    program = Path(sys.executable).with_name(arguments[0])
    subprocess.run([program, *arguments[1:]], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/demo"))
