"""Teach nano to see before it learns to speak: what is in front of its decoder, from the labels of rendered faces.

python scripts/pretrain_nano.py OUT

Face-LLaVA starts from towers that have learnt from many pictures; this is in their place. Linear heads read every label
of a face from what the decoder will be shown of it, first in pictures, then in clips too, at last with landmarks as
they are found, and are thrown away. OUT/faces, with data.json and found.json, and OUT/start, a checkpoint, are what
configs/nano.py takes; without the last stage there is no found.json. The same command again goes on after the last
whole epoch.
"""

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Float16, Float32, UInt8
from tqdm import tqdm

from facellava_jax.axes import Media
from facellava_jax.checkpoint import disk_paths, read_manifest, write_checkpoint
from facellava_jax.config import LANDMARK_POINTS, NANO, REGIONS, Config, ModelConfig, nano
from facellava_jax.data.reading import load_medium
from facellava_jax.data.records import DataError, Record, RecordList
from facellava_jax.errors import FaceLlavaError
from facellava_jax.experiment import MeshConfig, OptimConfig
from facellava_jax.faces.landmarks import MIRRORED_POINTS
from facellava_jax.folders import hold_folder
from facellava_jax.media import LANDMARK_CROP, Kind
from facellava_jax.models.facellava import abstract_params, build_model
from facellava_jax.optim import Optimizer, make_optimizer
from facellava_jax.pixels import preprocess
from facellava_jax.program import say
from facellava_jax.request import Task
from facellava_jax.run import draw_params
from facellava_jax.sharding import make_mesh
from facellava_jax.synthetic import FOUND, RECORDS, find_landmarks, label_sample, render_dataset
from facellava_jax.synthetic.actions import NAMES, Emotion
from facellava_jax.synthetic.forgery import draw_flaw, swap_face
from facellava_jax.synthetic.wording import ATTRIBUTES
from facellava_jax.workers import count_workers, run_jobs

UNITS = {unit: f"AU{unit}" for unit in NAMES}
EMOTIONS = get_args(Emotion)
# What is read from a face, as numbers: 1 and 0 for yes and no, and last of all its age, in units of 20 years from 40.
FACTS = (*UNITS.values(), *ATTRIBUTES, *EMOTIONS, "fake", "age")
BINARY = len(FACTS) - 1
# One fact says whether a face is forged, and it is harder to see than the dozens of what the face looks like.
WEIGHTS = np.array([6.0 if name == "fake" else 1.0 for name in FACTS[:-1]], np.float32)
AGE_WEIGHT = 0.4  # of 20 years, beside a mean bit

RENDERED = 0  # the seed of the faces
BATCH = 64
FORGED = 0.5  # the share of true faces that are shown forged, too
OPTIM = OptimConfig(learning_rate=1e-3, b2=0.98, weight_decay=0.05, warmup_ratio=0.05)
SHIFT = 4  # pixels that a frame is moved by at most

FITTED_FACES = 512  # that the landmark projectors are fitted to
# The layers that read landmarks, and which points: those of a region, or all of them.
FIRST_LAYERS = {
    "global_landmarks_projector/linears/0": slice(0, LANDMARK_POINTS),
    **{f"landmarks_projector/region_layers/{name}": slice(*ends) for name, ends in REGIONS.items()},
}

Params = dict[str, jax.Array]


class Stage(NamedTuple):
    """Some epochs: what is shown in turns, and with which landmarks."""

    kinds: tuple[Kind, ...]
    optim: OptimConfig
    hidden: float
    """The share of faces whose landmarks are hidden, so that the towers learn what landmarks tell as well."""
    found: float = 0.0
    """Of the landmarks that are shown, the share that are as found in the picture, some pixels off the rendering's."""


STAGES = (
    Stage(("image",), OPTIM, hidden=0.3),
    Stage(("video", "image"), dataclasses.replace(OPTIM, learning_rate=7e-4), hidden=0.3),
    Stage(("video", "image"), dataclasses.replace(OPTIM, learning_rate=5e-4), hidden=0.4, found=0.5),
)


