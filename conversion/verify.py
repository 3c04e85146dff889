"""Whether a checkpoint computes what the PyTorch original computed: every array of a recorded case, side by side.

A case is a folder with `meta.json`, `inputs.npz` and `outputs.npz`; the README tells how to record one. Everything runs
in float32 at the highest matmul precision.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from facellava_jax.axes import Batch
from facellava_jax.checkpoint import load_params, read_config
from facellava_jax.config import LANDMARK_POINTS, Config
from facellava_jax.data import Sample, Visual, collate
from facellava_jax.errors import FaceLlavaError
from facellava_jax.generate import NO_TOKEN, Generator, Sampling
from facellava_jax.media import Kind
from facellava_jax.models.facellava import FaceLlava, build_model, causal_mask
from facellava_jax.models.landmarks import distance_mask
from facellava_jax.models.llama import rotary_angles
from facellava_jax.models.vit import VisionTower
from facellava_jax.text import IGNORE, PLACEHOLDER_ID, Medium, Tokenizer

FEATURES, MASK, LOGITS, LOSS, EXACT = 2e-5, 1e-5, 2e-4, 1e-6, 0.0

# Array of a case, less `image_` or `video_` in front -> largest absolute error allowed (of the loss, relative).
TOLERANCES = {
    "tower_out": FEATURES,
    "tower_hidden_all": FEATURES,
    "mm_proj_out": FEATURES,
    "lm_local": FEATURES,
    "lm_global": FEATURES,
    "lm_tokens": FEATURES,
    "cross_attn_out": FEATURES,
    "features": FEATURES,
    "distance_mask": MASK,
    "inputs_embeds": FEATURES,
    "attention_mask_merged": EXACT,
    "labels_merged": EXACT,
    "llm_hidden_states": FEATURES,
    "logits": LOGITS,
    "logits_logsumexp": LOGITS,
    "logits_max": LOGITS,
    "logits_argmax": EXACT,
    "loss": LOSS,
    "gen_step_logits": LOGITS,
    "gen_ids": EXACT,
}
# Arrays that count where the attention mask is 1 -> the axis of their batch; the next one is the sequence.
MASKED = {"inputs_embeds": 0, "llm_hidden_states": 1, "logits": 0}
MASKED |= dict.fromkeys(("logits_logsumexp", "logits_max", "logits_argmax"), 0)
KINDS = ("image", "video", "dummy_image")
# What a case holds beside results: the prompt, positions, and how sure the original was of each token.
NOT_RESULTS = ("gen_prompt_ids", "gen_margin", "logits_positions")

Arrays = dict[str, np.ndarray]
Entry = dict[str, str]  # a medium of the case: its `key` among the inputs, its `kind`, and the key of its `landmarks`


class VerifyError(FaceLlavaError):
    """A case that cannot be compared; one line that names the file or array and the remedy."""


class Row(NamedTuple):
    """One line of the table; `error` is None for what the model need not compute."""

    array: str
    error: float | None
    tolerance: float

    @property
    def verdict(self) -> str:
        if self.error is None:
            return "not computed"
        return "ok" if self.error <= self.tolerance else "FAIL"


class Case(NamedTuple):
    """What was put into the original, and what came out."""

    folder: Path
    meta: dict[str, Any]
    inputs: Arrays
    outputs: Arrays

    @classmethod
    def read(cls, folder: Path) -> Self:
        for name in ("meta.json", "inputs.npz", "outputs.npz"):
            if not (folder / name).is_file():
                raise VerifyError(f"{folder}: no {name} there: name the folder of a recorded case")
        try:
            meta = json.loads((folder / "meta.json").read_text())
            inputs, outputs = (_load_arrays(folder / f"{name}.npz") for name in ("inputs", "outputs"))
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise VerifyError(f"{folder}: a damaged case: {error}") from None
        entries = meta.get("images_order") if isinstance(meta, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and "key" in entry and entry.get("kind") in KINDS for entry in entries
        ):
            raise VerifyError(
                f"{folder / 'meta.json'}: images_order is no list of media, each with a key and a kind "
                f"({', '.join(KINDS)}): name them in the order of the lists given to the model"
            )
        return cls(folder, meta, inputs, outputs)

    @property
    def mask(self) -> np.ndarray:
        """Where the original's sequences hold something, (B, S)."""
        mask = self.outputs.get("attention_mask_merged", self.inputs.get("attention_mask"))
        return self.need("attention_mask") if mask is None else mask

    def visual(self, entry: Entry, *, landmarks: bool = True) -> Visual:
        """A medium of the case, channels last."""
        pixels = self.need(entry["key"])
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        points = self.need(entry["landmarks"]) if landmarks and "landmarks" in entry else None
        if pixels.ndim != 4 or (points is not None and points.size != pixels.shape[1] * 2 * LANDMARK_POINTS):
            raise VerifyError(
                f"{self.folder / 'inputs.npz'}: {entry['key']} has shape {pixels.shape} and its landmarks "
                f"{None if points is None else points.shape}: record (3, frames, Y, X) and (frames, 136)"
            )
        points = None if points is None else points.reshape(-1, LANDMARK_POINTS, 2)
        kind: Kind = "video" if entry["kind"] == "video" else "image"
        return Visual(Medium(kind, pixels.shape[1]), pixels.transpose(1, 2, 3, 0), points)

    def assign(self) -> list[list[Entry]]:
        """The media of every row, in order; a row without placeholders takes a dummy image, which stands nowhere."""
        entries = iter(self.meta["images_order"])
        rows: list[list[Entry]] = []
        for ids, mask in zip(self.need("input_ids"), self.need("attention_mask"), strict=True):
            left = np.count_nonzero(ids[mask == 1] == PLACEHOLDER_ID)
            rows.append([])
            if left == 0:
                next(entries, None)
            while left > 0:
                entry = next(entries, None)
                if entry is None:
                    raise VerifyError(f"{self.folder}: meta.json names fewer media than input_ids has placeholders")
                rows[-1].append(entry)
                left -= self.visual(entry).medium.frames
        return rows

    def need(self, name: str) -> np.ndarray:
        """An array of the inputs. Raises VerifyError that names it where it was not recorded."""
        if name not in self.inputs:
            raise VerifyError(f"{self.folder / 'inputs.npz'}: no array {name!r}: record it, too")
        return self.inputs[name]


