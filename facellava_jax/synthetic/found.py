"""Rendered faces with landmarks as they are found, as those of photographs are, beside the known ones."""

import json
from collections.abc import Generator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..faces import FaceFinder
from ..media import load_image, load_video
from ..workers import count_workers, run_jobs
from .dataset import RECORDS

FOUND = "found.json"
FOLDER = "found"


def find_landmarks(folder: Path, workers: int | None = None) -> Generator[str, None, None]:
    """Writes `folder`/found.json, the records of rendered faces with landmarks as `FaceFinder` places them on each
    frame's largest face, and yields the id of each that is done. Where it finds no face they are the known ones.

    Those that an earlier call has found stay. Raises OSError, WorkerError, and ImportError without the extra `faces`.
    """
    records = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    done = []
    with run_jobs(partial(_find, folder), records, count_workers(workers)) as found:
        for record in found:
            done.append(record)
            yield record["id"]
    aside = folder / f".{FOUND}.part"
    aside.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / FOUND)


def _find(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record with landmarks in files of their own, if it has landmarks."""
    if "landmarks_2d" not in record:
        return record
    media = [*_list(record.get("video", [])), *_list(record.get("image", []))]
    files = [f"{FOLDER}/{Path(medium).stem}.npy" for medium in media]
    for medium, known, file in zip(media, _list(record["landmarks_2d"]), files, strict=True):
        if (folder / file).exists():
            continue
        points = np.load(folder / known)
        clip = medium in _list(record.get("video", []))
        frames = load_video(folder / medium, len(points)).frames if clip else load_image(folder / medium)[None]
        found = points.reshape(len(frames), -1, 2)
        for at, frame in enumerate(frames):
            if faces := _make_finder().find(frame):
                found[at] = faces[0].landmarks
        (folder / FOLDER).mkdir(exist_ok=True)
        aside = folder / f"{file}.part"
        with aside.open("wb") as part:
            np.save(part, found.reshape(points.shape))
        aside.replace(folder / file)
    return {**record, "landmarks_2d": files[0] if len(files) == 1 else files}


def _list(files: str | list[str]) -> list[str]:
    return [files] if isinstance(files, str) else files


@cache
def _make_finder() -> FaceFinder:
    return FaceFinder()
