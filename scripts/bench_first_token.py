"""Measure imports, time to the first token, and speed beside transformers' Video-LLaVA class, in turns.

    python scripts/bench_first_token.py [--pairs 5] [--json FILE]

Both sides hold the same random weights, of the tiny model without what that class lacks: landmarks and temporal
attention. Clips lie alike in both: each frame is its CLS token, then its patches. Both read the same clip and prompt
with the same code, as transformers' own reader needs torchvision and scales otherwise. Nothing is timed before both
have given the same tokens. Two threads; float32 on CPU, bfloat16 where both sides have a GPU.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import numpy as np
import tyro
from first_token_sides import SIDES, Ours, Peer, build

ROOT = Path(__file__).parent.parent
THREADS = 2
ANSWER_TOKENS = 64
TOLERANCE = 1e-3  # of logits; they are of order 1
REPEATS = 20  # of the calls to warm processes
OURS, PEER = SIDES

IMPORTS = {
    "import facellava_jax": "import facellava_jax",
    "import Predictor": "from facellava_jax import Predictor",
}
PEER_IMPORT = "from transformers import VideoLlavaForConditionalGeneration"
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"

Programs = dict[str, str]  # side -> what `python -c` runs
Environment = dict[str, str]


@dataclass(frozen=True)
class Arguments:
    pairs: int = 5
    """Fresh processes of each side for every measure."""
    json: Path | None = None
    """Write all numbers to this file."""
    tokenizer: Path = ROOT / "tests/goldens/tokenizer/tok600"
    """The folder whose tokenizer files are used."""


class Measure(NamedTuple):
    """The numbers of both sides; `stages` are parts of them."""

    name: str
    unit: str
    runs: dict[str, list[float]]
    stages: Sequence["Measure"] = ()


def check_parity(folder: Path) -> float:
    """The largest difference of logits in a greedy answer. Ends the program where pixels, tokens or logits differ."""
    import jax
    import torch

    from facellava_jax.checkpoint import load_params
    from facellava_jax.data import collate
    from facellava_jax.generate import Generator, Sampling
    from facellava_jax.models.facellava import build_model

    torch.backends.cudnn.allow_tf32 = False
    ours, peer = Ours(folder, "float32"), Peer(folder, "float32")
    ours.read()
    peer.read()
    sample, config = ours.prepared.sample, ours.predictor.config.model
    if not np.array_equal(sample.media[0].pixels, peer.pixels):
        sys.exit("bench_first_token: nothing is timed, for the sides read different pixels")
    expected = peer.generate(ANSWER_TOKENS, output_logits=True)

    generator = Generator(build_model(config, load_params(folder / "ours", dtype="float32")))
    greedy = Sampling(np.zeros(1, np.float32), np.zeros(1, np.int32), np.ones(1, np.float32), np.zeros(1, np.uint32))
    difference = 0.0
    with jax.default_matmul_precision("highest"):
        state = generator.prefill(collate([sample], config), ANSWER_TOKENS)
        for step, logits in enumerate(expected.logits, start=1):
            difference = max(difference, float(abs(np.asarray(state.logits) - logits.cpu().numpy()).max()))
            state = generator.decode(state, greedy, ours.predictor.tokenizer.eos_id, step)
    tokens, peer_tokens = np.asarray(state.tokens)[0].tolist(), expected.sequences[0, -ANSWER_TOKENS:].tolist()
    if tokens != peer_tokens or len(expected.logits) != ANSWER_TOKENS:
        sys.exit(f"bench_first_token: nothing is timed, for answers differ or end early:\n{tokens}\n{peer_tokens}")
    if difference > TOLERANCE:
        sys.exit(f"bench_first_token: nothing is timed, for logits differ by {difference:.2g}, above {TOLERANCE}")
    return difference


def measure(folder: Path, dtype: str, pairs: int) -> list[Measure]:
    environment = {name: value for name, value in os.environ.items() if name != CACHE_VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    report = "\nimport json, time\nprint(json.dumps({'import': time.monotonic()}))"
    measures = [
        time_fresh(name, {OURS: statement + report, PEER: PEER_IMPORT + report}, pairs, environment)
        for name, statement in IMPORTS.items()
    ]

    def call(function: str) -> Programs:
        prologue = f"import first_token_sides as sides; sides.{function}"
        return {side: f"{prologue}({side!r}, {str(folder)!r}, {dtype!r})" for side in SIDES}

    programs = call("start")
    measures.append(time_fresh("first token, nothing compiled", programs, pairs, environment))
    cached = environment | {CACHE_VARIABLE: str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    run(programs[OURS], cached)
    measures.append(time_fresh("first token, compilation cache", programs, pairs, cached))
    return measures + time_warm(call("serve"), environment)


def time_fresh(name: str, programs: Programs, pairs: int, environment: Environment) -> Measure:
    """From the start of a process to the moments that it writes, the sides in turns."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in programs}
    for _ in range(pairs):
        for side, program in programs.items():
            last = time.monotonic()
            seconds = {}
            for stage, moment in json.loads(run(program, environment)).items():
                seconds[stage], last = moment - last, moment
            runs[side].append(seconds)
    whole = {side: [sum(seconds.values()) for seconds in runs[side]] for side in programs}
    names = list(runs[OURS][0])
    stages = [Measure(stage, "s", {side: [each[stage] for each in runs[side]] for side in programs}) for stage in names]
    return Measure(name, "s", whole, stages if len(stages) > 1 else ())