def verify(checkpoint: Path, case: Path) -> list[Row]:
    """Compares every array of a case. Raises VerifyError for what is no case, and CheckpointError for no checkpoint."""
    recorded = Case.read(case)
    config = read_config(checkpoint)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    model = build_model(config.model, load_params(checkpoint, dtype="float32"))
    with jax.default_matmul_precision("highest"):
        computed = {
            **_run_branches(model, recorded),
            **_run_prompts(model, config, recorded),
            **_run_generation(model, config, Tokenizer.load(checkpoint / "tokenizer").eos_id, recorded),
        }
    if not recorded.outputs.keys() - set(NOT_RESULTS):
        raise VerifyError(f"{case / 'outputs.npz'}: holds no result to compare: record some, logits for example")
    results = {name: array for name, array in recorded.outputs.items() if name not in NOT_RESULTS}
    return [row for name, array in results.items() for row in _compare(name, computed.get(name), array, recorded)]


def render_table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    width = max((len(row.array) for row in rows), default=5)
    lines = [f"{'array':{width}}  {'largest error':>13}  {'tolerance':>9}"]
    for row in rows:
        error = "-" if row.error is None else f"{row.error:.2e}"
        lines.append(f"{row.array:{width}}  {error:>13}  {row.tolerance:>9.0e}  {row.verdict}")
    return "\n".join(lines) + "\n"


def _load_arrays(path: Path) -> Arrays:
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays.items())


@np.errstate(divide="ignore", invalid="ignore")
def _compare(name: str, value: np.ndarray | None, expected: np.ndarray, case: Case) -> list[Row]:
    tolerance = TOLERANCES.get(name.removeprefix("image_").removeprefix("video_"))
    if tolerance is None:
        raise VerifyError(f"{case.folder / 'outputs.npz'}: array {name!r} is not known here: leave it out")
    beyond: list[Row] = []
    if value is not None and name.endswith("tower_hidden_all"):
        # Layers after the selected one: no answer depends on them.
        beyond = [Row(f"{name}[{layer}]", None, tolerance) for layer in range(len(value), len(expected))]
        expected = expected[: len(value)]
    if value is None or value.size != expected.size:
        return [Row(name, np.inf, tolerance), *beyond]
    difference = np.abs(value.reshape(expected.shape).astype(np.float64) - expected)
    if name in MASKED:
        mask = case.mask
        if name == "logits" and "logits_positions" in case.outputs:
            mask = mask[:, case.outputs["logits_positions"]]
        axis = MASKED[name]
        mask = mask.reshape((1,) * axis + mask.shape + (1,) * (expected.ndim - axis - 2))
        difference = np.where(mask == 1, difference, 0.0)
    if name == "loss":
        difference /= np.abs(expected)
    # NaN is a failure, not a number below the tolerance.
    return [Row(name, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)), tolerance), *beyond]


