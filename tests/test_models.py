"""models/ against PyTorch's own modules on the same weights, and against what the paper says, written out in numpy."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from facellava_jax.axes import Batch, Media
from facellava_jax.config import (
    REGION_PROJECTOR,
    REGIONS,
    facellava_7b,
    tiny,
)
from facellava_jax.models.facellava import FaceLlava, abstract_model, abstract_params, causal_mask
from facellava_jax.models.landmarks import distance_mask
from facellava_jax.models.vit import VisionTower, cut_patches

MakeModel = Callable[..., FaceLlava]
TINY = tiny().model
# Largest absolute error allowed, of numbers up to 8; at most 4e-6 is measured (towers), and 3e-7 to 7e-7 elsewhere.
CLOSE = 1e-5
# Root mean square of what bfloat16 changes, over the deviation of the logits.
BFLOAT16 = 0.03


def run(module: nnx.Module, *args: Any, call: Callable[..., Any] = lambda module, *args: module(*args)) -> Any:
    """`call(module, *args)`, compiled, in numpy."""
    return jax.tree.map(np.asarray, nnx.jit(call)(module, *args))


def read_logits(model: FaceLlava, batch: Batch) -> jax.Array:
    return model.decoder.logits(model(batch)[0])


def weights(module: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a module by path, in numpy."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {"/".join(map(str, path)): np.asarray(param[...]) for path, param in flat}


def tensors(named: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in named.items()}


def as_torch(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A parameter as PyTorch names and lays it out: `kernel` and `scale` are `weight`, (out, in)."""
    *parts, leaf = path.split("/")
    name = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    return ".".join([*parts, name]), array.T if leaf == "kernel" else array


def unstack(named: dict[str, np.ndarray], layers: str) -> dict[str, np.ndarray]:
    """`layers/q_proj/kernel` in layers of its own: `{layers}/7/q_proj/kernel`."""
    out = {}
    for path, array in named.items():
        if path.startswith("layers/"):
            out |= {f"{layers}/{i}/{path.removeprefix('layers/')}": part for i, part in enumerate(array)}
        else:
            out[path] = array
    return out


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Multi-head attention of projected (length, width) arrays, head by head."""
    out = []
    for q_h, k_h, v_h in zip(*(np.split(x.astype(np.float64), heads, axis=1) for x in (q, k, v)), strict=True):
        scores = q_h @ k_h.T / np.sqrt(q_h.shape[1]) + bias
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        out.append(share / share.sum(axis=1, keepdims=True) @ v_h)
    return np.concatenate(out, axis=1)


def normalise(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def random_media(rng: np.random.Generator, rows: int, places: int, frames: int, size: int, landmarks: Any) -> Media:
    return Media(
        rng.normal(size=(rows, places, frames, size, size, 3)).astype(np.float32),
        rng.random((rows, places, frames, 68, 2), np.float32),
        np.broadcast_to(np.asarray(landmarks, bool), (rows, places)).copy(),
    )


# --- the decoder


def llama_of(model: FaceLlava) -> transformers.LlamaForCausalLM:
    """transformers' Llama with the weights of our decoder."""
    config = model.config.decoder
    scaling = {"rope_type": "linear", "factor": config.rope_scaling_factor}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("vocab_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{name: getattr(config, name) for name in names},
            rope_parameters={
                "rope_theta": config.rope_theta,
                **(scaling if config.rope_scaling_factor != 1 else {"rope_type": "default"}),
            },
            attn_implementation="eager",
        )
    )
    named = {}
    for path, array in unstack(weights(model.decoder), "layers").items():
        name, value = as_torch(path, array)
        name = re.sub(r"\.([qkvo]_proj)", r".self_attn.\1", name)
        name = re.sub(r"\.((gate|up|down)_proj)", r".mlp.\1", name)
        named[name if name.startswith("lm_head") else f"model.{name}"] = value
    if config.tie_word_embeddings:
        named["lm_head.weight"] = named["model.embed_tokens.weight"]
    llama.load_state_dict(tensors(named), strict=True)
    return llama.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 500_000.0},
        {"num_key_value_heads": 1, "rope_theta": 31.0, "rope_scaling_factor": 2.5, "rms_norm_eps": 1e-3},
    ],
    ids=["gqa", "mha_tied_theta", "mqa_linear_scaling"],
)
def test_decoder_equals_llama(changes: dict[str, Any], make_model: MakeModel) -> None:
    config = replace(TINY, image_tower=None, video_tower=None, landmarks=None)
    model = make_model(replace(config, decoder=replace(config.decoder, **changes)))
    rng = np.random.default_rng(1)
    ids = rng.integers(3, 600, (3, 40)).astype(np.int32)
    lengths = np.array([40, 27, 1], np.int32)
    batch = Batch(ids, np.full_like(ids, -1), lengths, None, None)
    logits = run(model, batch, call=read_logits)
    seen = np.arange(40) < lengths[:, None]
    with torch.no_grad():
        expected = llama_of(model)(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(seen).long()).logits
    difference = np.abs(logits - expected.numpy())[seen]
    assert difference.max() < CLOSE * np.abs(logits).max()


