"""Measure the scoring of seven candidate answers at once beside other ways to the same numbers, in turns.

    python scripts/bench_score.py [--pairs 5] [--json FILE]

The question is about a clip; the model has random weights. At once is `Predictor.score`: the prompt is read once, and
all candidates go on from there. One by one is the same for each candidate alone. As rows is one batch of the prompt
with each candidate after it, and plain are whole forward passes over prompt and candidate. The clip is read and resized
before; nothing is timed before all sides have given the same scores, and each has compiled. On CPU: two threads.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).parent.parent
THREADS = 2
TOLERANCE = 1e-4  # of log-probabilities in float32
CANDIDATES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
AT_ONCE, ONE_BY_ONE, ROWS, PLAIN = "at once", "one by one", "as rows", "plain"


@dataclass(frozen=True)
class Arguments:
    pairs: int = 5
    """Turns of each side; an unmeasured one comes before."""
    width: int = 384
    """Of the decoder, a multiple of 128, with heads of 64."""
    layers: int = 6
    """Of the decoder."""
    kv_heads: int | None = None
    """Key-value heads of the decoder; by default as many as there are heads."""
    tokenizer: Path = ROOT / "tests/goldens/tokenizer/tok600"
    """A folder with a tokenizer."""
    json: Path | None = None
    """Write all numbers to this file."""


def make_sides(arguments: Arguments) -> tuple[int, dict[str, Callable[[], np.ndarray]]]:
    """The length of the prompt in tokens, and by name what gives the log-probability of each candidate."""
    import jax
    from flax import nnx

    from facellava_jax.axes import Batch
    from facellava_jax.config import tiny
    from facellava_jax.data import collate, measure
    from facellava_jax.models.facellava import FaceLlava
    from facellava_jax.predict import Predictor
    from facellava_jax.request import Request
    from facellava_jax.text import Tokenizer, encode_answer

    model = tiny().model
    heads = arguments.width // 64
    decoder = dataclasses.replace(
        model.decoder,
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=heads,
        num_key_value_heads=arguments.kv_heads or heads,
    )
    tower = dataclasses.replace(model.video_tower, image_size=112, num_frames=8)
    config = dataclasses.replace(tiny(), model=dataclasses.replace(model, decoder=decoder, video_tower=tower))
    network = FaceLlava(config.model, nnx.Rngs(0))
    predictor = Predictor(network, config, Tokenizer.load(arguments.tokenizer))
    clip = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), np.uint8)
    prepared = predictor.prepare(Request(clip, task="emotion", landmarks="none", crop="none"))

    graphdef, params = nnx.split(network)

    @jax.jit
    def look(params: nnx.State, batch: Batch) -> jax.Array:
        network = nnx.merge(graphdef, params)
        h_BLD, _ = network(batch)
        return jax.nn.log_softmax(network.decoder.logits(h_BLD), axis=-1)

    def score_plainly(candidate: str) -> float:
        ids = encode_answer(predictor.tokenizer, prepared.text, candidate)
        batch = collate([prepared.sample._replace(ids=[*prepared.sample.ids, *ids])], config.model)
        last = int(batch.lengths[0]) - 1
        places = np.arange(last - len(ids), last)
        return float(np.asarray(look(params, batch)[0])[places, ids].sum())

    rows = [[candidate] for candidate in CANDIDATES]
    return measure(prepared.sample, config.model), {
        AT_ONCE: lambda: predictor.score_prepared([prepared], [CANDIDATES])[0].log_probs,
        ONE_BY_ONE: lambda: np.array([predictor.score_prepared([prepared], [row])[0].log_probs[0] for row in rows]),
        ROWS: lambda: np.array([each.log_probs[0] for each in predictor.score_prepared([prepared] * len(rows), rows)]),
        PLAIN: lambda: np.array([score_plainly(candidate) for candidate in CANDIDATES]),
    }


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.pairs < 1:
        sys.exit(f"bench_score: --pairs {arguments.pairs}: use at least 1")
    load_average = os.getloadavg()[0]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    import jax

    with jax.default_matmul_precision("highest"):
        length, sides = make_sides(arguments)
        results = {name: score() for name, score in sides.items()}
        difference = max(float(abs(result - results[PLAIN]).max()) for result in results.values())
        if difference > TOLERANCE:
            sys.exit(f"bench_score: nothing is timed, for scores differ by {difference:.2g}, above {TOLERANCE}")
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(arguments.pairs):
            for name, score in sides.items():
                start = time.perf_counter()
                score()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(runs)) for name, runs in seconds.items()}
    ratios = {name: medians[name] / medians[AT_ONCE] for name in sides}
    numbers = {
        "device": jax.devices()[0].device_kind,
        "load_average": load_average,
        "prompt_tokens": length,
        "largest_difference": difference,
        "medians": medians,
        "ratios": ratios,
        "runs": seconds,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")
    lines = [
        f"{numbers['device']}, float32, load average {load_average:.1f}; a prompt of {length} tokens, "
        f"{len(CANDIDATES)} candidates; {arguments.pairs} turns, scores within {difference:.0e}",
        "",
        f"{'median':12}{'seconds':>10}{'to at once':>12}",
        *(f"{name:12}{medians[name]:10.3f}{ratios[name]:12.2f}" for name in sides),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