@dataclass(frozen=True)
class Arguments:
    out: tyro.conf.Positional[Path]
    """The folder for the faces, the state of the training and its result."""
    faces: Path | None = None
    """A folder of rendered faces, by default OUT/faces; rendered where it does not exist."""
    samples: int = 20_000
    """Records to render."""
    epochs: tuple[int, int, int] = (14, 9, 3)
    """Over the pictures, over the clips with as many pictures, and over these with landmarks as they are found."""
    landmarks: bool = True
    """Without, the model has no landmark branch."""
    seed: int = 0
    """Of the parameters and the order."""


class Faces(NamedTuple):
    """Pictures or clips, their landmarks (0 where they have none), and their facts (NaN where not known)."""

    pixels: Float16[np.ndarray, "n T Y X 3"]
    landmarks: Float32[np.ndarray, "n T K 2"]
    found: Float32[np.ndarray, "n T K 2"]
    """Landmarks as they are found in the media, in a forgery moved as in the true face; the known ones again where no
    stage shows others."""
    facts: Float32[np.ndarray, "n facts"]


def main(arguments: Arguments) -> None:
    if min(arguments.epochs) < 0 or not any(arguments.epochs):
        sys.exit("pretrain_nano: --epochs: use 0 or more, and at least one that is not 0")
    try:
        with hold_folder(arguments.out):
            run(arguments)
    except (FaceLlavaError, ImportError, OSError) as error:
        sys.exit(f"pretrain_nano: {error}")


def run(arguments: Arguments) -> None:
    start = arguments.out / "start"
    if start.exists():
        if read_manifest(start)["source"] != describe(arguments):
            sys.exit(f"pretrain_nano: {start} was made otherwise: choose another folder")
        say(f"{start} is there already")
        return
    config = nano()
    if not arguments.landmarks:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, landmarks=None))
    folder = arguments.faces or arguments.out / "faces"
    if not (folder / RECORDS).exists():
        rendering = render_dataset(folder, arguments.samples, RENDERED, "train")
        for _ in tqdm(rendering, "faces", arguments.samples, disable=None):
            pass
    open_list(folder / RECORDS, arguments)
    if shows_found(arguments) and not (folder / FOUND).exists():
        for _ in tqdm(find_landmarks(folder), "landmarks", arguments.samples, disable=None):
            pass
    params = pretrain(config.model, read_faces(folder, config, arguments), arguments)
    write_start(start, config, params, describe(arguments))
    say(f"{start}: what configs/nano.py starts from")


def shown_stages(arguments: Arguments) -> list[Stage]:
    return [stage for stage, epochs in zip(STAGES, arguments.epochs, strict=True) if epochs]


def shows_found(arguments: Arguments) -> bool:
    return arguments.landmarks and any(stage.found for stage in shown_stages(arguments))


def open_list(file: Path, arguments: Arguments) -> RecordList:
    records = RecordList(file)
    if len(records) != arguments.samples:
        sys.exit(
            f"pretrain_nano: {file} has {len(records)} records, not {arguments.samples}: correct --samples or --faces"
        )
    return records


def read_faces(folder: Path, config: Config, arguments: Arguments) -> dict[Kind, Faces]:
    """All that the stages show, and forgeries of it, as the towers see it: of 20,000 records some 8 GB."""
    records = open_list(folder / RECORDS, arguments)
    read: dict[Kind, list[tuple[np.ndarray, ...]]] = {
        kind: [] for stage in shown_stages(arguments) for kind in stage.kinds
    }
    again = open_list(folder / FOUND, arguments) if shows_found(arguments) else records
    read_one = partial(read_record, config, tuple(read))
    jobs = ((number, records.read(number), again.read(number)) for number in range(len(records)))
    with run_jobs(read_one, jobs, count_workers(None)) as results:
        for media in tqdm(results, "reading", len(records), disable=None):
            for kind, *face in media:
                read[kind].append(tuple(face))
    for kind, each in read.items():
        if len(each) < BATCH:
            sys.exit(f"pretrain_nano: {folder} has {len(each)} {kind}s, fewer than a batch of {BATCH}: render more")
    return {kind: Faces(*map(np.stack, zip(*read.pop(kind), strict=True))) for kind in tuple(read)}