def _run_branches(model: FaceLlava, case: Case) -> Arrays:
    """Towers, projector and landmark branch, on all media of a kind side by side."""
    arrays: Arrays = {}
    towers: dict[str, VisionTower | None] = {"image": model.image_tower, "video": model.video_tower}
    for kind, tower in towers.items():
        visuals = [visual for visual in map(case.visual, case.meta["images_order"]) if visual.medium.kind == kind]
        if not visuals:
            continue
        if tower is None:
            raise VerifyError(f"{case.folder}: has a {kind}, and the checkpoint no {kind} tower")
        points = [visual.landmarks for visual in visuals if visual.landmarks is not None]
        pixels_BTYX3 = jnp.stack([visual.pixels for visual in visuals])
        z_BTK2 = jnp.stack(points) if len(points) == len(visuals) else None
        outputs = nnx.jit(_run_branch)(model, tower, pixels_BTYX3, z_BTK2)
        arrays |= {f"{kind}_{name}": np.asarray(array) for name, array in outputs.items()}
        if f"{kind}_tower_hidden_all" in case.outputs:
            first_BTPC = nnx.jit(lambda tower, pixels: tower.embed(pixels))(tower, pixels_BTYX3)
            arrays[f"{kind}_tower_hidden_all"] = np.stack(_run_layers(tower.layers, first_BTPC))
    return arrays


def _run_branch(
    model: FaceLlava, tower: VisionTower, pixels_BTYX3: jax.Array, z_BTK2: jax.Array | None
) -> dict[str, jax.Array]:
    features_BTPC = tower(pixels_BTYX3)
    assert model.mm_projector is not None
    h_BTPD = model.mm_projector(features_BTPC)
    arrays = {"tower_out": features_BTPC, "mm_proj_out": h_BTPD}
    landmarks = model.config.landmarks
    if landmarks is None or z_BTK2 is None:
        return arrays | {"features": h_BTPD}
    tokens_BTRD, global_BTRD = model.landmark_tokens(z_BTK2)
    arrays |= {
        "lm_local": model.landmarks_projector(z_BTK2),
        "lm_global": global_BTRD,
        "lm_tokens": tokens_BTRD,
        "cross_attn_out": model.landmarks_cross_attn(h_BTPD, tokens_BTRD, z_BTK2),
        "features": model.guide(h_BTPD, z_BTK2, jnp.ones(len(z_BTK2), bool)),
    }
    if landmarks.cross_attn == "masked":
        arrays["distance_mask"] = distance_mask(z_BTK2, h_BTPD.shape[2], transposed=landmarks.transposed_grid)
    return arrays


