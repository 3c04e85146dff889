"""evaluate: faces kept beside the data, answers that go on where they stopped, the same results on any devices."""

import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest

from facellava_jax.answers import Label, parse
from facellava_jax.checkpoint import digest_checkpoint
from facellava_jax.config import NANO, ConfigError
from facellava_jax.errors import FaceLlavaError
from facellava_jax.evaluate import cache as caching
from facellava_jax.evaluate.benchmark import Example, Medium
from facellava_jax.evaluate.benchmarks import BENCHMARKS
from facellava_jax.evaluate.cache import CacheError, FaceCache
from facellava_jax.evaluate.candidates import list_candidates
from facellava_jax.evaluate.facts import EvaluateError, Evaluation
from facellava_jax.evaluate.metrics import read_attribute
from facellava_jax.evaluate.rows import join_rows
from facellava_jax.evaluate.run import draw_examples, evaluate, place_beside, share_out
from facellava_jax.experiment import MeshConfig
from facellava_jax.faces import Box, Face, FaceError, FaceFinder, Window, cut_window, pick_face, to_crop
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.faces.extract import ExtractOptions, extract_faces
from facellava_jax.folders import FolderError, hold_folder
from facellava_jax.media import Kind, MediaError, load_image, load_landmarks, load_video
from facellava_jax.overlay import write_picture
from facellava_jax.predict import Predictor
from facellava_jax.request import Options, PredictError, Request, Task
from facellava_jax.results import ResultFile, ResultsError
from facellava_jax.synthetic import Labels, label_sample, render_dataset, render_sample

ROOT = Path(__file__).parent.parent
SAMPLES, LENGTH = 10, 6
SCORED: dict[str, Any] = {"method": "score", "task": "deepfake", "max_new_tokens": LENGTH}
FRAMES = 8
KNOWN = ("emotion", "attributes", "deepfake")  # what the small model tells well enough from landmarks that are found
CAST = 400  # rendered faces that truths are looked for among
METRICS = {
    "emotion": "uar",
    "age": "mae",
    "attributes": "mean_accuracy",
    "action-units": "mean_f1",
    "deepfake": "uar",
}


# The face cache


