"""attention.py: the weights of FRGCA, against what PyTorch's own arrays give when they are computed again in numpy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from flax import nnx

from conversion.convert import import_checkpoint
from facellava_jax.attention import check_regions, weigh_regions
from facellava_jax.axes import Media
from facellava_jax.checkpoint import load_params, read_config
from facellava_jax.config import REGION_PROJECTOR, ModelConfig, tiny
from facellava_jax.data import Visual
from facellava_jax.faces import draw_regions, to_crop
from facellava_jax.generate import Generator
from facellava_jax.models.facellava import FaceLlava, build_model
from facellava_jax.predict import Predictor
from facellava_jax.request import Crop, PredictError, Request
from facellava_jax.text import Medium

TINY = tiny().model
# Largest absolute error allowed of weights, which lie between 0 and 1 (6e-7 is measured), and of features (8e-7).
WEIGHTS, FEATURES = 2e-6, 2e-5
HEADS = 8


class Recorded(NamedTuple):
    """A case of the goldens: what PyTorch computed on the way, and the media that it did it for."""

    config: ModelConfig
    params: dict[str, Any]
    outputs: dict[str, np.ndarray]
    visuals: list[Visual]

    @property
    def model(self) -> FaceLlava:
        return build_model(self.config, self.params)

    def param(self, name: str) -> np.ndarray:
        return np.asarray(self.params[f"landmarks_cross_attn/{name}"], np.float64)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.param(f"{name}/kernel") + self.param(f"{name}/bias")

    def output(self, name: str) -> np.ndarray:
        """An array of the case's one kind of media, (media, T, ...)."""
        array = self.outputs[f"{self.visuals[0].medium.kind}_{name}"]
        return array.reshape(len(self.visuals), self.visuals[0].medium.frames, *array.shape[-2:])

    def weights(self) -> np.ndarray:
        """(media, T, heads, P, R): softmax of the scaled scores, with the distance mask where the case has one."""
        q, k = self.linear(self.output("mm_proj_out"), "q_proj"), self.linear(self.output("lm_tokens"), "k_proj")
        q, k = (np.moveaxis(x.reshape(*x.shape[:3], HEADS, -1), 3, 2) for x in (q, k))
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        if self.config.landmarks.cross_attn == "masked":
            scores += self.output("distance_mask")[:, :, None]
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return shares / shares.sum(axis=-1, keepdims=True)


CASES = ["02_image_landmarks_simple", "05_video_masked_f4"]


@pytest.fixture(scope="module", params=CASES)
def recorded(
    request: pytest.FixtureRequest, golden_case: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    case = golden_case(request.param)
    folder = tmp_path_factory.mktemp("attention") / "checkpoint"
    import_checkpoint(case / "checkpoint", folder, dtype="float32")
    with np.load(case / "inputs.npz") as inputs, np.load(case / "outputs.npz") as outputs:
        arrays, results = dict(inputs.items()), dict(outputs.items())
    kind = "image" if "image" in request.param else "video"
    visuals = []
    for place in range(sum(name.startswith(kind) for name in arrays)):
        pixels = arrays[f"{kind}_{place}"]
        pixels = pixels.reshape(3, -1, *pixels.shape[-2:]).transpose(1, 2, 3, 0)
        landmarks = arrays[f"landmarks_{place}"].reshape(-1, 68, 2)
        visuals.append(Visual(Medium(kind, len(pixels)), np.ascontiguousarray(pixels), landmarks))
    config = replace(read_config(folder).model, dtype="float32")
    return Recorded(config, load_params(folder, dtype="float32"), results, visuals)


def test_weights_are_the_softmax_of_what_pytorch_computed(recorded: Recorded) -> None:
    """From pixels to weights: averaged over heads, region first, CLS dropped, patches in rows and columns."""
    expected = recorded.weights().mean(axis=2)
    generator = Generator(recorded.model)
    grid = 4 if recorded.visuals[0].medium.kind == "image" else 16
    for visual, expected_TPR in zip(recorded.visuals, expected, strict=True):
        got = weigh_regions(generator, visual, recorded.config)
        assert (got.shape, got.dtype) == ((visual.medium.frames, 9, grid, grid), np.float32)
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6, rtol=0)
        cls = expected_TPR.shape[1] - grid**2
        assert cls == (visual.medium.kind == "video")
        for row in range(grid):
            for column in range(grid):
                patch = expected_TPR[:, cls + row * grid + column]
                np.testing.assert_allclose(got[:, :, row, column], patch, atol=WEIGHTS, rtol=0)
        # They are far from all alike, so that a wrong order of patches or regions does not pass.
        assert got.std(axis=1).max() > 0.01 and got.std(axis=(2, 3)).max() > 0.01


