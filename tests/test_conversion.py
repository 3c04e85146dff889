import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import CASES

from conversion import rules
from conversion.__main__ import main
from conversion.convert import import_checkpoint, lay_out
from conversion.export import export_checkpoint
from conversion.rules import DROPPED, Row, blocks, canonical, dropped_reason, entries
from conversion.shards import SavedTensor, write_shards
from conversion.source import SourceError, open_folder
from facellava_jax.checkpoint import layer_shapes, load_params, read_array, read_config, read_manifest
from facellava_jax.config import Config, LandmarkConfig, facellava_7b, tiny

ROOT = Path(__file__).parent.parent
Case = Callable[[str], Path]

MERGED = r"model\.image_tower\..*self_attn\..*_proj\.weight"

# The paper's model, parameter by parameter.
FULL = {
    "decoder": 6_738_415_616 + 2_048,
    "projector": 20_979_712,
    "landmarks": 85_078_016,
    "image_tower": 303_179_776,
    "video_tower": 404_187_136,
}
HELD = {
    **FULL,
    "decoder": 6_738_415_616,
    "landmarks": 85_069_824,
    "image_tower": 290_581_504,
    "video_tower": 387_380_224,
}


def edited(config: Config, **model: Any) -> Config:
    return replace(config, model=replace(config.model, **model))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    result: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.bin")):
        result |= torch.load(file, weights_only=True)
    return result


def save_whole(folder: Path, tensors: dict[str, Any]) -> None:
    """Replaces the weights of a folder by one file."""
    for file in [*folder.glob("*.bin"), *folder.glob("*.index.json")]:
        file.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def edit_json(file: Path, **fields: Any) -> None:
    file.chmod(0o644)
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def edit_vision(file: Path, **fields: Any) -> None:
    edit_json(file, vision_config={**json.loads(file.read_text())["vision_config"], **fields})


@pytest.fixture
def source(golden_case: Case, tmp_path: Path) -> Path:
    """A writable copy of a case with everything in one checkpoint: its `checkpoint/`."""
    return copy_case(golden_case("02_image_landmarks_simple"), tmp_path)


def copy_case(case: Path, tmp_path: Path) -> Path:
    for folder in ("checkpoint", "LanguageBind_Image", "LanguageBind_Video_merge"):
        shutil.copytree(case / folder, tmp_path / "case" / folder)
    for path in (tmp_path / "case").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "case" / "checkpoint"


class TestTables:
    def test_they_list_the_full_checkpoint(self, goldens: Path) -> None:
        keys = json.loads((goldens / "keys_7b.json").read_text())
        assert [(e.key, list(e.shape)) for e in entries(facellava_7b())] == list(keys["llava"].items())
        masked = edited(facellava_7b(), landmarks=LandmarkConfig(cross_attn="masked"))
        named = {canonical(key, "checkpoint") for key in keys["llava_lora_r2_masked"]}
        lora = {key for key in named if ".lora_" in key}
        assert len(lora) == 2 * 4 * 24
        assert named - lora == {entry.key for entry in entries(masked)}

    @pytest.mark.parametrize("part", ["image_tower", "video_tower"])
    def test_they_list_the_tower_folders(self, part: str, goldens: Path) -> None:
        tables = json.loads((goldens / "keys_7b.json").read_text())
        known = {entry.key: list(entry.shape) for entry in entries(facellava_7b()) if entry.part == part}
        names = {"image_tower": ("LanguageBind_Image", "LanguageBind_Image_lora_r2")}
        for name in names.get(part, ("LanguageBind_Video_merge",)):
            found = {canonical(key, part): shape for key, shape in tables[name].items()}
            rest = {key: shape for key, shape in found.items() if ".lora_" not in key and not dropped_reason(key)}
            assert rest == known

    def test_held_and_dropped_are_the_published_numbers(self) -> None:
        held: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for entry in entries(facellava_7b()):
            assert bool(entry.paths) != bool(entry.reason), entry.key
            (held if entry.paths else dropped)[entry.part] += math.prod(entry.shape)
        assert held == HELD
        assert held + dropped == FULL
        assert sum(FULL.values()) == 7_551_842_304

    @pytest.mark.parametrize("config", [facellava_7b(), tiny()], ids=["7b", "tiny"])
    def test_every_parameter_has_one_row(self, config: Config) -> None:
        paths = [path for entry in entries(config) for path in entry.paths]
        assert len(set(paths)) == len(paths)
        assert set(paths) == set(layer_shapes(config))

    def test_every_row_is_used(self, goldens: Path) -> None:
        model = tiny().model
        assert model.landmarks and model.video_tower
        variants = (
            model,
            replace(model, decoder=replace(model.decoder, tie_word_embeddings=True)),
            replace(model, landmarks=replace(model.landmarks, cross_attn="masked")),
            replace(model, video_tower=replace(model.video_tower, num_frames=1)),
        )
        used = {row for variant in variants for block in blocks(variant) for row in block.rows}
        assert table_rows() <= used

    def test_every_alias_and_dropped_pattern_is_used(self, goldens: Path) -> None:
        tables = json.loads((goldens / "keys_7b.json").read_text())
        keys = {key for table in tables.values() for key in table}
        keys |= {"model.image_tower.image_tower.embeddings.position_ids", "0.weight"}
        keys |= {f"base_model.model.{key}" for key in keys}
        patterns = [pattern for pattern, _ in (*DROPPED, *(alias for file in rules.ALIASES.values() for alias in file))]
        unused = [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in keys)]
        assert unused == []


