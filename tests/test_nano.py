"""The small model that ships with the package: what it is made by, and that it knows rendered faces."""

import dataclasses
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from facellava_jax import Predictor, Request
from facellava_jax.checkpoint import read_config, read_manifest
from facellava_jax.config import LANDMARK_POINTS, NANO, nano
from facellava_jax.data.records import DataError, RecordList
from facellava_jax.experiment import MeshConfig
from facellava_jax.faces.landmarks import MIRRORED_POINTS
from facellava_jax.media import LANDMARK_CROP
from facellava_jax.models.facellava import abstract_params
from facellava_jax.run import draw_params
from facellava_jax.sharding import make_mesh
from facellava_jax.synthetic import FOUND, RECORDS, find_landmarks, label_sample, render_dataset, render_sample

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "pretrain_nano.py"))
HELD_OUT = 60  # faces, a fifth for each task


def test_it_is_small_and_names_no_machine() -> None:
    assert sum(file.stat().st_size for file in NANO.rglob("*") if file.is_file()) < 15e6
    assert read_config(NANO) == nano()
    source = json.dumps(read_manifest(NANO)["source"])
    assert '"/' not in source and "sha256" not in source


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out") / "faces"
    for _ in render_dataset(folder, HELD_OUT, 77, "test"):
        pass
    return folder


def ask(folder: Path, record: dict[str, Any]) -> Request:
    medium = folder / record.get("video", record.get("image"))
    return Request(medium, task=record["task"], landmarks=folder / record["landmarks_2d"])


def test_it_knows_rendered_faces(held_out: Path) -> None:
    records = json.loads((held_out / "data.json").read_text())
    answers = Predictor.load().predict_batch([ask(held_out, record) for record in records], batch_size=20)
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for record, answer in zip(records, answers, strict=True):
        pairs.setdefault(record["task"], []).append((answer.label, record["labels"]))
    # Twelve of each: looser than what scripts/measure_nano.py measures on a thousand.
    for task in ("emotion", "deepfake"):
        assert np.mean([said == true for said, true in pairs[task]]) >= 0.75, task
    assert np.mean([np.inf if said is None else abs(said - true) for said, true in pairs["age"]]) < 10
    named = [(said or {}).get(name) == value for said, true in pairs["attributes"] for name, value in true.items()]
    assert np.mean(named) > 0.85
    units = [({*(said or ())}, {*true}) for said, true in pairs["action-units"]]
    assert 2 * sum(len(said & true) for said, true in units) > 0.5 * sum(len(said) + len(true) for said, true in units)


def test_the_command_says_who_answers(facellava: Callable[..., Any], held_out: Path) -> None:
    record = json.loads((held_out / "data.json").read_text())[0]
    status, out, err = facellava("predict", held_out / record["video"], "--task", "emotion")
    assert status == 0 and out.strip()
    assert "knows rendered faces only" in err and "facellava-convert import" in err


def make_faces(count: int, frames: int) -> Any:
    rng = np.random.default_rng(count)
    return SCRIPT["Faces"](
        rng.standard_normal((count, frames, 96, 96, 3)).astype(np.float16),
        rng.random((count, frames, LANDMARK_POINTS, 2), np.float32),
        rng.random((count, frames, LANDMARK_POINTS, 2), np.float32),
        np.stack([SCRIPT["encode"](label_sample(0, "test", number)[0]) for number in range(count)]),
    )


def test_facts_are_what_is_known() -> None:
    facts = dict(zip(SCRIPT["FACTS"], SCRIPT["encode"]({"action-units": [6, 12], "age": 60.0}), strict=True))
    assert (facts["AU6"], facts["AU12"], facts["AU1"], facts["age"]) == (1, 1, 0, 1)
    assert np.isnan([facts["happiness"], facts["fake"], facts["Smiling"]]).all()
    facts = dict(zip(SCRIPT["FACTS"], SCRIPT["encode"](label_sample(0, "test", 2)[0]), strict=True))
    assert {facts["Smiling"], facts["Wearing_Hat"]} <= {0, 1}


def test_a_forgery_changes_the_inner_face_alone() -> None:
    film = render_sample(0, "test", 1, frames=4).media[0].film
    points = (film.landmarks / LANDMARK_CROP).astype(np.float32)
    for kind in ("image", "video"):
        forged, moved = SCRIPT["forge"](film.frames, points, kind, np.random.default_rng(2))
        changed = np.abs(forged.astype(int) - film.frames).max(axis=-1) > 4
        assert 0.01 < changed.mean() < 0.5
        for frame, each in zip(changed, film.landmarks, strict=True):
            y, x = np.nonzero(frame)
            (left, top), (right, bottom) = each.min(axis=0), each.max(axis=0)
            assert left - 30 < x.min() and x.max() < right + 30 and top - 30 < y.min() and y.max() < bottom + 30
        assert np.abs(moved - points).max() < 0.1


