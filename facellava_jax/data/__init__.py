"""Training data: lists of records, the order of a run, and batches read by worker processes; collation for all.

The names below are imported when they are first used: workers load no JAX for them, and prediction loads no Grain.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Places, Sample, Visual, collate, measure
    from .check import check_data
    from .loader import BatchLoader, LoadedBatch, open_data
    from .pipeline import iterate_batches
    from .prepare import Preparation
    from .quarantine import Quarantine
    from .records import DataError, RecordList

__all__ = [
    "BatchLoader",
    "DataError",
    "LoadedBatch",
    "Places",
    "Preparation",
    "Quarantine",
    "RecordList",
    "Sample",
    "Visual",
    "check_data",
    "collate",
    "iterate_batches",
    "measure",
    "open_data",
]

_HOMES = {
    "BatchLoader": "loader",
    "DataError": "records",
    "LoadedBatch": "loader",
    "Places": "batches",
    "Preparation": "prepare",
    "Quarantine": "quarantine",
    "RecordList": "records",
    "Sample": "batches",
    "Visual": "batches",
    "check_data": "check",
    "collate": "batches",
    "iterate_batches": "pipeline",
    "measure": "batches",
    "open_data": "loader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