def table_rows() -> set[Row]:
    def rows(value: Any) -> set[Row]:
        if isinstance(value, Row):
            return {value}
        if isinstance(value, dict):
            value = tuple(value.values())
        return set().union(*map(rows, value)) if isinstance(value, tuple) else set()

    found = rows(tuple(value for name, value in vars(rules).items() if name.isupper()))
    assert len(found) > 60
    return found


@pytest.mark.parametrize("name", [*CASES, "16_e2e_train_stage1"])
def test_round_trip_is_bit_equal(name: str, golden_case: Case, tmp_path: Path) -> None:
    original = golden_case(name) / "checkpoint"
    import_checkpoint(original, tmp_path / "ours")
    config = read_config(tmp_path / "ours")
    before = weights(original)

    export_checkpoint(tmp_path / "ours", tmp_path / "filled", fill_from=original, shard_bytes=300_000)
    filled = weights(tmp_path / "filled")
    assert list(filled) == [entry.key for entry in entries(config)]
    named = {canonical(key, "checkpoint"): value for key, value in before.items() if ".lora_" not in key}
    lora = any(".lora_" in key for key in before)
    for key, value in named.items():
        assert filled[key].dtype == value.dtype
        assert torch.equal(filled[key], value) or (lora and re.fullmatch(MERGED, key)), key

    # Without the original at hand: what the model holds, and what the original computes for itself, unchanged.
    export_checkpoint(tmp_path / "ours", tmp_path / "bare", shard_bytes=300_000)
    bare = weights(tmp_path / "bare")
    held = {entry.key for entry in entries(config) if entry.paths or entry.key.endswith("inv_freq")}
    assert bare.keys() - held == {"model.landmarks_cross_attn.ln.weight", "model.landmarks_cross_attn.ln.bias"}
    assert all(torch.equal(bare[key], filled[key]) for key in held)
    assert json.loads((tmp_path / "bare" / "config.json").read_text()) == json.loads(
        (original / "config.json").read_text()
    )

    import_checkpoint(tmp_path / "bare", tmp_path / "again")
    assert read_config(tmp_path / "again") == config
    ours, again = load_params(tmp_path / "ours"), load_params(tmp_path / "again")
    assert all(np.array_equal(again[path], array) for path, array in ours.items())


@pytest.mark.parametrize("name", ["01_image_nolm_lora", "13_towers_separate_lora"])
def test_lora_in_the_image_tower_is_merged(name: str, golden_case: Case, tmp_path: Path) -> None:
    import_checkpoint(golden_case(name) / "checkpoint", tmp_path / "ours", dtype="float32")
    tower = golden_case(name) / "LanguageBind_Image"
    separate = (tower / "pytorch_model.bin").is_file()
    prefix = "vision_model." if separate else "model.image_tower.image_tower."
    tensors = weights(tower if separate else golden_case(name) / "checkpoint")
    vision = json.loads((tower / "config.json").read_text())["vision_config"]
    for layer in range(read_config(tmp_path / "ours").model.image_tower.built_layers):  # type: ignore[union-attr]
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            key = f"{prefix}encoder.base_model.model.layers.{layer}.self_attn.{projection}."
            w, a, b = (
                tensors[key + leaf].double().numpy()
                for leaf in ("weight", "lora_A.default.weight", "lora_B.default.weight")
            )
            merged = w + vision["lora_alpha"] / vision["lora_r"] * b @ a
            ours = read_array(tmp_path / "ours", f"image_tower/layers/{layer}/self_attn/{projection}/kernel")
            assert np.abs(merged - w).max() > 1e-3
            np.testing.assert_allclose(ours, merged.T, atol=1e-6, rtol=0)
    assert read_manifest(tmp_path / "ours")["source"]["lora_merged"] == {"image_tower": {"r": 2, "alpha": 16.0}}


def import_aloud(source: Path, out: Path, **options: Any) -> str:
    said: list[str] = []
    import_checkpoint(source, out, say=said.append, **options)
    return "\n".join(said)


def assert_same_params(first: Path, second: Path) -> None:
    a, b = load_params(first), load_params(second)
    assert a.keys() == b.keys()
    assert all(a[path].dtype == b[path].dtype and np.array_equal(a[path], b[path]) for path in a)