# --- the towers


def clip_of(tower: VisionTower, layers: int) -> transformers.CLIPVisionModel:
    """transformers' CLIP with the weights of a tower without temporal attention."""
    config = tower.config
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size", "hidden_act")
    clip = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            **{name: getattr(config, name) for name in names},
            num_hidden_layers=layers,
            layer_norm_eps=config.layer_norm_eps,
            attn_implementation="eager",
        )
    )
    named = {}
    for path, array in unstack(weights(tower), "encoder/layers").items():
        name, value = as_torch(path, array)
        name = re.sub(r"\.(fc[12])", r".mlp.\1", name)
        if name == "patch_embedding.weight":
            size = config.patch_size
            value = value.reshape(-1, size, size, 3).transpose(0, 3, 1, 2)
        if name == "position_embedding":
            name += ".weight"
        named[f"embeddings.{name}" if "_embedding" in name else name] = value
    missing, unexpected = clip.load_state_dict(tensors(named), strict=False)
    # What no selected hidden state needs: the layers after it and the last norm.
    assert not unexpected
    assert all(
        re.match(rf"encoder\.layers\.[{config.built_layers}-9]|post_layernorm|.*position_ids", name) for name in missing
    )
    return clip.eval()


@pytest.mark.parametrize(("activation", "select_layer"), [("gelu", -2), ("quick_gelu", -1), ("gelu", 1)])
def test_tower_equals_clip(activation: Any, select_layer: int, make_model: MakeModel) -> None:
    keep_cls = select_layer != -2
    tower_config = replace(TINY.image_tower, hidden_act=activation, select_layer=select_layer, keep_cls=keep_cls)
    tower = make_model(replace(TINY, image_tower=tower_config, video_tower=None)).image_tower
    pixels = np.random.default_rng(2).normal(size=(2, 1, 56, 56, 3)).astype(np.float32)
    features = run(tower, pixels)
    with torch.no_grad():
        hidden = clip_of(tower, 3)(
            torch.from_numpy(pixels[:, 0].transpose(0, 3, 1, 2).copy()), output_hidden_states=True
        ).hidden_states
    expected = hidden[select_layer].numpy()[:, 0 if keep_cls else 1 :]
    assert features.shape == (2, 1, 16 + keep_cls, 48)
    np.testing.assert_allclose(features[:, 0], expected, atol=CLOSE, rtol=0)


def test_patches_are_rows_of_rows_of_colours() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 2, 6, 8, 3)).astype(np.float32)
    patches = np.asarray(cut_patches(jnp.asarray(pixels), 2))
    assert patches.shape == (1, 2, 12, 12)
    for row in range(3):
        for column in range(4):
            patch = pixels[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, :, 4 * row + column], patch.reshape(1, 2, 12))


@pytest.fixture(scope="module")
def video_tower(make_model: MakeModel) -> VisionTower:
    return make_model(TINY).video_tower


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(2, 4, 56, 56, 3)).astype(np.float32)