@pytest.fixture
def album(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A data set's folder: pictures with and without a face, a crop, a clip, a folder of frames, a file of nothing."""
    data = tmp_path / "album"
    (data / "frames").mkdir(parents=True)
    write_picture(data / "wide.png", astronaut)
    write_picture(data / "crop.png", np.ascontiguousarray(astronaut[:256, 96:352]))
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    write_picture(data / "none.png", noise)
    (data / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with ClipWriter(data / "pan.mp4", 24.0) as writer:
        for index in range(FRAMES):
            frame = np.ascontiguousarray(astronaut[:320, 40 + index : 400 + index])
            writer.add(frame, index / 24)
            write_picture(data / "frames" / f"{index}.png", frame)
    return data


def fill(cache: FaceCache, *media: Medium) -> list[int]:
    return [*cache.fill(cache.list_missing(media))]


def test_a_face_is_cut_out_as_the_command_faces_does(album: Path, finder: FaceFinder, tmp_path: Path) -> None:
    cache, wide = FaceCache(tmp_path / "album.faces", album), Medium(path=album / "wide.png")
    assert fill(cache, wide, wide) == [1]
    extract_faces(wide.path, tmp_path / "ours", finder, ExtractOptions(overlay=False))
    shown = cache.find(wide)
    assert shown.path == tmp_path / "album.faces" / "wide.png.png"
    np.testing.assert_array_equal(load_image(shown.path), load_image(tmp_path / "ours.png"))
    np.testing.assert_array_equal(np.load(shown.landmarks or ""), np.load(tmp_path / "ours.npy"))


def test_a_crop_stays_as_it_is(album: Path, finder: FaceFinder, tmp_path: Path) -> None:
    cache, crop = FaceCache(tmp_path / "faces", album), Medium(path=album / "crop.png")
    fill(cache, crop)
    shown = cache.find(crop)
    assert shown.path == crop.path
    face = pick_face(finder.find(load_image(crop.path)), crop.path)
    np.testing.assert_allclose(load_landmarks(shown.landmarks or Path())[0] * 256, face.landmarks, atol=1e-4)


def test_a_face_beyond_the_border_is_taken_with_what_is_beyond(
    album: Path, face: Face, finder: FaceFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule of FaceInstruct-1M leaves nothing of it."""
    moved = face._replace(box=Box(480.0, 100.0, 100.0, 100.0), landmarks=face.landmarks + 300)
    monkeypatch.setattr(finder, "find", lambda picture: [moved])
    monkeypatch.setattr(caching, "_load_finder", lambda: finder)
    wide = Medium(path=album / "wide.png")
    with pytest.raises(FaceError, match="cut off by the border"):
        extract_faces(wide.path, tmp_path / "ours", finder)
    cache = FaceCache(tmp_path / "faces", album)
    fill(cache, wide)
    shown = cache.find(wide)
    window = Window(470, 90, 590, 210)
    np.testing.assert_array_equal(load_image(shown.path), cut_window(load_image(wide.path), window, "centered"))
    points = load_landmarks(shown.landmarks or Path())[0] * 256
    np.testing.assert_allclose(points, to_crop(moved.landmarks, window), atol=1e-4)


@pytest.mark.parametrize("name", ["pan.mp4", "frames"])
def test_a_clip_and_a_folder_of_frames_become_a_clip(album: Path, tmp_path: Path, name: str) -> None:
    cache, medium = FaceCache(tmp_path / "faces", album), Medium(path=album / name)
    fill(cache, medium)
    shown = cache.find(medium)
    assert shown.path == tmp_path / "faces" / f"{name}.mp4"
    clip = load_video(shown.path, 4)
    assert clip.length == FRAMES and clip.frames.shape[1:] == (256, 256, 3)
    points = load_landmarks(shown.landmarks or Path(), clip)
    assert points.shape == (4, 68, 2) and 0 < points.mean() < 1


def test_frames_of_a_video_are_decoded_in_one_pass(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = caching.iterate_medium
    monkeypatch.setattr(caching, "iterate_medium", lambda path: opened.append(path) or read(path))
    cache = FaceCache(tmp_path / "faces", album)
    media = [Medium(path=album / "pan.mp4", frame=frame) for frame in (5, 2, 7)]
    assert fill(cache, *media) == [3]
    assert opened == [album / "pan.mp4"]
    for medium in media:
        shown = cache.find(medium)
        assert shown.path == tmp_path / "faces" / "pan.mp4" / f"{medium.frame:06}.png"
        assert load_landmarks(shown.landmarks or Path()).shape == (1, 68, 2)
    near, far = (Medium(path=album / "pan.mp4", frame=frame) for frame in (1, FRAMES))
    fill(cache, far, near)
    with pytest.raises(MediaError, match=r"pan.mp4: has 8 frames, and frame 8 is asked about"):
        cache.find(far)
    assert cache.find(near).landmarks
    assert cache.list_missing([near, far, *media]) == [far]


def test_without_a_face_the_whole_is_shown(album: Path, tmp_path: Path) -> None:
    cache, none = FaceCache(tmp_path / "faces", album), Medium(path=album / "none.png")
    with ClipWriter(album / "none.mp4", 24.0) as writer:
        for index in range(3):
            writer.add(load_image(none.path), index / 24)
    clip, frame = Medium(path=album / "none.mp4"), Medium(path=album / "none.mp4", frame=1)
    fill(cache, none, clip, frame)
    assert [cache.find(each) for each in (none, clip)] == [(none.path, None), (clip.path, None)]
    assert cache.find(frame).landmarks is None
    assert load_image(cache.find(frame).path).shape == (200, 300, 3)
    assert "no face found" in (tmp_path / "faces" / "none.png.none").read_text()
    assert cache.list_missing([none, clip, frame]) == []


def test_the_data_are_left_alone_and_faces_are_found_once(album: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in album.rglob("*")}
    cache = FaceCache(tmp_path / "faces", album)
    media = [Medium(path=album / name) for name in ("wide.png", "crop.png", "none.png", "damaged.png", "pan.mp4")]
    assert fill(cache, *media) == [1] * 5
    assert {path: path.stat().st_mtime_ns for path in album.rglob("*")} == before
    with pytest.raises(MediaError, match=r"damaged\.png: "):
        cache.find(media[3])
    again = FaceCache(tmp_path / "faces", album)
    assert again.list_missing(media) == [media[3]]
    later = time.time() + 5
    shutil.copy(album / "none.png", album / "wide.png")
    os.utime(album / "wide.png", (later, later))
    assert again.list_missing(media) == [media[0], media[3]]
    fill(again, media[0])
    assert again.find(media[0]) == (album / "wide.png", None)
    assert not [*(tmp_path / "faces").glob("*.part")]


def test_media_of_other_folders_stay_in_the_cache(album: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cache = FaceCache(tmp_path / "faces", tmp_path / "other")
    for path in (album / "crop.png", tmp_path / "other" / ".." / "album" / "crop.png"):
        medium = Medium(path=path)
        fill(cache, medium)
        landmarks = cache.find(medium).landmarks
        assert landmarks and landmarks.is_relative_to(tmp_path / "faces" / "elsewhere")


def test_faces_go_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "sub")
    monkeypatch.chdir(tmp_path / "data")
    for data in (".", "../data", "sub/..", tmp_path / "data"):
        assert place_beside(Path(data)).resolve() == tmp_path / "data.faces"
    assert place_beside(tmp_path / "link") == tmp_path / "link.faces"


def test_the_mark_of_a_cache_is_written_once_and_whole(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, crop = tmp_path / "faces", Medium(path=album / "crop.png")

    def kill(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", kill)
        fill(FaceCache(faces, album), crop)
    assert not (faces / "faces.json").exists()
    fill(FaceCache(faces, album), crop)
    before = (faces / "faces.json").stat()
    fill(FaceCache(faces, album), Medium(path=album / "wide.png"))
    after = (faces / "faces.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_place_that_cannot_be_used_is_one_line(album: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"album holds no faces of this release: .* --cache$"):
        FaceCache(album, album)
    (tmp_path / "file").touch()
    cache = FaceCache(tmp_path / "file" / "faces", album)
    with pytest.raises(CacheError, match=r"cannot be written to \(Not a directory\): name another place with --cache$"):
        fill(cache, Medium(path=album / "crop.png"))


# Which examples


def make_examples(count: int, task: Any = "deepfake", files: int | None = None) -> list[Example]:
    return [
        Example(
            name=f"{task} {index}",
            task=task,
            truth="real",
            media=(Medium(path=Path(f"{index % (files or count)}.avi"), frame=index if files else None),),
        )
        for index in range(count)
    ]


def test_a_limit_draws_at_random_and_keeps_the_order() -> None:
    examples = make_examples(1000)
    drawn = draw_examples(examples, 100, 0)
    places = [examples.index(example) for example in drawn]
    assert places == sorted({*places}) and len(places) == 100
    assert 400 < np.mean(places) < 600 and places[-1] - places[0] > 900
    assert draw_examples(examples, 100, 0) == drawn != draw_examples(examples, 100, 1)
    assert {*map(examples.index, draw_examples(examples, 50, 0))} < {*places}
    assert draw_examples(examples, 1000, 0) == draw_examples(examples, None, 0) == examples


def test_hosts_share_examples_by_files() -> None:
    examples = [*make_examples(60, files=7), *make_examples(5, "age")]
    assert share_out(examples, 1) == [[*examples[60:], *examples[:60]]]
    shares = share_out(examples, 3)
    assert sorted(example.name for share in shares for example in share) == sorted(each.name for each in examples)
    assert max(map(len, shares)) - min(map(len, shares)) < 10
    files = [{example.media[0].path for example in share if example.media[0].frame is not None} for share in shares]
    assert sum(map(len, files)) == 7


def test_candidates_are_answers_that_state_their_label() -> None:
    for benchmark in BENCHMARKS.values():
        for task in ("emotion", "deepfake", "age"):
            for label, answer in list_candidates(task, benchmark).items():
                assert parse(answer, task) == (float(label) if task == "age" else label)
    assert {*list_candidates("emotion", BENCHMARKS["crema-d"])} == {*BENCHMARKS["crema-d"].classes}
    for task in ("attributes", "action-units"):
        with pytest.raises(EvaluateError, match=rf"{task}: .*: use --method generate$"):
            list_candidates(task, BENCHMARKS["celeba"])
        with pytest.raises(EvaluateError, match=r": use --method generate, or --task emotion, age or deepfake$"):
            list_candidates(task, BENCHMARKS["faceinstruct"])


# Running


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records of each task."""
    folder = tmp_path_factory.mktemp("rendered") / "test"
    for _ in render_dataset(folder, SAMPLES, 0, "test", FRAMES, workers=1):
        pass
    return folder


@pytest.fixture
def evaluation(rendered: Path, checkpoint: Path) -> Evaluation:
    return Evaluation(benchmark="faceinstruct", data=rendered, model=checkpoint, max_new_tokens=LENGTH)


@pytest.fixture(scope="session")
def straight(rendered: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing interrupts, on eight devices."""
    out = tmp_path_factory.mktemp("straight") / "results"
    evaluation = Evaluation(benchmark="faceinstruct", data=rendered, model=checkpoint, max_new_tokens=LENGTH)
    results = evaluate(evaluation, out, batch_size=8)
    assert results == json.loads((out / "results.json").read_text())
    return out


def read_table(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def assert_same(out: Path, other: Path) -> None:
    for name in ("predictions.jsonl", "results.json"):
        assert (out / name).read_text() == (other / name).read_text()


def test_answers_are_those_of_predictor(straight: Path, rendered: Path, checkpoint: Path) -> None:
    predictor = Predictor.load(checkpoint)
    records = json.loads((rendered / "data.json").read_text())
    rows = read_table(straight)
    assert [row["name"] for row in rows] == [record["id"] for record in records]
    requests = [
        Request(
            rendered / (record.get("image") or record["video"]),
            record["conversations"][0]["value"],
            landmarks=rendered / record["landmarks_2d"],
            options=Options(max_new_tokens=LENGTH),
        )
        for record in records
    ]
    for row, record, answer in zip(rows, records, predictor.predict_batch(requests, batch_size=8), strict=True):
        assert (row["answer"], row["question"]) == (answer.text, answer.question)
        label = parse(answer.text, record["task"])
        assert row["label"] == (sorted(label) if isinstance(label, frozenset) else label)
        assert (row["task"], row["truth"], row["status"]) == (record["task"], record["labels"], "ok")
    assert not [path for path in rendered.parent.iterdir() if path.name.endswith(".faces")]


def test_what_the_results_are_of_is_written_beside_them(straight: Path, rendered: Path, checkpoint: Path) -> None:
    run = json.loads((straight / "results.json").read_text())["run"]
    assert run["benchmark"] == "faceinstruct" and run["examples"] == SAMPLES and run["seed"] == 0
    assert run["checkpoint_sha256"] == digest_checkpoint(checkpoint)
    assert run["versions"].keys() == {"facellava_jax", "jax", "jaxlib", "python"}
    assert run["libraries"].keys() == {"numpy", "scikit-learn", "opencv-python-headless", "av"}
    assert run["libraries"]["numpy"] == np.__version__
    assert run["config"]["model"]["dtype"] == run["dtype"] == "float32"
    assert run["faceless"] == run["unreadable"] == 0 and run["left_out"] == {}


def start(
    data: Path, model: Path, out: Path, *more: str, benchmark: str = "faceinstruct", **environment: str
) -> "subprocess.Popen[bytes]":
    """The command, on one device."""
    command = [sys.executable, "-c", "from facellava_jax.cli import main; main()", "eval", benchmark]
    options = {"--data": data, "--model": model, "--out": out, "--batch-size": 8, "--max-new-tokens": LENGTH}
    words = [str(word) for pair in options.items() for word in pair]
    return subprocess.Popen([*command, *words, *more], env={**os.environ, "XLA_FLAGS": "", **environment}, cwd=ROOT)


def test_killed_and_resumed_and_on_one_device(straight: Path, rendered: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    process = start(rendered, checkpoint, out)
    while not ((out / "predictions.jsonl").exists() and read_table_so_far(out)) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < read_table_so_far(out) < SAMPLES and not (out / "results.json").exists()
    assert start(rendered, checkpoint, out).wait() == 0
    assert_same(out, straight)
    before = (out / "predictions.jsonl").stat().st_mtime_ns
    assert start(rendered, checkpoint, out).wait() == 0
    assert (out / "predictions.jsonl").stat().st_mtime_ns == before


@pytest.fixture(scope="session")
def scored(rendered: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that scores labels, on eight devices."""
    out = tmp_path_factory.mktemp("scored") / "results"
    evaluate(Evaluation(benchmark="faceinstruct", data=rendered, model=checkpoint, **SCORED), out, batch_size=8)
    return out


def test_scores_go_on_exactly_and_on_one_device_are_the_same_to_rounding(
    scored: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    out = tmp_path / "one"
    assert start(evaluation.data, evaluation.model, out, "--method", "score", "--task", "deepfake").wait() == 0
    for row, other in zip(read_table(out), read_table(scored), strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert row | {"scores": None} == other | {"scores": None}
    metrics, others = (json.loads((each / "results.json").read_text())["tasks"]["deepfake"] for each in (out, scored))
    for name in ("accuracy", "uar", "auc", "brier", "ece"):
        assert metrics[name]["value"] == pytest.approx(others[name]["value"], abs=1e-5)

    cut = shutil.copytree(scored, tmp_path / "cut")
    (cut / "results.json").unlink()
    first, second, end = (cut / "predictions.jsonl").read_text().split("\n")
    assert not end
    (cut / "predictions.jsonl").write_text(f"{first}\n{second[:99]}")
    evaluate(dataclasses.replace(evaluation, **SCORED), cut, batch_size=8)
    assert_same(cut, scored)


def test_killed_while_faces_are_found_and_resumed(astronaut: np.ndarray, checkpoint: Path, tmp_path: Path) -> None:
    clip = np.stack([astronaut[:320, 40 + at : 400 + at] for at in range(FRAMES)])
    data = miniatures.build("crema-d", tmp_path / "crema", lambda *_: clip)
    out, faces = tmp_path / "results", tmp_path / "crema.faces" / "VideoFlash"
    process = start(data, checkpoint, out, "--limit", "4", "--workers", "1", benchmark="crema-d")
    while not [*faces.glob("*.mp4")] and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len([*faces.glob("*.npy")]) < 4 and not (out / "predictions.jsonl").exists()
    evaluation = Evaluation(benchmark="crema-d", data=data, model=checkpoint, limit=4, max_new_tokens=LENGTH)
    evaluate(evaluation, out)
    evaluate(evaluation, tmp_path / "straight", cache=tmp_path / "faces")
    assert_same(out, tmp_path / "straight")
    own, others = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
        for folder in (tmp_path / "crema.faces", tmp_path / "faces")
    )
    assert own == others and len(own) == 1 + 2 * 4


def read_table_so_far(out: Path) -> int:
    return (out / "predictions.jsonl").read_text().count("\n")


def test_each_of_two_hosts_answers_a_part(
    evaluation: Evaluation, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    assert evaluate(evaluation, out, batch_size=8, host=1, hosts=2) is None
    assert "5 of 10 examples are left to other hosts" in capsys.readouterr().err
    assert not (out / "results.json").exists()
    assert evaluate(evaluation, out, batch_size=8, host=0, hosts=2)
    assert_same(out, straight)
    # What any hosts have done is done.
    assert evaluate(evaluation, out, batch_size=8, host=2, hosts=3)
    assert_same(out, straight)


def test_two_hosts_that_join_at_once_do_not_meet(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rows of one, the other joins them all."""
    rows, write, others = read_table(straight), ResultFile.write, []

    def interrupted(table: ResultFile, *row: Any) -> None:
        write(table, *row)
        if not others:
            others.append(table.path)
            join_rows(tmp_path, rows, 1)

    monkeypatch.setattr(ResultFile, "write", interrupted)
    join_rows(tmp_path, rows, 0)
    assert others and read_table(tmp_path) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_two_processes_are_one(straight: Path, rendered: Path, checkpoint: Path, tmp_path: Path, devices: int) -> None:
    """As Slurm starts them."""
    out = tmp_path / "results"
    environment = {
        **{"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    processes = [
        start(rendered, checkpoint, out, "--distributed", **environment, SLURM_PROCID=number, SLURM_LOCALID=number)
        for number in "01"
    ]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert_same(out, straight)


def test_an_example_that_cannot_be_read_is_named_when_the_others_are_done(
    evaluation: Evaluation, rendered: Path, straight: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "results"
    shutil.copytree(rendered, data)
    picture = next((data / "images").glob("*.jpg"))
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    moved = dataclasses.replace(evaluation, data=data)
    complaint = rf"^1 of 10 examples could not be answered, such as .*{picture.name}: .* with --skip-unreadable$"
    with pytest.raises(ResultsError, match=complaint):
        evaluate(moved, out, batch_size=8)
    statuses = {row["name"]: row["status"] for row in read_table(out)}
    assert [*statuses.values()].count("ok") == SAMPLES - 1 and statuses[picture.stem] == "error"
    assert not (out / "results.json").exists()

    results = evaluate(moved, out, batch_size=8, skip_unreadable=True)
    assert results and results["run"]["unreadable"] == 1 and results["run"]["examples"] == SAMPLES
    rows = {row["name"]: row for row in read_table(out)}
    assert [*rows] == [row["name"] for row in read_table(straight)]
    bad = rows[picture.stem]
    assert (bad["label"], bad["answer"]) == (None, None) and picture.name in bad["error"]
    assert results["tasks"][bad["task"]]["unparsed"] >= 1 and results["tasks"][bad["task"]]["n"] == 2
    # Done with, until it is asked for again; by other hosts too.
    written = (out / "predictions.jsonl").stat().st_mtime_ns
    assert evaluate(moved, out, batch_size=8, skip_unreadable=True) == results
    assert evaluate(moved, out, batch_size=8, skip_unreadable=True, host=1, hosts=2) == results
    assert (out / "predictions.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ResultsError, match=complaint):
        evaluate(moved, out, batch_size=8)

    picture.write_bytes(whole)
    evaluate(moved, out, batch_size=8)
    assert (out / "predictions.jsonl").read_text() == (straight / "predictions.jsonl").read_text()


def test_hosts_share_what_cannot_be_read(evaluation: Evaluation, rendered: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "results"
    shutil.copytree(rendered, data)
    for picture in (data / "images").glob("*.jpg"):
        picture.write_bytes(b"")
    count = len([*(data / "images").glob("*.jpg")])
    moved = dataclasses.replace(evaluation, data=data)
    assert evaluate(moved, out, batch_size=8, skip_unreadable=True, host=0, hosts=2) is None
    results = evaluate(moved, out, batch_size=8, skip_unreadable=True, host=1, hosts=2)
    assert results and results["run"]["unreadable"] == count == sum(bool(row["error"]) for row in read_table(out)) > 1


def test_disfa_with_a_label_more_than_frames(
    draw: Callable[[Any, Kind], np.ndarray], checkpoint: Path, tmp_path: Path
) -> None:
    data = miniatures.build("disfa", tmp_path / "disfa", draw)
    for file in (data / "ActionUnit_Labels" / "SN003").iterdir():
        file.write_text(file.read_text() + "3,0\n")
    evaluation = Evaluation(
        benchmark="disfa", data=data, model=checkpoint, split="fold1", limit=12, max_new_tokens=LENGTH
    )
    results = evaluate(evaluation, tmp_path / "results")
    assert results and results["run"]["left_out"] == {"past the end of the video": 1}


def test_what_fails_before_the_first_answer_claims_no_folder(
    evaluation: Evaluation, draw: Callable[[Any, Kind], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it fails before any face is looked for."""
    out, data = tmp_path / "results", miniatures.build("raf-db", tmp_path / "raf", draw)
    moved = dataclasses.replace(evaluation, benchmark="raf-db", data=data)

    def fill(*_: Any) -> None:
        raise AssertionError("faces are looked for")

    with monkeypatch.context() as patch:
        patch.setattr(FaceCache, "fill", fill)
        with pytest.raises(ConfigError, match="devices"):
            evaluate(moved, out, mesh=MeshConfig(data=3, fsdp=1))
        with pytest.raises(CacheError):
            evaluate(moved, out, cache=evaluation.model)
        shutil.copytree(evaluation.model, tmp_path / "model")
        shutil.rmtree(tmp_path / "model" / "tokenizer")
        with pytest.raises(FaceLlavaError, match="tokenizer"):
            evaluate(dataclasses.replace(moved, model=tmp_path / "model"), out)
    assert not [*out.iterdir()]

    def fall(*_: Any) -> None:
        raise PredictError("the device has too little memory")

    with monkeypatch.context() as patch, pytest.raises(PredictError):
        patch.setattr("facellava_jax.evaluate.asking.Asker.ask", fall)
        evaluate(moved, out)
    assert json.loads((out / "run.json").read_text())["limit"] is None
    results = evaluate(dataclasses.replace(moved, limit=3), out)
    assert results and json.loads((out / "run.json").read_text())["limit"] == results["run"]["limit"] == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "score", "task": "deepfake"}, "task None, not deepfake"),
        ({"limit": 5}, "limit None, not 5"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"max_new_tokens": 7}, "max_new_tokens 6, not 7"),
        ({"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
    ],
)
def test_other_settings_are_refused(
    evaluation: Evaluation, straight: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(EvaluateError, match=rf"results holds results of {complaint}: .* choose another --out$"):
        evaluate(dataclasses.replace(evaluation, **changes), straight)


def test_another_model_and_other_truths_are_refused(evaluation: Evaluation, straight: Path, tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(evaluation.model, model)
    assert digest_checkpoint(model) == digest_checkpoint(evaluation.model)
    piece = next(path for path in sorted((model / "params").rglob("c/0")) if path.is_file())
    content = bytearray(piece.read_bytes())
    content[-1] ^= 1
    piece.write_bytes(content)
    with pytest.raises(EvaluateError, match="holds results of another model: "):
        evaluate(dataclasses.replace(evaluation, model=model), straight)
    shutil.copytree(evaluation.data, data)
    records = json.loads((data / "data.json").read_text())
    records[1]["labels"] += 1
    (data / "data.json").write_text(json.dumps(records))
    with pytest.raises(EvaluateError, match="holds results of other examples or other truths: "):
        evaluate(dataclasses.replace(evaluation, data=data), straight)


def test_a_folder_of_other_things_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(EvaluateError, match=r"holds mine.txt and no evaluation: choose another --out$"):
        evaluate(evaluation, tmp_path)
    with pytest.raises(FolderError, match=r"mine.txt cannot be written to .*: choose another folder$"):
        evaluate(evaluation, tmp_path / "mine.txt")
    with (
        hold_folder(tmp_path / "held"),
        pytest.raises(FolderError, match=rf"held is in use by process {os.getpid()} on .*: wait for its end"),
    ):
        evaluate(evaluation, tmp_path / "held")
    for text in ("{", "[]", "{}", "1"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(EvaluateError, match=r"run.json is damaged: choose another --out$"):
            evaluate(evaluation, tmp_path)


def test_of_versions_those_of_the_answers_are_compared(evaluation: Evaluation, straight: Path, tmp_path: Path) -> None:
    out = shutil.copytree(straight, tmp_path / "results")
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | {"libraries": {"numpy": "1.0"}}))
    assert evaluate(evaluation, out)
    assert_same(out, straight)
    (out / "run.json").write_text(json.dumps(run | {"versions": run["versions"] | {"jax": "0.1"}}))
    with pytest.raises(EvaluateError, match="holds results of versions "):
        evaluate(evaluation, out)


@pytest.mark.parametrize(
    ("task", "changes", "complaint"),
    [
        ("emotion", {"label": 5}, "label 5"),
        ("age", {"label": "31"}, 'label "31"'),
        ("action-units", {"label": [6, "12"]}, r'label \[6, "12"\]'),
        ("attributes", {"label": {"Bald": "yes"}}, 'label {"Bald": "yes"}'),
        ("deepfake", {"label": {"fake": True}}, 'label {"fake": true}'),
        ("deepfake", {"answer": 5}, "answer 5"),
        ("deepfake", {"scores": {"real": "most"}}, 'scores {"real": "most"}'),
        ("deepfake", {"scores": [0.5, 0.5]}, r"scores \[0.5, 0.5\]"),
        ("age", {"error": 1}, "error 1"),
    ],
)
def test_rows_that_no_prediction_can_be_made_of(
    evaluation: Evaluation, straight: Path, tmp_path: Path, task: str, changes: dict[str, Any], complaint: str
) -> None:
    out = shutil.copytree(straight, tmp_path / "results")
    rows = read_table(out)
    wrong = next(row for row in rows if row["task"] == task)
    wrong |= changes
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "predictions.jsonl").write_text(text)
    remedy = "take this line out and run this again"
    with pytest.raises(ResultsError, match=rf"predictions.jsonl: row {wrong['name']}: {complaint}: {remedy}$"):
        evaluate(evaluation, out)
    assert (out / "predictions.jsonl").read_text() == text


def test_nothing_goes_into_the_data(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(evaluation.data)
    before = {*evaluation.data.rglob("*")}
    for place in (evaluation.data, evaluation.data / "out", tmp_path / "link" / "out"):
        with pytest.raises(EvaluateError, match=r"lies in the data, .*: choose another --out$"):
            evaluate(evaluation, place)
        with pytest.raises(EvaluateError, match=r"lies in the data, .*: choose another --cache$"):
            evaluate(evaluation, tmp_path / "results", cache=place)
    assert {*evaluation.data.rglob("*")} == before


def test_scored_labels(scored: Path, evaluation: Evaluation, rendered: Path, tmp_path: Path) -> None:
    rows = read_table(scored)
    records = [each for each in json.loads((rendered / "data.json").read_text()) if each["task"] == "deepfake"]
    predictor = Predictor.load(evaluation.model)
    requests = [
        Request(
            rendered / record["video"],
            record["conversations"][0]["value"],
            landmarks=rendered / record["landmarks_2d"],
        )
        for record in records
    ]
    for row, scores in zip(rows, predictor.score_batch(requests, candidates=["Real.", "Fake."]), strict=True):
        assert row["scores"] == pytest.approx(dict(zip(("real", "fake"), scores.probabilities, strict=True)), abs=1e-5)
        # Not rounded, so that those of sure models differ.
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-12)
        assert all(round(value, 6) != value for value in row["scores"].values())
        assert row["label"] == max(row["scores"], key=row["scores"].get) and row["answer"] == scores.best
    with pytest.raises(EvaluateError, match="attributes: an answer names several"):
        evaluate(dataclasses.replace(evaluation, method="score", task="attributes"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"benchmark": "imagenet"}, "benchmark 'imagenet' is not one of dfew, crema-d, "),
        ({"split": "dev"}, "A list of FaceInstruct-1M's kind has no split 'dev': choose all$"),
        ({"benchmark": "raf-db", "task": "age"}, "raf-db asks about emotion, not age: leave out --task"),
        ({"limit": 0}, "limit 0: use at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: use a whole number"),
    ],
)
def test_what_cannot_be_run(evaluation: Evaluation, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate(dataclasses.replace(evaluation, **changes), tmp_path / "results")
    assert not (tmp_path / "results").exists()


# The data sets


@pytest.fixture(scope="session")
def draw() -> Callable[[Label, Kind], np.ndarray]:
    """Rendered faces of which a truth is true, or nearly."""
    known = {number: label_sample(0, "test", number)[0] for number in range(CAST)}

    @functools.cache
    def render(number: int) -> np.ndarray:
        frames = render_sample(0, "test", number, frames=FRAMES).media[0].film.frames
        return np.stack([frames[at % len(frames)] for at in range(FRAMES)])

    def draw_truth(truth: Label, kind: Kind) -> np.ndarray:
        frames = render(min(known, key=lambda number: count_errors(known[number], truth)))
        return frames[-1] if kind == "image" else frames

    return draw_truth


def count_errors(known: dict[Task, Labels], truth: Label) -> float:
    """How far from a truth a face is of which this is known; infinitely where nothing of the kind is."""
    known_of: dict[str, Any] = {**known}
    if isinstance(truth, frozenset):
        return len(truth ^ {*known_of["action-units"]})
    if isinstance(truth, dict):
        return sum(known_of.get("attributes", {}).get(name) is not value for name, value in truth.items())
    if isinstance(truth, str):
        return 0 if truth in (known_of.get("emotion"), known_of.get("deepfake")) else math.inf
    return abs(known_of.get("age", math.inf) - truth)


def tell_apart(rows: list[dict[str, Any]]) -> float:
    """The mean over the truths of how many of their labels are nearest to them; one as near to n truths counts 1/n.

    Who always says the same has 1/K of K truths, whatever that is.
    """
    truths: list[Any] = []
    for row in rows:
        truths += [row["truth"]] if row["truth"] not in truths else []
    assert len(truths) > 1
    told: list[list[float]] = [[] for _ in truths]
    for row in rows:
        wrong = np.array([count_wrong(row["label"], truth) for truth in truths])
        own = truths.index(row["truth"])
        told[own].append((wrong[own] == wrong.min()) / (wrong == wrong.min()).sum())
    return float(np.mean([np.mean(each) for each in told]))


def count_wrong(label: Any, truth: Any) -> float:
    """How far two labels are apart, as predictions.jsonl has them."""
    if isinstance(truth, dict):
        return sum(read_attribute(label, name) is not there for name, there in truth.items())
    if isinstance(truth, list):
        return len({*label} ^ {*truth})
    return float(label != truth) if isinstance(truth, str) else abs(label - truth)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_data_set_from_its_folder_to_its_results(
    name: str, draw: Callable[[Label, Kind], np.ndarray], tmp_path: Path
) -> None:
    """The small model answers, and mostly right where it knows its task."""
    data = miniatures.build(name, tmp_path / name, draw)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    results = evaluate(Evaluation(benchmark=name, data=data, model=NANO, limit=8), tmp_path / "results")
    assert results
    rows = read_table(tmp_path / "results")
    assert 3 <= len(rows) <= 8 and results["run"]["faceless"] == 0
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert all(row["label"] is not None for row in rows)
    if (task := BENCHMARKS[name].task) is None:
        assert results["tasks"].keys() == METRICS.keys()
        assert results["tasks"]["deepfake"]["uar"]["value"] > 0.6
        return
    if task in KNOWN:
        assert results["tasks"][task][METRICS[task]]["value"] > 0.6
        assert tell_apart(rows) > 0.6
    assert results["tasks"].keys() == {task} == {row["task"] for row in rows}
    assert results["tasks"][task][METRICS[task]]["n"] == results["run"]["examples"] == len(rows)
    assert {row["face"] for row in rows} == {True}
    assert len([*(tmp_path / f"{name}.faces").rglob("*.npy")]) == len(rows)
    assert "<html" in (tmp_path / "results" / "report.html").read_text()