@pytest.mark.parametrize("form", ["one .bin", "one .safetensors", "sharded .safetensors", "own shards"])
def test_every_file_form_gives_the_same(form: str, source: Path, tmp_path: Path) -> None:
    import_checkpoint(source, tmp_path / "expected")
    tensors = weights(source)
    if form == "one .bin":
        save_whole(source, tensors)
    elif form == "own shards":
        for file in source.glob("*.bin*"):
            file.unlink()
        saved = [
            SavedTensor(key, tuple(t.shape), "bfloat16", lambda t=t: t.view(torch.int16).numpy().view(jnp.bfloat16))  # type: ignore[misc]
            for key, t in tensors.items()
        ]
        write_shards(source, saved, lambda _: None, 200_000)
        assert len(list(source.glob("pytorch_model-*-of-*.bin"))) > 3
    else:
        names = sorted(tensors)
        count = 1 if form.startswith("one") else 2
        index = {}
        for number in range(count):
            file = "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-00002.safetensors"
            safetensors.torch.save_file({key: tensors[key] for key in names[number::count]}, source / file)
            index |= dict.fromkeys(names[number::count], file)
        if count > 1:
            (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    import_checkpoint(source, tmp_path / "ours")
    assert_same_params(tmp_path / "ours", tmp_path / "expected")


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_loads_what_we_write(mapped: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{dtype}.{shape}": rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))
        for dtype in ("float16", "bfloat16", "float32")
        for shape in ((3,), (5, 7), (4, 3, 2, 2), ())
    }
    saved = [SavedTensor(key, a.shape, a.dtype.name, lambda a=a: a) for key, a in arrays.items()]  # type: ignore[misc]
    write_shards(tmp_path, saved, lambda _: None)
    loaded = torch.load(tmp_path / "pytorch_model.bin", weights_only=True, mmap=mapped)
    assert list(loaded) == list(arrays)
    for key, array in arrays.items():
        assert str(loaded[key].dtype) == f"torch.{array.dtype.name}"
        assert loaded[key].is_contiguous() and loaded[key].data_ptr() % 16 == 0
        assert np.array_equal(loaded[key].float().numpy(), array.astype(np.float32))


def test_a_tower_folder_wins_over_the_checkpoint(golden_case: Case, tmp_path: Path) -> None:
    source = copy_case(golden_case("02_image_landmarks_simple"), tmp_path)
    prefix = "model.image_tower.image_tower."
    tower = {
        key.replace(prefix, "vision_model."): t + 1 for key, t in weights(source).items() if key.startswith(prefix)
    }
    folder = source.parent / "LanguageBind_Image"
    torch.save({**tower, "logit_scale": torch.tensor(1.0)}, folder / "pytorch_model.bin")
    said = import_aloud(source, tmp_path / "ours")
    assert f"image_tower comes from {folder}, not from the checkpoint" in said
    expected = tower["vision_model.embeddings.class_embedding"].float().numpy()
    assert np.array_equal(read_array(tmp_path / "ours", "image_tower/class_embedding").astype(np.float32), expected)
    assert read_manifest(tmp_path / "ours")["source"]["dropped"]["LanguageBind's contrastive head"] == 1


def test_tower_folders_are_found_or_given(source: Path, tmp_path: Path) -> None:
    said = import_aloud(source, tmp_path / "beside")
    assert f"image_tower: {source.parent / 'LanguageBind_Image'} is used" in said
    for name, option in (("LanguageBind_Image", "image_tower"), ("LanguageBind_Video_merge", "video_tower")):
        (source.parent / name).rename(tmp_path / option)
    import_checkpoint(
        source, tmp_path / "given", image_tower=tmp_path / "image_tower", video_tower=tmp_path / "video_tower"
    )
    assert_same_params(tmp_path / "beside", tmp_path / "given")
    for name, option in (("LanguageBind_Image", "image_tower"), ("LanguageBind_Video_merge", "video_tower")):
        (tmp_path / option).rename(source / name)
    assert f"image_tower: {source / 'LanguageBind_Image'} is used" in import_aloud(source, tmp_path / "inside")
    assert_same_params(tmp_path / "beside", tmp_path / "inside")


def test_without_a_tower_config_shapes_and_the_preset_decide(source: Path, tmp_path: Path) -> None:
    import_checkpoint(source, tmp_path / "known")
    for name in ("LanguageBind_Image", "LanguageBind_Video_merge"):
        shutil.rmtree(source.parent / name)
    said = import_aloud(source, tmp_path / "guessed")
    assert "video_tower has no config.json: its sizes come from its tensors" in said
    known, guessed = read_config(tmp_path / "known"), read_config(tmp_path / "guessed")
    for part in ("image_tower", "video_tower"):
        tower = getattr(known.model, part)
        assert getattr(guessed.model, part) == replace(tower, num_attention_heads=16, hidden_act="gelu")
    assert_same_params(tmp_path / "known", tmp_path / "guessed")


def test_missing_keys_of_a_tower_config_take_the_class_defaults(source: Path, tmp_path: Path) -> None:
    file = source.parent / "LanguageBind_Image" / "config.json"
    config = json.loads(file.read_text())
    for name in ("layer_norm_eps", "hidden_act", "num_frames"):
        del config["vision_config"][name]
    file.write_text(json.dumps(config))
    import_checkpoint(source, tmp_path / "ours")
    tower = read_config(tmp_path / "ours").model.image_tower
    assert tower and (tower.layer_norm_eps, tower.hidden_act, tower.num_frames) == (1e-5, "quick_gelu", 1)


@pytest.mark.parametrize(
    ("fields", "theta", "factor"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 50000.0}, 50000.0, 2.0),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4}}, 10000.0, 4.0),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 20000}}, 20000.0, 1.0),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 30000.0}}, 30000.0, 8.0),
    ],
)
def test_rope_is_read_in_either_form(
    fields: dict[str, Any], theta: float, factor: float, source: Path, tmp_path: Path
) -> None:
    edit_json(source / "config.json", **fields)
    import_checkpoint(source, tmp_path / "ours")
    decoder = read_config(tmp_path / "ours").model.decoder
    assert (decoder.rope_theta, decoder.rope_scaling_factor) == (theta, factor)
    export_checkpoint(tmp_path / "ours", tmp_path / "exported")
    import_checkpoint(tmp_path / "exported", tmp_path / "again")
    assert read_config(tmp_path / "again").model.decoder == decoder


def test_tied_embeddings_have_one_matrix(source: Path, tmp_path: Path) -> None:
    edit_json(source / "config.json", tie_word_embeddings=True)
    import_checkpoint(source, tmp_path / "ours")
    assert "decoder/lm_head/kernel" not in load_params(tmp_path / "ours")
    assert read_manifest(tmp_path / "ours")["source"]["dropped"]["tied to embed_tokens"] == 1
    export_checkpoint(tmp_path / "ours", tmp_path / "exported")
    assert "lm_head.weight" not in weights(tmp_path / "exported")
    import_checkpoint(tmp_path / "exported", tmp_path / "again")
    assert_same_params(tmp_path / "ours", tmp_path / "again")