def run(program: str, environment: Environment) -> str:
    """The standard output of a Python program in a process of its own."""
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"bench_first_token: {program!r} failed:\n{process.stderr}")
    return process.stdout


def time_warm(programs: Programs, environment: Environment) -> list[Measure]:
    """Two processes, each with its model and its input ready; one rests while the other is asked."""
    firsts: dict[str, list[float]] = {side: [] for side in programs}
    wholes: dict[str, list[float]] = {side: [] for side in programs}
    with contextlib.ExitStack() as stack:
        launch = functools.partial(subprocess.Popen, env=environment, stdin=PIPE, stdout=PIPE, text=True, bufsize=1)
        servers: dict[str, subprocess.Popen[str]] = {
            side: stack.enter_context(launch([sys.executable, "-c", program])) for side, program in programs.items()
        }
        for turn in range(REPEATS + 1):
            for side, server in servers.items():
                first, whole = (ask(server, tokens) for tokens in (1, ANSWER_TOKENS))
                if turn:  # the first compiles
                    firsts[side].append(first)
                    wholes[side].append(whole)
    # Of the medians: single answers are too short for their differences.
    rates = {
        side: [(ANSWER_TOKENS - 1) / float(np.median(wholes[side]) - np.median(firsts[side]))] for side in programs
    }
    return [
        Measure("warm process: input to first token", "s", firsts),
        Measure(f"warm process: to token {ANSWER_TOKENS}", "s", wholes),
        Measure("warm process: after the first token", "tokens/s", rates),
    ]


def ask(server: subprocess.Popen[str], tokens: int) -> float:
    """The seconds of an answer."""
    assert server.stdin and server.stdout
    server.stdin.write(f"{tokens}\n")
    line = server.stdout.readline()
    if not line:
        sys.exit("bench_first_token: a warm process ended; its error stands above")
    return float(line)


def summarise(measure: Measure) -> dict[str, Any]:
    """Medians, their ratio, and every number."""
    medians = {side: float(np.median(numbers)) for side, numbers in measure.runs.items()}
    return {
        "measure": measure.name,
        "unit": measure.unit,
        "medians": medians,
        "ratio": medians[OURS] / medians[PEER],
        "runs": measure.runs,
        "stages": [summarise(stage) for stage in measure.stages],
    }


def format_rows(summaries: Sequence[dict[str, Any]], indent: str = "") -> list[str]:
    lines = []
    for each in summaries:
        numbers = "".join(f"{each['medians'][side]:15.4g}" for side in SIDES)
        lines.append(f"{indent + each['measure']:36}{each['unit']:10}{numbers}{each['ratio']:14.2f}")
        lines += format_rows(each["stages"], indent + "  ")
    return lines


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.pairs < 1:
        sys.exit(f"bench_first_token: --pairs {arguments.pairs}: use at least 1")
    load_average = os.getloadavg()[0]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    # The processes share a GPU, read only what lies here, and keep standard error for errors.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    import jax
    import torch
    import transformers

    dtype = "bfloat16" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "float32"
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), arguments.tokenizer)
        difference = check_parity(Path(scratch))
        summaries = [summarise(each) for each in measure(Path(scratch), dtype, arguments.pairs)]
    setting = {
        "device": jax.devices()[0].device_kind,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "load_average": load_average,
        "versions": {module.__name__: module.__version__ for module in (jax, torch, transformers)},
        "pairs": arguments.pairs,
        "tokens_equal": ANSWER_TOKENS,
        "largest_logit_difference": difference,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({**setting, "measures": summaries}, indent=1) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    heading = f"{'median':36}{'unit':10}{OURS:>15}{PEER:>15}{'ours/theirs':>14}"
    lines = [
        f"{setting['device']}, {dtype}, {setting['threads']} threads, load average {load_average:.1f}; {versions}",
        f"{arguments.pairs} pairs of processes, {REPEATS} of warm calls; the same {ANSWER_TOKENS} greedy tokens on "
        f"both sides, logits within {difference:.0e}",
        "",
        heading,
        *format_rows(summaries),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
