"""Faces in pictures and clips: find them, cut them out, place 68 landmarks, follow them, draw them.

NumPy, OpenCV, LiteRT and PyAV, no JAX; the networks ship with the package and nothing is fetched.
"""

from .clips import ClipFaces, crop_landmarks, find_clip_faces, follow_faces, list_windows, render_crop, write_clips
from .crop import Mode, Window, choose_window, cut_window, seen_window, to_crop, to_picture
from .draw import draw_faces, tile_pictures
from .face import Box, Detection, Face, FaceError
from .find import FaceFinder, pick_face
from .heat import draw_regions
from .track import Track

__all__ = [
    "Box",
    "ClipFaces",
    "Detection",
    "Face",
    "FaceError",
    "FaceFinder",
    "Mode",
    "Track",
    "Window",
    "choose_window",
    "crop_landmarks",
    "cut_window",
    "draw_faces",
    "draw_regions",
    "find_clip_faces",
    "follow_faces",
    "list_windows",
    "pick_face",
    "render_crop",
    "seen_window",
    "tile_pictures",
    "to_crop",
    "to_picture",
    "write_clips",
]
