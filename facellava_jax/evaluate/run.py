"""Running an evaluation: from a data set's examples to answers, metrics and a report."""

import contextlib
import json
from collections.abc import Container, Iterable, Sequence
from itertools import chain
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ..experiment import MeshConfig
from ..folders import hold_folder
from ..predict import Predictor
from ..program import say
from ..request import Options
from ..results import ResultFile, ResultsError
from ..workers import read_ahead
from .asking import Asker
from .benchmark import Benchmark, Example, Selection
from .benchmarks import BENCHMARKS
from .cache import FaceCache
from .candidates import list_candidates
from .facts import EvaluateError, Evaluation, Json, check_folder, claim_folder, describe, resolve_config
from .report import write_results
from .rows import describe_example, join_rows, make_prediction, open_part, read_rows

ROWS_OVER_DEVICES = MeshConfig(data=-1, fsdp=1)


def evaluate(
    evaluation: Evaluation,
    out: Path,
    *,
    batch_size: int = 8,
    mesh: MeshConfig = ROWS_OVER_DEVICES,
    cache: Path | None = None,
    skip_unreadable: bool = False,
    workers: int | None = None,
    host: int = 0,
    hosts: int = 1,
) -> Json | None:
    """Writes `out`/predictions.jsonl and, of all predictions, what `write_results` does; returns results.json.

    What is in `out` already is gone on with. Each of several hosts answers its share, with the same `out`; the last to
    finish writes the results, and for the others they are None. Face crops go to `cache`, by default beside the data;
    `workers` processes make them, by default one for each core. Examples that cannot be read, or asked about, end it
    when the others are answered; or count as wrong, with `skip_unreadable`.

    Raises EvaluateError for an `out` that holds another evaluation or lies in the data, FolderError for one that
    another process has, BenchmarkError for data that are not laid out as published, ResultsError where an example could
    not be answered, and what the parts raise for their inputs.
    """
    if batch_size < 1:
        raise EvaluateError(f"batch_size {batch_size}: use at least 1")
    if evaluation.benchmark not in BENCHMARKS:
        raise EvaluateError(f"benchmark {evaluation.benchmark!r} is not one of {', '.join(BENCHMARKS)}")
    for option, place in (("--out", out), ("--cache", cache)):
        if place and place.resolve().is_relative_to(evaluation.data.resolve()):
            raise EvaluateError(f"{place} lies in the data, {evaluation.data}: choose another {option}")
    benchmark, config = BENCHMARKS[evaluation.benchmark], resolve_config(evaluation)
    split = evaluation.split or benchmark.splits[0]
    examples, left_out = read_examples(benchmark, evaluation, split)
    examples = draw_examples(examples, evaluation.limit, evaluation.seed)
    if evaluation.method == "score":
        for task in dict.fromkeys(example.task for example in examples):
            list_candidates(task, benchmark)
    facts = describe(evaluation, split, config, examples)
    # Several hosts share the folder.
    with hold_folder(out) if hosts == 1 else contextlib.nullcontext():
        done = read_rows(out, unreadable=skip_unreadable)
        # Other hosts may have begun where there is no row yet.
        begun = bool(done) or hosts > 1
        check_folder(out, facts, begun=begun)
        share = share_out(examples, hosts)[host]
        # Whole batches: an answer's last digits may depend on what it is computed beside.
        batches = [share[at : at + batch_size] for at in range(0, len(share), batch_size)]
        left = [batch for batch in batches if any(example.name not in done for example in batch)]
        if left:
            faces = FaceCache(cache or place_beside(evaluation.data), evaluation.data)
            # Before the faces, which may take hours: what it cannot do is said at once.
            predictor = Predictor.load(
                evaluation.model,
                dtype=config.model.dtype,
                batch_size=min(batch_size, len(share)),
                mesh=None if mesh == ROWS_OVER_DEVICES and jax.local_device_count() == 1 else mesh,
            )
            find_faces(faces, chain.from_iterable(left), workers)
            options = Options(max_new_tokens=evaluation.max_new_tokens)
            asker = Asker(predictor, benchmark, faces, evaluation.method, options)
            claim_folder(out, facts, begun=begun)
            with open_part(out, host, hosts) as part:
                part.done = {name: row for name, row in part.done.items() if name in done}
                errors = answer_examples(
                    asker, [*chain.from_iterable(left)], batch_size, part, done, len(share), skip_unreadable
                )
            if errors and not skip_unreadable:
                raise ResultsError(
                    f"{len(errors)} of {len(share)} examples could not be answered, such as {errors[0]}; {part.path} "
                    "says why: mend them and run this again, or count them as wrong with --skip-unreadable"
                )

        rows = read_rows(out, unreadable=skip_unreadable)
        if absent := sum(example.name not in rows for example in examples):
            say(f"{absent} of {len(examples)} examples are left to other hosts; the last to finish writes the results")
            return None
        ordered = [rows[example.name] for example in examples]
        join_rows(out, ordered, host)
        if faceless := sum(row["face"] is False for row in ordered):
            shown = "their media are shown whole, without landmarks"
            say(f"no face found in {faceless} of {len(examples)} examples: {shown}")
        if unreadable := sum(row["error"] is not None for row in ordered):
            say(
                f"{unreadable} of {len(examples)} examples could not be read and count as wrong; without "
                "--skip-unreadable they are tried again"
            )
        predictions = [make_prediction(*pair) for pair in zip(ordered, examples, strict=True)]
        counts = {"left_out": dict(left_out), "faceless": faceless, "unreadable": unreadable}
        run = facts | counts | {"config": json.loads(config.to_json())}
        return write_results(out, benchmark, predictions, run, host)


