"""sharding.py: the mesh, the table over every configuration, and where a state's arrays really lie."""

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from facellava_jax.axes import Batch
from facellava_jax.config import (
    REGION_PROJECTOR,
    ConfigError,
    DecoderConfig,
    LandmarkConfig,
    LoraConfig,
    ModelConfig,
    TowerConfig,
    facellava_7b,
    tiny,
)
from facellava_jax.experiment import MeshConfig, OptimConfig
from facellava_jax.models.facellava import abstract_params
from facellava_jax.optim import make_optimizer
from facellava_jax.sharding import TABLE, batch_sharding, gather, make_mesh, partition, place_batch, tree_shardings

EIGHT = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def every_config() -> list[ModelConfig]:
    """One of every choice that names parameters: the family."""
    small = TowerConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2, image_size=28)
    decoder = DecoderConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2)
    towers = [
        {"image_tower": small, "video_tower": replace(small, num_frames=frames, add_time_attn=time)}
        for frames, time in ((4, True), (1, True), (4, False))
    ]
    landmarks = [
        LandmarkConfig(cross_attn=kind, landmarks_projector=local, global_landmarks_projector=whole)
        for kind, local, whole in product(
            ("simple", "masked"), (REGION_PROJECTOR, "linear", "mlp3x_gelu"), (REGION_PROJECTOR, "linear", "mlp2x_gelu")
        )
        if kind == "simple" or local == REGION_PROJECTOR
    ]
    choices: list[dict[str, Any]] = [
        *({"landmarks": each} for each in (None, *landmarks)),
        *({"mm_projector": kind} for kind in ("linear", "mlp2x_gelu", "mlp12x_gelu")),
        *towers,
        {"image_tower": None, "video_tower": None},
        {"decoder": replace(decoder, tie_word_embeddings=True)},
        {"decoder": replace(decoder, lora=LoraConfig(rank=2))},
    ]
    return [ModelConfig(**{**towers[0], "decoder": decoder, **choice}) for choice in choices]


def test_the_table_is_total_and_alive_and_says_everything_once() -> None:
    paths = {path: abstract.shape for config in every_config() for path, abstract in abstract_params(config).items()}
    used = set()
    for path, shape in paths.items():
        rows = [pattern for pattern in TABLE if re.fullmatch(pattern, path)]
        assert len(rows) == 1, (path, rows)
        used.add(rows[0])
        # The row divides no more than the matrix: the layer axis of stacked parameters stays whole.
        assert len(TABLE[rows[0]]) <= len(shape) - ("/layers/" in path), path
    assert used == TABLE.keys()
    with pytest.raises(KeyError, match="decoder/layers/w_proj/kernel has 0 rows"):
        partition("decoder/layers/w_proj/kernel", (2, 8, 8), EIGHT.shape)


def test_no_kernel_of_the_full_model_is_whole_on_every_device() -> None:
    """On 64 devices in two dimensions each holds close to its share: 1/64 of the parameters, but for small ones."""
    mesh = {"data": 1, "fsdp": 32, "tensor": 2}
    model = facellava_7b().model
    params = abstract_params(replace(model, decoder=replace(model.decoder, lora=LoraConfig())))
    held = 0
    for path, abstract in params.items():
        spec = partition(path, abstract.shape, mesh)
        names = [name for axes in spec if axes for name in ((axes,) if isinstance(axes, str) else axes)]
        held += abstract.size // math.prod(mesh[name] for name in names)
    assert held / sum(abstract.size for abstract in params.values()) < 1.05 / 64


