"""config.py: full-size numbers, the JSON form, and every way a configuration is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facellava_jax.config import (
    PRESETS,
    REGION_PROJECTOR,
    REGIONS,
    Config,
    ConfigError,
    DecoderConfig,
    LandmarkConfig,
    ModelConfig,
    TowerConfig,
    facellava_7b,
    projector_depth,
    tiny,
)
from facellava_jax.experiment import OptimConfig, Source


def test_the_full_model_has_the_papers_numbers() -> None:
    model = facellava_7b().model
    image, video = model.image_tower, model.video_tower
    assert image is not None and video is not None
    assert (image.built_layers, video.built_layers) == (23, 23)
    assert image.num_frames * model.slots_per_frame(image) == 256
    assert video.num_frames * model.slots_per_frame(video) == 8 * 257 == 2056
    assert model.tower_width == 1024
    assert (model.decoder.head_dim, model.decoder.max_length) == (128, 4096)


def test_regions_cut_the_68_points_without_gap() -> None:
    ends = [0, *(last for _, last in REGIONS.values())]
    assert [first for first, _ in REGIONS.values()] == ends[:-1]
    assert ends[-1] == 68 and len(REGIONS) == 9


@pytest.mark.parametrize(
    ("landmarks", "slots"),
    [
        (None, 257),
        (LandmarkConfig(), 257),
        (LandmarkConfig(use_landmark_tokens=True), 258),
        (LandmarkConfig(use_landmark_tokens=True, global_landmarks_projector=REGION_PROJECTOR), 266),
    ],
)
def test_landmark_tokens_widen_a_frame(landmarks: LandmarkConfig | None, slots: int) -> None:
    tower = TowerConfig(keep_cls=True)
    assert ModelConfig(landmarks=landmarks).slots_per_frame(tower) == slots


@pytest.mark.parametrize(("select_layer", "built"), [(-1, 24), (-2, 23), (-24, 1), (1, 1), (24, 24)])
def test_layers_are_built_up_to_the_selected_one(select_layer: int, built: int) -> None:
    assert TowerConfig(select_layer=select_layer).built_layers == built


@pytest.mark.parametrize(
    ("kind", "depth"), [("linear", 1), ("mlp1x_gelu", 1), ("mlp2x_gelu", 2), ("mlp12x_gelu", 12), ("identity", 0)]
)
def test_projector_depth(kind: str, depth: int) -> None:
    assert projector_depth(kind, also="identity") == depth


def test_rope_scaling_lengthens_the_decoder() -> None:
    assert DecoderConfig(rope_scaling_factor=2.0).max_length == 8192


def test_a_model_without_towers_has_no_tower_width() -> None:
    assert ModelConfig(image_tower=None, video_tower=None).tower_width is None
    assert ModelConfig(image_tower=None).tower_width == 1024


NARROW = TowerConfig(hidden_size=512)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TowerConfig(num_attention_heads=7), "num_attention_heads 7 does not divide hidden_size 1024"),
        (lambda: TowerConfig(num_attention_heads=0), "num_attention_heads 0 does not divide hidden_size 1024"),
        (lambda: TowerConfig(patch_size=15), "patch_size 15 does not divide image_size 224"),
        (lambda: TowerConfig(select_layer=25), "select_layer 25 does not exist in a tower of 24 layers"),
        (lambda: TowerConfig(select_layer=-25), "select_layer -25 does not exist .*: use -24 to -1, or 1 to 24"),
        (lambda: TowerConfig(select_layer=0), "select_layer 0 does not exist"),
        (lambda: TowerConfig(num_frames=0), "num_frames 0 is not at least 1"),
        (lambda: LandmarkConfig(landmarks_projector="mask"), "landmarks_projector 'mask' is not .*" + REGION_PROJECTOR),
        (lambda: LandmarkConfig(global_landmarks_projector="identity"), "global_landmarks_projector 'identity' is not"),
        (
            lambda: LandmarkConfig(cross_attn="masked", landmarks_projector="linear"),
            "cross_attn 'masked' needs the nine tokens .* not 'linear'",
        ),
        (lambda: DecoderConfig(num_attention_heads=33), "num_attention_heads 33 does not divide hidden_size 4096"),
        (lambda: DecoderConfig(num_key_value_heads=5), "num_key_value_heads 5 does not divide num_attention_heads 32"),
        (lambda: DecoderConfig(hidden_size=96), "hidden_size / num_attention_heads is 3"),
        (lambda: ModelConfig(mm_projector="qformer"), "mm_projector 'qformer' is not supported: .*identity"),
        (lambda: ModelConfig(mm_projector="mlp0x_gelu"), "mm_projector 'mlp0x_gelu' is not supported"),
        (lambda: ModelConfig(video_tower=NARROW), r"hidden_size differs: \[512, 1024\]"),
        (lambda: ModelConfig(mm_projector="identity"), "decoder's hidden_size 4096, not 1024"),
        (
            lambda: ModelConfig(landmarks=LandmarkConfig(num_attention_heads=7)),
            "landmarks.num_attention_heads 7 does not divide decoder.hidden_size 4096",
        ),
    ],
)
def test_what_no_model_can_be_built_from_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_weights_of_sources(weight: float) -> None:
    with pytest.raises(ConfigError, match=rf"^list: weight {weight}: use a number above 0, or leave the source out$"):
        Source(path=Path("list"), weight=weight)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("learning_rate", (0.0, 1e38), (-1.0, math.nan, math.inf)),
        ("projector_learning_rate", (None, 0.0, 2e-5), (-1e-9, math.nan, math.inf)),
        ("eps", (0.0, 1e-8), (-1.0, math.nan, math.inf)),
        ("weight_decay", (0.0, 10.0), (-3.0, math.nan, math.inf)),
        ("b1", (0.0, 0.9), (-0.1, 1.0, 2.0, math.nan)),
        ("b2", (0.0, 0.999), (-0.1, 1.0, 2.0, math.nan)),
        ("clip_norm", (None, 1e-3), (0.0, -1.0, math.nan)),
        ("warmup_ratio", (0.0, 1.0), (-0.1, 1.1, math.nan)),
    ],
)
def test_numbers_of_the_optimizer(name: str, good: tuple[float | None, ...], bad: tuple[float, ...]) -> None:
    for value in good:
        assert getattr(OptimConfig(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ConfigError, match=rf"^optim.{name} {value}: use a "):
            OptimConfig(**{name: value})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str, tmp_path: Path) -> None:
    config = PRESETS[name]()
    assert Config.from_json(config.to_json()) == config
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config


def test_absent_parts_survive_json() -> None:
    config = Config(model=ModelConfig(image_tower=None, landmarks=None))
    assert Config.from_json(config.to_json()) == config


def test_an_integer_stands_for_a_float() -> None:
    theta = Config.from_json(_edited("model.decoder.rope_theta", 500000)).model.decoder.rope_theta
    assert theta == 500000.0 and type(theta) is float


MISSING = object()


def _edited(path: str, value: Any) -> str:
    """The tiny preset's JSON with one value set, or taken away."""
    config = json.loads(tiny().to_json())
    *parents, name = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value is MISSING:
        del place[name]
    else:
        place[name] = value
    return json.dumps(config)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "^colour: unknown field"),
        ("model.decoder.rope", 1, "^model.decoder.rope: unknown field"),
        ("model.decoder.rope_theta", MISSING, "^model.decoder.rope_theta: missing"),
        ("media", MISSING, "^media: missing"),
        ("media", [], r"^media: \[\] is not an object"),
        ("model.decoder.vocab_size", "600", "^model.decoder.vocab_size: '600' is not of type int"),
        ("model.decoder.vocab_size", 600.0, "^model.decoder.vocab_size: 600.0 is not of type int"),
        ("model.decoder.vocab_size", True, "^model.decoder.vocab_size: True is not of type int"),
        ("model.decoder.rms_norm_eps", None, "^model.decoder.rms_norm_eps: None is not of type float"),
        ("model.decoder.tie_word_embeddings", 1, "^model.decoder.tie_word_embeddings: 1 is not of type bool"),
        ("model.decoder.hidden_act", "relu", "^model.decoder.hidden_act: 'relu' is not one of 'gelu', 'quick_gelu'"),
        ("model.video_tower.num_frames", "8", "^model.video_tower.num_frames: '8' is not of type int"),
        ("model.video_tower", 8, "^model.video_tower: 8 is not an object"),
        ("media.mean", [0.5, 0.5], r"^media.mean: \[0.5, 0.5\] is not a list of 3 numbers"),
        ("media.mean", [0.5, 0.5, "0.5"], "^media.mean: '0.5' is not of type float"),
        ("model.decoder.num_attention_heads", 3, "num_attention_heads 3 does not divide hidden_size 64"),
    ],
)
def test_wrong_json_is_refused_by_field(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_json(_edited(path, value))


def test_a_wrong_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not JSON"):
        Config.load(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: config: \[\] is not an object"):
        Config.load(path)
