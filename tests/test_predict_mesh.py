"""Predicting on the devices of a mesh: the same answers and scores as on one, and arrays where they belong."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from facellava_jax import generate, memory
from facellava_jax.config import ConfigError, tiny
from facellava_jax.experiment import MeshConfig
from facellava_jax.generate import Sampling
from facellava_jax.models.facellava import abstract_params
from facellava_jax.predict import Predictor
from facellava_jax.reading import collate_prepared
from facellava_jax.request import Options, PredictError, Request
from facellava_jax.sharding import make_mesh, tree_shardings

MESHES = {
    "rows": MeshConfig(data=8, fsdp=1),
    "parts": MeshConfig(data=1, fsdp=8),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
}
QUESTION = "Who is it?"
CANDIDATES = ["happy", "sad", "neither of the two"]
TOKENS = 20


@pytest.fixture(scope="module")
def single(checkpoint: Path) -> Predictor:
    return Predictor.load(checkpoint)


@pytest.fixture(scope="module", params=MESHES)
def divided(request: pytest.FixtureRequest, checkpoint: Path) -> Predictor:
    return Predictor.load(checkpoint, mesh=MESHES[request.param])


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Eleven, of all kinds, greedy and drawn: two batches of 8 rows, the second filled up."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("points")
    requests = []
    for number in range(11):
        shape = ((50, 60, 3), (6, 40, 40, 3), None)[number % 3]
        medium = None if shape is None else rng.integers(0, 256, shape, np.uint8)
        landmarks: Any = "none"
        if shape and number % 2:
            landmarks = folder / f"{number}.npy"
            np.save(landmarks, rng.uniform(0, 256, (6 if len(shape) == 4 else 1, 68, 2)).astype(np.float32))
        options = Options(max_new_tokens=TOKENS, temperature=float(number % 2), seed=number)
        requests.append(Request(medium, QUESTION, None, landmarks, "none", options))
    return requests


def test_answers_are_those_of_one_device(single: Predictor, divided: Predictor, requests: list[Request]) -> None:
    expected = single.predict_batch(requests)
    assert len({answer.text for answer in expected}) > 5
    assert divided.predict_batch(requests) == expected
    assert divided.predict(requests[1]) == expected[1]
    assert "".join(divided.stream(requests[4])) == expected[4].text


def test_scores_are_those_of_one_device(single: Predictor, divided: Predictor, requests: list[Request]) -> None:
    expected, scores = (each.score_batch(requests, candidates=CANDIDATES) for each in (single, divided))
    for one, other in zip(scores, expected, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4, rtol=0)
    assert np.ptp([each.log_probs for each in expected]) > 1


def test_attention_is_that_of_one_device(single: Predictor, divided: Predictor, requests: list[Request]) -> None:
    one, other = (each.attend(requests[1].media, landmarks=requests[1].landmarks) for each in (single, divided))
    np.testing.assert_allclose(other.weights, one.weights, atol=1e-6)


def test_every_device_has_its_part(divided: Predictor, requests: list[Request]) -> None:
    """Of the parameters, and of a batch's state before and after decoding, which compiles once."""
    generator, mesh = divided._generator, divided._generator.mesh
    expected = tree_shardings(abstract_params(divided.config.model), mesh)
    placed = {"/".join(map(str, path)): param[...].sharding for path, param in nnx.to_flat_state(generator.params)}
    assert placed == expected

    places = mesh.shape["data"] * mesh.shape["fsdp"]
    assert generator.places == places
    prepared = [divided.prepare(each) for each in requests[:3]]
    batch = collate_prepared(prepared, divided.config.model, generator.places)
    assert len(batch.tokens) == max(4, places)
    state = generator.prefill(batch, 64)
    parts = [held_shape(array) for array in state]
    heads = divided.config.model.decoder.num_key_value_heads
    assert held_shape(state.cache.k)[1:4:2] == (len(batch.tokens) // places, heads // mesh.shape["tensor"])
    assert held_shape(state.logits)[0] == len(batch.tokens) // places
    types = {"temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "seed": np.uint32}
    greedy = Sampling(**{name: np.zeros(len(batch.tokens), kind) for name, kind in types.items()})
    compiled = []
    for until in (1, 2, 3):
        state = generator.decode(state, greedy, divided.tokenizer.eos_id, until)
        compiled.append(generate._decode._cache_size())
        assert [held_shape(array) for array in state] == parts
    assert len(set(compiled)) == 1


def held_shape(tree: Any) -> tuple[int, ...]:
    """The shape of what the first device holds of an array, or of a cache's first one."""
    return jax.tree.leaves(tree)[0].addressable_shards[0].data.shape


def test_a_mesh_must_fit(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not divide the 8 devices that there are"):
        Predictor.load(checkpoint, mesh=MeshConfig(data=3, fsdp=1))
    two = make_mesh(MeshConfig(data=2, fsdp=1), jax.devices()[3:5])
    assert Predictor.load(checkpoint, mesh=two)._generator.places == 2
    monkeypatch.setattr(Mesh, "is_multi_process", property(lambda mesh: True))
    with pytest.raises(PredictError, match=r"devices of other processes: make it of jax.local_devices\(\)"):
        Predictor.load(checkpoint, mesh=two)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_that_of_the_fullest_device(dtype: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight devices of a CPU share its memory; eight others have each their own."""
    config = tiny()
    config = replace(config, model=replace(config.model, dtype=dtype))

    def need(mesh: Mesh | None, backend: str) -> float:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(memory, "free_memory", lambda: 0)
        with pytest.raises(PredictError, match="needs") as raised:
            memory.check_memory(tmp_path, config, 80_000, mesh)
        return float(re.search(r"needs ([0-9.]+) GiB", str(raised.value))[1])

    alone = need(None, "gpu")
    copies, parts = (make_mesh(MESHES[name]) for name in ("rows", "parts"))
    assert need(copies, "gpu") == pytest.approx(alone / 8, rel=0.1)
    assert need(parts, "cpu") == pytest.approx(alone, rel=0.1)
