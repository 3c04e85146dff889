"""The subcommands `facellava eval` and `facellava report`. What brings JAX along is imported when they run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .cli_train import start_jax
from .config import DType
from .experiment import MeshConfig
from .program import choose_model, show, write
from .request import Task


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluate a model on a data set, from its own folder; the same command again goes on where it stopped.

    NAME is dfew, crema-d, raf-db, disfa, bp4d, celeba, morph2, utkface or ffpp, each as its authors lay it out, or
    faceinstruct, a folder with a list data.json in FaceInstruct-1M's format. OUT gets predictions.jsonl (each answer,
    its label and the truth), results.json (metrics with 95 % intervals), pictures and report.html.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The data set."""
    data: Path
    """Its folder. Face crops and landmarks are kept beside it, in DATA.faces."""
    out: Path
    """The folder for the results; a new one, or that of an earlier run."""
    model: Path | None = None
    """The checkpoint folder; by default the small model of this package, which knows rendered faces only."""
    split: str | None = None
    """The part of the data set, as `test` or `fold1`; by default that of the paper."""
    task: Task | None = None
    """Of faceinstruct: what records ask about that do not say so, or the only task that is evaluated."""
    method: Literal["generate", "score"] = "generate"
    """generate: a free answer, of which the label is read. score: the likeliest of all labels, with probabilities."""
    limit: int | None = None
    """Evaluate so many examples, drawn at random."""
    seed: int = 0
    """Of that draw."""
    batch_size: int = 8
    """Examples answered together, on all devices."""
    max_new_tokens: int = 1024
    """The answers' length at most."""
    dtype: DType | None = None
    """Of parameters and arithmetic: bfloat16 by default, float32 on CPU."""
    cache: Path | None = None
    """Another folder for face crops and landmarks."""
    skip_unreadable: bool = False
    """Count examples whose media cannot be read as wrong, and say how many; else they are tried again."""
    workers: int | None = None
    """Processes that look for faces; by default one for each core, or fewer for few media."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=-1, fsdp=1))
    """How this process's devices share the work: by default each has the whole model and some of the examples.

    On any number answers are the same, and scores to rounding.
    """
    distributed: bool = False
    """This is one of several processes with the same OUT, on a cluster that JAX knows: TPU pods, Slurm, Kubernetes."""

    def run(self) -> int:
        start_jax(self.distributed)
        import jax

        from .evaluate.benchmark import BenchmarkError
        from .evaluate.facts import Evaluation
        from .evaluate.run import evaluate
        from .evaluate.table import format_results

        evaluation = Evaluation(
            benchmark=self.name,
            data=self.data,
            model=choose_model(self.model),
            split=self.split,
            task=self.task,
            method=self.method,
            limit=self.limit,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            dtype=self.dtype,
        )
        try:
            results = evaluate(
                evaluation,
                self.out,
                batch_size=self.batch_size,
                mesh=self.mesh,
                cache=self.cache,
                skip_unreadable=self.skip_unreadable,
                workers=self.workers,
                host=jax.process_index(),
                hosts=jax.process_count(),
            )
        except BenchmarkError as error:
            show(f"facellava: {error}")
            return 1
        if results:
            write(format_results(results))
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Join the results of several evaluations into one table, in the paper's layout."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folders that `facellava eval` has written, each with its results.json."""

    def run(self) -> int:
        from .evaluate.table import format_runs, read_results
        from .results import ResultsError

        if not self.folders:
            raise ResultsError("no folder to report on: name at least one that `facellava eval` has finished")
        write(format_runs({folder: read_results(folder) for folder in self.folders}))
        return 0
