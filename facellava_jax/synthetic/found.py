"""Rendered faces with landmarks as they are found, as those of photographs are, beside the known ones."""

import json
from collections.abc import Generator
from functools import cache, partial
from pathlib import Path

import numpy as np

from ..faces import FaceFinder
from ..faces.records import Record, list_record_media, read_records
from ..folders import hold_folder
from ..media import LANDMARK_CROP, count_frames, find_kind, load_image, load_landmarks, load_video
from ..workers import count_workers, run_jobs
from .dataset import RECORDS

FOUND = "found.json"
FOLDER = "found"


def find_landmarks(folder: Path, workers: int | None = None) -> Generator[str, None, None]:
    """Writes `folder`/found.json, the records of rendered faces with landmarks as `FaceFinder` places them on each
    frame's largest face, and yields the id of each that is done.

    The landmarks go to `folder`/found, in pixels of the 256 x 256 frame: 136 numbers for a picture, (frames, 68, 2) for
    a clip. Where no face is found they are the known ones. What an earlier call has found stays. Raises FaceError for a
    list, and MediaError for media or landmarks, that cannot be read, FolderError where another process writes to the
    folder, WorkerError, and ImportError without the extra `faces`.
    """
    workers = count_workers(workers)
    with hold_folder(folder):
        records = read_records(folder / RECORDS)
        (folder / FOLDER).mkdir(exist_ok=True)
        done = []
        with run_jobs(partial(_find, folder), records, workers) as found:
            for record in found:
                done.append(record)
                yield record["id"]
        aside = folder / f".{FOUND}.part"
        aside.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        aside.replace(folder / FOUND)


def _find(folder: Path, record: Record) -> Record:
    """The record with landmarks that are found, which it writes, in the place of the known ones, if there are any."""
    if not (known := record.get("landmarks_2d")):
        return record
    files = []
    for medium, points in zip(list_record_media(record), known if isinstance(known, list) else [known], strict=True):
        files.append(f"{FOLDER}/{Path(medium).stem}.npy")
        if not (folder / files[-1]).exists():
            _look(folder / medium, folder / points, folder / files[-1])
    return {**record, "landmarks_2d": files if isinstance(known, list) else files[0]}


def _look(medium: Path, known: Path, file: Path) -> None:
    """Writes the landmarks of a picture or clip."""
    if find_kind(medium) == "video":
        clip = load_video(medium, count_frames(medium))
        frames, found = clip.frames, load_landmarks(known, clip) * LANDMARK_CROP
    else:
        frames, found = load_image(medium)[None], load_landmarks(known).reshape(1, -1) * LANDMARK_CROP
    for at, frame in enumerate(frames):
        if faces := _make_finder().find(frame):
            found[at] = faces[0].landmarks.reshape(found.shape[1:])
    aside = file.with_suffix(".part")
    with aside.open("wb") as part:
        np.save(part, found[0] if found.ndim == 2 else found)
    aside.replace(file)


@cache
def _make_finder() -> FaceFinder:
    return FaceFinder()
