"""What an evaluation's results depend on, and the folder that is theirs."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jax

from .. import __version__
from ..answers import Task
from ..checkpoint import digest_checkpoint, read_config
from ..config import Config, DType
from ..errors import FaceLlavaError
from ..folders import LOCK
from ..request import Options
from .benchmark import Example
from .rows import pack_label

FACTS = "run.json"
# Told, but these may change: what lies at the places is told by a digest.
MAY_CHANGE = ("data", "model", "libraries")
LIBRARIES = ("numpy", "scikit-learn", "opencv-python-headless", "av")
DIGESTS = {"examples_sha256": "other examples or other truths", "checkpoint_sha256": "another model"}

Method = Literal["generate", "score"]
Json = dict[str, Any]


class EvaluateError(FaceLlavaError):
    """An evaluation that cannot be run or gone on with; the message names the cause and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated, and on what."""

    benchmark: str
    data: Path
    model: Path
    split: str | None = None
    """By default the benchmark's first."""
    task: Task | None = None
    """Of records that do not name theirs."""
    method: Method = "generate"
    limit: int | None = None
    """So many examples, drawn at random."""
    seed: int = 0
    """Of that draw."""
    max_new_tokens: int = 1024
    dtype: DType | None = None
    """Of parameters and arithmetic: bfloat16 by default, float32 on CPU."""

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("seed", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise EvaluateError(f"{name} {value}: use at least {least}")
        Options(max_new_tokens=self.max_new_tokens)


def resolve_config(evaluation: Evaluation) -> Config:
    """The checkpoint's configuration, in the dtype that is computed in. Raises CheckpointError and ConfigError."""
    config = read_config(evaluation.model)
    dtype = evaluation.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def describe(evaluation: Evaluation, split: str, config: Config, examples: Sequence[Example]) -> Json:
    """All that the results depend on. Neither times nor the number of devices: of scores it changes the rounding.

    Of the media there are only names: their contents, which may be terabytes, are not hashed.
    """
    contents = [[each.name, each.task, pack_label(each.truth), each.prompt] for each in examples]
    return {
        **{"benchmark": evaluation.benchmark, "split": split, "task": evaluation.task, "method": evaluation.method},
        **{"limit": evaluation.limit, "seed": evaluation.seed, "max_new_tokens": evaluation.max_new_tokens},
        **{"dtype": config.model.dtype, "data": str(evaluation.data), "model": str(evaluation.model)},
        "checkpoint_sha256": digest_checkpoint(evaluation.model),
        "examples": len(examples),
        "examples_sha256": hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
        "versions": {
            **{"facellava_jax": __version__, "python": platform.python_version()},
            **{package: version(package) for package in ("jax", "jaxlib")},
        },
        "libraries": {package: found for package in LIBRARIES if (found := _find_version(package))},
    }


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_folder(out: Path, facts: Json, *, begun: bool) -> None:
    """Whether `out` may hold these results. What an earlier run left does not bind where no answer has `begun` it.

    Raises EvaluateError where it holds something else, or results that depend on others.
    """
    file = out / FACTS
    try:
        if file.exists():
            saved = _read_facts(file)
            if begun:
                _compare(out, saved, facts)
            return
        names = {path.name for path in out.iterdir()} - {LOCK} if out.exists() else set()
        if foreign := sorted(name for name in names if not name.endswith((FACTS, ".part"))):
            raise EvaluateError(f"{out} holds {foreign[0]} and no evaluation: choose another --out")
    except OSError as error:
        raise EvaluateError(f"{out} cannot be read ({error.strerror}): choose another --out") from None


def claim_folder(out: Path, facts: Json, *, begun: bool) -> None:
    """Makes `out` the folder of these results, or takes it up again; several hosts may at once.

    Raises EvaluateError as `check_folder` does, and where it cannot be written to.
    """
    check_folder(out, facts, begun=begun)
    aside = out / f".{FACTS}.{jax.process_index()}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (begun and (out / FACTS).exists()):
            aside.write_text(json.dumps(facts, indent=1) + "\n")
            aside.replace(out / FACTS)
    except OSError as error:
        raise EvaluateError(f"{out} cannot be written to ({error.strerror}): choose another --out") from None


def _read_facts(file: Path) -> Json:
    try:
        facts = json.loads(file.read_text())
    except ValueError:
        facts = None
    if not (isinstance(facts, dict) and facts):
        raise EvaluateError(f"{file} is damaged: choose another --out")
    return facts


def _compare(out: Path, saved: Json, facts: Json) -> None:
    for name, now in facts.items():
        if name not in MAY_CHANGE and (before := saved.get(name)) != now:
            what = DIGESTS.get(name, f"{name} {before}, not {now}")
            raise EvaluateError(f"{out} holds results of {what}: go on with that, or choose another --out")
