"""What every test needs: a machine-independent JAX, checked annotations, and the goldens."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent

# Read when jax and torch are imported, here and in the subprocesses that tests start.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
for name, value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "OMP_NUM_THREADS": "2",
    # XLA warns on stderr, falsely, of each CPU program that it takes from the cache.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}.items():
    os.environ.setdefault(name, value)

# The shapes and types of every annotated call are checked from here on. (beartype cannot tell Self on a lone method.)
check_types = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
install_import_hook(["facellava_jax", "conversion"], "conftest.check_types")

COMMITTED = Path(__file__).parent / "goldens"
ABSENT = "golden absent here (set FACELLAVA_GOLDENS to the full set): "


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of recorded cases: the full set of $FACELLAVA_GOLDENS, else the committed subset."""
    folder = Path(os.environ.get("FACELLAVA_GOLDENS") or COMMITTED).resolve()
    assert (folder / "keys_7b.json").is_file(), f"FACELLAVA_GOLDENS: {folder} is no folder of goldens"
    return folder


@pytest.fixture(scope="session")
def golden_case(goldens: Path) -> Callable[[str], Path]:
    """`golden_case("05_video_masked_f4")` is that folder (or file) of the goldens; the test is skipped without it."""

    def find(name: str) -> Path:
        if not (goldens / name).exists():
            pytest.skip(ABSENT + name)
        return goldens / name

    return find


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    absent = [reason.split(ABSENT)[1] for reason in reasons if ABSENT in reason]
    if absent:
        terminalreporter.write_line(
            f"{len(absent)} tests skipped for {len(set(absent))} goldens that are not committed "
            f"(set FACELLAVA_GOLDENS to the full set): {', '.join(sorted(set(absent)))}",
            yellow=True,
        )
