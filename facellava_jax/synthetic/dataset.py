"""A folder of rendered faces in FaceInstruct-1M's format."""

import json
import shutil
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from ..faces.encode import ClipWriter
from ..media import Kind
from ..workers import count_workers, run_jobs
from .film import Film
from .person import Split
from .sample import FRAMES, Sample, SyntheticError, check_request, render_sample
from .scene import encode_jpeg

RECORDS = "data.json"
FOLDERS: dict[Kind, tuple[str, str]] = {"image": ("images", ".jpg"), "video": ("videos", ".mp4")}
QUALITY = 95  # of JPEG
SECONDS = 1.0  # that a clip takes, however many frames it has


def render_dataset(
    out: Path, samples: int, seed: int, split: Split, frames: int = FRAMES, workers: int | None = None
) -> Generator[str, None, None]:
    """Writes `out`/data.json, media and landmarks of samples 0, 1 ... and yields the id of each that is done.

    `out` is there when the last is, whole, and not before; where anything fails, nothing is left. What is written does
    not depend on `workers`, by default one for each core. Raises SyntheticError, WorkerError, and ImportError without
    the extra `train`.
    """
    workers = count_workers(workers)
    check_request(seed, split, samples, frames)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SyntheticError(f"{out} exists: remove it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        aside.chmod(0o755)
        for folder, _ in FOLDERS.values():
            (aside / folder).mkdir()
        records = []
        write = partial(_write_sample, aside, samples, seed, split, frames)
        with run_jobs(write, range(samples), min(workers, samples)) as written:
            for record in written:
                records.append(record)
                yield record["id"]
        (aside / RECORDS).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_sample(folder: Path, samples: int, seed: int, split: Split, frames: int, number: int) -> dict[str, Any]:
    """The media and landmarks of a sample, and its record."""
    sample = render_sample(seed, split, number, frames=frames)
    name = f"{split}_{seed}_{number:0{len(str(samples - 1))}}"
    files: dict[Kind, list[str]] = {"video": [], "image": []}
    landmarks = []
    for index, medium in enumerate(sample.media):
        parent, suffix = FOLDERS[medium.kind]
        stem = f"{parent}/{name}" + (f"_{index}" if len(sample.media) > 1 else "")
        (_write_clip if medium.kind == "video" else _write_picture)(folder / f"{stem}{suffix}", medium.film)
        files[medium.kind].append(f"{stem}{suffix}")
        if sample.landmarks:
            points = medium.film.landmarks
            np.save(folder / f"{stem}.npy", points if medium.kind == "video" else points.reshape(-1))
            landmarks.append(f"{stem}.npy")
    return {"id": name, **_unpack(files), **_unpack({"landmarks_2d": landmarks}), **describe(sample)}


def describe(sample: Sample) -> dict[str, Any]:
    """What a record says beside its files."""
    speakers = ("human", "gpt")
    record: dict[str, Any] = {
        "conversations": [{"from": speakers[turn % 2], "value": text} for turn, text in enumerate(sample.conversation)],
        "people": list(sample.people),
    }
    return record if sample.task is None else {**record, "task": sample.task, "labels": sample.labels}


def _unpack(lists: dict[Any, list[str]]) -> dict[str, str | list[str]]:
    """One file as its name, several as a list, none as nothing."""
    return {name: files[0] if len(files) == 1 else files for name, files in lists.items() if files}


def _write_picture(path: Path, film: Film) -> None:
    path.write_bytes(encode_jpeg(require("cv2", "train"), film.frames[0], QUALITY))


def _write_clip(path: Path, film: Film) -> None:
    rate = len(film.frames) / SECONDS
    with ClipWriter(path, rate) as writer:
        for index, frame in enumerate(film.frames):
            writer.add(frame, index / rate)
