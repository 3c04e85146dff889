"""What every test needs: a machine-independent JAX, checked annotations, and the goldens."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from facellava_jax.config import ModelConfig
    from facellava_jax.faces import Face, FaceFinder
    from facellava_jax.models.facellava import FaceLlava
    from facellava_jax.text import Tokenizer

ROOT = Path(__file__).parent.parent

# Read when jax and torch are imported, here and in the subprocesses that tests start.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # Else virtual devices may take collectives in different orders, and wait for each other for ever.
    " --xla_cpu_enable_concurrency_optimized_scheduler=false"
)
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

# The goldens that record what one model computes.
CASES = (
    "01_image_nolm_lora",
    "02_image_landmarks_simple",
    "03_video_landmarks_simple",
    "04_video_nolm_f4_quickgelu_notime",
    "05_video_masked_f4",
    "06_video_landmark_tokens",
    "06b_video_landmark_tokens_swapped",
    "07_mixed_batch_truncate",
    "07b_mixed_batch_landmarks_trunc_in_image",
    "07c_mixed_batch_left_padding",
    "08a_proj_linear",
    "08b_proj_mlp3x",
    "08c_proj_identity",
    "09_gqa",
    "10a_rope_linear",
    "11a_train_stage1_simple",
    "11b_train_stage1_masked",
    "11c_train_stage1_landmark_tokens",
    "12_train_stage2_full",
    "13_towers_separate_lora",
    "14_select_last_cls_patch",
    "15_text_only_no_images",
)

COMMITTED = Path(__file__).parent / "goldens"
TOK600 = COMMITTED / "tokenizer" / "tok600"
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


@pytest.fixture(scope="session")
def tokenizer() -> "Tokenizer":
    """The small one of the recorded cases."""
    from facellava_jax.text import Tokenizer

    return Tokenizer.load(TOK600)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., "FaceLlava"]:
    """`make_model(config, seed=0)` is a model of `random_params`; one for each config and seed."""
    from facellava_jax.models.facellava import build_model

    return cache(lambda config, seed=0: build_model(config, random_params(config, seed)))


def random_params(config: "ModelConfig", seed: int = 0) -> dict[str, Any]:
    """Parameters by path that carry signal: kernels keep variance, and no bias is 0 and no scale 1."""
    import jax.numpy as jnp

    from facellava_jax.models.facellava import abstract_params

    rng = np.random.default_rng(seed)
    centre_and_spread = {"kernel": (0.0, None), "bias": (0.0, 0.1), "scale": (1.0, 0.1)}
    params = {}
    for path, abstract in abstract_params(config).items():
        centre, spread = centre_and_spread.get(path.split("/")[-1], (0.0, 0.5))
        spread = abstract.shape[-2] ** -0.5 if spread is None else spread
        params[path] = jnp.asarray(rng.normal(centre, spread, abstract.shape), jnp.float32)
    return params


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of every part, imported: 56-pixel pictures, 8 frames in a clip, 600 tokens; random weights."""
    from conversion.convert import import_checkpoint

    out = tmp_path_factory.mktemp("checkpoint") / "03"
    import_checkpoint(COMMITTED / "03_video_landmarks_simple" / "checkpoint", out)
    return out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    absent = [reason.split(ABSENT)[1] for reason in reasons if ABSENT in reason]
    if absent:
        terminalreporter.write_line(
            f"{len(absent)} tests skipped for {len(set(absent))} goldens that are not committed "
            f"(set FACELLAVA_GOLDENS to the full set): {', '.join(sorted(set(absent)))}",
            yellow=True,
        )


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def facellava(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, in this process: `facellava("predict 'a b.png'", "--out", out)` splits the first as a shell does."""

    from facellava_jax import cli

    def run(command: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["facellava", *shlex.split(command), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Outcome(end.value.code or 0, *capfd.readouterr())  # type: ignore[arg-type]

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def finder() -> "FaceFinder":
    from facellava_jax.faces import FaceFinder

    return FaceFinder()


@pytest.fixture(scope="session")
def face(astronaut: np.ndarray, finder: "FaceFinder") -> "Face":
    from facellava_jax.faces import pick_face

    return pick_face(finder.find(astronaut), "astronaut", only=True)