def test_pictures_and_landmarks_vary_together() -> None:
    """A mark on the outer corner of an eye stays where the landmark of that corner is."""
    faces = make_faces(32, 2)
    landmarks = np.broadcast_to(np.linspace(0.3, 0.6, LANDMARK_POINTS)[:, None], faces.landmarks.shape).copy()
    landmarks[:, :, 36] = (40 / 96, 30 / 96)
    pixels = np.zeros_like(faces.pixels)
    pixels[:, :, 30, 40] = 1
    varied = SCRIPT["vary"](
        np.random.default_rng(0), faces._replace(pixels=pixels, landmarks=landmarks), SCRIPT["STAGES"][0]
    )
    hidden = ~varied.landmarks.any(axis=(1, 2, 3))
    assert 2 < hidden.sum() < 20
    seen = set()
    for picture, points in zip(varied.pixels[~hidden, 0], varied.landmarks[~hidden, 0], strict=True):
        (y,), (x,) = np.nonzero(picture[:, :, 0] == 1)
        corner = points[36] * 96
        mirrored = not np.allclose(corner, (x, y), atol=1e-3)
        seen.add(mirrored)
        if mirrored:
            # A mirror makes 96 - x of x, and pixel 95 - i of pixel i.
            np.testing.assert_allclose(points[MIRRORED_POINTS[36]] * 96, (x + 1, y), atol=1e-3)
    assert seen == {True, False}


def test_a_stage_shows_landmarks_that_are_found() -> None:
    faces = make_faces(64, 1)
    known = np.full_like(faces.landmarks, 0.3)
    faces = faces._replace(landmarks=known.copy(), found=known + np.float32(0.2))
    for stage in SCRIPT["STAGES"]:
        varied = SCRIPT["vary"](np.random.default_rng(0), faces, stage._replace(hidden=0.0))
        off = varied.landmarks[:, 0, 0, 1] > 0.42  # by more than a frame is moved
        assert 20 < off.sum() < 44 if stage.found else not off.any()
    np.testing.assert_array_equal(faces.landmarks, known)


def test_only_what_a_stage_shows_is_read(tmp_path: Path) -> None:
    for _ in render_dataset(tmp_path, 8, 0, "train", 4, 1):
        pass
    for _ in find_landmarks(tmp_path, 2):
        pass
    lists = [RecordList(tmp_path / name) for name in (RECORDS, FOUND)]
    for kinds, find in ((("image",), False), (("video", "image"), True)):
        jobs = [(at, lists[0].read(at), lists[find].read(at)) for at in range(8)]
        read = [face for job in jobs for face in SCRIPT["read_record"](nano(), kinds, job)]
        assert {kind for kind, *_ in read} == {*kinds}
        for _, _, points, found, _ in read:
            off = np.abs(found - points).max() * LANDMARK_CROP
            assert (0.5 < off < 30) == (find and points.any())

    with pytest.raises(DataError, match=r"train_0_1 is another in found\.json: remove that file"):
        SCRIPT["read_record"](nano(), ("image",), (1, lists[0].read(1), lists[1].read(2)))


@pytest.mark.parametrize(
    ("epochs", "landmarks", "shown"),
    [((1, 0, 0), True, False), ((1, 1, 0), True, False), ((0, 0, 1), True, True), ((1, 1, 1), False, False)],
)
def test_landmarks_are_found_for_a_stage_that_shows_them(
    epochs: tuple[int, int, int], landmarks: bool, shown: bool
) -> None:
    arguments = SCRIPT["Arguments"](Path("out"), epochs=epochs, landmarks=landmarks)
    assert SCRIPT["shows_found"](arguments) is shown


def test_a_pretraining_has_epochs(tmp_path: Path) -> None:
    for epochs in ((0, 0, 0), (3, -1, 0)):
        with pytest.raises(SystemExit, match="--epochs: use 0 or more"):
            SCRIPT["main"](SCRIPT["Arguments"](out=tmp_path / "nano", epochs=epochs))