@pytest.mark.parametrize("frames", [4, 2, 1])
def test_temporal_attention_is_a_loop_over_patches(frames: int, video_tower: VisionTower, clips: np.ndarray) -> None:
    """Each patch position attends over its own frames; a clip of fewer frames takes the first embeddings."""
    h = run(video_tower, clips[:, :frames], call=lambda tower, pixels: tower.embed(pixels))
    layers = {path: array for path, array in weights(video_tower).items() if path.startswith("layers/")}
    for layer in range(2):
        p = {path.removeprefix("layers/"): array[layer].astype(np.float64) for path, array in layers.items()}

        def linear(x: np.ndarray, name: str, p: dict[str, np.ndarray] = p) -> np.ndarray:
            return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

        def self_attention(x: np.ndarray, norm: str, name: str, p: dict[str, np.ndarray] = p) -> np.ndarray:
            x = normalise(x, p[f"{norm}/scale"], p[f"{norm}/bias"])
            q, k, v = (linear(x, f"{name}/{each}_proj") for each in "qkv")
            return linear(attend(q, k, v, 4), f"{name}/out_proj")

        h = h + p["temporal_embedding"][:frames, None]
        h = h.astype(np.float64)
        for clip in h:
            for patch in range(17):
                clip[:, patch] += self_attention(clip[:, patch], "temporal_layer_norm1", "temporal_attn")
            for frame in range(frames):
                clip[frame] += self_attention(clip[frame], "layer_norm1", "self_attn")
        x = linear(normalise(h, p["layer_norm2/scale"], p["layer_norm2/bias"]), "fc1")
        h = h + linear(torch.nn.functional.gelu(torch.from_numpy(x)).numpy(), "fc2")
    np.testing.assert_allclose(run(video_tower, clips[:, :frames]), h, atol=CLOSE, rtol=0)


def test_clips_of_a_batch_are_not_mixed(video_tower: VisionTower, clips: np.ndarray) -> None:
    both = run(video_tower, clips[:, :2])
    for i in range(2):
        np.testing.assert_allclose(both[i : i + 1], run(video_tower, clips[i : i + 1, :2]), atol=CLOSE, rtol=0)


def test_one_frame_has_temporal_attention_and_no_temporal_embedding() -> None:
    one = abstract_params(replace(TINY, video_tower=replace(TINY.video_tower, num_frames=1)))
    assert "video_tower/layers/temporal_attn/q_proj/kernel" in one
    assert abstract_params(TINY).keys() - one.keys() == {"video_tower/layers/temporal_embedding"}


def test_scanned_layers_equal_a_loop(make_model: MakeModel, clips: np.ndarray) -> None:
    model = make_model(TINY)

    def unstacked(layers: nnx.Module) -> Iterator[Any]:
        graphdef, params = nnx.split(layers)
        for i in range(2):
            yield nnx.merge(graphdef, jax.tree.map(lambda array: array[i], params))  # noqa: B023

    def loop_tower(tower: VisionTower, pixels: jax.Array) -> jax.Array:
        h = tower.embed(pixels)
        for layer in unstacked(tower.layers):
            h = layer(h)
        return h

    np.testing.assert_allclose(
        run(model.video_tower, clips), run(model.video_tower, clips, call=loop_tower), atol=CLOSE, rtol=0
    )


# --- projector and landmark branch


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
def test_projector_is_linear_layers_with_exact_gelu_between(kind: str, make_model: MakeModel) -> None:
    projector = make_model(replace(TINY, mm_projector=kind)).mm_projector
    depth = 1 if kind == "linear" else int(kind[3])
    named = tensors(dict(as_torch(path, array) for path, array in weights(projector).items()))
    x = np.random.default_rng(4).normal(size=(2, 5, 48)).astype(np.float32)
    y = torch.from_numpy(x)
    for i in range(depth):
        y = torch.nn.functional.gelu(y) if i else y
        y = torch.nn.functional.linear(y, named.pop(f"linears.{i}.weight"), named.pop(f"linears.{i}.bias"))
    assert not named
    assert y.shape[-1] == 64
    np.testing.assert_allclose(run(projector, x), y.numpy(), atol=CLOSE, rtol=0)


def test_identity_projector_has_no_parameters(make_model: MakeModel) -> None:
    towers = {
        name: replace(getattr(TINY, name), hidden_size=64, select_layer=1) for name in ("image_tower", "video_tower")
    }
    projector = make_model(replace(TINY, mm_projector="identity", **towers)).mm_projector
    x = np.random.default_rng(4).normal(size=(3, 64)).astype(np.float32)
    assert not weights(projector)
    np.testing.assert_array_equal(run(projector, x), x)


