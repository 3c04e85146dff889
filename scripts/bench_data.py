"""Samples per second on one core: the loader on a list, on the same data prepared, and OpenCV reading the same frames.

python scripts/bench_data.py [--pictures 64] [--clips 24] [--clip-frames 64] [--rounds 5] [--json numbers.json]
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).parent.parent
SIDE, FRAMES, BATCH = 256, 8, 8
WAYS = ("opencv", "list", "prepared")


@dataclass(frozen=True)
class Arguments:
    pictures: int = 64
    """JPEG pictures of 256 x 256."""
    clips: int = 24
    """H.264 clips of 256 x 256."""
    clip_frames: int = 64
    """Frames of each clip, of which 8 are taken."""
    rounds: int = 5
    """Each way takes its turn in each round; medians are shown."""
    tokenizer: Path = ROOT / "tests" / "goldens" / "tokenizer" / "tok600"
    """A folder with a tokenizer."""
    json: Path | None = None
    """Write the numbers of every round to this file."""


def draw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Frames (T, Y, X, 3): a window that moves over smooth noise with some grain, about as hard to code as a face."""
    import cv2

    size = SIDE + 2 * count
    scene = sum(
        cv2.resize(
            rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
        * (90 / step)
        for step, cells in enumerate((4, 12, 48), start=1)
    )
    windows = [scene[2 * at : 2 * at + SIDE, at : at + SIDE] for at in range(count)]
    grain = rng.normal(128, 2, (count, SIDE, SIDE, 3))
    return np.clip(np.stack(windows) + grain, 0, 255).astype(np.uint8)


def write_lists(folder: Path, arguments: Arguments) -> dict[str, Path]:
    """Media and two lists: of pictures, and of clips."""
    import cv2

    from facellava_jax.faces.encode import ClipWriter

    rng = np.random.default_rng(0)
    records: dict[str, list[dict[str, object]]] = {"pictures": [], "clips": []}
    answer = {"from": "gpt", "value": "The brows are raised and the mouth is open, which tells of surprise."}
    for number in range(arguments.pictures):
        cv2.imwrite(str(folder / f"{number}.jpg"), draw(rng, 1)[0])
        np.save(folder / f"{number}.npy", rng.uniform(0, 256, 136).astype(np.float32))
        turns = [{"from": "human", "value": "<image>\nWhat emotion is shown in the image?"}, answer]
        files = {"image": f"{number}.jpg", "landmarks_2d": f"{number}.npy"}
        records["pictures"].append(files | {"conversations": turns})
    for number in range(arguments.clips):
        with ClipWriter(folder / f"{number}.mp4", 24) as writer:
            for index, frame in enumerate(draw(rng, arguments.clip_frames)):
                writer.add(frame, index / 24)
        np.save(folder / f"c{number}.npy", rng.uniform(0, 256, (arguments.clip_frames, 68, 2)).astype(np.float32))
        turns = [{"from": "human", "value": "<video>\nWhat emotion is shown in the video?"}, answer]
        files = {"video": f"{number}.mp4", "landmarks_2d": f"c{number}.npy"}
        records["clips"].append(files | {"conversations": turns})
    lists = {name: folder / f"{name}.json" for name in records}
    for name, path in lists.items():
        path.write_text(json.dumps(records[name]))
    return lists


def read_by_opencv(path: Path) -> None:
    """The pixels of a list's media, in RGB; of clips, those of the frames that are sampled."""
    import cv2

    for record in json.loads(path.read_text()):
        if "image" in record:
            cv2.cvtColor(cv2.imread(str(path.parent / record["image"])), cv2.COLOR_BGR2RGB)
            continue
        capture = cv2.VideoCapture(str(path.parent / record["video"]))
        wanted = set(np.linspace(0, capture.get(cv2.CAP_PROP_FRAME_COUNT) - 1, FRAMES, dtype=int).tolist())
        index = 0
        while capture.grab():
            if index in wanted:
                cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            index += 1
        capture.release()


def make_ways(path: Path, prepared: Path, arguments: Arguments) -> dict[str, Callable[[], None]]:
    """By name, what reads all of a list's samples once."""
    from facellava_jax.config import facellava_7b
    from facellava_jax.data import Preparation, RecordList, iterate_batches, open_data
    from facellava_jax.experiment import DataConfig, Source
    from facellava_jax.text import Tokenizer

    for _ in Preparation(RecordList(path), prepared, FRAMES).run(1):
        pass
    tokenizer = Tokenizer.load(arguments.tokenizer)
    loaders = [
        open_data(DataConfig(sources=(Source(path=source),), batch_size=BATCH), facellava_7b(), tokenizer)
        for source in (path, prepared)
    ]

    def read(which: int) -> None:
        for loaded in iterate_batches(loaders[which]):
            assert not loaded.skipped

    return dict(zip(WAYS, (lambda: read_by_opencv(path), lambda: read(0), lambda: read(1)), strict=True))


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    # One core for all threads of this process, those of OpenCV and of NumPy's matrix products too.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.path.insert(0, str(ROOT))
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lists = write_lists(folder, arguments)
        for name, path in lists.items():
            ways = make_ways(path, folder / f"prepared_{name}", arguments)
            seconds[name] = {way: [] for way in ways}
            for turn in range(arguments.rounds + 1):
                for way, run in ways.items():
                    begin = time.perf_counter()
                    run()
                    if turn:  # the first warms caches
                        seconds[name][way].append(time.perf_counter() - begin)
        sizes = {name: sum(file.stat().st_size for file in folder.glob(f"prepared_{name}/*")) for name in lists}
    sys.stdout.write(f"{'samples per second, one core':30}" + "".join(f"{way:>12}" for way in WAYS) + "\n")
    for name, count in (("pictures", arguments.pictures), ("clips", arguments.clips)):
        rates = [count / statistics.median(seconds[name][way]) for way in WAYS]
        sys.stdout.write(f"{name:30}" + "".join(f"{rate:12.1f}" for rate in rates))
        sys.stdout.write(f"   prepared: {sizes[name] / count / 1000:.0f} kB each\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": vars(arguments), "seconds": seconds}, indent=2, default=str))


if __name__ == "__main__":
    main()