@pytest.mark.parametrize(
    ("epochs", "shown", "inflated"),
    [
        ((1, 0, 0), ["image"] * 2, []),
        ((1, 1, 1), [*["image"] * 2, *["video", "image"] * 2], [2]),
        ((1, 0, 1), [*["image"] * 2, "video", "image"], [2]),
        ((0, 1, 0), ["video", "image"], [0]),
    ],
)
def test_the_video_tower_starts_once(
    epochs: tuple[int, int, int],
    shown: list[str],
    inflated: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When clips are first shown; a stage of no epochs is passed over."""
    pretrain: Callable[..., Any] = SCRIPT["pretrain"]
    kinds: list[str] = []
    starts: list[int] = []

    def take_step(params: Any, opt_state: Any, *words: Any) -> tuple[Any, Any, float]:
        kinds.append(words[3])
        return params, opt_state, 0.0

    def inflate_tower(params: Any) -> Any:
        starts.append(len(kinds))
        return params

    def draw_params(*_: object) -> dict[str, jax.Array]:
        return {"image_tower/kernel": jax.numpy.zeros(1)}

    replaced = {"BATCH": 4, "take_step": take_step, "inflate_tower": inflate_tower, "draw_params": draw_params}
    for name, value in replaced.items():
        monkeypatch.setitem(pretrain.__globals__, name, value)
    config = dataclasses.replace(nano().model, landmarks=None)
    faces = {"image": make_faces(8, 1), "video": make_faces(4, 4)}
    pretrain(config, faces, SCRIPT["Arguments"](out=tmp_path, epochs=epochs))
    assert (kinds, starts) == (shown, inflated)


def test_fitted_projectors_tell_faces_apart() -> None:
    config = nano().model
    params = draw_params(config, abstract_params(config), 0, make_mesh(MeshConfig(), jax.devices()[:1]))
    faces = make_faces(16, 1)
    z = 0.5 + 0.01 * faces.landmarks
    fitted = SCRIPT["fit_projectors"](params, z)
    path = "global_landmarks_projector/linears/0"
    outputs = z.reshape(len(z), -1) @ np.asarray(fitted[f"{path}/kernel"]) + np.asarray(fitted[f"{path}/bias"])
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-3)
    drawn = ((z - z.mean(axis=0)) / (z - z.mean(axis=0)).std()).reshape(len(z), -1) @ np.asarray(
        params[f"{path}/kernel"]
    )
    np.testing.assert_allclose(outputs, drawn, atol=1e-3)


def test_the_video_tower_starts_as_the_image_tower() -> None:
    config = nano().model
    params = draw_params(config, abstract_params(config), 0, make_mesh(MeshConfig(), jax.devices()[:1]))
    inflated = SCRIPT["inflate_tower"](params)
    assert inflated.keys() == params.keys()
    for path, array in inflated.items():
        source = path.replace("video_tower", "image_tower") if "temporal" not in path else path
        assert array is params[source]


@pytest.mark.slow
def test_pretraining_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain: Callable[..., dict[str, jax.Array]] = SCRIPT["pretrain"]
    monkeypatch.setitem(pretrain.__globals__, "BATCH", 4)
    faces = {"image": make_faces(8, 1), "video": make_faces(4, 4)}
    arguments = SCRIPT["Arguments"](out=tmp_path / "straight", epochs=(2, 2, 1))
    arguments.out.mkdir()
    straight = pretrain(nano().model, faces, arguments)

    stopping = dataclasses.replace(arguments, out=tmp_path / "stopped")
    stopping.out.mkdir()
    save = SCRIPT["save_state"]

    def save_and_stop(*words: Any) -> None:
        save(*words)
        raise KeyboardInterrupt

    for _ in range(4):  # within a stage, and between two
        monkeypatch.setitem(pretrain.__globals__, "save_state", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(nano().model, faces, stopping)
    monkeypatch.setitem(pretrain.__globals__, "save_state", save)
    resumed = pretrain(nano().model, faces, stopping)
    assert resumed.keys() == abstract_params(nano().model).keys()
    for path, array in straight.items():
        np.testing.assert_array_equal(array, resumed[path], err_msg=path)
    with pytest.raises(SystemExit, match="was trained otherwise"):
        pretrain(nano().model, faces, dataclasses.replace(stopping, seed=1))


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.npz"
    for content in (b"", b"nothing", b"PK\3\4 and the rest is lost"):
        file.write_bytes(content)
        with pytest.raises(SystemExit, match=r"state\.npz is damaged: remove it"):
            SCRIPT["load_state"](file, SCRIPT["Arguments"](out=tmp_path))


def test_only_a_run_of_the_small_model_is_packed(tmp_path: Path, checkpoint: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in NANO.rglob("*")}
    packing = runpy.run_path(str(ROOT / "scripts" / "pack_nano.py"))
    (tmp_path / "model").symlink_to(checkpoint)
    for run, error in ((tmp_path / "none", "pack_nano: .*none"), (tmp_path, "is not what configs/nano.py trains")):
        with pytest.raises(SystemExit, match=error):
            packing["main"](packing["Arguments"](run=run))
    assert {file: file.stat().st_mtime_ns for file in NANO.rglob("*")} == before
