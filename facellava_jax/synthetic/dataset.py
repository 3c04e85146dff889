"""A folder of rendered faces in FaceInstruct-1M's format."""

import json
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..extras import require
from ..faces.encode import ClipWriter
from ..folders import LOCK, hold_folder, read_whole_lines
from ..media import Kind
from ..workers import count_workers, run_jobs
from .film import Film
from .person import Split
from .sample import FRAMES, Sample, SyntheticError, check_request, render_sample
from .scene import encode_jpeg

RECORDS = "data.json"
PROGRESS = "rendering.jsonl"  # until all is done: what was asked for, and the records of the samples that are whole
FOLDERS: dict[Kind, tuple[str, str]] = {"image": ("images", ".jpg"), "video": ("videos", ".mp4")}
QUALITY = 95  # of JPEG
SECONDS = 1.0  # that a clip takes, however many frames it has


def render_dataset(
    out: Path, samples: int, seed: int, split: Split, frames: int = FRAMES, workers: int | None = None
) -> Generator[str, None, None]:
    """Writes media and landmarks of samples 0, 1 ... to `out` and yields the id of each that is done; last of all the
    list, `out`/data.json.

    Samples that an earlier call has done there stay. What is written depends neither on that nor on `workers`, by
    default one for each core. Raises SyntheticError where `out` holds other things, FolderError where another process
    writes to it, WorkerError, and ImportError without the extra `train`.
    """
    workers = count_workers(workers)
    check_request(seed, split, samples, frames)
    request = {"release": __version__, "seed": seed, "split": split, "samples": samples, "frames": frames}
    with hold_folder(out):
        records = _take_up(out, request)
        yield from [record["id"] for record in records]
        for folder, _ in FOLDERS.values():
            (out / folder).mkdir(exist_ok=True)
        write = partial(_write_sample, out, samples, seed, split, frames)
        left = range(len(records), samples)
        with (out / PROGRESS).open("a") as progress, run_jobs(write, left, min(workers, max(1, len(left)))) as written:
            for record in written:
                progress.write(json.dumps(record) + "\n")
                progress.flush()
                records.append(record)
                yield record["id"]
        aside = out / f".{RECORDS}.part"
        aside.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        aside.replace(out / RECORDS)
        (out / PROGRESS).unlink()


def _take_up(out: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the samples that are done. Raises SyntheticError where `out` holds other things."""
    progress = out / PROGRESS
    if not progress.exists() and {file.name for file in out.iterdir()} != {LOCK}:
        raise SyntheticError(f"{out} exists: remove it or choose another name")
    try:
        first, *records = map(json.loads, read_whole_lines(progress) or [json.dumps(request)])
    except ValueError:
        raise SyntheticError(f"{progress} is damaged: remove {out}, or choose another name") from None
    if first != request:
        raise SyntheticError(f"{out} holds another rendering, which has not ended: remove it or choose another name")
    if not records:
        progress.write_text(json.dumps(request) + "\n")
    return records


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
