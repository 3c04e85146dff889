"""The folder of a training run: its experiment, metrics, checkpoints and result."""

from .checkpoints import Checkpoints
from .folder import RENDERED, RunError, claim_folder
from .metrics import MetricsLog, read_metrics
from .report import StepReport, TakenStep
from .result import FOLDER as RESULT
from .result import write_result
from .start import draw_params, load_tokenizer, make_params, resolve_experiment

__all__ = [
    "RENDERED",
    "RESULT",
    "Checkpoints",
    "MetricsLog",
    "RunError",
    "StepReport",
    "TakenStep",
    "claim_folder",
    "draw_params",
    "load_tokenizer",
    "make_params",
    "read_metrics",
    "resolve_experiment",
    "write_result",
]