def drop(source: Path, *prefixes: str) -> None:
    save_whole(source, {key: tensor for key, tensor in weights(source).items() if not key.startswith(prefixes)})


LANDMARK_KEYS = ("model.landmarks_", "model.global_landmarks_")


def test_missing_landmark_modules_start_as_the_original_starts_them(source: Path, tmp_path: Path) -> None:
    drop(source, *LANDMARK_KEYS)
    said = import_aloud(source, tmp_path / "ours", init_missing=("landmarks",), seed=3, dtype="float32")
    assert "28 tensors are newly initialised with seed 3: model.landmarks_projector.region_layers.face.weight" in said
    params = {path: np.asarray(p) for path, p in load_params(tmp_path / "ours").items() if "landmarks" in path}
    assert len(params) == 32
    normal = np.concatenate(
        [p.ravel() for path, p in params.items() if path.endswith("kernel") and not re.search(r"/[qkv]_proj/", path)]
    )
    # 64 * (2 * 136 + 64 + 64) numbers: the standard error of the deviation is 0.4 %.
    assert normal.size == 64 * (2 * 136 + 64 + 64)
    assert abs(normal.std() / 0.02 - 1) < 0.02
    assert abs(normal.mean()) < 4 * 0.02 / normal.size**0.5
    bound = (6 / (64 + 3 * 64)) ** 0.5
    uniform = np.concatenate([params[f"landmarks_cross_attn/{name}_proj/kernel"].ravel() for name in "qkv"])
    assert 0.999 * bound < np.abs(uniform).max() <= bound
    assert abs(uniform.std() / (bound / 3**0.5) - 1) < 0.02
    assert all(not p.any() for path, p in params.items() if path.endswith("bias"))
    assert (params["landmarks_cross_attn/ln/scale"] == 1).all()
    manifest = read_manifest(tmp_path / "ours")
    assert manifest["source"]["initialised"]["seed"] == 3
    assert len(manifest["source"]["initialised"]["tensors"]) == 28

    import_checkpoint(source, tmp_path / "same", init_missing=("landmarks",), seed=3, dtype="float32")
    assert_same_params(tmp_path / "ours", tmp_path / "same")
    import_checkpoint(source, tmp_path / "other", init_missing=("landmarks",), seed=4, dtype="float32")
    other = load_params(tmp_path / "other")["landmarks_cross_attn/q_proj/kernel"]
    assert not np.array_equal(other, params["landmarks_cross_attn/q_proj/kernel"])


def test_new_masked_modules_have_the_grid_the_right_way_round(source: Path, tmp_path: Path) -> None:
    drop(source, *LANDMARK_KEYS)
    edit_json(source / "config.json", cross_attn_type="masked")
    import_checkpoint(source, tmp_path / "ours", init_missing=("landmarks",))
    landmarks = read_config(tmp_path / "ours").model.landmarks
    assert landmarks and landmarks.cross_attn == "masked" and not landmarks.transposed_grid


def test_video_llava_has_no_landmark_modules(source: Path, tmp_path: Path) -> None:
    drop(source, *LANDMARK_KEYS)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if "landmark" not in k and "cross_attn" not in k})
    )
    said = import_aloud(source, tmp_path / "ours")
    assert "there are no landmark modules: --init-missing landmarks starts new ones" in said
    assert read_config(tmp_path / "ours").model.landmarks is None
    import_checkpoint(source, tmp_path / "new", init_missing=("landmarks",))
    assert read_config(tmp_path / "new").model.landmarks == LandmarkConfig()
    export_checkpoint(tmp_path / "ours", tmp_path / "exported", fill_from=source)
    assert weights(tmp_path / "exported").keys() == weights(source).keys()


def make_vicuna(source: Path) -> dict[str, torch.Tensor]:
    """Leaves a plain Llama folder; gives the tensors that it had beside the decoder's."""
    tensors = weights(source)
    rest = {key: t for key, t in tensors.items() if "tower" in key or "projector" in key or "landmarks" in key}
    save_whole(source, {key: t for key, t in tensors.items() if key not in rest})
    config = json.loads((source / "config.json").read_text())
    kept = {k: v for k, v in config.items() if not re.search("mm_|landmark|cross_attn", k)}
    (source / "config.json").write_text(json.dumps({**kept, "model_type": "llama"}))
    for part, folder in rules.TOWER_FOLDERS.items():
        prefix = f"model.{part}.{part}."
        tower = {key.replace(prefix, "vision_model."): t for key, t in rest.items() if key.startswith(prefix)}
        torch.save(tower, source.parent / folder / "pytorch_model.bin")
    return rest


