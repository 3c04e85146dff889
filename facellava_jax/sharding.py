"""Where every number lives: the mesh, the table from parameter paths to its axes, shardings.

The batch's rows are divided over `data` and `fsdp`; parameters, and with them gradients and the optimizer's moments,
over `fsdp` (gathered where they are used) and `tensor` (heads and feed-forward widths, as in Megatron-LM).
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .axes import KVCache
from .config import ConfigError, ModelConfig
from .experiment import MeshConfig
from .models.facellava import FaceLlava, build_model
from .models.layers import Scan

Tree = TypeVar("Tree")

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

# What a kernel's (in, out) is divided in: its outputs among heads or widths, or the inputs that come so divided.
SPREADING, GATHERING = PartitionSpec("fsdp", "tensor"), PartitionSpec(("tensor", "fsdp"), None)
SPREAD, WHOLE = PartitionSpec("tensor"), PartitionSpec()
# Every parameter matches one row, which divides its last dimensions: the layer axis of stacked ones stays whole.
TABLE = {
    r"decoder/embed_tokens/embedding": GATHERING,
    r"decoder/layers/(q|k|v|gate|up)_proj/kernel": SPREADING,
    r"decoder/layers/(q|k|v|gate|up)_proj/lora_a": PartitionSpec("fsdp", None),
    r"decoder/layers/(q|k|v|gate|up)_proj/lora_b": SPREADING,
    r"decoder/layers/(o|down)_proj/kernel": GATHERING,
    r"decoder/layers/(o|down)_proj/lora_a": GATHERING,
    r"decoder/layers/(o|down)_proj/lora_b": PartitionSpec("fsdp", None),
    r"decoder/layers/(input|post_attention)_layernorm/scale": WHOLE,
    r"decoder/norm/scale": WHOLE,
    r"decoder/lm_head/kernel": SPREADING,
    r"(image|video)_tower/(class|position)_embedding": WHOLE,
    r"(image|video)_tower/patch_embedding/kernel": SPREADING,
    r"(image|video)_tower/pre_layrnorm/(scale|bias)": WHOLE,
    r"(image|video)_tower/layers/((self|temporal)_attn/[qkv]_proj|fc1)/kernel": SPREADING,
    r"(image|video)_tower/layers/((self|temporal)_attn/[qkv]_proj|fc1)/bias": SPREAD,
    r"(image|video)_tower/layers/((self|temporal)_attn/out_proj|fc2)/kernel": GATHERING,
    r"(image|video)_tower/layers/((self|temporal)_attn/out_proj|fc2)/bias": WHOLE,
    r"(image|video)_tower/layers/(temporal_)?layer_norm[12]/(scale|bias)": WHOLE,
    r"video_tower/layers/temporal_embedding": WHOLE,
    r"mm_projector/linears/0/kernel": SPREADING,
    r"mm_projector/linears/0/bias": SPREAD,
    r"mm_projector/linears/[1-9]\d*/kernel": GATHERING,
    r"mm_projector/linears/[1-9]\d*/bias": WHOLE,
    # From a few coordinates: the inputs are too few to divide.
    r"(global_)?landmarks_projector/(linears|region_layers)/\w+/kernel": PartitionSpec(None, "tensor"),
    r"(global_)?landmarks_projector/(linears|region_layers)/\w+/bias": WHOLE,
    r"landmarks_cross_attn/([qkv]|linear)_proj/kernel": SPREADING,
    r"landmarks_cross_attn/([qkv]|linear)_proj/bias": SPREAD,
    r"landmarks_cross_attn/out_proj/kernel": GATHERING,
    r"landmarks_cross_attn/out_proj/bias": WHOLE,
    r"landmarks_cross_attn/ln/(scale|bias)": WHOLE,
}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all devices (or of these), with the axes `data`, `fsdp` and `tensor`.

    Raises ConfigError where the axes' sizes do not make the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // -math.prod(sizes)
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} does not divide the "
            f"{len(devices)} devices that there are: choose sizes whose product is {len(devices)}"
        )
    return Mesh(mesh_utils.create_device_mesh(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a tree, which may hold shapes alone: of parameters, or of a whole TrainState.

    What lies under a parameter's path, its moments for example, is divided as the parameter is; the rest is whole on
    every device. Raises KeyError for a path that the table does not know.
    """

    def place(keys: tuple[Any, ...], array: Any) -> NamedSharding:
        path = next((key.key for key in reversed(keys) if isinstance(key, jax.tree_util.DictKey)), None)
        return NamedSharding(mesh, WHOLE if path is None else partition(path, array.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


def partition(path: str, shape: Sequence[int], mesh: Mapping[str, int]) -> PartitionSpec:
    """The axes of a mesh (axis -> size) that each dimension of a parameter, or of one layer of it, is divided over.

    A dimension that its axes do not divide is left whole, so that every model fits every mesh.
    """
    specs = [spec for pattern, spec in TABLE.items() if re.fullmatch(pattern, path)]
    if len(specs) != 1:
        raise KeyError(f"{path} has {len(specs)} rows in the sharding table, not one")
    divided = (None,) * (len(shape) - len(specs[0])) + tuple(specs[0])
    return PartitionSpec(
        *(
            axes if size % math.prod(mesh[axis] for axis in _names(axes)) == 0 else None
            for size, axes in zip(shape, divided, strict=True)
        )
    )


def gather(path: str, array: jax.Array, mesh: Mesh) -> jax.Array:
    """Inside a compiled function: a parameter, or one layer of it, brought together over `fsdp` for its use.

    Left to itself XLA may divide activations along `fsdp` instead; and of a product of both that are divided along it,
    the CPU compiler of jaxlib 0.10.1 makes wrong gradients on meshes with three axes above 1.
    """
    divided = partition(path, array.shape, mesh.shape)
    kept = (tuple(axis for axis in _names(axes) if axis != "fsdp") or None for axes in divided)
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(*kept)))


