"""Measure the faces of a clip, found in memory, beside the same work through files, in turns.

    python scripts/bench_faces.py [--pairs 5] [--clip FILE] [--out FILE]

In memory is what `facellava faces` does for one clip, without the drawing: 256 x 256 crops as H.264, their landmarks,
and the rows of the face table. Through files is how it is done with scripts: every frame to a PNG file, a detector that
goes over those and writes crops to PNG files, these encoded as H.264, and landmarks found in each of them. One process
each, with the same networks, frames and encoder. Where FFmpeg is installed its program takes a turn at the first and
the third of these steps. Nothing is timed before all sides have given the same landmarks.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

HEIGHT, WIDTH, RATE = 720, 1280, 30
TOLERANCE = 0.05  # between landmarks found in a frame and in its crop, in distances between the eyes
SAMPLE = 60  # frames that single steps are measured on
OURS, OPENCV, FFMPEG = "in memory", "files, OpenCV", "files, FFmpeg"

Seconds = dict[str, float]  # by step


@dataclass(frozen=True)
class Arguments:
    pairs: int = 5
    """Turns of each side; an unmeasured one comes before."""
    clip: Path | None = None
    """By default one of 1280 x 720 pixels is made, in which a face moves and grows over a background."""
    seconds: float = 5.0
    """The length of that clip."""
    cores: int = 1
    """That each side may use, all in one process. Networks use one, and single steps are measured on one."""
    out: Path | None = None
    """Write all numbers to this file."""


class Side(NamedTuple):
    """How a clip becomes crops and landmarks: `run(clip, folder)` writes crop.mp4 and crop.npy there."""

    name: str
    run: Callable[[Path, Path], Seconds]


def make_clip(path: Path, seconds: float) -> None:
    """The astronaut over a blurred photograph, moving to the right and up, first larger and then smaller."""
    import cv2
    from skimage import data

    from facellava_jax.faces.encode import ClipWriter

    face, place = data.astronaut(), np.array([224, 130])
    background = cv2.GaussianBlur(cv2.resize(data.coffee(), (WIDTH + 80, HEIGHT + 40)), (0, 0), 2)
    length = max(2, round(seconds * RATE))
    with ClipWriter(path, RATE) as writer:
        for index, at in enumerate(np.linspace(0, 1, length).tolist()):
            scale = 2 + 0.3 * np.sin(3 * at)
            shift = np.array([450 + 250 * at, 360 - 60 * at]) - scale * place
            matrix = np.column_stack([scale * np.eye(2), shift])
            left, top = round(60 * at), round(20 * at)
            frame = background[top : top + HEIGHT, left : left + WIDTH].copy()
            cv2.warpAffine(face, matrix, (WIDTH, HEIGHT), frame, borderMode=cv2.BORDER_TRANSPARENT)
            writer.add(frame, index / RATE)


def make_sides() -> list[Side]:
    """Ours first; the networks are made once for each."""
    from facellava_jax.faces import FaceFinder
    from facellava_jax.faces.detect import Detector
    from facellava_jax.faces.extract import ExtractOptions, extract_faces

    finder, detector = FaceFinder(), Detector()

    def run_in_memory(clip: Path, folder: Path) -> Seconds:
        seconds: Seconds = {}
        with timed(seconds, "all"):
            extract_faces(clip, folder / "crop", finder, ExtractOptions(overlay=False))
        return seconds

    def through_files(extract: Callable[[Path, Path], None], encode: Callable[[Path, Path], None]) -> Any:
        def run(clip: Path, folder: Path) -> Seconds:
            frames, crops = folder / "frames", folder / "crops"
            frames.mkdir()
            crops.mkdir()
            seconds: Seconds = {}
            with timed(seconds, "frames to PNG"):
                extract(clip, frames)
            with timed(seconds, "detect, crops to PNG"):
                crop_files(frames, crops, detector)
            with timed(seconds, "encode crops"):
                encode(crops, folder / "crop.mp4")
            with timed(seconds, "landmarks of crops"):
                landmark_files(crops, folder / "crop.npy", finder)
            return seconds

        return run

    sides = [Side(OURS, run_in_memory), Side(OPENCV, through_files(extract_frames, encode_crops))]
    if shutil.which("ffmpeg"):
        sides.append(Side(FFMPEG, through_files(extract_frames_by_ffmpeg, encode_crops_by_ffmpeg)))
    return sides


def extract_frames(clip: Path, frames: Path) -> None:
    """Those that are shown at 24 frames per second."""
    from facellava_jax.faces.clips import REFERENCE_RATE, choose_frames
    from facellava_jax.media import iterate_video

    count = 0
    for _, frame, times in choose_frames(iterate_video(clip), REFERENCE_RATE):
        for _ in times:
            save_png(frames / f"{count:06}.png", frame.pixels)
            count += 1


def extract_frames_by_ffmpeg(clip: Path, frames: Path) -> None:
    run_ffmpeg("-i", clip, "-vf", "fps=24", "-start_number", "0", frames / "%06d.png")


def crop_files(frames: Path, crops: Path, detector: Any) -> None:
    from facellava_jax.faces import choose_window, cut_window

    for path in sorted(frames.iterdir()):
        picture = read_png(path)
        found = max(detector.detect(picture), key=lambda detection: detection.box.area, default=None)
        if not found:
            sys.exit(f"bench_faces: no face in frame {path.stem}: give a clip with one large face in every frame")
        window = choose_window(found.box, *picture.shape[:2], "reference", path)
        save_png(crops / path.name, cut_window(picture, window, "reference"))


def read_png(path: Path) -> np.ndarray:
    import cv2

    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def save_png(path: Path, picture: np.ndarray) -> None:
    import cv2

    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def encode_crops(crops: Path, out: Path) -> None:
    from facellava_jax.faces.encode import ClipWriter

    with ClipWriter(out, 24) as writer:
        for index, path in enumerate(sorted(crops.iterdir())):
            writer.add(read_png(path), index / 24)


def encode_crops_by_ffmpeg(crops: Path, out: Path) -> None:
    quality = ("-c:v", "libx264", "-crf", "18", "-preset", "veryfast", "-bf", "0", "-pix_fmt", "yuv420p")
    run_ffmpeg("-framerate", "24", "-i", crops / "%06d.png", *quality, out)


def run_ffmpeg(*arguments: object) -> None:
    command = ["ffmpeg", "-nostdin", "-v", "error", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"bench_faces: {' '.join(command)} failed:\n{process.stderr}")


def landmark_files(crops: Path, out: Path, finder: Any) -> None:
    from facellava_jax.faces import pick_face

    points = [pick_face(finder.find(read_png(path)), path).landmarks for path in sorted(crops.iterdir())]
    np.save(out, np.stack(points).astype(np.float32))


@contextlib.contextmanager
def timed(seconds: Seconds, step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def run_once(side: Side, clip: Path) -> tuple[Seconds, np.ndarray]:
    """The time of each step, and the landmarks; files go to a folder that is made and removed outside of the time."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = side.run(clip, Path(folder))
        return seconds, np.load(Path(folder) / "crop.npy")