def read_record(config: Config, kinds: Collection[Kind], job: tuple[int, Record, Record]) -> list[tuple[Any, ...]]:
    """Kind, pixels, landmarks, those that are found, and facts of each medium of these kinds in a record.

    The job is its number, the record, and the record with landmarks that are found, or as it is.
    """
    number, record, again = job
    rng = np.random.default_rng((RENDERED, number))
    towers = {"image": config.model.image_tower, "video": config.model.video_tower}
    faces = []
    truths = label_sample(RENDERED, "train", number)
    if record.task and record.labels not in [truth.get(record.task) for truth in truths]:
        raise DataError(f"{record.name} is not what this release renders: choose another folder, or render anew")
    if without_landmarks(again) != without_landmarks(record):
        raise DataError(f"{record.name} is another in {FOUND}: remove that file, and it is made again")
    for file, other, labels in zip(record.media, again.media, truths, strict=True):
        if file.kind not in kinds:
            continue
        tower = towers[file.kind]
        assert tower
        _, frames, landmarks = load_medium(file, tower.num_frames)
        # As faces of every kind are forged below, saying that the others are real gives nothing away.
        known = {"deepfake": "real", **labels}
        points = np.zeros((len(frames), LANDMARK_POINTS, 2), np.float32) if landmarks is None else landmarks
        found = points if other == file else load_medium(other, tower.num_frames).landmarks
        assert found is not None
        off = found - points  # of a forgery, too: looking for its own would take as long again
        shown = [(frames, points, encode(known))]
        if known["deepfake"] == "real" and landmarks is not None and rng.random() < FORGED:
            shown.append((*forge(frames, points, file.kind, rng), encode({**known, "deepfake": "fake"})))
        for pictures, points, facts in shown:
            pixels = preprocess(pictures, file.kind, tower.image_size, config.media)
            faces.append((file.kind, pixels.astype(np.float16), points, points + off, facts))
    return faces


def without_landmarks(record: Record) -> Record:
    return record._replace(media=tuple(file._replace(landmarks=None) for file in record.media))


def forge(
    frames: UInt8[np.ndarray, "T Y X 3"], landmarks: Float32[np.ndarray, "T K 2"], kind: Kind, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "T Y X 3"], Float32[np.ndarray, "T K 2"]]:
    """The inner part of a face put into the face itself, with the faults of the renderer's forgeries.

    All else that is true of the face stays true of it (self-blended images, Shiohara and Yamasaki 2022).
    """
    flaw = draw_flaw(rng, kind == "video")
    forged = []
    for frame, z in zip(frames.astype(np.float32), landmarks * np.float64(LANDMARK_CROP), strict=True):
        forged.append(swap_face(frame, z, frame.copy(), z, flaw, rng))
    pictures, points = zip(*forged, strict=True)
    pixels = np.clip(np.rint(np.stack(pictures)), 0, 255).astype(np.uint8)
    return pixels, (np.stack(points) / LANDMARK_CROP).astype(np.float32)


def encode(labels: Mapping[Task, Any]) -> Float32[np.ndarray, " facts"]:
    """What is known of a face, in the order of FACTS."""
    known: dict[str, Any] = {name: unit in labels["action-units"] for unit, name in UNITS.items()}
    known |= labels.get("attributes", {})
    if "emotion" in labels:
        known |= {emotion: emotion == labels["emotion"] for emotion in EMOTIONS}
    if "deepfake" in labels:
        known["fake"] = labels["deepfake"] == "fake"
    if "age" in labels:
        known["age"] = labels["age"] / 20 - 2
    return np.array([known.get(name, np.nan) for name in FACTS], np.float32)


