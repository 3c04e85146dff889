"""Pictures of what the model is shown, to look at."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .extras import require
from .faces import draw_faces, tile_pictures
from .framing import View, read_again
from .request import MediaSource, PredictError

SUFFIXES = (".png", ".jpg", ".jpeg")
COLUMNS, TILE_SIDE = 4, 640  # frames of a clip in a row, and the longer side that larger ones are scaled to


def draw_views(source: MediaSource, views: Sequence[View]) -> UInt8[np.ndarray, "Y X 3"]:
    """A picture with its faces, or the frames taken of a clip side by side, with the windows of their crops.

    `views` are those of `source`, one for each face. It is read again. Raises PredictError where no face was looked
    for, and MediaError where it has changed since.
    """
    first = views[0]
    if first.faces is None:
        raise PredictError(f"{source}: no face is looked for, as {first.why}: leave out --overlay")
    medium = read_again(source, first)
    drawn = []
    for index, (frame_id, frame) in enumerate(zip(first.frame_ids, medium.clip.frames, strict=True)):
        faces = [view.faces[index] for view in views if view.faces]
        windows = [view.windows[index] for view in views if view.crop != "none"]
        drawn.append(draw_faces(frame, faces, None if medium.kind == "image" else frame_id, windows))
    return drawn[0] if medium.kind == "image" else tile_pictures([_shrink(frame) for frame in drawn], COLUMNS)


def check_picture_path(path: Path, option: str) -> None:
    """Raises PredictError, naming the option, for a path that no picture can be written to."""
    if path.suffix.lower() not in SUFFIXES:
        raise PredictError(f"{path}: {option} writes a picture: name a file that ends in .png or .jpg")
    if path.is_dir():
        raise PredictError(f"{path}: a folder: name a file for {option}")
    if not path.parent.is_dir():
        raise PredictError(f"{path.parent}: no such folder: make it first")
    if not os.access(path.parent, os.W_OK):
        raise PredictError(f"{path.parent} cannot be written to: choose another {option}")


def write_picture(path: Path, picture: UInt8[np.ndarray, "Y X 3"]) -> None:
    """PNG or JPEG by the suffix; what was there is replaced when the whole is written. Raises PredictError."""
    cv2 = require("cv2", "predict")
    data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(data.tobytes())
        aside.replace(path)
    except OSError as error:
        raise PredictError(f"{path}: {error.strerror}: choose another place") from None
    finally:
        aside.unlink(missing_ok=True)


def _shrink(picture: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "Y2 X2 3"]:
    scale = TILE_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    cv2 = require("cv2", "predict")
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