def run(model: FaceLlava, call: Callable[..., Any], *args: Any) -> np.ndarray:
    return np.asarray(nnx.jit(lambda model, *args: call(model.landmarks_cross_attn)(*args))(model, *args))


def test_values_weighed_with_them_are_what_attention_gives(recorded: Recorded) -> None:
    """The weights are those that `attend` uses, and the original used: they lead to its recorded features."""
    model, config = recorded.model, recorded.config.landmarks
    h, tokens = recorded.output("mm_proj_out"), recorded.output("lm_tokens")
    z = np.stack([visual.landmarks for visual in recorded.visuals])
    weights = run(model, lambda module: module.weigh_regions, h, tokens, z)
    np.testing.assert_allclose(weights, recorded.weights(), atol=WEIGHTS, rtol=0)
    v = recorded.linear(tokens, "v_proj")
    v = np.moveaxis(v.reshape(*v.shape[:3], HEADS, -1), 3, 2)
    a = np.moveaxis(weights @ v, 2, 3).reshape(h.shape)
    bias: tuple[np.ndarray, ...] = ()
    if config.cross_attn == "simple":
        a = recorded.linear(a, "out_proj")
    else:
        bias = (recorded.output("distance_mask"),)
    np.testing.assert_allclose(a, run(model, lambda module: module.attend, h, tokens, *bias), atol=FEATURES, rtol=0)
    u = h + a
    u = (u - u.mean(-1, keepdims=True)) / np.sqrt(u.var(-1, keepdims=True) + config.layer_norm_eps)
    u = u * recorded.param("ln/scale") + recorded.param("ln/bias")
    features = h + config.residual_scale * recorded.linear(u, "linear_proj")
    np.testing.assert_allclose(features, recorded.output("cross_attn_out"), atol=FEATURES, rtol=0)


def random_visual(kind: Any = "image", frames: int = 1, *, landmarks: bool = True) -> Visual:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(frames, 56, 56, 3)).astype(np.float32)
    return Visual(Medium(kind, frames), pixels, rng.random((frames, 68, 2), np.float32) if landmarks else None)


def test_every_medium_of_a_batch_has_its_own_weights(make_model: Callable[..., FaceLlava]) -> None:
    """The model's method on B samples of M clips, with the CLS row; a clip of fewer frames than the tower's, too."""
    model, rng = make_model(TINY), np.random.default_rng(1)
    pixels = rng.normal(size=(2, 3, 2, 56, 56, 3)).astype(np.float32)
    media = Media(pixels, rng.random((2, 3, 2, 68, 2), np.float32), np.ones((2, 3), bool))
    weigh = nnx.jit(lambda model, media: model.weigh_regions(model.video_tower, media))
    whole = np.asarray(weigh(model, media))
    assert (whole.shape, whole.dtype) == ((2, 3, 2, 17, 9), np.float32)
    np.testing.assert_allclose(whole.sum(axis=-1), 1, atol=1e-6, rtol=0)
    for row, place in np.ndindex(2, 3):
        visual = Visual(Medium("video", 2), media.pixels[row, place], media.landmarks[row, place])
        alone = weigh_regions(Generator(model), visual, TINY)
        expected = np.moveaxis(whole[row, place, :, 1:], 2, 1).reshape(2, 9, 4, 4)
        np.testing.assert_allclose(alone, expected, atol=WEIGHTS, rtol=0)