def check_sides(sides: list[Side], clip: Path) -> tuple[int, float]:
    """The frames of the crop, and how far landmarks lie apart. Ends the program where sides differ."""
    ours, *others = (run_once(side, clip)[1] for side in sides)
    eyes = np.hypot(*(ours[:, 36:42].mean(1) - ours[:, 42:48].mean(1)).T)
    largest = 0.0
    for side, points in zip(sides[1:], others, strict=True):
        if points.shape != ours.shape:
            sys.exit(f"bench_faces: nothing is timed, for {side.name} gives {len(points)} frames, ours {len(ours)}")
        largest = max(largest, float((np.hypot(*(points - ours).T).mean(0) / eyes).mean()))
    if largest > TOLERANCE:
        sys.exit(f"bench_faces: nothing is timed, for landmarks differ by {largest:.3f}, above {TOLERANCE}")
    return len(ours), largest


def measure_steps(clip: Path) -> dict[str, float]:
    """Frames per second of what is done in memory, step by step, on one core from here on."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from facellava_jax.faces import FaceFinder, choose_window, cut_window
    from facellava_jax.faces.detect import Detector
    from facellava_jax.faces.encode import ClipWriter
    from facellava_jax.faces.landmarks import Landmarker
    from facellava_jax.media import iterate_video

    finder, detector, landmarker = FaceFinder(), Detector(), Landmarker()
    start = time.perf_counter()
    frames = [frame.pixels for frame, _ in zip(iterate_video(clip), range(SAMPLE), strict=False)]
    rates = {"decode": len(frames) / (time.perf_counter() - start)}

    def measure(step: str, work: Callable[[Any], Any], inputs: list[Any]) -> list[Any]:
        work(inputs[0])
        start = time.perf_counter()
        outputs = [work(each) for each in inputs]
        rates[step] = len(inputs) / (time.perf_counter() - start)
        return outputs

    frames = [frame for frame in frames if detector.detect(frame)]
    found = measure("detection", lambda frame: detector.detect(frame)[0], frames)
    measure("landmarks", lambda pair: landmarker.locate(*pair), list(zip(frames, found, strict=True)))
    measure("detection and landmarks", finder.find, frames)
    pairs = [
        (frame, choose_window(each.box, *frame.shape[:2], "reference", clip))
        for frame, each in zip(frames, found, strict=True)
    ]
    crops = measure("crop", lambda pair: cut_window(*pair, "reference"), pairs)
    with tempfile.TemporaryDirectory() as folder, ClipWriter(Path(folder) / "crop.mp4", 24) as writer:
        measure("encode", lambda item: writer.add(item[1], item[0] / 24), list(enumerate(crops)))
    return rates


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    for name in ("pairs", "cores"):
        if getattr(arguments, name) < 1:
            sys.exit(f"bench_faces: --{name} {getattr(arguments, name)}: use at least 1")
    load_average = os.getloadavg()[0]
    # Before OpenCV and FFmpeg count the cores for their threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    sides = make_sides()
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or Path(folder) / "clip.mp4"
        if not arguments.clip:
            make_clip(clip, arguments.seconds)
        frames, difference = check_sides(sides, clip)
        runs: dict[str, list[Seconds]] = {side.name: [] for side in sides}
        for _ in range(arguments.pairs):
            for side in sides:
                runs[side.name].append(run_once(side, clip)[0])
        rates = measure_steps(clip)
    write_report(arguments, frames, difference, load_average, runs, rates)


def write_report(
    arguments: Arguments,
    frames: int,
    difference: float,
    load_average: float,
    runs: dict[str, list[Seconds]],
    rates: dict[str, float],
) -> None:
    medians = {side: float(np.median([sum(each.values()) for each in turns])) for side, turns in runs.items()}
    lines = [
        f"{arguments.pairs} turns of each side, cores {arguments.cores}, load average {load_average:.1f}; "
        f"crops of {frames} frames, landmarks within {difference:.1%} of the distance between the eyes",
        "",
        f"{'median':36}{'s':>10}{'frames/s':>12}{'slower by':>12}",
    ]
    for side, turns in runs.items():
        slower = medians[side] / medians[OURS]
        lines.append(f"{side:36}{medians[side]:10.3f}{frames / medians[side]:12.1f}{slower:12.2f}")
        if len(turns[0]) > 1:
            steps = {step: float(np.median([each[step] for each in turns])) for step in turns[0]}
            lines += [f"{'  ' + step:36}{median:10.3f}{frames / median:12.1f}" for step, median in steps.items()]
    lines += ["", f"{'one step alone, in memory':36}{'ms':>10}{'frames/s':>12}"]
    lines += [f"{step:36}{1000 / rate:10.2f}{rate:12.1f}" for step, rate in rates.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.out:
        numbers = {
            "pairs": arguments.pairs,
            "cores": arguments.cores,
            "load_average": load_average,
            "frames": frames,
            "largest_landmark_difference": difference,
            "medians": medians,
            "ratios": {side: median / medians[OURS] for side, median in medians.items()},
            "runs": runs,
            "frames_per_second_per_core": rates,
        }
        arguments.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
