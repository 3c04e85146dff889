"""Lists of FaceInstruct-1M, whose media are replaced by their face crops and landmarks."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .face import FaceError

MEDIA_FIELDS = ("video", "image")  # in the order that landmarks are listed in

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a JSON list. Raises FaceError, with the record, for any other, and for media that are no paths.

    Media are paths relative to a folder, and lie in it.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FaceError(f"{path}: not JSON ({error}): copy or save it again") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise FaceError(f"{path}: no list of records: give a list as FaceInstruct-1M has it")
    for index, record in enumerate(records):
        for medium in list_record_media(record):
            if not isinstance(medium, str):
                raise FaceError(f"{path}: record {index}: medium {medium!r}: use a path, or a list of paths")
            if PurePosixPath(medium).is_absolute() or ".." in PurePosixPath(medium).parts:
                raise FaceError(
                    f"{path}: record {index}: {medium} leaves the media's folder: "
                    "make it relative, and name the folder with --root"
                )
    if not any(map(list_record_media, records)):
        raise FaceError(f"{path}: no record has an image or a video: give a list that has some")
    return records


def list_record_media(record: Record) -> list[Any]:
    """A record's media, the video first: paths, once `read_records` has checked them."""
    values = [record.get(field) or [] for field in MEDIA_FIELDS]
    return [medium for value in values for medium in (value if isinstance(value, list) else [value])]


def replace_media(record: Record, crops: Mapping[str, tuple[str, str]]) -> Record | None:
    """The record with its media replaced by their crops, and with `landmarks_2d`; None where a crop is missing.

    `crops`: for each medium, crop and landmark file.
    """
    media = list_record_media(record)
    if not all(medium in crops for medium in media):
        return None
    replaced = dict(record)
    for field in MEDIA_FIELDS:
        value = record.get(field)
        if value:
            replaced[field] = [crops[medium][0] for medium in value] if isinstance(value, list) else crops[value][0]
    if media:
        landmarks = [crops[medium][1] for medium in media]
        single = any(record.get(field) == media[0] for field in MEDIA_FIELDS) and len(media) == 1
        replaced["landmarks_2d"] = landmarks[0] if single else landmarks
    return replaced