def test_landmark_tokens_are_regions_plus_the_whole_face(make_model: MakeModel) -> None:
    model = make_model(TINY)
    z = np.random.default_rng(5).random((2, 3, 68, 2), np.float32)
    tokens, whole = run(model, z, call=lambda model, z: model.landmark_tokens(z))
    local, face = weights(model.landmarks_projector), weights(model.global_landmarks_projector)
    expected = z.reshape(2, 3, 136) @ face["linears/0/kernel"] + face["linears/0/bias"]
    np.testing.assert_allclose(whole[:, :, 0], expected, atol=CLOSE, rtol=0)
    # The paper's order and points, inclusive.
    points = {"face": (0, 16), "eyebrow1": (17, 21), "eyebrow2": (22, 26), "nose": (27, 30), "nostril": (31, 35)}
    points |= {"eye1": (36, 41), "eye2": (42, 47), "lips": (48, 59), "teeth": (60, 67)}
    assert tokens.shape == (2, 3, 9, 64)
    for region, (name, (first, last)) in enumerate(points.items()):
        x = z[:, :, first : last + 1].reshape(2, 3, -1)
        y = x @ local[f"region_layers/{name}/kernel"] + local[f"region_layers/{name}/bias"]
        np.testing.assert_allclose(tokens[:, :, region], y + expected, atol=CLOSE, rtol=0)


def test_simple_cross_attention_equals_torch(make_model: MakeModel) -> None:
    model = make_model(replace(TINY, landmarks=replace(TINY.landmarks, residual_scale=0.37)))
    rng = np.random.default_rng(6)
    h, tokens = rng.normal(size=(2, 3, 17, 64)).astype(np.float32), rng.normal(size=(2, 3, 9, 64)).astype(np.float32)
    got = run(model.landmarks_cross_attn, h, tokens, rng.random((2, 3, 68, 2), np.float32))

    p = tensors(dict(as_torch(path, array) for path, array in weights(model.landmarks_cross_attn).items()))
    attention = torch.nn.MultiheadAttention(64, 8, batch_first=True)
    norm, linear = torch.nn.LayerNorm(64, 1e-5), torch.nn.Linear(64, 64)
    with torch.no_grad():
        attention.in_proj_weight[:] = torch.cat([p.pop(f"{each}_proj.weight") for each in "qkv"])
        attention.in_proj_bias[:] = torch.cat([p.pop(f"{each}_proj.bias") for each in "qkv"])
        for name, module in (("out_proj", attention.out_proj), ("ln", norm), ("linear_proj", linear)):
            module.load_state_dict({leaf: p.pop(f"{name}.{leaf}") for leaf in ("weight", "bias")})
        assert not p
        x, kv = torch.from_numpy(h).flatten(0, 1), torch.from_numpy(tokens).flatten(0, 1)
        expected = x + 0.37 * linear(norm(x + attention(x, kv, kv)[0]))
    np.testing.assert_allclose(got, expected.reshape(h.shape).numpy(), atol=CLOSE, rtol=0)


def literal_distance_mask(z: np.ndarray, grid: int, cls: bool, transposed: bool) -> np.ndarray:
    """One frame's mask, patch by patch and region by region."""
    rows = [[1 / 9] * 9] if cls else []
    for row in range(grid):
        for column in range(grid):
            x, y = (column + 0.5) / grid, (row + 0.5) / grid
            if transposed:
                x, y = y, x
            near = []
            for first, past in REGIONS.values():
                centre_x, centre_y = z[first:past, 0].mean(), z[first:past, 1].mean()
                near.append(np.exp(-np.hypot(x - centre_x, y - centre_y)))
            rows.append([each / sum(near) for each in near])
    return np.array(rows)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("grid", "cls"), [(16, True), (4, True), (5, False), (1, False)])
