"""run/: the log of a run, its folder, experiments that are compared; flops.py: what a step costs."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from facellava_jax.axes import Batch, Media
from facellava_jax.config import Config, LoraConfig, facellava_7b, tiny
from facellava_jax.experiment import (
    DECODER,
    LANDMARK_BRANCH,
    PROJECTOR,
    DataConfig,
    Experiment,
    MeshConfig,
    Source,
    find_changes,
)
from facellava_jax.flops import count_step_flops, find_peak
from facellava_jax.models.facellava import abstract_params
from facellava_jax.run import MetricsLog, RunError, read_metrics, resolve_experiment
from facellava_jax.step import select_trainable


def test_the_log_keeps_its_lines_and_drops_a_cut_one(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 3, "mfu": None, "samples": [1]})
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step  # flushed
    log.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(before + b'{"step": 4')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    log = MetricsLog(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    for step in (2, 3, 4):
        log.write({"step": step, "loss": 0.0})
    log.close()
    rows = list(read_metrics(tmp_path))
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1 / 3), (2, 2 / 3), (3, 1.0), (4, 0.0)]


@pytest.mark.parametrize("content", ["a poem\n", '{"loss": 1}\n', "[]\n"])
def test_a_file_that_is_no_log_is_left_alone(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(RunError, match="ends in a line that is no step of a run"):
        MetricsLog(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_changes_are_found_by_name_but_where_they_are_free() -> None:
    old = Experiment(model=tiny(), data=DataConfig(sources=(Source(path=Path("a")), Source(path=Path("b")))))
    free = dataclasses.replace(
        old,
        checkpoint_every=1,
        keep=9,
        mesh=MeshConfig(data=2),
        remat=False,
        data=dataclasses.replace(old.data, workers=3),
    )
    assert not list(find_changes(old, free))
    sources = (old.data.sources[0], Source(path=Path("c"), weight=2.0))
    new = dataclasses.replace(
        free, lora=LoraConfig(), dtype="float32", data=dataclasses.replace(free.data, sources=sources)
    )
    changes = {name: (before, after) for name, before, after in find_changes(old, new)}
    assert changes.pop("lora")[0] is None
    assert changes == {
        "data.sources.1.path": (Path("b"), Path("c")),
        "data.sources.1.weight": (1.0, 2.0),
        "dtype": ("bfloat16", "float32"),
    }


def test_an_experiment_is_resolved_and_survives_json(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = (Source(path=Path("list.json"), video_root=Path("v")),)
    experiment = resolve_experiment(Experiment(start=checkpoint, data=DataConfig(sources=sources)))
    assert experiment.tokenizer == checkpoint / "tokenizer" and isinstance(experiment.model, Config)
    assert experiment.data.sources[0] == Source(path=tmp_path / "list.json", video_root=tmp_path / "v")
    lora = dataclasses.replace(experiment, lora=LoraConfig(rank=3), steps=4)
    (tmp_path / "experiment.json").write_text(lora.to_json())
    assert Experiment.load(tmp_path / "experiment.json") == lora


def make_batch(config: Config, rows: int, length: int, images: int = 0, videos: int = 0) -> Batch:
    """The shapes of one."""
    tokens = np.zeros((rows, length), np.int32)

    def media(places: int, frames: int, size: int) -> Media | None:
        shape = (rows, places, frames)
        pixels = np.broadcast_to(np.float32(0), (*shape, size, size, 3))
        return Media(pixels, np.zeros((*shape, 68, 2), np.float32), np.zeros(shape[:2], bool)) if places else None

    towers = config.model.image_tower, config.model.video_tower
    assert towers[0] and towers[1]
    picture, clip = media(images, 1, towers[0].image_size), media(videos, towers[1].num_frames, towers[1].image_size)
    return Batch(tokens, tokens, np.zeros(rows, np.int32), picture, clip, tokens)


def count(config: Config, batch: Batch, *trainable: str, lora: LoraConfig | None = None) -> float:
    model = dataclasses.replace(config.model, decoder=dataclasses.replace(config.model.decoder, lora=lora))
    experiment = Experiment(trainable=trainable, lora=lora)
    return count_step_flops(model, batch, select_trainable(abstract_params(model), experiment))


def test_flops_of_the_7b_model() -> None:
    """By hand: 6 operations a parameter and token of what trains, 4 of what gradients pass, 2 of what only computes."""
    config, length = facellava_7b(), 2304
    text = make_batch(config, 2, length)
    # Decoder without embeddings, and attention over the whole square in 32 layers.
    kernels, tokens = 6_738_415_616 - 32000 * 4096 - 65 * 4096, 2 * length
    attention = 4 * 2 * length**2 * 4096 * 32
    assert count(config, text, *DECODER) == 6 * kernels * tokens + 3 * attention
    assert count(config, text, *LANDMARK_BRANCH) == 4 * kernels * tokens + 3 * attention
    clip = make_batch(config, 2, length, videos=1)
    frames, patches = 16, 257
    # The towers' kernels without biases: 23 layers of 12 C^2, and of 4 C^2 over time.
    layer = 1024**2
    tower = 2 * frames * (patches * 23 * 16 * layer + 256 * 3 * 14**2 * 1024)
    tower += 4 * frames * patches * (patches + 8) * 1024 * 23
    branch = 2 * frames * (patches * 3 * 4096**2 + 9 * 2 * 4096**2 + 136 * 4096 + 136 * 4096)
    crossing = 4 * frames * patches * 9 * 4096
    projector = 2 * frames * patches * (1024 * 4096 + 4096**2)
    visual = count(config, clip, *LANDMARK_BRANCH) - count(config, text, *LANDMARK_BRANCH)
    assert visual == tower + projector + 3 * branch + 3 * crossing
    visual = count(config, clip, *LANDMARK_BRANCH, *PROJECTOR) - count(config, text, *LANDMARK_BRANCH)
    assert visual == tower + 3 * projector + 3 * branch + 3 * crossing
    # Adapters: gradients pass the frozen kernels and stop at the adapters' own.
    rank = 128
    sizes = 32 * rank * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    lora = count(config, text, *LANDMARK_BRANCH, lora=LoraConfig(rank=rank))
    assert lora == 4 * kernels * tokens + 6 * sizes * tokens + 3 * attention


def test_flops_grow_with_rows_and_media() -> None:
    config = tiny()
    one = count(config, make_batch(config, 1, 64, images=1, videos=1), "*")
    assert count(config, make_batch(config, 3, 64, images=1, videos=1), "*") == 3 * one
    assert one > count(config, make_batch(config, 1, 64, images=1), "*") > count(config, make_batch(config, 1, 64), "*")
    assert math.isfinite(one)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_peaks(kind: str, peak: float | None) -> None:
    assert find_peak(kind, "bfloat16") == peak
    assert find_peak(kind, "bfloat16", 4) == (peak and 4 * peak)
    assert find_peak(kind, "float32") is None
