"""The data sets: for each its folder as published, its splits, and the paper's numbers."""

from ..benchmark import Benchmark
from .action_units import BP4D, DISFA
from .ages import MORPH2, UTKFACE
from .attributes import CELEBA
from .deepfakes import FFPP
from .emotions import CREMA_D, DFEW, RAF_DB
from .faceinstruct import FACEINSTRUCT

# In the order of the paper's tables.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (DFEW, CREMA_D, RAF_DB, DISFA, BP4D, CELEBA, MORPH2, UTKFACE, FFPP, FACEINSTRUCT)
}

__all__ = ["BENCHMARKS"]