def pretrain(config: ModelConfig, faces: Mapping[Kind, Faces], arguments: Arguments) -> Params:
    """The parameters of the whole model after all stages; its decoder's are as drawn.

    After each epoch all that going on needs is written to OUT/state.npz.
    """
    params = draw_params(config, abstract_params(config), arguments.seed, make_mesh(MeshConfig(), jax.devices()[:1]))
    decoder = {path: params.pop(path) for path in list(params) if path.startswith("decoder/")}
    if config.landmarks:
        params = fit_projectors(params, faces["image"].landmarks)
    parts = 2 if config.landmarks else 1
    params["head/kernel"] = jnp.zeros((parts * config.decoder.hidden_size, len(FACTS)))
    params["head/bias"] = jnp.zeros(len(FACTS))

    file = arguments.out / "state.npz"
    done, leaves = load_state(file, arguments)
    first = 0
    inflated = False
    for stage, epochs in zip(STAGES, arguments.epochs, strict=True):
        if not epochs:
            continue
        kinds, end = stage.kinds, first + epochs
        steps = len(faces[kinds[0]].facts) // BATCH
        optimizer = make_optimizer(stage.optim, steps * len(kinds) * epochs)
        if "video" in kinds and not inflated:  # once: it would undo what the tower has learnt
            params, inflated = inflate_tower(params), True
        state = (params, optimizer.init(params))
        if first < done <= end:
            state = jax.tree.unflatten(jax.tree.structure(state), map(jnp.asarray, leaves))
        for epoch in range(max(first, done), end):
            rng = np.random.default_rng((arguments.seed, epoch))
            order = {kind: np.resize(rng.permutation(len(faces[kind].facts)), (steps, BATCH)) for kind in kinds}
            losses = []
            for step in tqdm(range(steps), f"epoch {epoch + 1}/{sum(arguments.epochs)}", disable=None):
                for kind in kinds:
                    batch = vary(rng, Faces(*(array[order[kind][step]] for array in faces[kind])), stage)
                    *state, loss = take_step(*state, decoder, batch, config, kind, optimizer)
                    losses.append(loss)
            save_state(file, arguments, epoch + 1, state)
            say(f"epoch {epoch + 1} of {sum(arguments.epochs)}, {' and '.join(kinds)}: loss {np.mean(losses):.3f}")
        params = state[0]
        first = end
    return {path: array for path, array in params.items() if not path.startswith("head/")} | decoder


def fit_projectors(params: Params, landmarks: Float32[np.ndarray, "n T K 2"]) -> Params:
    """FRLP's first layers such that the mean face gives 0 and faces differ by 1.

    As drawn they see numbers from 0 to 1 that hardly differ from face to face (LeCun et al., Efficient BackProp, 1998,
    section 4.3, on inputs that are not centred).
    """
    faces = landmarks[landmarks.any(axis=(1, 2, 3))][:FITTED_FACES, 0]
    mean = faces.mean(axis=0)
    spread = (faces - mean).std()
    fitted = dict(params)
    for path, points in FIRST_LAYERS.items():
        kernel = params[f"{path}/kernel"] / spread
        fitted |= {f"{path}/kernel": kernel, f"{path}/bias": -(mean[points].reshape(-1) @ kernel)}
    return fitted


def inflate_tower(params: Params) -> Params:
    """The video tower starts as the image tower, with temporal attention beside it (as LanguageBind's does)."""
    images = {
        path.replace("image_tower/", "video_tower/"): array
        for path, array in params.items()
        if path.startswith("image_tower/")
    }
    return params | images


