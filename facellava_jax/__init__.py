"""Face-LLaVA in JAX: a multimodal language model that reads faces, from a picture or a clip.

The names below are imported when they are first used, so that importing the package costs next to nothing and touches
no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .extras import check_jaxlib

if TYPE_CHECKING:
    from .config import Config
    from .errors import FaceLlavaError
    from .predict import Answer, Predictor
    from .request import Options, Request

__version__ = "0.1.0"
__all__ = ["Answer", "Config", "FaceLlavaError", "Options", "Predictor", "Request"]

_HOMES = {
    "Answer": "predict",
    "Config": "config",
    "FaceLlavaError": "errors",
    "Options": "request",
    "Predictor": "predict",
    "Request": "request",
}

check_jaxlib()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