def test_a_plain_llama_takes_towers_and_projector(source: Path, tmp_path: Path) -> None:
    import_checkpoint(source, tmp_path / "whole")
    rest = make_vicuna(source)
    assert read_config_of_text_only(source, tmp_path / "text").tower_width is None
    projector = {key.removeprefix("model."): t for key, t in rest.items() if "mm_projector" in key}
    torch.save(projector, tmp_path / "mm_projector.bin")
    towers = {
        "image_tower": source.parent / "LanguageBind_Image",
        "video_tower": source.parent / "LanguageBind_Video_merge",
    }
    with pytest.raises(
        SourceError, match="projector: model.mm_projector.0.weight.* --projector FILE, or .* --init-missing"
    ):
        import_checkpoint(source, tmp_path / "none", **towers)
    import_checkpoint(source, tmp_path / "given", projector=tmp_path / "mm_projector.bin", **towers)
    whole, given = load_params(tmp_path / "whole"), load_params(tmp_path / "given")
    assert whole.keys() - given.keys() == {path for path in whole if "landmarks" in path}
    assert all(np.array_equal(given[path], whole[path]) for path in given)
    import_checkpoint(source, tmp_path / "new", init_missing=("projector", "landmarks"), dtype="float32", **towers)
    kernel = np.asarray(load_params(tmp_path / "new")["mm_projector/linears/1/kernel"])
    assert abs(kernel.std() / 0.02 - 1) < 0.05
    export_checkpoint(tmp_path / "given", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["model_type"] == "llava"


def read_config_of_text_only(source: Path, out: Path) -> Any:
    import_checkpoint(source, out)
    return read_config(out).model


@pytest.mark.parametrize("bare", [False, True])
def test_a_projector_file_replaces_the_checkpoints(bare: bool, source: Path, tmp_path: Path) -> None:
    tensors = {key: t + 1 for key, t in weights(source).items() if "mm_projector" in key}
    torch.save(
        {key.removeprefix("model.mm_projector.") if bare else key: t for key, t in tensors.items()}, tmp_path / "p.bin"
    )
    said = import_aloud(source, tmp_path / "ours", projector=tmp_path / "p.bin")
    assert f"the projector comes from {tmp_path / 'p.bin'}, not from the checkpoint" in said
    ours = read_array(tmp_path / "ours", "mm_projector/linears/1/kernel").astype(np.float32)
    assert np.array_equal(ours.T, tensors["model.mm_projector.2.weight"].float().numpy())


def make_lora_run(source: Path, run: Path) -> dict[str, np.ndarray]:
    """A LoRA run of the original over `source`; gives the weights that it amounts to, in float64."""
    run.mkdir()
    rng = np.random.default_rng(0)
    tensors = weights(source)
    adapter, expected = {}, {}
    for layer, module in ((0, "self_attn.q_proj"), (1, "mlp.down_proj")):
        key = f"model.layers.{layer}.{module}"
        out, inner = tensors[f"{key}.weight"].shape
        a, b = rng.standard_normal((4, inner)) * 0.1, rng.standard_normal((out, 4)) * 0.1
        for name, value in (("lora_A", a), ("lora_B", b)):
            adapter[f"base_model.model.{key}.{name}.weight"] = torch.tensor(value, dtype=torch.float32)
        expected[f"decoder/layers/{layer}/{module.split('.')[1]}/kernel"] = (
            tensors[f"{key}.weight"].double().numpy()
            + 8 / 4 * b.astype(np.float32).astype(float) @ a.astype(np.float32)
        ).T
    torch.save(adapter, run / "adapter_model.bin")
    bias = tensors["model.mm_projector.0.bias"] + 1
    torch.save({"base_model.model.model.mm_projector.0.bias": bias}, run / "non_lora_trainables.bin")
    expected["mm_projector/linears/0/bias"] = bias.double().numpy()
    (run / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}))
    shutil.copyfile(source / "config.json", run / "config.json")
    return expected


def test_a_lora_run_is_merged_into_its_base(source: Path, tmp_path: Path) -> None:
    expected = make_lora_run(source, tmp_path / "run")
    import_checkpoint(tmp_path / "run", tmp_path / "ours", base=source, dtype="float32")
    import_checkpoint(source, tmp_path / "base", dtype="float32")
    for path in layer_shapes(read_config(tmp_path / "base")):
        ours, base = (read_array(tmp_path / name, path) for name in ("ours", "base"))
        if path in expected:
            np.testing.assert_allclose(ours, expected[path], atol=1e-6, rtol=0)
        else:
            assert np.array_equal(ours, base)
    assert read_manifest(tmp_path / "ours")["source"]["lora_merged"]["adapter"] == {"r": 4, "alpha": 8.0}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_dtype_is_what_torch_would_round_to(dtype: str, golden_case: Case, tmp_path: Path) -> None:
    source = golden_case("02_image_landmarks_simple") / "checkpoint"
    import_checkpoint(source, tmp_path / "ours", dtype=dtype)  # type: ignore[arg-type]
    weight = weights(source)["model.layers.0.mlp.up_proj.weight"].to(getattr(torch, dtype))
    ours = read_array(tmp_path / "ours", "decoder/layers/0/up_proj/kernel")
    assert ours.dtype.name == dtype and read_config(tmp_path / "ours").model.dtype == dtype
    assert np.array_equal(ours.T.astype(np.float32), weight.float().numpy())


def test_nan_is_kept_and_said(source: Path, tmp_path: Path) -> None:
    tensors = weights(source)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
    save_whole(source, tensors)
    assert "1 tensors hold NaN or infinity, and were kept as they are: model.layers.0.mlp" in import_aloud(
        source, tmp_path / "o"
    )
    assert np.isnan(read_array(tmp_path / "o", "decoder/layers/0/up_proj/kernel")[5, 3])


