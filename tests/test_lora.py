"""Adapters: what they compute, what trains with them, and that merging them changes nothing."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from flax import nnx

from conversion.export import export_checkpoint
from conversion.rules import entries
from conversion.source import open_folder
from facellava_jax.axes import Batch
from facellava_jax.checkpoint import disk_paths, layer_shapes, load_params, read_array, read_config, write_checkpoint
from facellava_jax.config import Config, ConfigError, LoraConfig, ModelConfig, tiny
from facellava_jax.experiment import LANDMARK_BRANCH, Experiment
from facellava_jax.lora import merge_adapter, without_lora
from facellava_jax.models.facellava import FaceLlava, abstract_params, build_model
from facellava_jax.models.layers import AdaptedLinear
from facellava_jax.step import configure_training, select_trainable

PLAIN = replace(tiny().model, image_tower=None, video_tower=None, landmarks=None)
# Of logits up to 5; 2e-6 is measured.
CLOSE = 1e-5


def adapted(lora: LoraConfig, model: ModelConfig = PLAIN) -> ModelConfig:
    return replace(model, decoder=replace(model.decoder, lora=lora))


def read_logits(config: ModelConfig, params: dict[str, jax.Array]) -> np.ndarray:
    ids = np.random.default_rng(1).integers(3, 600, (2, 20)).astype(np.int32)
    batch = Batch(ids, np.full_like(ids, -1), np.array([20, 13], np.int32), None, None)

    def run(params: dict[str, jax.Array]) -> jax.Array:
        model = build_model(config, params)
        return model.decoder.logits(model(batch)[0])

    return np.asarray(jax.jit(run)(params))


def merge_all(params: dict[str, jax.Array], lora: LoraConfig | None) -> dict[str, jax.Array]:
    """Those of the model without adapters, its layers merged one by one."""
    merged = {}
    for path, array in params.items():
        parent = path.rpartition("/")[0]

        def read(number: int, leaf: str, parent: str = parent) -> np.ndarray:
            return np.asarray(params[f"{parent}/{leaf}"][number])

        names = disk_paths(path, array.shape)
        if names == [path]:
            merged[path] = array
        elif "/lora_" not in path:
            layers = enumerate(zip(names, np.asarray(array), strict=True))
            merged[path] = jnp.stack(
                [merge_adapter(name, layer, lora, partial(read, at)) for at, (name, layer) in layers]
            )
    return merged


@pytest.mark.parametrize(
    "lora",
    [LoraConfig(rank=4, alpha=6.0), LoraConfig(rank=70, alpha=8.0, targets=("o_proj", "down_proj"))],
    ids=["all", "two_of_high_rank"],
)
def test_merged_equals_apart(lora: LoraConfig) -> None:
    config = adapted(lora)
    params = random_params(config)
    # random_params draws A and B of deviation 0.5, and so kernels that the adapters dwarf: made as large as they are.
    params |= {path: array * 0.1 for path, array in params.items() if "/lora_" in path}
    merged = merge_all(params, lora)
    assert without_lora(config) == PLAIN
    assert {path: array.shape for path, array in merged.items()} == {
        path: abstract.shape for path, abstract in abstract_params(PLAIN).items()
    }
    apart, together = read_logits(config, params), read_logits(PLAIN, merged)
    base = read_logits(PLAIN, {path: array for path, array in params.items() if "/lora_" not in path})
    np.testing.assert_allclose(together, apart, atol=CLOSE, rtol=0)
    assert np.abs(apart - base).max() > 0.1


def test_an_adapter_adds_a_product_of_low_rank() -> None:
    layer = AdaptedLinear(6, 5, LoraConfig(rank=2, alpha=3.0), use_bias=False, rngs=nnx.Rngs(0), dtype=jnp.float32)
    rng = np.random.default_rng(0)
    x, a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 2), (2, 5)))
    layer.lora_a[...], layer.lora_b[...] = a, b
    expected = x @ np.asarray(layer.kernel[...]) + 1.5 * x @ a @ b
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-5)


def test_new_adapters_change_nothing_and_can_learn() -> None:
    config = adapted(LoraConfig(rank=3))
    fresh = nnx.to_flat_state(nnx.state(FaceLlava(config, nnx.Rngs(0)), nnx.Param))
    params = {"/".join(map(str, path)): param[...] for path, param in fresh}
    adapters = {path: array for path, array in params.items() if "/lora_" in path}
    assert len(adapters) == 14
    for path, array in adapters.items():
        if path.endswith("lora_b"):
            assert not array.any()
        else:
            bound = array.shape[1] ** -0.5
            assert 0.8 * bound < np.abs(array).max() <= bound
            # Each layer has its own.
            assert not np.array_equal(array[0], array[1])
    np.testing.assert_array_equal(
        read_logits(config, params),
        read_logits(PLAIN, {path: array for path, array in params.items() if path not in adapters}),
    )


def test_bfloat16_kernels_are_merged_in_float32() -> None:
    config = adapted(LoraConfig(rank=2, alpha=2.0, targets=("q_proj",)))
    params = random_params(config)
    kernel = params["decoder/layers/q_proj/kernel"].astype(jnp.bfloat16)
    merged = merge_all({**params, "decoder/layers/q_proj/kernel": kernel}, config.decoder.lora)
    merged = merged["decoder/layers/q_proj/kernel"]
    product = params["decoder/layers/q_proj/lora_a"] @ params["decoder/layers/q_proj/lora_b"]
    assert merged.dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged, (kernel.astype(jnp.float32) + product).astype(jnp.bfloat16))


def test_adapters_train_beside_the_landmark_branch_and_the_decoder_stays() -> None:
    experiment = Experiment(lora=LoraConfig(rank=2), dtype="float32")
    config = configure_training(experiment, tiny().model)
    trained = select_trainable(abstract_params(config), experiment)
    assert {path for path in trained if path.startswith("decoder/")} == {
        path for path in abstract_params(config) if "/lora_" in path
    }
    assert any(path.startswith("landmarks_cross_attn/") for path in trained)
    with pytest.raises(ConfigError, match=r"decoder/layers/down_proj/kernel, which lora keeps frozen"):
        select_trainable(abstract_params(config), replace(experiment, trainable=(*LANDMARK_BRANCH, "decoder/*")))


def test_conversion_knows_no_adapters() -> None:
    config = tiny()
    with_lora = replace(config, model=adapted(LoraConfig(rank=2), config.model))
    assert list(entries(with_lora)) == list(entries(config))


def test_config_survives_json_and_wrong_targets_are_named() -> None:
    config = replace(tiny(), model=adapted(LoraConfig(rank=2, targets=("q_proj", "v_proj"))))
    assert Config.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match=r"lora\.targets\.1: 'w_proj' is not one of 'q_proj'"):
        Config.from_json(config.to_json().replace("v_proj", "w_proj"))
    with pytest.raises(ConfigError, match=r"lora\.targets \(\): use some of q_proj"):
        LoraConfig(targets=())
    with pytest.raises(ConfigError, match=r"lora\.rank 0: use at least 1"):
        LoraConfig(rank=0)


def test_an_export_merges(checkpoint: Path, tmp_path: Path) -> None:
    config = read_config(checkpoint)
    apart = replace(config, model=adapted(LoraConfig(rank=2, alpha=4.0, targets=("k_proj",)), config.model))
    rng = np.random.default_rng(0)
    arrays = {
        path: read_array(checkpoint, path)
        if path in layer_shapes(config)
        else rng.normal(size=shape).astype(np.float32)
        for path, shape in layer_shapes(apart).items()
    }
    dtypes = {path: array.dtype.name for path, array in arrays.items()}
    tokenizer = sorted((checkpoint / "tokenizer").iterdir())
    with write_checkpoint(tmp_path / "apart", apart, dtypes, tokenizer, {}) as write:
        for path, array in arrays.items():
            write(path, array)
    for name in ("apart", "plain"):
        export_checkpoint(tmp_path / "apart" if name == "apart" else checkpoint, tmp_path / f"{name}_out")
    exported, plain = (open_folder(tmp_path / f"{name}_out") for name in ("apart", "plain"))
    merged = merge_all(load_params(tmp_path / "apart"), apart.model.decoder.lora)["decoder/layers/k_proj/kernel"]
    assert exported.keys() == plain.keys()
    for key, tensor in plain.items():
        if "k_proj" in key and ".layers." in key and "tower" not in key:
            layer = int(key.split(".")[2])
            np.testing.assert_array_equal(exported[key].view(), np.asarray(merged[layer]).T)
            assert not np.array_equal(exported[key].view(), tensor.view())
        else:
            np.testing.assert_array_equal(exported[key].view(), tensor.view())
