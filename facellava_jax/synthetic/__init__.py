"""Rendered faces with known labels, in FaceInstruct-1M's format: for tests, the demo and the small model.

NumPy and OpenCV (and PyAV where clips are written), no JAX: data workers import this. A sample follows from a seed,
the split and its number alone.
"""

from .dataset import RECORDS, describe, render_dataset
from .film import Film
from .found import FOUND, find_landmarks
from .person import Split
from .sample import Labels, Medium, Sample, SyntheticError, label_sample, render_sample

__all__ = [
    "FOUND",
    "RECORDS",
    "Film",
    "Labels",
    "Medium",
    "Sample",
    "Split",
    "SyntheticError",
    "describe",
    "find_landmarks",
    "label_sample",
    "render_dataset",
    "render_sample",
]