def test_a_dimension_that_does_not_divide_is_whole() -> None:
    def divide(path: str, *shape: int) -> PartitionSpec:
        return partition(path, shape, {"data": 1, "fsdp": 4, "tensor": 2})

    assert divide("decoder/lm_head/kernel", 64, 600) == PartitionSpec("fsdp", "tensor")
    assert divide("decoder/lm_head/kernel", 62, 601) == PartitionSpec(None, None)
    assert divide("decoder/embed_tokens/embedding", 600, 64) == PartitionSpec(("tensor", "fsdp"), None)
    assert divide("decoder/embed_tokens/embedding", 604, 64) == PartitionSpec(None, None)
    assert divide("decoder/layers/o_proj/kernel", 3, 64, 64) == PartitionSpec(None, ("tensor", "fsdp"), None)
    assert divide("decoder/layers/o_proj/kernel", 64, 64) == PartitionSpec(("tensor", "fsdp"), None)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=1, fsdp=1, tensor=8), (1, 1, 8)),
        (MeshConfig(data=2, fsdp=4, tensor=-1), (2, 4, 1)),
    ],
)
def test_meshes(config: MeshConfig, shape: tuple[int, ...]) -> None:
    mesh = make_mesh(config)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == shape
    assert {device.id for device in mesh.devices.flat} == set(range(8))
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    "config",
    [MeshConfig(data=3, fsdp=-1), MeshConfig(data=2, fsdp=2, tensor=1), MeshConfig(data=16, fsdp=-1)],
    ids=["odd", "too_few", "too_many"],
)
def test_a_mesh_of_another_number_of_devices_is_refused(config: MeshConfig) -> None:
    sizes = f"mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} "
    with pytest.raises(ConfigError, match=sizes + r".* 8 devices .*: choose sizes whose product is 8"):
        make_mesh(config)


@pytest.mark.parametrize("sizes", [{"data": -1}, {"tensor": 0}, {"data": -2}], ids=["two_free", "none", "negative"])
def test_wrong_mesh_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^mesh .*: use numbers from 1, and -1 at most once"):
        MeshConfig(**sizes)


def test_moments_lie_where_their_parameters_lie() -> None:
    params = abstract_params(tiny().model)
    opt_state = jax.eval_shape(make_optimizer(OptimConfig(weight_decay=0.1), 10).init, params)
    placed = tree_shardings(params, EIGHT)
    moments = dict.fromkeys(params, 0)
    for keys, sharding in jax.tree_util.tree_flatten_with_path(tree_shardings(opt_state, EIGHT))[0]:
        path = keys[-1].key if isinstance(keys[-1], jax.tree_util.DictKey) else None
        if path is None:
            assert sharding.spec == PartitionSpec()
        else:
            assert sharding == placed[path]
            moments[path] += 1
    assert set(moments.values()) == {2}


def test_a_batch_is_divided_by_rows_over_replicas_and_their_parts() -> None:
    ids = np.arange(8 * 5, dtype=np.int32).reshape(8, 5)
    batch = place_batch(Batch(ids, ids, np.arange(8, dtype=np.int32), None, None), EIGHT)
    assert batch.images is None and batch.labels is None
    assert batch.tokens.sharding.is_equivalent_to(batch_sharding(EIGHT), 2)
    np.testing.assert_array_equal(batch.tokens, ids)
    rows = {device: shard.index[0] for shard in batch.lengths.addressable_shards for device in [shard.device]}
    for data, fsdp, tensor in np.ndindex(2, 2, 2):
        start = 4 * data + 2 * fsdp
        assert rows[EIGHT.devices[data, fsdp, tensor]] == slice(start, start + 2)


def test_gathering_leaves_the_tensor_axis_divided() -> None:
    kernel = jnp.arange(64 * 32.0).reshape(64, 32)
    for path, spec in (
        ("decoder/layers/q_proj/kernel", PartitionSpec(None, "tensor")),
        ("decoder/layers/o_proj/kernel", PartitionSpec("tensor")),
        ("decoder/norm/scale", PartitionSpec()),
    ):
        array = kernel[0] if path.endswith("scale") else kernel
        put = jax.device_put(array, tree_shardings({path: array}, EIGHT)[path])
        out = jax.jit(lambda array, path=path: gather(path, array, EIGHT))(put)
        assert out.sharding.is_equivalent_to(jax.sharding.NamedSharding(EIGHT, spec), array.ndim)
        np.testing.assert_array_equal(out, array)
