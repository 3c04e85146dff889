import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from facellava_jax.checkpoint import (
    CheckpointError,
    cast,
    layer_shapes,
    load_params,
    read_array,
    read_config,
    read_manifest,
    write_aside,
    write_checkpoint,
)
from facellava_jax.config import Config, tiny
from facellava_jax.models.facellava import abstract_params, build_model

KERNEL = "decoder/layers/1/q_proj/kernel"


def draw(config: Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = layer_shapes(config)
    return {path: rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype)) for path, shape in shapes.items()}


def save(out: Path, config: Config, arrays: dict[str, np.ndarray], tokenizer: Path) -> None:
    dtypes = {path: array.dtype.name for path, array in arrays.items()}
    with write_checkpoint(out, config, dtypes, [tokenizer], {"folder": "drawn"}) as write:  # type: ignore[arg-type]
        for path, array in arrays.items():
            write(path, array)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "tokenizer.model").write_bytes(b"pieces")
    save(folder / "saved", tiny(), draw(tiny()), folder / "tokenizer.model")
    return folder / "saved"


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_what_is_written_is_read(saved: Path) -> None:
    arrays, params = draw(tiny()), load_params(saved)
    abstract = abstract_params(tiny().model)
    assert {path: param.shape for path, param in params.items()} == {p: a.shape for p, a in abstract.items()}
    for layer in range(2):
        assert np.array_equal(
            params["decoder/layers/q_proj/kernel"][layer], arrays[f"decoder/layers/{layer}/q_proj/kernel"]
        )
    assert np.array_equal(params["mm_projector/linears/1/bias"], arrays["mm_projector/linears/1/bias"])
    assert np.array_equal(read_array(saved, KERNEL), arrays[KERNEL])
    assert read_config(saved) == tiny()
    build_model(tiny().model, params)


def test_the_manifest_describes_every_file_and_array(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert manifest["source"] == {"folder": "drawn"}
    assert manifest["files"].keys() == {"config.json", "tokenizer/tokenizer.model"}
    assert manifest["parameters"][KERNEL] == {"shape": (64, 64), "dtype": "float32", "bytes": 64 * 64 * 4}
    assert manifest["parameters"].keys() == layer_shapes(tiny()).keys()


def test_no_file_says_where_it_was_written(saved: Path) -> None:
    place = str(saved.parent).encode()
    assert not [file for file in saved.rglob("*") if file.is_file() and place in file.read_bytes()]


def test_orbax_reads_the_folder(saved: Path) -> None:
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().restore(saved / "params")
    arrays = draw(tiny())
    flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    assert flat.keys() == arrays.keys()
    assert all(np.array_equal(flat[path], arrays[path]) for path in arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_are_kept_or_cast(dtype: str, saved: Path, tmp_path: Path) -> None:
    cast_params = load_params(saved, dtype=dtype)  # type: ignore[arg-type]
    save(tmp_path / "out", tiny(), draw(tiny(), dtype), saved / "tokenizer" / "tokenizer.model")
    kept_params = load_params(tmp_path / "out")
    for path, param in kept_params.items():
        assert param.dtype == cast_params[path].dtype == jnp.dtype(dtype)
        assert np.array_equal(param, cast_params[path])


def test_layers_of_unlike_dtype_are_stacked_as_the_widest(saved: Path, tmp_path: Path) -> None:
    arrays = draw(tiny(), "float16")
    arrays[KERNEL] = arrays[KERNEL].astype(jnp.bfloat16)
    save(tmp_path / "out", tiny(), arrays, saved / "tokenizer" / "tokenizer.model")
    stacked = load_params(tmp_path / "out")["decoder/layers/q_proj/kernel"]
    assert stacked.dtype == jnp.float32
    assert np.array_equal(stacked[1], arrays[KERNEL].astype(np.float32))


def test_shards_are_placed_where_asked(saved: Path) -> None:
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("layers", "columns"))
    whole = load_params(saved)
    specs = {path: PartitionSpec() for path in whole}
    specs["decoder/layers/q_proj/kernel"] = PartitionSpec("layers", None, "columns")
    specs["decoder/lm_head/kernel"] = PartitionSpec(None, "columns")
    params = load_params(saved, shardings={path: NamedSharding(mesh, spec) for path, spec in specs.items()})
    assert params["decoder/layers/q_proj/kernel"].addressable_shards[0].data.shape == (1, 64, 16)
    assert params["decoder/lm_head/kernel"].addressable_shards[0].data.shape == (64, 150)
    assert all(np.array_equal(params[path], whole[path]) for path in whole)


def flip_a_bit(folder: Path) -> None:
    (file,) = [file for file in chunks(folder) if file.is_file()]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def chunks(folder: Path) -> list[Path]:
    return list((folder / "params" / KERNEL.replace("/", ".") / "c").rglob("*"))


def truncate(folder: Path) -> None:
    for file in chunks(folder):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-7])


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