def test_bfloat16_gives_float32_weights_close_to_those_of_float32(make_model: Callable[..., FaceLlava]) -> None:
    exact, rounded = (
        weigh_regions(Generator(make_model(config)), random_visual(), config)
        for config in (TINY, replace(TINY, dtype="bfloat16"))
    )
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded.sum(axis=1), 1, atol=1e-6, rtol=0)
    assert 1e-6 < np.abs(rounded - exact).max() < 5e-3


ONE_TOKEN = replace(TINY.landmarks, landmarks_projector="linear")
NINE_GLOBAL = replace(ONE_TOKEN, global_landmarks_projector=REGION_PROJECTOR)


def test_nine_tokens_of_the_global_projector_are_regions_as_well(make_model: Callable[..., FaceLlava]) -> None:
    config = replace(TINY, landmarks=NINE_GLOBAL)
    assert weigh_regions(Generator(make_model(config)), random_visual(), config).shape == (1, 9, 4, 4)


@pytest.mark.parametrize(
    ("changes", "visual", "message"),
    [
        ({"landmarks": None}, random_visual(), "no landmark modules: ask without a picture of its attention"),
        ({"landmarks": ONE_TOKEN}, random_visual(), "one landmark token for the whole face.*: ask without"),
        ({"video_tower": None}, random_visual("video", 4), "no video tower: import one with --video-tower"),
        ({}, random_visual(landmarks=False), "the image has no landmarks.*: give its landmarks"),
        ({}, random_visual("video", 2, landmarks=False), "the video has no landmarks.*: give its landmarks"),
    ],
)
def test_what_cannot_be_weighed_is_refused(
    changes: dict[str, Any], visual: Visual, message: str, make_model: Callable[..., FaceLlava]
) -> None:
    config = replace(TINY, **changes)
    with pytest.raises(PredictError, match=message) as error:
        weigh_regions(Generator(make_model(config)), visual, config)
    assert "\n" not in str(error.value)
    if "landmarks" in changes:
        with pytest.raises(PredictError, match=message):
            check_regions(config)
    else:
        check_regions(config)


@pytest.mark.parametrize("crop", ["auto", "none"])
def test_of_a_picture_as_it_is_asked_about(checkpoint: Path, astronaut: np.ndarray, crop: Crop) -> None:
    """Frames, points and weights are those of the very prompt that is answered."""
    predictor = Predictor.load(checkpoint)
    answer = predictor.predict(astronaut, "Who?", crop=crop, max_new_tokens=1)
    attention = predictor.attend(astronaut, crop=crop)
    (window,) = answer.views[0].windows
    assert attention.frames.shape[1:3] == ((256, 256) if crop == "auto" else astronaut.shape[:2])
    assert not attention.padded
    in_crop = to_crop(answer.landmarks, window) / 256
    height, width = attention.frames.shape[1:3]
    assert np.allclose(attention.landmarks, (in_crop * 256 + 0.5) * [width / 256, height / 256] - 0.5, atol=1e-3)
    (visual,) = predictor.prepare(Request(astronaut, "Who?", crop=crop)).sample.media
    generator = Generator(build_model(predictor.config.model, load_params(checkpoint, dtype="float32")))
    assert np.array_equal(attention.weights, weigh_regions(generator, visual, predictor.config.model))
    assert draw_regions(*attention).ndim == 3


def test_of_a_picture_without_landmarks(checkpoint: Path, astronaut: np.ndarray) -> None:
    with pytest.raises(PredictError, match="the image has no landmarks, and attention goes to them"):
        Predictor.load(checkpoint).attend(astronaut, landmarks="none")