@pytest.mark.parametrize("shape", [(3000, 1100), (7, 5), (1, 9), (2_100_000,), (9,)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_laying_out_is_transposing(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).standard_normal(shape, np.float32).astype(np.float16)
    released = []
    laid_out, finite = lay_out(array.T, np.dtype(dtype), "x", lambda: released.append(1))
    assert finite and laid_out.flags.c_contiguous and np.array_equal(laid_out, array.T.astype(dtype))
    array[-1] = np.inf
    assert not lay_out(array.T, np.dtype(dtype), "x")[1]


# What import refuses: name -> (what to do to a good checkpoint, giving further options; the offender; the remedy).


def in_shard(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def act(source: Path) -> None:
        file = source / "pytorch_model-00001-of-00003.bin"
        content = torch.load(file, weights_only=True)
        change(content)
        torch.save(content, file)

    return act


def in_whole(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def act(source: Path) -> None:
        tensors = weights(source)
        change(tensors)
        save_whole(source, tensors)

    return act


def in_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def act(source: Path) -> None:
        file = source / "pytorch_model.bin.index.json"
        weight_map = json.loads(file.read_text())["weight_map"]
        change(weight_map)
        edit_json(file, weight_map=weight_map)

    return act


def in_config(**fields: Any) -> Callable[[Path], None]:
    return lambda source: edit_json(source / "config.json", **fields)


def in_tower(folder: str, **fields: Any) -> Callable[[Path], None]:
    return lambda source: edit_vision(source.parent / folder / "config.json", **fields)


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def act(source: Path) -> None:
        content = (source / name).read_bytes()
        (source / name).write_bytes(content[: int(len(content) * keep)])

    return act


class Payload:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


def pickled(content: Any) -> Callable[[Path], None]:
    return lambda source: (source / "pytorch_model-00001-of-00003.bin").write_bytes(pickle.dumps(content))


def as_safetensors(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def act(source: Path) -> None:
        safetensors.torch.save_file(weights(source), source / "model.safetensors")
        change(source)

    return act


def lie_in_safetensors(source: Path) -> None:
    content = (source / "model.safetensors").read_bytes()
    assert b'"shape":[600,64]' in content
    (source / "model.safetensors").write_bytes(content.replace(b'"shape":[600,64]', b'"shape":[900,64]', 1))


def twice_in_index(source: Path) -> None:
    file = source / "pytorch_model.bin.index.json"
    line = next(line for line in file.read_text().splitlines() if "lm_head.weight" in line)
    file.write_text(file.read_text().replace(line, f"{line}\n{line}"))


def lora_run(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def act(source: Path) -> list[str]:
        run = source.parent / "run"
        make_lora_run(source, run)
        change(run)
        base = source.rename(source.parent / "base")
        run.rename(source)
        return ["--base", str(base)]

    return act


def remove_lora_half(run: Path) -> None:
    adapter = torch.load(run / "adapter_model.bin", weights_only=True)
    del adapter["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    torch.save(adapter, run / "adapter_model.bin")


SHARD = "pytorch_model-00001-of-00003.bin"
INDEX = "pytorch_model.bin.index.json"
UP = "model.layers.1.mlp.up_proj.weight"
IMAGE, VIDEO = "LanguageBind_Image", "LanguageBind_Video_merge"
BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no folder": (shutil.rmtree, "checkpoint is no folder", "give the folder"),
    "no config": (lambda s: (s / "config.json").unlink(), "config.json is missing", "copy it too"),
    "config cut": (cut("config.json", 0.5), "config.json is not JSON", "copy it again"),
    "config a list": (
        lambda s: (s / "config.json").write_text("[]"),
        "config.json is not a JSON object",
        "copy it again",
    ),
    "no weights": (
        lambda s: save_whole(s, {}) or (s / "pytorch_model.bin").unlink(),
        "checkpoint holds no weights",
        "give the folder",
    ),
    "no tokenizer": (lambda s: (s / "tokenizer.model").unlink(), "tokenizer.model is missing", "copy the tokenizer"),
    "missing shard": (lambda s: (s / SHARD).unlink(), f"{SHARD} is missing", "copy the checkpoint again"),
    "truncated shard": (cut(SHARD, 0.7), f"{SHARD} is damaged or truncated", "copy it again"),
    "empty shard": (cut(SHARD, 0), f"{SHARD} is damaged or truncated", "copy it again"),
    "no index": (lambda s: (s / INDEX).unlink(), f"{INDEX} is missing", "copy it too"),
    "index without map": (lambda s: (s / INDEX).write_text("{}"), f"{INDEX} has no weight_map", "copy it again"),
    "index leaves the folder": (
        in_index(lambda m: m.update({UP: f"../{SHARD}"})),
        f"'../{SHARD}'",
        "correct the index",
    ),
    "absolute index": (in_index(lambda m: m.update({UP: "/etc/passwd"})), "'/etc/passwd'", "correct the index"),
    "index names a pickle": (
        in_index(lambda m: m.update({UP: "training_args.bin"})),
        "training_args.bin",
        "name the file",
    ),
    "twice in index": (twice_in_index, "'lm_head.weight' is there twice", "correct it"),
    "not in shard": (in_shard(lambda c: c.pop(UP)), f"{INDEX} has {UP}", "copy that file again"),
    "not in index": (in_index(lambda m: m.pop(UP)), f"{UP} of", "copy the checkpoint again"),
    "in two shards": (
        in_shard(lambda c: c.update({"lm_head.weight": torch.zeros(1)})),
        "lm_head.weight is in both",
        "remove one",
    ),
    "lying shape": (in_shard(lambda c: c.update({UP: c[UP].T.contiguous()})), f"{UP} of", "config.json that belongs"),
    "wrong dtype": (in_shard(lambda c: c.update({UP: c[UP].to(torch.int8)})), "is int8", "save it as one of float16"),
    "not a tensor": (in_shard(lambda c: c.update({UP: 3})), f"{UP!r} is a int", "save the state dict alone"),
    "executable pickle": (pickled(Payload()), f"{SHARD} is a plain pickle", "and is not opened"),
    "executable checkpoint": (
        lambda s: torch.save({UP: Payload()}, s / SHARD),
        f"{SHARD} holds more than tensors",
        "save its state dict alone",
    ),
    "a list of tensors": (
        lambda s: torch.save([torch.zeros(1)], s / SHARD),
        "holds a list",
        "save its state dict alone",
    ),
    "an old file": (
        lambda s: torch.save({UP: torch.zeros(1)}, s / SHARD, _use_new_zipfile_serialization=False),
        f"{SHARD} is a plain pickle, or of torch's format before 1.6",
        "save it again",
    ),
    "missing tensor": (in_whole(lambda t: t.pop(UP)), f"decoder: {UP} missing", "copy the checkpoint again"),
    "missing norm": (
        in_whole(lambda t: t.pop("model.image_tower.image_tower.pre_layrnorm.bias")),
        "image_tower: model.image_tower.image_tower.pre_layrnorm.bias",
        "--image-tower DIR",
    ),
    "missing landmarks": (
        in_whole(lambda t: [t.pop(key) for key in list(t) if key.startswith(LANDMARK_KEYS)]),
        "landmarks: model.landmarks_projector.region_layers.face.weight",
        "--init-missing landmarks",
    ),
    "unexpected tensor": (
        in_whole(lambda t: t.update({"model.layers.9.mlp.up_proj.weight": t[UP]})),
        "model.layers.9.mlp.up_proj.weight of",
        "config.json that belongs",
    ),
    "landmarks that config.json omits": (
        in_config(landmarks_projector_type=None, global_landmarks_projector_type=None, cross_attn_type=None),
        "model.landmarks_projector.region_layers",
        "config.json that belongs",
    ),
    "safetensors cut": (as_safetensors(cut("model.safetensors", 0.9)), "it is truncated", "copy it again"),
    "safetensors header cut": (
        as_safetensors(cut("model.safetensors", 0.01)),
        "header cannot be read",
        "copy it again",
    ),
    "safetensors lying": (as_safetensors(lie_in_safetensors), "which is not bfloat16(900, 64)", "copy the file again"),
    "model type": (in_config(model_type="llava_mpt"), "model_type 'llava_mpt'", 'use "llava" or "llama"'),
    "start and end tokens": (in_config(mm_use_im_start_end=True), "mm_use_im_start_end True", "use false"),
    "dynamic rope": (
        in_config(rope_scaling={"type": "dynamic", "factor": 2.0}),
        "'dynamic'",
        'use "linear" or "default"',
    ),
    "attention bias": (in_config(attention_bias=True), "attention_bias True", "use false"),
    "decoder activation": (in_config(hidden_act="relu"), "hidden_act 'relu'", 'use "gelu" or "quick_gelu" or "silu"'),
    "face mask adapter": (
        in_config(mm_projector_type="naive_face_mask_adapter"),
        "face-mask adapters are not supported",
        "use a checkpoint without them",
    ),
    "unknown projector": (
        in_config(mm_projector_type="resampler"),
        "mm_projector 'resampler'",
        "use one of linear, mlp2x",
    ),
    "unknown landmarks projector": (
        in_config(landmarks_projector_type="mlp"),
        "landmarks_projector 'mlp'",
        "use one of linear",
    ),
    "unknown attention": (in_config(cross_attn_type="gated"), "cross_attn_type 'gated'", 'use "simple" or "masked"'),
    "landmarks' size": (in_config(landmarks_hidden_size=204), "landmarks_hidden_size 204", "use 136"),
    "select feature": (in_config(mm_vision_select_feature="cls"), "mm_vision_select_feature 'cls'", 'use "patch" or'),
    "select layer": (in_config(mm_vision_select_layer=-9), "select_layer -9 does not exist", "use -4 to -1, or 1 to 4"),
    "a word for a number": (in_config(hidden_size="64"), "hidden_size '64' is no int", "correct it"),
    "no layers": (in_config(num_hidden_layers=0), "num_hidden_layers 0", "correct it"),
    "other heads": (in_config(num_attention_heads=7), "num_attention_heads 7 does not divide hidden_size 64", ""),
    "tower width": (
        in_config(mm_hidden_size=1024),
        "mm_hidden_size 1024",
        "towers that the checkpoint was trained with",
    ),
    "tower activation": (in_tower(IMAGE, hidden_act="relu"), f"{IMAGE}/config.json: hidden_act 'relu'", 'use "gelu"'),
    "image tower for clips": (in_tower(IMAGE, add_time_attn=True), "add_time_attn true", "--video-tower"),
    "other tower depth": (in_tower(VIDEO, num_hidden_layers=6), "video_tower: model.video_tower", "--video-tower DIR"),
    "tower config without sizes": (
        lambda s: (s.parent / IMAGE / "config.json").write_text("{}"),
        f"{IMAGE}/config.json has no vision_config",
        "copy LanguageBind's",
    ),
    "no tower anywhere": (
        in_whole(lambda t: [t.pop(key) for key in list(t) if "image_tower" in key]),
        "image_tower has no weights",
        "give --image-tower DIR",
    ),
    "an empty tower folder": (
        lambda s: (s.parent / "empty").mkdir() or ["--image-tower", str(s.parent / "empty")],  # type: ignore[func-returns-value]
        "empty holds neither a config.json nor weights",
        "--image-tower DIR",
    ),
    "no projector file": (lambda s: ["--projector", str(s / "none.bin")], "none.bin is missing", "copy"),
    "projector is a run's pickle": (
        lambda s: ["--projector", str(s / "training_args.bin")],
        "training_args.bin",
        "name the",
    ),
    "LoRA run alone": (
        lambda s: (s / "adapter_config.json").write_text("{}") and None,
        "is a LoRA run",
        "as --base DIR",
    ),
    "base without a run": (lambda s: ["--base", str(s)], "adapter_config.json is missing", "leave out --base"),
    "half a LoRA pair": (lora_run(remove_lora_half), "q_proj.lora_B.weight is missing", "copy the files again"),
    "other LoRA rank": (lora_run(lambda r: edit_json(r / "adapter_config.json", r=8)), "rank 8", "correct the rank"),
    "another adapter": (
        lora_run(lambda r: edit_json(r / "adapter_config.json", use_dora=True)),
        "use_dora True",
        "only False",
    ),
    "overflow": (
        lambda s: in_shard(lambda c: c[UP].fill_(1e5))(s) or ["--dtype", "float16"],  # type: ignore[func-returns-value]
        f"{UP} holds numbers beyond float16",
        "use bfloat16 or float32",
    ),
    "a tokenizer that cannot be read": (
        lambda s: (s / "tokenizer.model").write_bytes(b"no model"),
        "tokenizer.model: no whole SentencePiece model",
        "copy it again",
    ),
    "a tokenizer larger than the model": (
        lambda s: (s / "added_tokens.json").write_text('{"<pad>": 600}'),
        "the tokenizer has 601 tokens and the model 600",
        "the checkpoint was trained with",
    ),
    "rope scaled by nothing": (
        lambda s: edit_json(s / "config.json", rope_scaling={"type": "linear", "factor": 0}),
        "rope_scaling_factor 0.0",
        "use a number above 0",
    ),
    "output exists": (lambda s: (s.parent / "out").mkdir(), "out exists", "choose another name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_its_remedy(
    name: str, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    damage, offender, remedy = BAD[name]
    options = damage(source)
    before = {path: path.stat().st_mtime_ns for path in source.parent.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(["import", str(source), str(source.parent / "out"), *(options if isinstance(options, list) else [])])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    *notes, error = captured.err.splitlines()
    assert captured.out == "" and error.startswith("facellava-convert: ")
    assert offender in error and remedy in error, error
    assert notes == [] or name == "overflow", "only what is found while writing comes after notes"
    assert before == {path: path.stat().st_mtime_ns for path in source.parent.rglob("*") if path.is_file()}
    assert not list(source.parent.glob("out*")) or name == "output exists"
    assert not Path("executed").exists()


def test_paths_from_a_folder_below(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths with `..` do for the source, the output, and what reads it."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    out = Path("..") / "ours"
    import_checkpoint(Path("..") / source.relative_to(tmp_path), out)
    assert load_params(out).keys() == load_params(tmp_path / "ours").keys()
    export_checkpoint(out, Path("..") / "exported")
    assert open_folder(tmp_path / "exported")


def test_an_import_touches_nothing_of_its_users(source: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.partial-mine").mkdir()
    (tmp_path / "ours.partial-notes").write_text("mine")
    import_checkpoint(source, tmp_path / "ours")
    assert (tmp_path / "ours.partial-mine").is_dir()
    assert (tmp_path / "ours.partial-notes").read_text() == "mine"
    with pytest.raises(SourceError, match="is the checkpoint to import: choose another name"):
        import_checkpoint(source, source)


def test_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["import", source, tmp_path / "ours"], ["export", tmp_path / "ours", tmp_path / "exported"]):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        assert ended.value.code == 0
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("facellava-convert: ") for line in said)
    assert any("left out" in line and "--fill-from carries them over" in line for line in said)
    assert open_folder(tmp_path / "exported")
    for arguments in (["import", str(source)], ["convert"], ["import", "a", "b", "--dtype", "int8"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["export", str(source), str(tmp_path / "other")])
    assert ended.value.code == 1
    assert "give a checkpoint folder" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_leaves_no_output(number: signal.Signals, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "conversion", "import", str(source), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out.partial-*")):
        assert process.poll() is None, "the import was over before it was seen to begin"
        time.sleep(0.001)
    process.send_signal(number)
    error = process.communicate()[1]
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert list(tmp_path.glob("out.partial-*"))
    else:
        assert process.returncode == 128 + number
        assert error.splitlines()[-1] == "facellava-convert: interrupted"
        assert "Traceback" not in error
        assert not list(tmp_path.glob("out.partial-*"))
    assert not out.exists()
    import_checkpoint(source, out)
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    load_params(out)


@pytest.mark.parametrize("kilobytes", [50, 120], ids=["at Orbax's own files", "at an array"])
def test_a_full_disk_leaves_nothing(kilobytes: int, source: Path, tmp_path: Path) -> None:
    # A limit on the size of a file stands in for the disk: the embedding has 154 kB, Orbax's largest file 67 kB.
    command = f"'{sys.executable}' -m conversion import '{source}' '{tmp_path}/out' --dtype float32"
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f {kilobytes}; {command}"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert re.search("out cannot be written .*: make room or choose another disk", ended.stderr.splitlines()[-1])
    assert not list(tmp_path.glob("out*"))


def test_a_random_checkpoint_is_one_of_the_originals(source: Path, tmp_path: Path) -> None:
    script = [sys.executable, "scripts/random_checkpoint.py", str(tmp_path / "random"), "--tokenizer", str(source)]
    subprocess.run(script, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    tensors = weights(tmp_path / "random")
    assert [(key, tuple(t.shape)) for key, t in tensors.items()] == [(e.key, e.shape) for e in entries(tiny())]
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    import_checkpoint(tmp_path / "random", tmp_path / "ours")
    assert read_config(tmp_path / "ours") == edited(tiny(), dtype="float16")
    kernel = read_array(tmp_path / "ours", "decoder/layers/1/down_proj/kernel").astype(float)
    assert abs(kernel.std() * 112**0.5 - 1) < 0.05