DAMAGED = {
    "no folder": (shutil.rmtree, "copy is no folder: give a checkpoint folder"),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json: give a checkpoint folder"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "has no manifest.json: give a checkpoint folder"),
    "manifest cut": (lambda d: (d / "manifest.json").write_text("{"), "manifest.json is damaged: import"),
    "later format": (edit("manifest.json", '"format": 1', '"format": 2'), "of format 2, .* update facellava-jax"),
    "unknown dtype": (edit("manifest.json", '"float32"', '"int4"'), "has dtype int4: import"),
    "flipped bit": (flip_a_bit, f"{KERNEL} is damaged or missing: import"),
    "cut array": (truncate, f"{KERNEL} is damaged or missing: import"),
    "no chunk": (
        lambda d: shutil.rmtree(d / "params" / KERNEL.replace("/", ".") / "c"),
        f"{KERNEL} is damaged or missing",
    ),
    "no array": (lambda d: shutil.rmtree(d / "params" / KERNEL.replace("/", ".")), f"{KERNEL} is damaged or missing"),
    "no params": (lambda d: shutil.rmtree(d / "params"), "is damaged or missing: import"),
    "other shape": (
        edit("config.json", '"vocab_size": 600', '"vocab_size": 601'),
        "embedding has shape .*config.json asks",
    ),
    "other depth": (
        edit("config.json", '"mlp2x_gelu"', '"mlp3x_gelu"'),
        "mm_projector/linears/2/bias is missing: restore",
    ),
    "other tokenizer": (
        lambda d: (d / "tokenizer" / "tokenizer.model").write_bytes(b"x"),
        "tokenizer.model is missing or",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name: str, copy: Path) -> None:
    damage, message = DAMAGED[name]
    damage(copy)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message) as caught:
        load_params(copy)
    assert "\n" not in str(caught.value)


def test_an_edited_config_is_no_damage(copy: Path) -> None:
    edit("config.json", '"llava_v1"', '"v1"')(copy)
    load_params(copy)
    assert read_config(copy).text.template == "v1"


def test_overflow_names_the_array(saved: Path, tmp_path: Path) -> None:
    arrays = draw(tiny())
    arrays[KERNEL][3, 4] = 70000
    save(tmp_path / "out", tiny(), arrays, saved / "tokenizer" / "tokenizer.model")
    with pytest.raises(CheckpointError, match=f"{KERNEL} holds numbers beyond float16.*use bfloat16"):
        load_params(tmp_path / "out", dtype="float16")
    assert load_params(tmp_path / "out", dtype="bfloat16")["decoder/layers/q_proj/kernel"][1, 3, 4] == 70144


def test_infinities_of_the_source_are_no_overflow() -> None:
    array = np.array([np.inf, np.nan, 1], np.float32)
    assert np.array_equal(cast(array, np.dtype("float16"), "x"), array.astype(np.float16), equal_nan=True)


@pytest.mark.parametrize("mistake", ["left out", "twice", "wrong shape", "wrong dtype", "raised"])
def test_a_failed_write_leaves_nothing(mistake: str, saved: Path, tmp_path: Path) -> None:
    arrays = draw(tiny())
    dtypes = dict.fromkeys(arrays, "float32")
    tokenizer = saved / "tokenizer" / "tokenizer.model"
    with (
        pytest.raises((CheckpointError, KeyError, ZeroDivisionError)),
        write_checkpoint(tmp_path / "out", tiny(), dtypes, [tokenizer], {}) as write,  # type: ignore[arg-type]
    ):
        for path, array in arrays.items():
            if mistake == "left out" and path == KERNEL:
                continue
            wrong = {"wrong shape": array[1:], "wrong dtype": array.astype(np.float16)}
            write(path, wrong.get(mistake, array))
            if mistake == "twice":
                write(path, array)
        if mistake == "raised":
            raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_config_that_the_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    config = replace(tiny(), model=replace(tiny().model, landmarks=None))
    dtypes = dict.fromkeys(layer_shapes(tiny()), "float32")
    with (
        pytest.raises(CheckpointError, match="global_landmarks_projector/linears/0/bias"),
        write_checkpoint(tmp_path / "out", config, dtypes, [], {}),  # type: ignore[arg-type]
    ):
        pass


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="out exists: remove it"), write_aside(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="out exists"), write_aside(tmp_path / "out") as (aside, _):
        (aside / "mine").touch()
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_leftovers_are_removed_but_not_work_under_way(tmp_path: Path) -> None:
    (tmp_path / "out.partial-0000abcd").mkdir()
    (tmp_path / "other.partial-0000").mkdir()
    with pytest.raises(CheckpointError, match="out exists"), write_aside(tmp_path / "out") as (first, _):
        with write_aside(tmp_path / "out") as (second, _):
            assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, "other.partial-0000"}
        assert {path.name for path in tmp_path.iterdir()} == {first.name, "out", "other.partial-0000"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other.partial-0000"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("checked", [False, True])
def test_a_signal_waits_for_a_safe_place(number: signal.Signals, checked: bool, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    steps = []
    with pytest.raises(KeyboardInterrupt) as caught, write_aside(tmp_path / "out") as (aside, check):
        check()
        signal.raise_signal(number)
        steps.append("went on")
        (aside / "file").touch()
        if checked:
            check()
            steps.append("past the check")
    assert steps == ["went on"]
    assert caught.value.args == (number,)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is before
