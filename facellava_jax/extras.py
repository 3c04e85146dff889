"""Optional dependencies, and the jaxlib releases that must not be used."""

import importlib
from importlib.metadata import version
from types import ModuleType

# Where the name on PyPI is not that of the module.
DISTRIBUTIONS = {"absl": "absl-py", "cv2": "opencv-python-headless", "sklearn": "scikit-learn"}

# They compute wrong numbers under jit on CPU, without a word: https://github.com/jax-ml/jax/issues/<number>
BAD_JAXLIB = ("0.10.2", "0.11.0")
JAX_ISSUES = "#39103, #39257, #40412"


def require(module: str, extra: str) -> ModuleType:
    """The optional dependency `module`, imported.

    Raises ImportError that names the extra to install where it is absent. An import that fails inside an installed
    module keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name != root:
            raise
        package = DISTRIBUTIONS.get(root, root.replace("_", "-"))
        raise ImportError(f"{package} is needed for this: pip install 'facellava-jax[{extra}]'", name=root) from None


def check_jaxlib() -> None:
    """Raises ImportError for a jaxlib that is known to compute wrong numbers."""
    installed = version("jaxlib")
    if installed in BAD_JAXLIB:
        raise ImportError(
            f"jaxlib {installed} silently computes wrong numbers on CPU (jax issues {JAX_ISSUES}): "
            "pip install 'jax>=0.10,!=0.10.2,!=0.11.0'"
        )