def assemble(config: ModelConfig, params: Mapping[str, Array], mesh: Mesh, *, remat: bool) -> FaceLlava:
    """The model, with parameters that are brought together over `fsdp` where they are used, a layer at a time."""
    model = build_model(
        config,
        {path: array if "/layers/" in path else gather(path, array, mesh) for path, array in params.items()},
    )

    def gather_layer(path: str, array: Array, part: str) -> Array:
        # Matrices travel in the compute dtype: in bfloat16 that is half the bytes.
        return gather(f"{part}/layers/{path}", array.astype(config.dtype) if array.ndim == 2 else array, mesh)

    for part in ("image_tower", "video_tower", "decoder"):
        if (module := getattr(model, part)) is not None:
            module.scan = Scan(remat, partial(gather_layer, part=part))
    return model


def _names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of every array of a batch: rows over all replicas and their parts."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
    """A batch's arrays on the mesh's devices, from the rows that this host has: all of them, or its share, in order."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def constrain(tree: Tree, mesh: Mesh) -> Tree:
    """Inside a compiled function: the tree, divided as `tree_shardings` says."""
    return jax.lax.with_sharding_constraint(tree, tree_shardings(tree, mesh))


def constrain_rows(tree: Tree, mesh: Mesh, *, axis: int = 0) -> Tree:
    """Inside a compiled function: the tree, the rows along `axis` of every array divided as a batch is."""
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, ROWS))
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, sharding), tree)


def constrain_cache(cache: KVCache, mesh: Mesh) -> KVCache:
    """Inside a compiled function: keys and values, divided by rows, and by heads where `tensor` divides these."""
    heads = "tensor" if cache.k.shape[3] % mesh.shape["tensor"] == 0 else None
    sharding = NamedSharding(mesh, PartitionSpec(None, ROWS, None, heads))
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, sharding), cache)


def count_places(mesh: Mesh) -> int:
    """How many parts a batch's rows are divided into: their number is to be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in ROWS)