def vary(rng: np.random.Generator, faces: Faces, stage: Stage) -> Faces:
    """Faces mirrored, moved, and with other landmarks or none, by chance."""
    pixels, landmarks, _, facts = (array.copy() for array in faces)
    size = pixels.shape[2]
    if stage.found:
        chosen = rng.random(len(pixels)) < stage.found
        landmarks[chosen] = faces.found[chosen]
    mirrored = rng.random(len(pixels)) < 0.5
    pixels[mirrored] = pixels[mirrored, :, :, ::-1]
    landmarks[mirrored] = landmarks[mirrored][:, :, MIRRORED_POINTS] * [-1, 1] + [1, 0]
    known = faces.landmarks.any(axis=(1, 2, 3)) & (rng.random(len(pixels)) >= stage.hidden)
    offsets = rng.integers(-SHIFT, SHIFT + 1, (len(pixels), 2))
    padded = np.pad(pixels, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    for at, (x, y) in enumerate(offsets):
        pixels[at] = padded[at, :, SHIFT - y :, SHIFT - x :][:, :size, :size]
    landmarks += offsets[:, None, None] / size
    landmarks[~known] = 0
    return Faces(pixels, landmarks, landmarks, facts)


@partial(jax.jit, static_argnames=("config", "kind", "optimizer"))
def take_step(
    params: Params, opt_state: Any, decoder: Params, faces: Faces, config: ModelConfig, kind: Kind, optimizer: Optimizer
) -> tuple[Params, Any, Float[Array, ""]]:
    """Parameters and optimizer state after a batch, and its loss."""

    def lose(params: Params) -> Float[Array, ""]:
        return measure_loss(read_facts(params, decoder, faces, config, kind), jnp.asarray(faces.facts))

    loss, grads = jax.value_and_grad(lose)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return {path: params[path] + updates[path] for path in params}, opt_state, loss


def measure_loss(guesses: Float[Array, "B facts"], facts: Float[Array, "B facts"]) -> Float[Array, ""]:
    """The mean cross-entropy of what is yes or no, and the mean error of the ages, where they are known."""
    known = ~jnp.isnan(facts)
    truth = jnp.where(known, facts, 0)
    entropy = optax.sigmoid_binary_cross_entropy(guesses[:, :BINARY], truth[:, :BINARY])
    bits = jnp.sum(WEIGHTS * entropy, where=known[:, :BINARY]) / jnp.sum(known[:, :BINARY])
    years = jnp.abs(guesses[:, BINARY] - truth[:, BINARY])
    return bits + AGE_WEIGHT * jnp.sum(years, where=known[:, BINARY]) / jnp.maximum(1, jnp.sum(known[:, BINARY]))


def read_facts(
    params: Params, decoder: Params, faces: Faces, config: ModelConfig, kind: Kind
) -> Float[Array, "B facts"]:
    """Logits, and the age, from the mean visual token and the mean landmark token, each normalised."""
    model = build_model(config, {path: params[path] for path in params if not path.startswith("head/")} | decoder)
    media = Media(
        jnp.asarray(faces.pixels, jnp.float32)[:, None],
        jnp.asarray(faces.landmarks)[:, None],
        jnp.any(faces.landmarks != 0, axis=(1, 2, 3))[:, None],
    )
    tower = model.image_tower if kind == "image" else model.video_tower
    assert tower
    tokens_BED = model.encode_media(tower, media)
    b, frames, *_ = faces.pixels.shape
    h_BTPD = tokens_BED.reshape(b, frames, -1, config.decoder.hidden_size)
    parts = [h_BTPD[:, :, :-1], h_BTPD[:, :, -1:]] if config.landmarks else [h_BTPD]
    seen = [jax.nn.standardize(part.mean(axis=(1, 2))) for part in parts]
    if config.landmarks:
        seen[1] = jnp.where(media.has_landmarks, seen[1], 0)  # the decoder is shown no token of landmarks unknown
    return jnp.concatenate(seen, axis=1) @ params["head/kernel"] + params["head/bias"]


def save_state(file: Path, arguments: Arguments, epochs: int, state: Sequence[Any]) -> None:
    """Writes what `load_state` reads, whole or not at all."""
    aside = file.with_suffix(".part.npz")
    try:
        np.savez(aside, *jax.tree.leaves(state), epochs=epochs, request=json.dumps(describe(arguments)))
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def load_state(file: Path, arguments: Arguments) -> tuple[int, list[np.ndarray]]:
    """How many epochs are done, and the arrays of the state after them."""
    if not file.exists():
        return 0, []
    try:
        with file.open("rb") as stream, np.load(stream) as saved:
            request = json.loads(str(saved["request"]))
            epochs, leaves = int(saved["epochs"]), [saved[f"arr_{at}"] for at in range(len(saved.files) - 2)]
    except (BadZipFile, EOFError, KeyError, ValueError):
        sys.exit(f"pretrain_nano: {file} is damaged: remove it, and the training begins anew")
    if request != describe(arguments):
        sys.exit(f"pretrain_nano: {file} was trained otherwise: choose another folder")
    return epochs, leaves


def describe(arguments: Arguments) -> dict[str, Any]:
    """What tells one training from another; not where it is."""
    return {
        "pretrained": "scripts/pretrain_nano.py",
        "samples": arguments.samples,
        "epochs": [*arguments.epochs],
        "landmarks": arguments.landmarks,
        "seed": arguments.seed,
    }


def write_start(out: Path, config: Config, params: Params, source: dict[str, Any]) -> None:
    """A checkpoint folder in float32, with nano's tokenizer."""
    arrays: dict[str, np.ndarray] = {}
    for path, param in params.items():
        names, array = disk_paths(path, param.shape), np.asarray(param)
        arrays |= zip(names, array[None] if names == [path] else array, strict=True)
    tokenizer = sorted((NANO / "tokenizer").iterdir())
    with write_checkpoint(out, config, dict.fromkeys(arrays, "float32"), tokenizer, source) as put:
        for name, array in arrays.items():
            put(name, array)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