def read_examples(benchmark: Benchmark, evaluation: Evaluation, split: str) -> Selection:
    """The examples of a split. Raises BenchmarkError, and EvaluateError for a task that the benchmark has not."""
    if benchmark.task is None:
        return benchmark.read(evaluation.data, split, evaluation.task)
    if evaluation.task not in (None, benchmark.task):
        raise EvaluateError(f"{benchmark.name} asks about {benchmark.task}, not {evaluation.task}: leave out --task")
    return benchmark.read(evaluation.data, split)


def draw_examples(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """So many of the examples, in their order, drawn at random: the first ones may all be of one class."""
    if limit is None or limit >= len(examples):
        return [*examples]
    chosen = np.random.default_rng(seed).permutation(len(examples))[:limit]
    return [examples[index] for index in sorted(chosen.tolist())]


def share_out(examples: Sequence[Example], hosts: int) -> list[list[Example]]:
    """About as many examples for each host, those of a file together, as it is decoded once; one task after another."""
    files: dict[Path, list[int]] = {}
    for index, example in enumerate(examples):
        files.setdefault(example.media[0].path, []).append(index)
    shares: list[list[int]] = [[] for _ in range(hosts)]
    for group in sorted(files.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    # Examples of a task are of a length, mostly, and padded least beside each other.
    return [[examples[index] for index in sorted(share, key=lambda at: (examples[at].task, at))] for share in shares]


def place_beside(data: Path) -> Path:
    """Where the faces of the data in a folder go."""
    data = data.resolve() if data.name in ("", "..") else data.absolute()
    return data.with_name(f"{data.name}.faces")


def find_faces(faces: FaceCache, examples: Iterable[Example], workers: int | None) -> None:
    """Looks for those of the examples that are not kept yet."""
    media = {medium: None for example in examples if not example.landmarks for medium in example.media}
    missing = faces.list_missing(media)
    if missing:
        say(f"face crops and landmarks are kept in {faces.folder}")
    done = len(media) - len(missing)
    with tqdm(total=len(media), initial=done, unit="medium", desc="faces", disable=None if media else True) as bar:
        for count in faces.fill(missing, workers):
            bar.update(count)


def answer_examples(
    asker: Asker,
    examples: Sequence[Example],
    batch_size: int,
    part: ResultFile,
    done: Container[str],
    total: int,
    skip_unreadable: bool,
) -> list[str]:
    """Writes the rows that are not `done`; returns why some examples could not be answered.

    These are tried again by the next run, or with `skip_unreadable` are done with. `total` is what the progress bar
    counts to.
    """
    status = "ok" if skip_unreadable else "error"
    errors: list[str] = []
    with tqdm(total=total, initial=total - len(examples), unit="example", desc="answers", disable=None) as bar:
        for batch, outcomes in read_ahead(asker.prepare, examples, batch_size):
            for row in asker.ask([outcome for outcome in outcomes if not isinstance(outcome, Exception)]):
                if row["name"] not in done:
                    part.write(row)
            for example, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception) and example.name not in done:
                    errors.append(str(outcome))
                    part.write(describe_example(example) | {"status": status, "error": str(outcome)})
            bar.update(len(batch))
    return errors