def _run_prompts(model: FaceLlava, config: Config, case: Case) -> Arrays:
    """One forward pass over the case's batch, laid out as the original has it."""
    ids, mask = case.need("input_ids"), case.need("attention_mask")
    labels = case.inputs.get("labels", np.full_like(ids, IGNORE))
    samples = [
        Sample(row[keep == 1].tolist(), [case.visual(entry) for entry in entries], label[keep == 1])
        for row, keep, label, entries in zip(ids, mask, labels, case.assign(), strict=True)
    ]
    batch = collate(samples, config.model, max_length=config.text.max_length)
    embeds_BLD, final_BLD, logits_BLV = nnx.jit(_forward)(model, batch)
    rows, length = case.mask.shape
    first = case.mask.argmax(axis=1)  # where a row begins: not at 0 where the original pads on the left

    def lay_out(array_BL: jax.Array | np.ndarray, fill: int = 0) -> np.ndarray:
        laid = np.full((rows, length, *array_BL.shape[2:]), fill, array_BL.dtype)
        for row, (start, count) in enumerate(zip(first, batch.lengths, strict=True)):
            room = laid[row, start : start + count]
            room[:] = np.asarray(array_BL[row, : len(room)])
        return laid

    logits = lay_out(logits_BLV)
    assert batch.labels is not None
    merged = lay_out(batch.labels, IGNORE)
    peak = logits.max(axis=-1)
    logsumexp = np.log(np.exp((logits - peak[..., None]).astype(np.float64)).sum(axis=-1)) + peak
    at, target = logits[:, :-1], np.where(merged[:, 1:] == IGNORE, 0, merged[:, 1:])
    chosen = np.take_along_axis(at, target[..., None], axis=-1)[..., 0]
    learnt = merged[:, 1:] != IGNORE
    positions = case.outputs.get("logits_positions")
    arrays = {
        "inputs_embeds": lay_out(embeds_BLD),
        "attention_mask_merged": lay_out(np.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).astype(np.int64),
        "labels_merged": merged,
        "logits": logits if positions is None else logits[:, positions],
        "logits_logsumexp": logsumexp,
        "logits_max": peak,
        "logits_argmax": logits.argmax(axis=-1),
        "loss": np.asarray((logsumexp[:, :-1] - chosen)[learnt].sum() / max(1, learnt.sum())),
    }
    if "llm_hidden_states" in case.outputs:
        positions_BL = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1]), batch.tokens.shape)
        rotary = rotary_angles(positions_BL, config.model.decoder)
        mask_BLS = causal_mask(jnp.asarray(batch.lengths), *2 * batch.tokens.shape[1:])
        hidden = _run_layers(
            model.decoder.layers, embeds_BLD, lambda layer, h: layer(h, rotary, mask_BLS, None, jnp.int32(0), 0)[0]
        )
        arrays["llm_hidden_states"] = np.stack([lay_out(h_BLD) for h_BLD in [*hidden[:-1], final_BLD]])
    return arrays


def _forward(model: FaceLlava, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The decoder's input, its final hidden states, and the logits."""
    embeds_BLD = model.splice(batch, model.encode(batch))
    final_BLD, _ = model.read(embeds_BLD, jnp.asarray(batch.lengths))
    return embeds_BLD, final_BLD, model.decoder.logits(final_BLD)


def _run_generation(model: FaceLlava, config: Config, eos_id: int, case: Case) -> Arrays:
    """Greedy tokens of the first row's prompt, step by step, and the logits that chose them."""
    if "gen_prompt_ids" not in case.outputs:
        return {}
    entries = case.assign()[0] if case.meta["images_order"] else []
    media = [case.visual(entry, landmarks=case.meta.get("gen", {}).get("uses_landmarks", True)) for entry in entries]
    sample = Sample(case.outputs["gen_prompt_ids"].reshape(-1).tolist(), media)
    # The original cuts prompts of generation, too.
    batch = collate([sample], config.model, max_length=config.text.max_length)
    steps = case.outputs["gen_ids"].size if "gen_ids" in case.outputs else 0
    if steps == 0:
        raise VerifyError(f"{case.folder / 'outputs.npz'}: gen_prompt_ids has no gen_ids beside it: record the new ids")
    greedy = Sampling(np.zeros(1, np.float32), np.zeros(1, np.int32), np.ones(1, np.float32), np.zeros(1, np.uint32))
    generator = Generator(model)
    state = generator.prefill(batch, steps)
    logits = []
    for step in range(steps):
        logits.append(np.asarray(state.logits[0]))
        state = generator.decode(state, greedy, eos_id, step + 1)
    ids = np.asarray(state.tokens[0])
    return {"gen_step_logits": np.stack(logits), "gen_ids": ids[ids != NO_TOKEN]}


def _run_layers(
    layers: nnx.Module,
    first: jax.Array,
    step: Callable[[Any, jax.Array], jax.Array] = lambda layer, h: layer(h),
) -> list[jax.Array]:
    """What goes into a stack, and what comes out of each of its layers."""
    graphdef, params = nnx.split(layers)
    run = jax.jit(lambda params, h: step(nnx.merge(graphdef, params), h))
    hidden = [first]
    for index in range(len(jax.tree.leaves(params)[0])):
        hidden.append(run(jax.tree.map(lambda array, index=index: array[index], params), hidden[-1]))
    return hidden