def test_distance_mask(grid: int, cls: bool, transposed: bool) -> None:
    z = np.random.default_rng(7).random((2, 3, 68, 2), np.float32)
    mask = np.asarray(distance_mask(jnp.asarray(z), grid**2 + cls, transposed=transposed))
    expected = [
        [literal_distance_mask(frame.astype(np.float64), grid, cls, transposed) for frame in clip] for clip in z
    ]
    np.testing.assert_allclose(mask, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("patches", [17, 16])
def test_masked_cross_attention(patches: int, transposed: bool, make_model: MakeModel) -> None:
    landmarks = replace(TINY.landmarks, cross_attn="masked", transposed_grid=transposed)
    module = make_model(replace(TINY, landmarks=landmarks)).landmarks_cross_attn
    rng = np.random.default_rng(8)
    h = rng.normal(size=(2, 3, patches, 64)).astype(np.float32)
    tokens, z = rng.normal(size=(2, 3, 9, 64)).astype(np.float32), rng.random((2, 3, 68, 2), np.float32)
    got = run(module, h, tokens, z)
    p = weights(module)
    assert "out_proj/kernel" not in p

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    for clip in range(2):
        for frame in range(3):
            x, kv = h[clip, frame], tokens[clip, frame]
            mask = literal_distance_mask(z[clip, frame], 4, patches == 17, transposed)
            a = attend(linear(x, "q_proj"), linear(kv, "k_proj"), linear(kv, "v_proj"), 8, mask)
            expected = x + 0.1 * linear(normalise(x + a, p["ln/scale"], p["ln/bias"]), "linear_proj")
            np.testing.assert_allclose(got[clip, frame], expected, atol=CLOSE, rtol=0)


# --- the whole model


@pytest.mark.parametrize(
    ("kind", "appended"), [("image", "none"), ("image", "nine"), ("video", "none"), ("video", "one")]
)
def test_media_without_landmarks_are_plain(kind: str, appended: str, make_model: MakeModel) -> None:
    """In one batch, media with landmarks are what FRGCA gives and the others what the projector gives."""
    landmarks = replace(
        TINY.landmarks,
        use_landmark_tokens=appended != "none",
        global_landmarks_projector=REGION_PROJECTOR if appended == "nine" else "linear",
    )
    model = make_model(replace(TINY, landmarks=landmarks))
    tower = getattr(model, f"{kind}_tower")
    media = random_media(np.random.default_rng(9), 2, 2, tower.config.num_frames, 56, [[True, False], [False, True]])

    def whole(model: FaceLlava, media: Media) -> jax.Array:
        return model.encode_media(getattr(model, f"{kind}_tower"), media)

    def parts(model: FaceLlava, media: Media) -> tuple[jax.Array, jax.Array, jax.Array]:
        pixels, z = (x.reshape(-1, *x.shape[2:]) for x in (media.pixels, media.landmarks))
        plain = model.mm_projector(getattr(model, f"{kind}_tower")(pixels))
        tokens, whole_face = model.landmark_tokens(z)
        return plain, model.landmarks_cross_attn(plain, tokens, z), whole_face

    got = run(model, media, call=whole)
    plain, guided, whole_face = run(model, media, call=parts)
    assert np.abs(plain - guided).max() > 0.1
    extra = {"none": 0, "one": 1, "nine": 9}[appended]
    frames, patches = plain.shape[1:3]
    assert model.config.slots_per_frame(tower.config) == patches + extra
    got = got.reshape(2, 2, frames, patches + extra, 64)
    plain, guided = (x.reshape(2, 2, frames, patches, 64) for x in (plain, guided))
    has = media.has_landmarks[:, :, None, None, None]
    np.testing.assert_allclose(got[:, :, :, :patches], np.where(has, guided, plain), atol=CLOSE, rtol=0)
    if extra:
        whole_face = whole_face.reshape(2, 2, frames, extra, 64)
        np.testing.assert_allclose(got[:, :, :, patches:], whole_face, atol=CLOSE, rtol=0)


@pytest.fixture(scope="module")
def mixed_batch() -> Batch:
    """A row of text, a row with an image in it, and a row of a clip: 24 tokens before their media."""
    rng = np.random.default_rng(10)
    tokens = rng.integers(3, 600, (3, 100)).astype(np.int32)
    index = np.full((3, 100), -1, np.int32)
    index[1, 4:20] = np.arange(16)
    index[2, 2:70] = 16 + np.arange(68)
    return Batch(
        tokens,
        index,
        np.array([24, 40, 100], np.int32),
        random_media(rng, 3, 1, 1, 56, [[False], [True], [False]]),
        random_media(rng, 3, 1, 4, 56, [[False], [False], [True]]),
    )


def test_splice_puts_visual_tokens_where_they_are_pointed_at(make_model: MakeModel, mixed_batch: Batch) -> None:
    model = make_model(TINY)
    visual = run(model, mixed_batch, call=lambda model, batch: model.encode(batch))
    embeds = run(model, mixed_batch, visual, call=lambda model, *args: model.splice(*args))
    table = weights(model.decoder)["embed_tokens/embedding"]
    for row in range(3):
        for at in range(100):
            index = mixed_batch.visual_index[row, at]
            expected = table[mixed_batch.tokens[row, at]] if index < 0 else visual[row, index]
            np.testing.assert_array_equal(embeds[row, at], expected)


def test_padding_changes_nothing(make_model: MakeModel, mixed_batch: Batch) -> None:
    """Neither tokens after a row's end nor media that nothing points at are seen."""
    model = make_model(TINY)
    seen = np.arange(100) < mixed_batch.lengths[:, None]
    other = mixed_batch._replace(
        tokens=np.where(seen, mixed_batch.tokens, 7).astype(np.int32),
        images=mixed_batch.images._replace(
            pixels=np.where(np.array([0, 1, 0])[:, None, None, None, None, None] == 1, mixed_batch.images.pixels, 3.0)
        ),
    )
    logits, others = (run(model, batch, call=read_logits) for batch in (mixed_batch, other))
    np.testing.assert_array_equal(logits[seen], others[seen])
    assert np.abs(logits - others).max() > 0.1


def test_bfloat16_gives_float32_logits_close_to_those_of_float32(make_model: MakeModel, mixed_batch: Batch) -> None:
    exact = run(make_model(TINY), mixed_batch, call=read_logits)
    # The same parameters: float32, and arithmetic in bfloat16.
    rounded = run(make_model(replace(TINY, dtype="bfloat16")), mixed_batch, call=read_logits)
    assert rounded.dtype == np.float32
    seen = np.arange(100) < mixed_batch.lengths[:, None]
    difference = (rounded - exact)[seen]
    assert np.isfinite(difference).all()
    assert 1e-4 < np.sqrt((difference**2).mean()) / exact[seen].std() < BFLOAT16
    assert (rounded[seen].argmax(-1) == exact[seen].argmax(-1)).mean() > 0.95


def test_full_size_parameter_counts() -> None:
    """What a model holds, as the checkpoint was counted, with the second-to-last layer selected."""
    counts: dict[str, int] = {}
    for path, param in abstract_params(facellava_7b().model).items():
        part = path.split("/")[0]
        part = "landmarks" if "landmarks" in part else part
        counts[part] = counts.get(part, 0) + param.size
    assert counts == {
        "image_tower": 290_581_504,
        "video_tower": 387_380_224,
        "mm_projector": 20_979_712,
        "landmarks": 85_069_824,
        "decoder": 6_738_415_616,
    }


def test_full_size_forward_has_the_right_shapes_and_allocates_nothing() -> None:
    config = facellava_7b().model
    graphdef, params = nnx.split(abstract_model(config))

    def shaped(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def media(frames: int) -> Media:
        pixels = shaped(jnp.float32, 2, 1, frames, 224, 224, 3)
        return Media(pixels, shaped(jnp.float32, 2, 1, frames, 68, 2), shaped(jnp.bool_, 2, 1))

    ids = shaped(jnp.int32, 2, 3072)
    batch = Batch(ids, ids, shaped(jnp.int32, 2), media(1), media(8))

    def forward(params: nnx.State, batch: Batch) -> tuple[Any, ...]:
        model = nnx.merge(graphdef, params)
        h, cache = model(batch, model.decoder.make_cache(2, 4096))
        return model.encode(batch), model.decoder.logits(h[:, -1:]), cache

    live = sum(array.nbytes for array in jax.live_arrays())
    visual, logits, cache = jax.jit(forward).eval_shape(params, batch)
    assert visual.shape == (2, 256 + 8 * 257, 4096)
    assert (logits.shape, logits.dtype) == ((2, 1, 32000), jnp.float32)
    assert (cache.k.shape, cache.k.dtype) == ((32, 2, 4096, 32, 128), jnp.bfloat16)
    assert sum(array.nbytes for array in jax.live_arrays()) - live < 2**20


def test_causal_mask() -> None:
    mask = np.asarray(causal_mask(jnp.array([3, 1]), 3, 5)).astype(int)
    full, short = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], [[1, 0, 0, 0, 0]] * 3
    np.testing.assert_array_equal(mask, [full, short])
