"""`facellava faces`: what it writes, that it goes on where it stopped, and how it takes what users give it."""

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import Outcome, Run

from facellava_jax import cli, extraction, media
from facellava_jax.config import REGIONS
from facellava_jax.faces import Face, FaceError, FaceFinder, clips, draw_faces, extract
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.faces.extract import TABLE_COLUMNS, extract_faces
from facellava_jax.faces.inputs import name_outputs

FRAMES = 8
FACE_PART = (slice(20, 212), slice(96, 352))  # of the astronaut: 192 x 256 pixels, the face in the upper half


@pytest.fixture
def faces(facellava: Run) -> Run:
    """The command with one worker unless told otherwise."""
    return lambda command: facellava(f"faces {command}" + ("" if "--workers" in command else " --workers 1"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path: Path | str, picture: np.ndarray, *options: int) -> None:
    """A picture in RGB, grey, or RGB and alpha."""
    import cv2

    if picture.ndim == 3:
        picture = picture[..., [2, 1, 0, 3][: picture.shape[-1]]]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture), options)


def scale(picture: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    return cv2.resize(
        picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )


def on_canvas(picture: np.ndarray, height: int, width: int, y: int, x: int) -> np.ndarray:
    canvas = np.full((height, width, 3), 120, np.uint8)
    canvas[y : y + len(picture), x : x + picture.shape[1]] = picture
    return canvas


def pan(astronaut: np.ndarray, length: int = FRAMES) -> list[np.ndarray]:
    """Frames of 192 x 256 that move right and down over the astronaut: frame k by (3 k, k) from (60, 20)."""
    return [astronaut[20 + k : 212 + k, 60 + 3 * k : 316 + 3 * k] for k in range(length)]


def write_clip(path: Path | str, pictures: list[np.ndarray], seconds: list[float] | None = None) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with ClipWriter(Path(path), 24.0) as writer:
        for picture, second in zip(pictures, seconds or [k / 24 for k in range(len(pictures))], strict=True):
            writer.add(np.ascontiguousarray(picture), second)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def points_of(row: dict[str, str]) -> np.ndarray:
    return np.array([[float(row[f"{axis}_{point}"]) for axis in "xy"] for point in range(68)])


def error_between(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance in distances between the eyes."""
    eyes = others[slice(*REGIONS["eye1"])].mean(0) - others[slice(*REGIONS["eye2"])].mean(0)
    return float(np.hypot(*(points - others).T).mean() / np.hypot(*eyes))


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


def expect_one_line(outcome: Outcome, cause: str, remedy: str) -> None:
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("facellava: ")
    assert cause in outcome.err
    assert remedy in outcome.err.partition(cause)[2]


TABLES = ["faces.csv", "faces.jsonl", "report.csv"]


# What is written


@pytest.mark.parametrize("mode", ["reference", "centered"])
def test_a_picture(desk: Path, faces: Run, mode: str, astronaut: np.ndarray, finder: FaceFinder, face: Face) -> None:
    save("a.png", astronaut)
    assert faces(f"a.png --out out --mode {mode}") == (0, "", "")
    assert names_in(desk / "out") == sorted(["a.npy", "a.png", "a_overlay.png", *TABLES])
    crop, points = media.load_image(desk / "out/a.png"), np.load("out/a.npy")
    assert crop.shape == (256, 256, 3)
    assert (points.shape, points.dtype) == ((136,), np.float32)
    assert error_between(finder.find(crop)[0].landmarks, points.reshape(68, 2)) < 0.03
    (row,) = read_table(desk / "out/faces.csv")
    assert tuple(row) == TABLE_COLUMNS
    assert (row["file"], row["frame"], row["seconds"], row["face"]) == ("a.png", "0", "0.0", "1")
    assert [float(row[f"box_{side}"]) for side in ("x", "y", "width", "height")] == pytest.approx(face.box, abs=1e-3)
    assert float(row["confidence"]) == pytest.approx(face.score, abs=1e-4)
    assert points_of(row) == pytest.approx(face.landmarks, abs=1e-3)
    overlay = media.load_image(desk / "out/a_overlay.png")
    assert overlay.shape == (1024, 1024, 3)
    x, y = np.rint((face.landmarks[8] + 0.5) * 2).astype(int)
    assert overlay[y, x].min() > 220  # the chin's point is white


@pytest.mark.parametrize("mode", ["reference", "centered"])
def test_a_clip(desk: Path, faces: Run, mode: str, astronaut: np.ndarray, face: Face) -> None:
    seconds = [k / 12 for k in range(FRAMES)]
    pictures = pan(astronaut)
    pictures[3] = pictures[3] * 0
    write_clip("a.mp4", pictures, seconds)
    assert faces(f"a.mp4 --out out --mode {mode}") == (0, "", "")
    assert names_in(desk / "out") == sorted(["a.mp4", "a.npy", "a_overlay.mp4", *TABLES])
    repeats = 2 if mode == "reference" else 1  # at 24 frames a second, or at its own 12
    length = repeats * FRAMES
    crops = media.load_video(desk / "out/a.mp4", 1)
    assert (crops.length, crops.frames.shape) == (length, (1, 256, 256, 3))
    assert media.load_video(desk / "out/a_overlay.mp4", 1).length == length
    assert np.load("out/a.npy").shape == (length, 68, 2)
    assert media.load_landmarks(desk / "out/a.npy", crops).shape == (1, 68, 2)
    rows = read_table(desk / "out/faces.csv")
    assert [int(row["frame"]) for row in rows] == list(range(length))
    assert [float(row["seconds"]) for row in rows] == pytest.approx([k / 12 / repeats for k in range(length)], abs=2e-3)
    bridged = [index for index, row in enumerate(rows) if float(row["confidence"]) == 0]
    assert bridged == ([6, 7] if mode == "reference" else [3])
    for index, row in enumerate(rows):
        moved = points_of(row) + np.array([60 + 3 * (index // repeats), 20 + index // repeats])
        assert error_between(moved, face.landmarks) < 0.05
    (report,) = read_table(desk / "out/report.csv")
    assert (report["kind"], report["frames"], report["bridged"]) == ("video", str(length), str(len(bridged)))


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Clips, as they are opened from here on."""
    opened: list[Path] = []
    read = media.iterate_video
    for module in (clips, extract):
        monkeypatch.setattr(module, "iterate_video", lambda path: opened.append(path) or read(path))
    return opened


def test_a_clip_of_one_face_is_decoded_once(
    desk: Path, astronaut: np.ndarray, finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip("a.mp4", pan(astronaut), [k / 30 for k in range(FRAMES)])
    opened = count_passes(monkeypatch)
    assert extract_faces(Path("a.mp4"), desk / "out/a", finder).frames == 6
    assert opened == [Path("a.mp4")]
    # As what two passes write.
    found = clips.find_clip_faces(Path("a.mp4"), finder, "reference")
    (track,) = found.tracks
    outputs = {
        desk / "b.mp4": clips.render_crop(found, track),
        desk / "b_overlay.mp4": lambda index, picture: draw_faces(picture, [track.faces[index]], index),
    }
    clips.write_clips(Path("a.mp4"), found, outputs)
    for name in ("", "_overlay"):
        assert (desk / f"out/a{name}.mp4").read_bytes() == (desk / f"b{name}.mp4").read_bytes()


def two_in_turns(astronaut: np.ndarray) -> list[np.ndarray]:
    """Two faces, of which now one is the larger, now the other."""
    small, large = scale(astronaut[FACE_PART], 0.9), astronaut[FACE_PART]
    pairs = [np.hstack([large, on_canvas(small, 192, 256, 0, 0)]), np.hstack([on_canvas(small, 192, 256, 0, 0), large])]
    return [pairs[index % 4 == 3] for index in range(FRAMES)]


@pytest.mark.parametrize("kind", ["a gap", "two faces"])
def test_a_clip_whose_draft_is_in_vain_is_decoded_again(
    desk: Path, astronaut: np.ndarray, finder: FaceFinder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pictures = pan(astronaut) if kind == "a gap" else two_in_turns(astronaut)
    if kind == "a gap":
        pictures[4] = pictures[4] * 0
    write_clip("a.mp4", pictures)
    opened = count_passes(monkeypatch)
    assert extract_faces(Path("a.mp4"), desk / "out/a", finder).bridged == (kind == "a gap")
    assert len(opened) == 2
    assert names_in(desk / "out") == ["a.mp4", "a.npy", "a_overlay.mp4"]
    crops, points = media.load_video(desk / "out/a.mp4", FRAMES), np.load("out/a.npy")
    for index in (0, 3, 7):
        assert error_between(finder.find(crops.frames[index])[0].landmarks, points[index]) < 0.05


def test_a_clip_that_fails_leaves_nothing(desk: Path, astronaut: np.ndarray, finder: FaceFinder) -> None:
    write_clip("a.mp4", [picture * (index < 5) for index, picture in enumerate(pan(astronaut))])
    with pytest.raises(FaceError, match=r"a.mp4: 3 of 8 frames are without the face"):
        extract_faces(Path("a.mp4"), desk / "out/a", finder)
    assert names_in(desk / "out") == []


def test_frames_that_are_read_ahead() -> None:
    seen: list[int] = []

    def read() -> Iterator[media.Frame]:
        for index in range(9):
            seen.append(index)
            yield media.Frame(np.full((2, 2, 3), index, np.uint8), index / 24)
        raise media.MediaError("the end is missing")

    frames = extract.decode_ahead(read(), count=3)
    first = next(frames)
    assert (first.pixels[0, 0, 0], seen[-1] < 5) == (0, True)
    rest = []
    with pytest.raises(media.MediaError, match="the end is missing"):
        rest.extend(int(frame.pixels[0, 0, 0]) for frame in frames)
    assert rest == list(range(1, 9))


def test_both_tables_say_the_same(desk: Path, faces: Run, astronaut: np.ndarray) -> None:
    save('in/a "b", c\r\nd.png', astronaut)
    write_clip("in/e.mp4", pan(astronaut, 3))
    assert faces("in --out out").status == 0
    rows = [json.loads(line) for line in (desk / "out/faces.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ['in/a "b", c\r\nd.png', *["in/e.mp4"] * 3]
    assert all(tuple(row) == TABLE_COLUMNS for row in rows)
    assert [{key: str(value) for key, value in row.items()} for row in rows] == read_table(desk / "out/faces.csv")


def test_several_faces(desk: Path, faces: Run, astronaut: np.ndarray) -> None:
    large, small = astronaut[FACE_PART], scale(astronaut[FACE_PART], 0.8)
    both = np.hstack([on_canvas(small, 192, 230, 0, 0), large])
    save("in/two.png", both)
    write_clip("in/pair.mp4", [both] * 4)
    assert faces("in --out all --face all") == (0, "", "")
    expected = [f"pair_face{k}.{end}" for k in (1, 2) for end in ("mp4", "npy")]
    expected += [f"two_face{k}.{end}" for k in (1, 2) for end in ("png", "npy")]
    assert names_in(desk / "all") == sorted([*expected, "pair_overlay.mp4", "two_overlay.png", *TABLES])
    rows = read_table(desk / "all/faces.csv")
    assert [(row["frame"], row["face"]) for row in rows] == [
        *((str(frame), str(number)) for frame in range(4) for number in (1, 2)),
        *(("0", "1"), ("0", "2")),
    ]
    assert all((float(row["box_x"]) > 230) == (row["face"] == "1") for row in rows)
    assert faces("in --out one --no-overlay") == (0, "", "")
    assert names_in(desk / "one") == sorted(["pair.mp4", "pair.npy", "two.npy", "two.png", *TABLES])
    for one, of_all in [("two.png", "two_face1.png"), ("pair.npy", "pair_face1.npy")]:
        assert (desk / "one" / one).read_bytes() == (desk / "all" / of_all).read_bytes()


def test_a_larger_share_of_missing_frames(desk: Path, faces: Run, astronaut: np.ndarray) -> None:
    pictures = [picture * (index not in (2, 3, 6, 7)) for index, picture in enumerate(pan(astronaut))]
    write_clip("a.mp4", pictures)
    assert "a.mp4: 4 of 8 frames are without the face" in faces("a.mp4 --out out").err
    assert names_in(desk / "out") == sorted(TABLES)
    assert faces("a.mp4 --out more --max-missing 0.5") == (0, "", "")
    assert read_table(desk / "more/report.csv")[0]["bridged"] == "4"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("in", ["a", "deep/er/c", "deep/b"]),
        ("'in/deep/**/*.png'", ["b", "er/c"]),
        ("'in/*/*.png'", ["deep/b"]),
        ("in/a.png in/deep/b.png", ["a", "deep/b"]),
        ("in/deep/er/c.png", ["c"]),
        ("in/deep in/a.png", ["a", "b", "er/c"]),
    ],
    ids=["folder", "deep glob", "glob", "files", "a file", "both"],
)
def test_relative_folders_are_kept(
    desk: Path, faces: Run, astronaut: np.ndarray, inputs: str, expected: list[str]
) -> None:
    for name in ("a", "deep/b", "deep/er/c", ".hidden/d", "deep/.e"):
        save(f"in/{name}.png", astronaut[FACE_PART])
    (desk / "in/notes.txt").write_text("notes")
    assert faces(f"{inputs} --out out --no-overlay") == (0, "", "")
    outputs = [f"{name}.{end}" for name in expected for end in ("npy", "png")]
    assert names_in(desk / "out") == sorted([*outputs, *TABLES])


@pytest.mark.parametrize(
    ("places", "taken", "expected"),
    [
        ("a.png b.png", {}, "a b"),
        ("a.png a.mp4 b.png", {}, "a.png a.mp4 b"),
        ("x/a.png y/a.png", {}, "x/a y/a"),
        ("a.png a_overlay.png", {}, "a.png a_overlay.png"),
        ("a.png a_face2.jpg", {}, "a.png a_face2.jpg"),
        ("a.png a.png.png", {}, "a.png a.png.png"),
        ("a.b.png a.c.png", {}, "a.b a.c"),
        ("a.mp4", {"a.png": "a"}, "a.mp4"),
        ("a.png a.mp4", {"a.png": "a"}, "a a.mp4"),
        ("a_face1.png", {"a.png": "a"}, "a_face1.png"),
    ],
)
def test_names_never_meet(places: str, taken: dict[str, str], expected: str) -> None:
    named = name_outputs({Path(place): Path(place) for place in places.split()}, taken)
    assert list(named.values()) == expected.split()


# Many inputs


def make_shelf(astronaut: np.ndarray, folder: str = "in") -> None:
    """Five inputs that work, and three that do not."""
    save(f"{folder}/1.png", astronaut)
    write_clip(f"{folder}/2.mp4", pan(astronaut))
    save(f"{folder}/3.png", np.zeros((64, 64, 3), np.uint8))
    save(f"{folder}/b/4.png", astronaut[:, ::-1])
    write_clip(f"{folder}/b/5.mp4", pan(astronaut, 4))
    (Path(folder) / "6.png").write_bytes(b"")
    write_clip(f"{folder}/7.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    save(f"{folder}/8.jpg", astronaut[FACE_PART])


def test_many_workers_give_what_one_gives(desk: Path, faces: Run, astronaut: np.ndarray) -> None:
    make_shelf(astronaut)
    one, three = faces("in --out one"), faces("in --out three --workers 3")
    assert one.status == three.status == 1
    assert one.err.replace("one/", "three/") == three.err
    assert contents_of(desk / "one") == contents_of(desk / "three")
    *errors, summary = one.err.splitlines()
    assert summary == "facellava: 3 of 8 inputs failed; one/report.csv says why: mend them and run this again"
    report = read_table(desk / "one/report.csv")
    assert [row["file"] for row in report if row["status"] == "ok"] == [
        *("in/1.png", "in/2.mp4", "in/8.jpg", "in/b/4.png", "in/b/5.mp4")
    ]
    assert [f"facellava: {row['error']}" for row in report if row["status"] == "error"] == errors
    assert [error.split(":")[1].strip() for error in errors] == ["in/3.png", "in/6.png", "in/7.mp4"]


def test_what_is_done_is_not_done_again(
    desk: Path, faces: Run, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shelf(astronaut)
    faces("in --out out")
    before = contents_of(desk / "out")
    save("in/3.png", astronaut[FACE_PART])
    save("in/6.png", astronaut[FACE_PART])
    (desk / "in/7.mp4").unlink()
    (desk / "out/b/4.npy").unlink()
    tried: list[str] = []
    work = extraction.extract_job
    monkeypatch.setattr(extraction, "extract_job", lambda job: tried.append(str(job.source)) or work(job))
    assert faces("in --out out") == (0, "", "")
    assert tried == ["in/3.png", "in/6.png", "in/b/4.png"]
    after = contents_of(desk / "out")
    assert {name for name in before if before[name] != after[name]} == set(TABLES)
    files = [*(f"in/{name}" for name in ("1.png", "2.mp4", "3.png", "6.png", "8.jpg")), "in/b/4.png", "in/b/5.mp4"]
    assert list(dict.fromkeys(row["file"] for row in read_table(desk / "out/faces.csv"))) == files
    assert [row["file"] for row in read_table(desk / "out/report.csv")] == files
    assert len(read_table(desk / "out/faces.csv")) == 5 + FRAMES + 4
    tried.clear()
    assert faces("in --out out") == (0, "", "")
    assert (tried, contents_of(desk / "out")) == ([], after)
    assert faces("in --out fresh") == (0, "", "")
    assert contents_of(desk / "fresh") == after


def test_rows_that_come_later_find_their_place(desk: Path, faces: Run, astronaut: np.ndarray) -> None:
    odd = '1 "b", c\r\nd.png'
    for name in ("gone.png", "0.png", "2.png"):
        save(f"in/{name}", astronaut[FACE_PART])
    (desk / "in" / odd).touch()
    assert faces("in --out out").err.endswith(
        "1 of 4 inputs failed; out/report.csv says why: mend them and run this again\n"
    )
    save(f"in/{odd}", astronaut)
    (desk / "in/gone.png").unlink()
    assert faces("in --out out") == (0, "", "")
    expected = [f"in/{name}" for name in ("gone.png", "0.png", odd, "2.png")]
    for table in ("faces.csv", "report.csv"):
        assert [row["file"] for row in read_table(desk / "out" / table)] == expected
    lines = (desk / "out/faces.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == expected


@pytest.mark.parametrize(
    ("pictures", "clips", "cores", "expected"),
    [
        (0, 0, 2, 1),
        (1, 0, 2, 1),
        (8, 0, 2, 1),
        (9, 0, 2, 2),
        (100, 0, 2, 2),
        (100, 0, 64, 13),
        (1, 1, 4, 2),
        (0, 3, 2, 2),
    ],
)
def test_few_inputs_take_few_workers(
    pictures: int, clips: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    inputs = [Path(f"{index}.png") for index in range(pictures)] + [Path(f"{index}.MP4") for index in range(clips)]
    assert extraction.choose_workers(inputs) == expected


ENDING = textwrap.dedent("""
    import os
    import sys
    from facellava_jax import cli, extraction
    from facellava_jax.results import ResultFile

    left, number = 4, int(sys.argv.pop())
    append = extraction.append

    def append_and_end(table, lines):
        global left
        left -= 1
        if left == 0:
            append(table, lines[: len(lines) // 2])
            os.kill(os.getpid(), number)
        append(table, lines)

    extraction.append = append_and_end
    if __name__ == "__main__":
        cli.main()
""")


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGINT, 2)]
)
def test_a_run_that_is_killed_goes_on_to_the_same_files(
    desk: Path, faces: Run, astronaut: np.ndarray, number: signal.Signals, workers: int
) -> None:
    for index in range(5):
        save(f"in/{index}.png", np.roll(astronaut, index, axis=1))
    write_clip("in/5.mp4", pan(astronaut))
    assert faces("in --out whole").status == 0
    (desk / "ending.py").write_text(ENDING)
    arguments = [*("faces", "in", "--out", "cut", "--workers", str(workers)), str(int(number))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(cli.__file__).parent.parent)])}
    with subprocess.Popen(
        [sys.executable, "ending.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        # Standard error ends when the last worker has closed it.
        out, err = process.communicate(timeout=60)
    assert out == ""
    if number == signal.SIGKILL:
        assert process.returncode == -9
        # Python itself warns of a pool that was killed.
        assert not [line for line in err.splitlines() if "resource_tracker" not in line and "warnings.warn" not in line]
    else:
        assert (process.returncode, err) == (128 + number, "facellava: interrupted\n")
        assert not [name for name in names_in(desk / "cut") if name.endswith(".part")]
    wait_for_end_of_group(process.pid)
    assert len(read_table(desk / "cut/report.csv")) == 1
    assert faces("in --out cut") == (0, "", "")
    whole, cut = contents_of(desk / "whole"), contents_of(desk / "cut")
    assert {name: data for name, data in cut.items() if not name.endswith(".part")} == whole


def wait_for_end_of_group(group: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlives the command")


def test_a_worker_that_is_killed(desk: Path, astronaut: np.ndarray) -> None:
    for index in range(4):
        save(f"in/{index}.png", astronaut)
    (desk / "killed.py").write_text(
        "import os\n"
        "from facellava_jax import cli, extraction\n"
        "if __name__ == '__main__':\n"
        "    cli.main()\n"
        "else:\n"
        "    extraction.extract_faces = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    arguments = [sys.executable, "killed.py", "faces", "in", "--out", "out", "--workers", "2"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment)
    expect_one_line(Outcome(ended.returncode, ended.stdout, ended.stderr), "a worker was killed", "fewer --workers")


def test_no_jax_is_imported(desk: Path, astronaut: np.ndarray) -> None:
    save("a.png", astronaut[FACE_PART])
    source = (
        "import sys\n"
        "from facellava_jax import cli\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    sys.stdout.write(' '.join({'jax', 'flax', 'torch'} & set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", source, "faces", "a.png", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# Lists of records


def conversation(value: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": value}, {"from": "gpt", "value": "Yes."}]


def make_list(desk: Path, astronaut: np.ndarray) -> list[dict]:
    save("data/p/a.png", astronaut)
    save("data/p/b.jpg", astronaut[FACE_PART])
    save("data/none.png", np.zeros((64, 64, 3), np.uint8))
    write_clip("data/c.mp4", pan(astronaut))
    records = [
        {"id": 0, "image": "p/a.png", "conversations": conversation("<image>\nWho?")},
        {"id": "1", "video": ["c.mp4"], "conversations": conversation("<video>\nWho?"), "source": "ours"},
        {"id": 2, "video": "c.mp4", "image": ["p/a.png", "p/b.jpg"], "landmarks_2d": "old.npy", "conversations": []},
        {"id": 3, "image": ["p/a.png", "none.png"], "conversations": []},
        {"id": 4, "conversations": conversation("Who?")},
        {"id": 5, "image": "absent.png", "conversations": []},
    ]
    (desk / "data/list.json").write_text(json.dumps(records))
    return records


@pytest.mark.parametrize("arguments", ["data/list.json", "lists/list.json --root data"])
def test_a_list_of_records(desk: Path, faces: Run, astronaut: np.ndarray, arguments: str) -> None:
    records = make_list(desk, astronaut)
    (desk / "lists").mkdir()
    (desk / "lists/list.json").write_text((desk / "data/list.json").read_text())
    outcome = faces(f"{arguments} --out out --no-overlay")
    assert outcome.status == 1
    missing, no_face, summary = outcome.err.splitlines()
    assert missing.startswith("facellava: data/absent.png: no such file")
    assert no_face.startswith("facellava: data/none.png: no face found")
    assert summary == (
        "facellava: 2 of 5 inputs failed, 2 records are left out; out/report.csv says why: mend them and run this again"
    )
    expected = [
        {**records[0], "image": "p/a.png", "landmarks_2d": "p/a.npy"},
        {**records[1], "video": ["c.mp4"], "landmarks_2d": ["c.npy"]},
        {
            **records[2],
            "video": "c.mp4",
            "image": ["p/a.png", "p/b.png"],
            "landmarks_2d": ["c.npy", "p/a.npy", "p/b.npy"],
        },
        records[4],
    ]
    assert json.loads((desk / "out/list.json").read_text()) == expected
    for record in expected[:2]:
        assert (desk / "out" / np.ravel(record["landmarks_2d"])[0]).is_file()
    assert media.load_image(desk / "out/p/b.png").shape == (256, 256, 3)

    save("data/absent.png", astronaut)
    assert faces(f"{arguments} --out out --no-overlay").err.count("\n") == 2
    assert [record["id"] for record in json.loads((desk / "out/list.json").read_text())] == [0, "1", 2, 4, 5]


LIST = '[{"id": 1, "image": "a.png"}]'


# Bad input


def png_header(height: int, width: int) -> bytes:
    """A PNG picture that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def write_sideways(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(picture)).save(path, "JPEG", quality=95, exif=exif)


class Good(NamedTuple):
    """How an unusual input is made, and where its faces lie: by what the astronaut's is scaled, then moved."""

    write: Callable[[Path, np.ndarray], object]
    factor: float = 1.0
    moved: tuple[float, float] = (0.0, 0.0)
    frames: int = 1
    tolerance: float = 0.03


PART = (-96.0, -20.0)
GOOD: dict[str, Good] = {
    "grey.png": Good(lambda path, a: save(path, a.mean(axis=2).astype(np.uint8))),
    "alpha.png": Good(lambda path, a: save(path, np.dstack([a, np.full(a.shape[:2], 10, np.uint8)]))),
    "sixteen_bits.png": Good(lambda path, a: save(path, a.astype(np.uint16) * 257)),
    "turned_by_exif.jpg": Good(write_sideways),
    "poor.jpg": Good(lambda path, a: save(path, a, 1, 30)),  # IMWRITE_JPEG_QUALITY
    "picture.bmp": Good(lambda path, a: save(path, a)),
    "picture.webp": Good(lambda path, a: save(path, a)),
    "dark.png": Good(lambda path, a: save(path, a // 8), tolerance=0.04),
    "tiny_face.png": Good(
        lambda path, a: save(path, on_canvas(scale(a[FACE_PART], 0.7), 1200, 1600, 900, 100)),
        *(0.7, (100 + 0.7 * PART[0], 900 + 0.7 * PART[1])),
        tolerance=0.04,
    ),
    "huge.jpg": Good(
        lambda path, a: save(path, on_canvas(scale(a[FACE_PART], 14), 2700, 12_000, 0, 5000)),
        *(14, (5000 + 14 * PART[0], 14 * PART[1])),
        tolerance=0.04,
    ),
    "small.png": Good(lambda path, a: save(path, scale(a[FACE_PART], 0.25)), 0.25, (-24.0, -5.0), tolerance=0.1),
    "cut_by_the_border.png": Good(lambda path, a: save(path, a[:400, 205:500]), 1, (-205.0, 0.0), tolerance=0.1),
    "two_faces.png": Good(
        lambda path, a: save(path, np.hstack([on_canvas(scale(a[FACE_PART], 0.8), 192, 230, 0, 0), a[FACE_PART]])),
        *(1, (230 + PART[0], PART[1])),
    ),
    "one_frame.mp4": Good(lambda path, a: write_clip(path, [a])),
    "odd_sides.mp4": Good(lambda path, a: write_clip(path, [a[:301, :401]] * 3), frames=3),
    "variable_rate.mp4": Good(lambda path, a: write_clip(path, [a[:320, :400]] * 4, [0.0, 0.05, 0.3, 0.35]), frames=4),
    "cut_short.mp4": Good(lambda path, a: cut_clip(path, a), 1, (-60.0, -20.0), frames=-1),
}
BAD: dict[str, tuple[Callable[[Path, np.ndarray], object], str, str]] = {
    "no_face.png": (lambda path, a: save(path, a[300:, :200]), "no face found", "give a picture in which a face"),
    "one_pixel.png": (lambda path, a: save(path, a[:1, :1]), "no face found", "give a picture in which a face"),
    "too_large.png": (lambda path, a: path.write_bytes(png_header(60_000, 60_000)), "60000 x 60000", "scale it down"),
    "empty.png": (lambda path, a: path.touch(), "empty", "copy or save it again"),
    "text.jpg": (lambda path, a: path.write_text("some words"), "not a picture", "convert it to PNG"),
    "cut.png": (lambda path, a: cut_png(path, a), "cut short", "copy or save it again"),
    "empty.mp4": (lambda path, a: path.touch(), "empty", "copy or save it again"),
    "text.mp4": (lambda path, a: path.write_text("some words"), "not a clip", "convert it to MP4"),
    "zero_frames.mp4": (lambda path, a: cut_clip(path, a, 40), "no frame of it decodes", "copy it again"),
    "no_face.mp4": (lambda path, a: write_clip(path, [a[300:, :200]] * 3), "in any of its 3 frames", "give a clip"),
    "mostly_hidden.mp4": (
        lambda path, a: write_clip(path, [a[:320, :400] * (index < 2) for index in range(4)]),
        "2 of 4 frames are without the face that is seen most often (2-3), more than 30%",
        "cut the clip",
    ),
}


def cut_clip(path: Path, picture: np.ndarray, size: int | None = None) -> None:
    write_clip(path, pan(picture, 16))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4 if size is None else size])


def cut_png(path: Path, picture: np.ndarray) -> None:
    save(path, picture)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """A folder of all that users give, and in `out` what the command makes of it."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "in").mkdir()
    for name, good in GOOD.items():
        good.write(folder / "in" / name, astronaut)
    for name, (write, _, _) in BAD.items():
        write(folder / "in" / name, astronaut)
    arguments = ["faces", "in", "--out", "out", "--mode", "centered"]
    source = "from facellava_jax.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    with (folder / "err").open("w") as err:
        subprocess.run([sys.executable, "-c", source, *arguments], cwd=folder, stderr=err, env=environment, timeout=120)
    return folder


@pytest.mark.parametrize("name", GOOD)
def test_unusual_input_is_taken(mixed: Path, face: Face, name: str) -> None:
    good = GOOD[name]
    (report,) = (row for row in read_table(mixed / "out/report.csv") if row["file"] == f"in/{name}")
    assert (report["status"], report["error"], report["faces"]) == ("ok", "", "1")
    rows = [row for row in read_table(mixed / "out/faces.csv") if row["file"] == f"in/{name}"]
    if good.frames == -1:
        assert 3 < len(rows) < 16
    else:
        assert len(rows) == good.frames
    points = (face.landmarks + 0.5) * good.factor - 0.5 + good.moved
    # Where the border hides a part, the rest counts.
    visible = points[:, 0] > 10 if name.startswith("cut_by") else slice(None)
    eyes = np.hypot(*(points[36] - points[45]))
    for row in rows[:1]:
        assert np.hypot(*(points_of(row) - points)[visible].T).mean() < good.tolerance * eyes
    stem = mixed / "out" / report["output"]
    landmarks = np.load(f"{stem}.npy")
    if name.endswith(".mp4"):
        assert media.load_video(Path(f"{stem}.mp4"), 1).length == len(landmarks) == len(rows)
    else:
        assert media.load_image(Path(f"{stem}.png")).shape == (256, 256, 3)
        assert landmarks.shape == (136,)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(mixed: Path, name: str) -> None:
    _, cause, remedy = BAD[name]
    (report,) = (row for row in read_table(mixed / "out/report.csv") if row["file"] == f"in/{name}")
    assert report["status"] == "error"
    assert report["error"].startswith(f"in/{name}: ")
    assert cause in report["error"]
    assert remedy in report["error"].partition(cause)[2]
    assert f"facellava: {report['error']}" in (mixed / "err").read_text().splitlines()


def test_all_that_is_bad_is_counted_and_nothing_else_is_said(mixed: Path) -> None:
    lines = (mixed / "err").read_text().splitlines()
    assert len(lines) == len(BAD) + 1
    assert lines[-1].startswith(f"facellava: {len(BAD)} of {len(GOOD) + len(BAD)} inputs failed; out/report.csv says")
    assert len([name for name in names_in(mixed / "out") if name.endswith(".npy")]) == len(GOOD)
    assert not [name for name in names_in(mixed / "out") if name.endswith(".part")]


def put(name: str, text: str = "") -> Callable[[], None]:
    def work() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)

    return work


def nothing() -> None: ...


def put_two_lists() -> None:
    put("x/list.json", LIST)()
    put("y/list.json", LIST)()


def put_a_report() -> None:
    put("x/faces.csv")()
    put("x/report.csv", "a,b\n")()


def put_two_pictures() -> None:
    put("x/b.png")()
    put("y/b.png")()


# Made by, arguments, cause, remedy. There is a.png in the folder, and `done`, which holds its faces.
WHOLE_RUN: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "no input": (nothing, "--out out", "no input", "name pictures"),
    "no such file": (nothing, "absent.png --out out", "absent.png: no such file", "check the path"),
    "a glob without matches": (nothing, "'*.webp' --out out", "*.webp: no picture or clip", "are read"),
    "a folder without media": (put("x/a.txt"), "x --out out", "x/**/*: no picture or clip", "are read"),
    "only what lies in --out": (nothing, "done --out done", "done: no picture or clip there outside done", "name"),
    "an input in --out": (nothing, "done/a.png --out done", "done/a.png lies in done", "choose another --out"),
    "a file as --out": (put("x"), "a.png --out x", "x is a file", "name a folder"),
    "--out with other files": (put("x/notes.txt"), "a.png --out x", "x holds other files", "choose another --out"),
    "--out is the inputs' folder": (nothing, "a.png --out .", "a.png lies in .", "choose another --out"),
    "another faces.csv": (put("x/faces.csv", "a,b\n"), "a.png --out x", "x/faces.csv is not", "choose another --out"),
    "another report.csv": (
        put_a_report,
        *("a.png --out x", "x/report.csv is not a table", "choose another --out"),
    ),
    "other settings": (nothing, "a.png --out done --mode centered", "done holds faces of other", "choose another"),
    "two of one place": (put_two_pictures, "x y --out out", "y/b.png and x/b.png would be", "the folder above both"),
    "no share": (nothing, "a.png --out out --max-missing 1.5", "max_missing 1.5", "use a share"),
    "no landmarker": (
        nothing,
        *("a.png --out out --backend mediapipe", "mediapipe: no landmarker", "download face_landmarker.task"),
    ),
    "a landmarker of no use": (
        nothing,
        "a.png --out out --landmarker x.task",
        "x.task: backend litert",
        "leave it out",
    ),
    "no workers": (nothing, "a.png --out out --workers 0", "workers 0", "use at least 1"),
    "a root of nothing": (nothing, "a.png --out out --root done", "done: holds the media", "leave out --root"),
    "no list": (nothing, "x.json --out out", "x.json", ""),
    "a list that is cut": (put("x.json", LIST[:20]), "x.json --out out", "x.json: not JSON", "save it again"),
    "a list of words": (put("x.json", '["a"]'), "x.json --out out", "x.json: no list of records", "FaceInstruct-1M"),
    "a list without media": (put("x.json", '[{"id": 1}]'), "x.json --out out", "x.json: no record has", "give a list"),
    "a medium that is a number": (
        put("x.json", '[{"image": 5}]'),
        *("x.json --out out", "x.json: record 0: medium 5", "use a path"),
    ),
    "a medium elsewhere": (
        put("x.json", '[{"id": 0}, {"video": "../a.mp4"}]'),
        *("x.json --out out", "x.json: record 1: ../a.mp4 leaves", "--root"),
    ),
    "a list in --out": (put("done/x.json", LIST), "done/x.json --out done", "done/x.json: it or", "another --out"),
    "media in --out": (put("x.json", LIST), "x.json --out done --root done", "x.json: it or some", "another --out"),
    "all faces of records": (put("x.json", LIST), "x.json --out out --face all", "x.json: a medium", "the largest"),
    "two lists of one name": (put_two_lists, "x/list.json y/list.json --out out", "lists of the same name", "--out"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    save(folder / "a.png", astronaut[FACE_PART])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["facellava", "faces", "a.png", "--out", "done", "--workers", "1"])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            cli.main()
        signal.signal(signal.SIGTERM, before)
    return folder


@pytest.mark.parametrize("kind", WHOLE_RUN)
def test_a_run_that_cannot_be_is_one_line_and_touches_nothing(desk: Path, begun: Path, faces: Run, kind: str) -> None:
    shutil.copytree(begun, desk, dirs_exist_ok=True)
    make, arguments, cause, remedy = WHOLE_RUN[kind]
    make()
    before = contents_of(desk)
    expect_one_line(faces(arguments), cause, remedy)
    assert contents_of(desk) == before
    assert not (desk / "out").exists()


def test_one_of_several_that_is_not_there_fails_alone(desk: Path, begun: Path, faces: Run) -> None:
    outcome = faces(f"{begun}/a.png absent.png --out out")
    assert outcome.status == 1
    assert outcome.err.startswith("facellava: absent.png: no such file")
    assert outcome.err.splitlines()[1].startswith("facellava: 1 of 2 inputs failed;")


def test_what_lies_in_out_is_passed_over(desk: Path, begun: Path, faces: Run) -> None:
    shutil.copytree(begun, desk, dirs_exist_ok=True)
    before = contents_of(desk)
    assert faces(". --out done") == (0, "", "")
    assert contents_of(desk) == before


def test_a_disk_that_is_full_is_one_line(desk: Path, begun: Path, faces: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    outcome = faces(f"{begun}/a.png --out out")
    assert outcome.status == 1
    assert "No space left on device" in outcome.err
    assert "Traceback" not in outcome.err
    assert "a.npy" not in names_in(desk / "out")


def test_a_package_that_is_not_there(desk: Path, begun: Path, faces: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
        monkeypatch.delitem(sys.modules, name)
    # Of the environment only, so that modules of the standard library are still found.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "-packages" not in path])
    outcome = faces(f"{begun}/a.png --out out")
    expect_one_line(outcome, "ai-edge-litert is needed", "pip install 'facellava-jax[faces]'")
    assert not (desk / "out").exists()
