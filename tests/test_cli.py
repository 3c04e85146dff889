"""`facellava`: answers are those of Predictor, tables go on where they stopped, and bad input is one line."""

import contextlib
import csv
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, Run

from facellava_jax import cli, media, memory, predict
from facellava_jax.config import Config
from facellava_jax.faces import FaceFinder, draw_regions
from facellava_jax.faces.draw import BOX_COLOUR, WINDOW_COLOUR
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.predict import Predictor
from facellava_jax.request import QUESTIONS
from facellava_jax.stopwatch import Stopwatch

FRAMES = 12
LENGTH = 6  # of answers, in tokens


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face as a picture, panned over in a clip and in a folder of frames, and points for each."""
    import av
    import cv2
    from skimage.data import astronaut

    folder = tmp_path_factory.mktemp("shelf")
    face = np.ascontiguousarray(astronaut()[:256, 96:352])
    cv2.imwrite(str(folder / "face.png"), face[..., ::-1])
    cv2.imwrite(str(folder / "face.jpg"), face[::2, ::2, ::-1])
    (folder / "frames").mkdir()
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for index in range(FRAMES):
            top, left = 52 + index, 50 + 2 * index
            view = np.ascontiguousarray(face[top : top + 128, left : left + 128])
            cv2.imwrite(str(folder / "frames" / f"{index}.png"), view[..., ::-1])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
    rng = np.random.default_rng(0)
    np.save(folder / "face.npy", rng.uniform(20, 236, (68, 2)).astype(np.float32))
    np.save(folder / "clip.npy", rng.uniform(20, 236, (FRAMES, 68, 2)).astype(np.float32))
    return folder


@pytest.fixture
def desk(shelf: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the shelf, and `model`."""
    folder = tmp_path / "desk"
    shutil.copytree(shelf, folder)
    (folder / "model").symlink_to(checkpoint)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor.load(checkpoint)


@pytest.fixture(scope="session")
def ask(predictor: Predictor) -> Callable[..., str]:
    """What Predictor answers."""
    return lambda *args, **options: predictor.predict(*args, **{"max_new_tokens": LENGTH, **options}).text


ANSWER = f"predict --model model --max-new-tokens {LENGTH}"


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file]


# One input


@pytest.mark.parametrize("file", ["face.png", "face.jpg", "clip.mp4"])
def test_one_input(desk: Path, facellava: Run, ask: Callable[..., str], file: str) -> None:
    assert facellava(f"{ANSWER} {file} --prompt", "Who is this?") == (0, ask(file, "Who is this?") + "\n", "")
    assert not [*desk.glob("*.partial")]


def test_a_folder_of_frames_is_one_clip(desk: Path, facellava: Run, ask: Callable[..., str]) -> None:
    (desk / "apart").mkdir()
    (desk / "frames").rename("apart/frames")
    expected = ask(Path("apart/frames"), "What happens?")
    assert facellava(f"{ANSWER} --prompt 'What happens?' --frames apart/frames") == (0, expected + "\n", "")


def test_a_question_about_nothing(desk: Path, facellava: Run, ask: Callable[..., str]) -> None:
    assert facellava(f"{ANSWER} --prompt Hello") == (0, ask(None, "Hello") + "\n", "")


@pytest.mark.parametrize("file", ["face.png", "clip.mp4"])
def test_landmarks(desk: Path, facellava: Run, ask: Callable[..., str], file: str) -> None:
    points = Path(file).with_suffix(".npy")
    kinds = (points, "none", "auto")
    given, none, auto = (ask(file, "Who?", landmarks=kind, temperature=1.5, max_new_tokens=20) for kind in kinds)
    assert len({given, none, auto}) == 3
    command = f"{ANSWER} {file} --prompt Who? --temperature 1.5 --max-new-tokens 20"
    assert facellava(f"{command} --landmarks", points) == (0, given + "\n", "")
    assert facellava(f"{command} --landmarks none") == (0, none + "\n", "")
    assert facellava(f"{command} --landmarks auto") == facellava(command) == (0, auto + "\n", "")


# Faces


@pytest.fixture
def group(desk: Path, astronaut: np.ndarray) -> np.ndarray:
    """two.png: the larger face on the right; two.mp4: both move to the left."""
    import cv2

    large = astronaut[20:276, 96:352]
    small = np.pad(cv2.resize(large, (192, 192)), [(0, 64), (0, 0), (0, 0)])
    picture = np.hstack([small[:, ::-1], large])
    cv2.imwrite("two.png", picture[..., ::-1])
    with ClipWriter(Path("two.mp4"), 24.0) as writer:
        for index in range(10):
            writer.add(picture[:, 3 * index : 3 * index + 420], index / 24)
    return picture


def test_crop_and_landmarks_can_be_left_out(
    desk: Path, facellava: Run, ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then neither a face nor the package that finds it is needed."""

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "ai_edge_litert":
                raise ModuleNotFoundError(name=name)

    for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    command = f"{ANSWER} face.jpg --prompt Who?"
    outcome = facellava(command)
    expect_one_line(outcome, "ai-edge-litert is needed", "pip install 'facellava-jax[faces]'")
    expected = ask("face.jpg", "Who?", crop="none", landmarks="none")
    assert facellava(f"{command} --crop none --landmarks none") == (0, expected + "\n", "")
    np.save("blank.npy", np.zeros((68, 2)))
    assert facellava(f"{command} --landmarks blank.npy").status == 0


def test_each_face_has_its_line(
    desk: Path, facellava: Run, group: np.ndarray, predictor: Predictor, finder: FaceFinder
) -> None:
    first, second = predictor.predict_faces("two.png", "Who?", max_new_tokens=LENGTH)
    large, small = finder.find(group)
    lines = [
        f"face {number} ({x:.0f}, {y:.0f}, {width:.0f} x {height:.0f}): {answer.text}\n"
        for number, (answer, (x, y, width, height)) in enumerate([(first, large.box), (second, small.box)], start=1)
    ]
    assert large.box.x > 192 > small.box.x
    assert facellava(f"{ANSWER} two.png --prompt Who? --face all") == (0, "".join(lines), "")
    largest = facellava(f"{ANSWER} two.png --prompt Who?")
    assert largest == (0, first.text + "\n", "") and first.text != second.text
    status, out, err = facellava(f"{ANSWER} two.mp4 --prompt Who? --face all")
    answers = predictor.predict_faces("two.mp4", "Who?", max_new_tokens=LENGTH)
    assert (status, err, len(answers)) == (0, "", 2)
    assert [line.split(": ", 1)[1] for line in out.splitlines()] == [answer.text for answer in answers]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_tables_hold_the_faces(
    desk: Path, facellava: Run, group: np.ndarray, predictor: Predictor, suffix: str
) -> None:
    command = f"{ANSWER} face.png two.png two.mp4 face.jpg --prompt Who? --face all --batch-size 3 --out table{suffix}"
    assert facellava(command) == (0, "", "")
    rows = read_table(desk / f"table{suffix}")
    files = ["face.png", "two.png", "two.png", "two.mp4", "two.mp4", "face.jpg"]
    assert [row["file"] for row in rows] == files
    assert [(int(row["face"]), int(row["rows"])) for row in rows] == [(1, 1), (1, 2), (2, 2), (1, 2), (2, 2), (1, 1)]
    answers = [
        answer
        for file in dict.fromkeys(files)
        for answer in predictor.predict_faces(file, "Who?", max_new_tokens=LENGTH)
    ]
    for row, answer in zip(rows, answers, strict=True):
        assert (row["answer"], row["crop"]) == (answer.text, answer.views[0].crop)
        values = [row[name] for name in ("box", "landmarks", "seconds")]
        box, points, seconds = map(json.loads, values) if suffix == ".csv" else values
        np.testing.assert_allclose(box, answer.face, atol=6e-4)
        np.testing.assert_allclose(points, answer.landmarks, atol=6e-4)
        assert seconds.keys() == answer.seconds.keys()
    assert [row["crop"] for row in rows] == ["none", *["centered"] * 4, "reference"]
    # The table goes on, however many rows a file has; and with other faces it is refused.
    before = (desk / f"table{suffix}").read_bytes()
    assert facellava(command) == (0, "", "")
    outcome = facellava(command.replace("--face all", "--face largest"))
    expect_one_line(outcome, "holds answers with other settings", "choose another --out")
    assert (desk / f"table{suffix}").read_bytes() == before


def test_a_table_without_faces(desk: Path, facellava: Run) -> None:
    command = f"{ANSWER} face.png clip.mp4 --prompt Who? --crop none --landmarks none --out"
    assert facellava(command, "table.jsonl") == facellava(command, "table.csv") == (0, "", "")
    for suffix, empty in ((".jsonl", None), (".csv", "")):
        for row in read_table(desk / f"table{suffix}"):
            assert (row["face"], row["box"], row["landmarks"]) == (empty,) * 3
            assert (row["status"], row["crop"], str(row["rows"])) == ("ok", "none", "1")


@pytest.mark.parametrize(
    ("arguments", "frames", "crops", "faces"),
    [
        ("face.jpg", 1, True, 1),
        ("face.png", 1, False, 1),
        ("two.png", 1, True, 1),
        ("two.png --face all", 1, True, 2),
        ("two.mp4 --num-frames 6 --face all", 6, True, 2),
        ("--frames frames", 8, False, 1),
    ],
)
def test_overlay(
    desk: Path, facellava: Run, group: np.ndarray, arguments: str, frames: int, crops: bool, faces: int
) -> None:
    """The very picture that is made of draw_faces, and the answer beside it."""
    Path("drawn.png").write_bytes(b"earlier")
    command = f"{ANSWER} {arguments} --prompt Who?"
    assert facellava(f"{command} --overlay drawn.png") == facellava(command)
    picture = media.load_image(Path("drawn.png"))
    rows, columns = -(-frames // 4), min(frames, 4)
    height, width = picture.shape[:2]
    single = {"face.jpg": (640, 640), "face.png": (768, 768), "two.png": (512, 896)}.get(arguments.split()[0])
    if single:
        assert (height, width) == single
    else:
        assert rows * 200 < height < rows * 660 and columns * 630 < width < columns * 660
    green = (np.abs(picture.astype(int) - BOX_COLOUR).max(axis=2) < 30).sum()
    white = (np.abs(picture.astype(int) - WINDOW_COLOUR).max(axis=2) < 12).sum()
    facellava(f"{command} --overlay drawn.jpg")
    assert media.load_image(Path("drawn.jpg")).shape == picture.shape
    assert not [*desk.glob(".*")]
    # Without its faces the picture has nothing of their colours.
    assert green > 100 * frames * faces
    assert white > 100 or not crops


@pytest.mark.parametrize(
    "source", ["face.jpg", "face.jpg --crop none", "face.png --landmarks face.npy", "--frames frames --num-frames 3"]
)
def test_attention(desk: Path, facellava: Run, predictor: Predictor, source: str) -> None:
    """The very picture that draw_regions makes of what the predictor says, and the answer beside it."""
    command = f"{ANSWER} {source} --prompt Who?"
    assert facellava(f"{command} --attention weights.png") == facellava(command)
    name, *options = source.removeprefix("--frames ").split()
    if "--num-frames" in options:
        predictor = Predictor.load("model", num_frames=3)
    landmarks, crop = "face.npy" if "face.npy" in options else "auto", "none" if "--crop" in options else "auto"
    attention = predictor.attend(name, landmarks=landmarks, crop=crop)
    assert np.array_equal(media.load_image(Path("weights.png")), draw_regions(*attention))
    assert len(attention.frames) == (3 if "--num-frames" in options else 1)


@pytest.mark.parametrize("pictures", ["", "--overlay drawn.png --attention weights.png"])
def test_a_face_is_looked_for_once(desk: Path, facellava: Run, monkeypatch: pytest.MonkeyPatch, pictures: str) -> None:
    looked, find = [], FaceFinder.find
    monkeypatch.setattr(FaceFinder, "find", lambda self, picture: looked.append(1) or find(self, picture))
    assert facellava(f"{ANSWER} clip.mp4 --prompt Who? {pictures}").status == 0
    assert len(looked) == FRAMES


@pytest.mark.parametrize(("file", "medium"), [("face.png", "image"), ("clip.mp4", "video")])
@pytest.mark.parametrize("task", QUESTIONS)
def test_tasks_ask_their_question(
    desk: Path, facellava: Run, ask: Callable[..., str], task: str, file: str, medium: str
) -> None:
    words, media_words = QUESTIONS[task]  # type: ignore[index]
    question = words.format(media_words[medium])
    assert facellava(f"{ANSWER} {file} --task {task}") == (0, ask(file, question) + "\n", "")


def test_the_answer_comes_in_pieces(
    desk: Path, facellava: Run, ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(cli, "write", pieces.append)
    facellava(f"{ANSWER} face.png --prompt Who? --max-new-tokens 40")
    assert "".join(pieces) == ask("face.png", "Who?", max_new_tokens=40) + "\n"
    assert len(pieces) > 3


def test_a_stop_string_ends_the_answer(desk: Path, facellava: Run, ask: Callable[..., str]) -> None:
    whole = ask("face.png", "Who?")
    stop = whole[2:4]
    outcome = facellava(f"{ANSWER} face.png --prompt Who? --stop nowhere", stop)
    assert outcome == (0, whole[: whole.index(stop)] + "\n", "")
    assert whole.index(stop) > 0


def test_a_seed_gives_its_answer(desk: Path, facellava: Run, ask: Callable[..., str]) -> None:
    draws = [facellava(f"{ANSWER} face.png --prompt Who? --temperature 1.5 --seed {seed}").out for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0] == ask("face.png", "Who?", temperature=1.5, seed=7) + "\n"


def test_frames_and_dtype_are_passed_on(desk: Path, facellava: Run, checkpoint: Path) -> None:
    fewer = Predictor.load(checkpoint, dtype="bfloat16", num_frames=2)
    expected = fewer.predict("clip.mp4", "Who?", max_new_tokens=LENGTH).text
    outcome = facellava(f"{ANSWER} clip.mp4 --prompt Who? --dtype bfloat16 --num-frames 2")
    assert outcome == (0, expected + "\n", "")


# Several


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize(
    ("inputs", "files"),
    [
        (".", ["clip.mp4", "face.jpg", "face.png"]),
        ("'*.[jp][pn]g'", ["face.jpg", "face.png"]),
        ("clip.mp4 face.png face.png --frames frames", ["clip.mp4", "face.png", "frames"]),
        ("frames/1.png 'frames/*[02].png'", [f"frames/{name}.png" for name in (1, 0, 2, 10)]),
    ],
    ids=["folder", "glob", "several", "natural order"],
)
def test_tables_hold_what_predictor_answers(
    desk: Path, facellava: Run, ask: Callable[..., str], suffix: str, inputs: str, files: list[str]
) -> None:
    outcome = facellava(f"{ANSWER} {inputs} --prompt Who? --batch-size 3 --out table{suffix}")
    assert outcome == (0, "", "")
    rows = read_table(desk / f"table{suffix}")
    assert [row["file"] for row in rows] == files
    assert [row["answer"] for row in rows] == [ask(file, "Who?") for file in files]
    for row in rows:
        assert tuple(row) == cli.COLUMNS
        assert (row["status"], row["error"] or "", row["question"], row["model"]) == ("ok", "", "Who?", "model")
        assert (str(row["tokens"]), row["finish"]) == (str(LENGTH), "length")


def test_a_bad_file_does_not_stop_the_rest(desk: Path, facellava: Run, ask: Callable[..., str]) -> None:
    (desk / "face.jpg").write_bytes(b"\xff\xd8\xff cut")
    (desk / "blank.png").touch()
    command = f"{ANSWER} blank.png face.jpg face.png clip.mp4 --task emotion --batch-size 2 --out table.csv"
    missing = facellava(f"{ANSWER} nowhere.png face.png 'no*.png' --task emotion --out missing.csv")
    assert missing.status == 1 and "2 of 3 inputs failed" in missing.err
    assert [row["status"] for row in read_table(desk / "missing.csv")] == ["error", "ok", "error"]
    outcome = facellava(command)
    assert outcome.status == 1
    assert not outcome.out
    *errors, summary = outcome.err.splitlines()
    assert summary == "facellava: 2 of 4 inputs failed; table.csv says why: mend them and run this again"
    rows = read_table(desk / "table.csv")
    assert [row["status"] for row in rows] == ["error", "error", "ok", "ok"]
    assert [f"facellava: {row['error']}" for row in rows[:2]] == errors
    assert [row["error"].split(":")[0] for row in rows] == ["blank.png", "face.jpg", "", ""]
    answers = ["", "", ask("face.png", task="emotion"), ask("clip.mp4", task="emotion")]
    assert [row["answer"] for row in rows] == answers

    shutil.copy("face.png", "blank.png")
    outcome = facellava(command)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("facellava: 1 of 4 inputs failed;")
    rows = read_table(desk / "table.csv")
    # What was answered stays; what was tried again comes after it.
    assert [(row["file"], row["status"]) for row in rows] == [
        ("face.png", "ok"),
        ("clip.mp4", "ok"),
        ("blank.png", "ok"),
        ("face.jpg", "error"),
    ]
    assert rows[2]["answer"] == rows[0]["answer"]


def test_what_is_answered_is_not_answered_again(desk: Path, facellava: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"{ANSWER} face.png face.jpg --prompt Who? --out table.jsonl"
    facellava(command)
    before = (desk / "table.jsonl").read_bytes(), (desk / "table.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(Predictor, "load", lambda *args, **options: pytest.fail("loaded for nothing"))
    assert facellava(command) == (0, "", "")
    assert ((desk / "table.jsonl").read_bytes(), (desk / "table.jsonl").stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (("--model model", "--model ./other"), "table.jsonl holds answers of model"),
        (("--task age", "--prompt Who?"), "table.jsonl holds answers to 'How old do you think the person in the pict"),
        (("--task age", "--task emotion"), "table.jsonl holds answers to 'How old"),
        (("--out", "--temperature 0.1 --out"), "table.jsonl holds answers with other settings"),
        (("--out", "--crop none --out"), "table.jsonl holds answers with other settings"),
        (("--out", "--landmarks none --out"), "table.jsonl holds answers with other settings"),
        (("--out", "--dtype bfloat16 --out"), "table.jsonl holds answers with other settings"),
    ],
)
def test_a_table_of_another_run_is_refused(desk: Path, facellava: Run, change: tuple[str, str], cause: str) -> None:
    (desk / "other").symlink_to("model")
    command = f"{ANSWER} {{}} --task age --out table.jsonl"
    assert facellava(command.format("face.png clip.mp4")).status == 0
    before = (desk / "table.jsonl").read_bytes()
    outcome = facellava(command.format("face.jpg").replace(*change))
    expect_one_line(outcome, cause, "choose another --out")
    assert (desk / "table.jsonl").read_bytes() == before
    # The same question, in the words for the other medium, goes on.
    assert facellava(command.format("clip.mp4 face.jpg")).status == 0
    assert (desk / "table.jsonl").read_bytes().startswith(before)


ENDING = textwrap.dedent("""
    import contextlib
    import os
    import sys
    from facellava_jax import cli
    from facellava_jax.results import ResultFile

    from facellava_jax.stopwatch import Stopwatch

    write, left = ResultFile.write, int(sys.argv.pop())
    number = int(sys.argv.pop())

    def write_and_end(table, *rows):
        global left
        if left == 0:
            texts = [table._format({"rows": len(rows), **row}) for row in rows]
            # In the middle of the last row.
            table._file.write("".join(texts)[: -len(texts[-1]) // 2])
            table._file.flush()
            os.kill(os.getpid(), number)
        write(table, *rows)
        left -= 1

    ResultFile.write = write_and_end
    Stopwatch.time = lambda watch, step: contextlib.nullcontext()
    cli.main()
""")


@pytest.mark.parametrize(
    ("number", "suffix", "face"),
    [
        (signal.SIGKILL, ".jsonl", "largest"),
        (signal.SIGTERM, ".csv", "largest"),
        (signal.SIGKILL, ".csv", "all"),
        (signal.SIGTERM, ".jsonl", "all"),
    ],
)
def test_a_run_that_is_killed_goes_on_to_the_same_table(
    desk: Path,
    facellava: Run,
    group: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    suffix: str,
    face: str,
) -> None:
    monkeypatch.setattr(Stopwatch, "time", lambda watch, step: contextlib.nullcontext())
    inputs = "frames/1.png face.png clip.mp4 two.png frames/2.png frames/3.png"
    command = f"{ANSWER} {inputs} --task attributes --batch-size 2 --face {face} --out"
    assert facellava(command, f"whole{suffix}").status == 0
    arguments = [*shlex.split(command), f"cut{suffix}", str(int(number)), "3"]
    ended = subprocess.run([sys.executable, "-c", ENDING, *arguments], capture_output=True, text=True, timeout=300)
    assert ended.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    assert ended.stdout == ""
    assert ended.stderr == {signal.SIGKILL: "", signal.SIGTERM: "facellava: interrupted\n"}[number]
    whole, cut = ((desk / f"{name}{suffix}").read_bytes() for name in ("whole", "cut"))
    assert whole.startswith(cut)
    assert not cut.endswith(b"\n")
    assert facellava(command, f"cut{suffix}") == (0, "", "")
    assert (desk / f"cut{suffix}").read_bytes() == whole


# Bad input


def expect_one_line(outcome: Outcome, cause: str, remedy: str) -> None:
    assert outcome.status == 1
    assert not outcome.out
    assert outcome.err.startswith("facellava: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    assert cause in outcome.err
    assert remedy in outcome.err.partition(cause)[2]


def snapshot(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def spoil(name: str, data: bytes | Callable[[bytes], bytes] | None = None) -> Callable[[], None]:
    """Makes `bad`, a copy of the model whose file `name` is removed (None), replaced or changed."""

    def work() -> None:
        shutil.copytree("model", "bad")
        path = Path("bad") / name
        if data is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            path.write_bytes(data(path.read_bytes()) if callable(data) else data)

    return work


def edit(name: str, change: Callable[[dict], object]) -> Callable[[], None]:
    """Makes `bad`, a copy of the model with a JSON file that `change` has edited."""

    def rewrite(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return spoil(name, rewrite)


def spoil_array(change: Callable[[bytes], bytes]) -> Callable[[], None]:
    """Makes `bad`, a copy of the model with the stored numbers of `decoder/norm/scale` changed."""

    def work() -> None:
        shutil.copytree("model", "bad")
        path = next(path for path in Path("bad/params/decoder.norm.scale").rglob("0*") if path.is_file())
        path.write_bytes(change(path.read_bytes()))

    return work


def put(name: str, data: bytes = b"") -> Callable[[], None]:
    def work() -> None:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)

    return work


def cut(name: str, source: str, size: int) -> Callable[[], None]:
    return lambda: put(name, Path(source).read_bytes()[:size])()


def save(name: str, array: object) -> Callable[[], None]:
    return lambda: np.save(name, np.asarray(array), allow_pickle=True)


def resize_frame() -> None:
    import cv2

    cv2.imwrite("frames/11.png", np.zeros((96, 128, 3), np.uint8))


def save_blank() -> None:
    import cv2

    Path("blank").mkdir()
    for name in ("blank.png", "blank/1.png", "blank/2.png", "blank/3.png"):
        cv2.imwrite(name, np.full((200, 300, 3), 90, np.uint8))


def nothing() -> None: ...


IMPORT = "facellava-convert import"
AGAIN = "import the checkpoint again"
HI = "--prompt hi"
BAD = f"face.png {HI} --model bad"
# What makes a whole run impossible: made by, arguments (the model is `model` if they name none), cause, remedy.
WHOLE_RUN: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "no model folder": (nothing, f"face.png {HI} --model nowhere", "nowhere is no folder", IMPORT),
    "a file as model folder": (nothing, f"face.png {HI} --model face.png", "face.png is no folder", IMPORT),
    "an empty model folder": (lambda: Path("bad").mkdir(), BAD, "bad has no config.json", IMPORT),
    "no config.json": (spoil("config.json"), BAD, "bad has no config.json", IMPORT),
    "config.json cut": (spoil("config.json", lambda data: data[:100]), BAD, "bad/config.json: not JSON", AGAIN),
    "config.json of bytes": (spoil("config.json", b"\xff\xfe\0"), BAD, "bad/config.json", AGAIN),
    "config.json with an unknown field": (
        edit("config.json", lambda config: config["model"].update(colour=1)),
        BAD,
        "bad/config.json: model.colour: unknown field",
        AGAIN,
    ),
    "config.json without a field": (
        edit("config.json", lambda config: config["text"].pop("template")),
        BAD,
        "bad/config.json: text.template: missing",
        AGAIN,
    ),
    "config.json with a word for a number": (
        edit("config.json", lambda config: config["model"]["decoder"].update(vocab_size="many")),
        BAD,
        "bad/config.json: model.decoder.vocab_size: 'many'",
        AGAIN,
    ),
    "config.json of a larger model": (
        edit("config.json", lambda config: config["model"]["decoder"].update(num_hidden_layers=9)),
        BAD,
        "bad: decoder/layers/3",
        "restore config.json",
    ),
    "no manifest.json": (spoil("manifest.json"), BAD, "bad has no manifest.json", IMPORT),
    "manifest.json cut": (spoil("manifest.json", b'{"format": 1'), BAD, "bad/manifest.json is damaged", AGAIN),
    "manifest.json of a later format": (
        edit("manifest.json", lambda manifest: manifest.update(format=9)),
        BAD,
        "bad/manifest.json is of format 9",
        "update facellava-jax",
    ),
    "no params": (spoil("params"), BAD, "bad: ", AGAIN),
    "no array": (spoil("params/decoder.norm.scale"), BAD, "bad: decoder/norm/scale", AGAIN),
    "an array with a flipped bit": (
        spoil_array(lambda data: data[:5] + bytes([data[5] ^ 4]) + data[6:]),
        BAD,
        "bad: decoder/norm/scale is damaged",
        AGAIN,
    ),
    "an array cut": (spoil_array(lambda data: data[:-9]), BAD, "bad: decoder/norm/scale is damaged", AGAIN),
    "no tokenizer": (spoil("tokenizer"), BAD, "bad/tokenizer", "the checkpoint"),
    "an empty tokenizer.model": (spoil("tokenizer/tokenizer.model", b""), BAD, "bad/tokenizer/tokenizer.model", "copy"),
    "tokenizer.model cut": (
        spoil("tokenizer/tokenizer.model", lambda data: data[: len(data) // 2]),
        BAD,
        "bad/tokenizer/tokenizer.model",
        "copy",
    ),
    "a tokenizer setting that changes ids": (
        edit("tokenizer/tokenizer_config.json", lambda config: config.update(add_eos_token=True)),
        BAD,
        "bad/tokenizer/tokenizer_config.json: add_eos_token True",
        "only False",
    ),
    "a tokenizer that was edited": (
        spoil("tokenizer/tokenizer_config.json", lambda data: data + b" "),
        BAD,
        "bad/tokenizer/tokenizer_config.json is missing or has changed",
        AGAIN,
    ),
    "a tokenizer larger than the vocabulary": (
        spoil("tokenizer/added_tokens.json", b'{"<more>": 600}'),
        BAD,
        "the tokenizer has 601 tokens and the model 600",
        "the checkpoint's own tokenizer",
    ),
    "no input file": (nothing, f"absent.png {HI}", "absent.png: no such file", "check the path"),
    "a glob without matches": (nothing, f"'*.webp' {HI}", "*.webp: no picture or clip", "are read"),
    "a folder without media": (put("notes/a.txt", b"hello"), f"notes {HI}", "notes: no picture or clip", "are read"),
    "no question": (nothing, "face.png", "give a prompt or a task", "tasks are emotion, age"),
    "two questions": (nothing, f"face.png {HI} --task age", "give a prompt or a task, one of the two", "tasks are"),
    "an empty question": (nothing, "face.png --prompt ''", "the prompt is empty", "ask something"),
    "a question of spaces": (nothing, "face.png --prompt ' '", "the prompt is empty", "ask something"),
    "a negative temperature": (
        nothing,
        f"face.png {HI} --temperature -1",
        "temperature -1.0",
        "use 0 (greedy) or more",
    ),
    "no temperature": (nothing, f"face.png {HI} --temperature nan", "temperature nan", "use 0 (greedy) or more"),
    "top-p 0": (nothing, f"face.png {HI} --top-p 0", "top_p 0.0", "use above 0"),
    "top-p 1.5": (nothing, f"face.png {HI} --top-p 1.5", "top_p 1.5", "1 (off) at most"),
    "a negative top-k": (nothing, f"face.png {HI} --top-k -1", "top_k -1", "use 0 (off) or a whole number"),
    "no tokens": (nothing, f"face.png {HI} --max-new-tokens 0", "max_new_tokens 0", "use a whole number of at least 1"),
    "a negative seed": (nothing, f"face.png {HI} --seed -1", "seed -1", "use a whole number from 0"),
    "an empty stop string": (nothing, f"face.png {HI} --stop ''", "stop ('',)", "not empty"),
    "no frames of a clip": (nothing, f"face.png {HI} --num-frames 0", "num_frames 0", "takes 1 to 8"),
    "too many frames of a clip": (nothing, f"face.png {HI} --num-frames 9", "num_frames 9", "takes 1 to 8"),
}
# What makes one input impossible.
ONE_INPUT: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "an empty file": (put("x.png"), f"x.png {HI}", "x.png: empty", "copy or save it again"),
    "text as picture": (put("x.png", b"some words"), f"x.png {HI}", "x.png: not a picture", "convert it to PNG"),
    "a PNG cut": (cut("x.png", "face.png", 5000), f"x.png {HI}", "x.png: a PNG picture that is cut", "save it again"),
    "a JPEG cut": (cut("x.jpg", "face.jpg", 200), f"x.jpg {HI}", "x.jpg: a damaged JPEG", "save it again"),
    "a GIF": (put("x.gif", b"GIF89a" + bytes(40)), f"x.gif {HI}", "x.gif: not a picture", "convert it to PNG, JPEG"),
    "a HEIC": (
        put("x.heic", b"\0\0\0\x18ftypheic" + bytes(40)),
        f"x.heic {HI}",
        "x.heic: not a picture",
        "convert it to PNG, JPEG",
    ),
    "a clip without frames": (cut("x.mp4", "clip.mp4", 40), f"x.mp4 {HI}", "x.mp4: no frame", "H.264 in MP4"),
    "text as clip": (put("x.mp4", b"some words"), f"x.mp4 {HI}", "x.mp4: not a clip", "convert it to MP4"),
    "no folder of frames": (nothing, f"{HI} --frames absent", "absent: no such", "check the path"),
    "a file as folder of frames": (nothing, f"{HI} --frames clip.mp4 x", "2 inputs", "name a file for the answers"),
    "a folder of no frames": (put("x/a.txt"), f"{HI} --frames x", "x: no picture", "are read"),
    "frames of several sizes": (resize_frame, f"{HI} --frames frames", "frames/11.png: 128 x 96", "to one size"),
    "no landmark file": (nothing, f"face.png {HI} --landmarks x.npy", "x.npy: no such file", "check the path"),
    "landmarks of text": (put("x.npy", b"1 2"), f"face.png {HI} --landmarks x.npy", "x.npy: no array", "numpy.save"),
    "landmarks of 67 points": (
        save("x.npy", np.zeros((67, 2))),
        f"face.png {HI} --landmarks x.npy",
        "x.npy: shape (67, 2)",
        "save landmarks as (1, 68, 2)",
    ),
    "landmarks of too few frames": (
        save("x.npy", np.zeros((FRAMES - 1, 68, 2))),
        f"clip.mp4 {HI} --landmarks x.npy",
        f"x.npy: landmarks of {FRAMES - 1} frames where the clip has {FRAMES}",
        "one row for each frame",
    ),
    "landmarks of a clip for a picture": (
        nothing,
        f"face.png {HI} --landmarks clip.npy",
        f"clip.npy: landmarks of {FRAMES} frames where the picture has 1",
        "one row for each frame",
    ),
    "landmarks that are no numbers": (
        save("x.npy", np.full((68, 2), np.nan)),
        f"face.png {HI} --landmarks x.npy",
        "x.npy: a landmark is not finite",
        "find the landmarks again",
    ),
    "landmarks as a pickle": (
        save("x.npy", np.array([{"x": 1}], object)),
        f"face.png {HI} --landmarks x.npy",
        "x.npy: no array of numbers",
        "numpy.save",
    ),
    "landmarks for several": (
        nothing,
        f"face.png face.jpg {HI} --landmarks face.npy",
        "face.npy: landmarks of one input, and there are 2",
        "give one input",
    ),
    "landmarks for nothing": (
        nothing,
        f"{HI} --landmarks face.npy",
        "face.npy: landmarks of one input, and there are 0",
        "give one input",
    ),
    "a task about nothing": (nothing, "--task age", "task 'age' is about a picture or a clip", "give one"),
    "a question too long": (
        nothing,
        f"face.png --prompt '{'what ' * 3000}'",
        "a prompt of ",
        "shorten it",
    ),
    "placeholders without media": (
        nothing,
        "--prompt 'What is in <image>?'",
        "the prompt has 1 images and 0 videos and is given 0 images and 0 videos",
        "one placeholder for each",
    ),
    "placeholders of the other medium": (
        nothing,
        "face.png --prompt 'What is in <video>?'",
        "the prompt has 0 images and 1 videos and is given 1 images and 0 videos",
        "one placeholder for each",
    ),
    "a picture without a face": (
        save_blank,
        f"blank.png {HI}",
        "blank.png: no face found",
        "--crop none --landmarks none",
    ),
    "a clip without a face": (
        save_blank,
        f"{HI} --frames blank",
        "blank: no face found in any of its 3 frames",
        "--crop none --landmarks none",
    ),
    "each face of nothing": (nothing, f"{HI} --face all", "in one picture or clip, not in 0", "give one"),
    "each face where none is looked for": (
        nothing,
        f"face.png {HI} --face all --crop none --landmarks none",
        "--face all needs a face, and none is looked for, as crop and landmarks are none",
        "leave --face all out",
    ),
    "each face with the landmarks of one": (
        nothing,
        f"face.png {HI} --face all --landmarks face.npy",
        "--face all needs a face, and none is looked for, as its landmark file",
        "leave --face all out",
    ),
    "an overlay where no face is looked for": (
        nothing,
        f"face.png {HI} --crop none --landmarks none --overlay x.png",
        "--overlay needs a face, and none is looked for, as crop and landmarks are none",
        "leave --overlay out",
    ),
    "an overlay of a crop without landmarks": (
        nothing,
        f"face.png {HI} --landmarks none --overlay x.png",
        "face.png: no face is looked for, as it is 256 x 256 already",
        "leave out --overlay",
    ),
    "an overlay of no picture's name": (nothing, f"face.png {HI} --overlay x.gif", "x.gif: --overlay", ".png or .jpg"),
    "an overlay in no folder": (nothing, f"face.png {HI} --overlay x/y.png", "x: no such folder", "make it first"),
    "an overlay over the input": (
        nothing,
        f"face.png {HI} --overlay ./face.png",
        "face.png is the input itself",
        "choose another --overlay",
    ),
    "an overlay that is a folder": (
        lambda: Path("x.png").mkdir(),
        f"face.jpg {HI} --overlay x.png",
        "x.png: a folder",
        "name a file",
    ),
    "an overlay of several": (nothing, f"face.png face.jpg {HI} --overlay x.png", "x.png: --overlay draws", "give one"),
    "an overlay of nothing": (nothing, f"{HI} --overlay x.png", "x.png: --overlay draws the only input", "give one"),
    "an overlay beside a table": (
        nothing,
        f"face.png {HI} --overlay x.png --out x.csv",
        "x.png: --overlay draws the only input",
        "no --out",
    ),
    "attention to no landmarks": (
        nothing,
        f"face.png {HI} --landmarks none --attention x.png",
        "x.png: --attention goes to landmarks, and they are none",
        "use --landmarks auto",
    ),
    "attention of each face": (
        nothing,
        f"face.png {HI} --face all --attention x.png",
        "x.png: --attention draws the largest face",
        "leave out --face all",
    ),
    "attention and overlay in one file": (
        nothing,
        f"face.png {HI} --overlay x.png --attention ./x.png",
        "x.png: --attention and --overlay name the same file",
        "give each its own",
    ),
    "attention of several": (
        nothing,
        f"face.png face.jpg {HI} --attention x.png",
        "x.png: --attention draws the only input",
        "give one",
    ),
    "several inputs and no table": (nothing, f"face.png face.jpg {HI}", "2 inputs", "--out FILE.jsonl"),
    "a table of an unknown kind": (nothing, f"face.png {HI} --out x.txt", "x.txt", ".jsonl or .csv"),
    "a table in no folder": (nothing, f"face.png {HI} --out x/y.csv", "x: no such folder", "make it first"),
    "a table that is not ours": (
        put("x.jsonl", b"notes"),
        f"face.png {HI} --out x.jsonl",
        "x.jsonl is not a table of this command",
        "choose another --out",
    ),
    "a table of nothing": (nothing, f"{HI} --out x.csv", "--out takes the answers about inputs", "name some"),
    "batches of none": (nothing, f"face.png {HI} --out x.csv --batch-size 0", "batch_size 0", "use at least 1"),
}
INSPECT: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "no folder": (nothing, "nowhere", "nowhere is no folder", IMPORT),
    "a file": (nothing, "face.png", "face.png is no folder", IMPORT),
    "a folder of pictures": (nothing, "frames", "frames has no ", IMPORT),
    "no manifest.json": (spoil("manifest.json"), "bad", "bad has no manifest.json", IMPORT),
    "manifest.json of bytes": (spoil("manifest.json", b"\xff"), "bad", "bad/manifest.json is damaged", AGAIN),
    "manifest.json without its source": (
        edit("manifest.json", lambda manifest: manifest.pop("source")),
        "bad",
        "bad/manifest.json is damaged",
        AGAIN,
    ),
    "manifest.json without a shape": (
        edit("manifest.json", lambda manifest: manifest["parameters"]["decoder/norm/scale"].pop("shape")),
        "bad",
        "bad/manifest.json is damaged",
        AGAIN,
    ),
    "config.json cut": (spoil("config.json", b"{"), "bad", "bad/config.json: not JSON", AGAIN),
    "a tokenizer that was edited": (
        spoil("tokenizer/tokenizer.model", b"x"),
        "bad",
        "bad/tokenizer/tokenizer.model is missing or has changed",
        AGAIN,
    ),
}


def with_model(arguments: str) -> str:
    return f"predict {arguments}" + ("" if "--model" in arguments else " --model model")


@pytest.mark.parametrize("kind", WHOLE_RUN)
def test_a_run_that_cannot_be_is_one_line_and_touches_no_table(desk: Path, facellava: Run, kind: str) -> None:
    make, arguments, cause, remedy = WHOLE_RUN[kind]
    make()
    (desk / "old.csv").write_text(",".join(cli.COLUMNS) + "\nx.png,error" + "," * (len(cli.COLUMNS) - 2) + "\nhalf")
    before = snapshot(desk)
    for table in ("", " --out old.csv"):
        expect_one_line(facellava(with_model(arguments) + table), cause, remedy)
        assert snapshot(desk) == before


@pytest.mark.parametrize("kind", ONE_INPUT)
def test_an_input_that_cannot_be_is_one_line(desk: Path, facellava: Run, kind: str) -> None:
    make, arguments, cause, remedy = ONE_INPUT[kind]
    make()
    before = snapshot(desk)
    expect_one_line(facellava(with_model(arguments)), cause, remedy)
    assert snapshot(desk) == before


@pytest.mark.parametrize("kind", INSPECT)
def test_bad_input_to_inspect_is_one_line(desk: Path, facellava: Run, kind: str) -> None:
    make, arguments, cause, remedy = INSPECT[kind]
    make()
    before = snapshot(desk)
    expect_one_line(facellava(f"inspect {arguments}"), cause, remedy)
    assert snapshot(desk) == before


@pytest.mark.parametrize("out", ["", " --out new.csv"])
@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python-headless"), ("sentencepiece", "sentencepiece")])
def test_a_package_that_is_not_there(
    desk: Path, facellava: Run, monkeypatch: pytest.MonkeyPatch, module: str, package: str, out: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(media, "_load_cv2", media._load_cv2.__wrapped__)
    outcome = facellava(with_model(f"face.png {HI}{out}"))
    expect_one_line(outcome, f"{package} is needed", "pip install 'facellava-jax[predict]'")
    assert not (desk / "new.csv").exists()


@pytest.mark.parametrize("out", ["", " --out new.csv"])
def test_memory_that_does_not_suffice(desk: Path, facellava: Run, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 4096)
    monkeypatch.setattr(predict, "load_params", lambda *args, **options: pytest.fail("loaded all the same"))
    outcome = facellava(with_model(f"face.png {HI}{out}"))
    expect_one_line(outcome, "model: needs 0.0 GiB in float32, and 0.0 GiB are free", "--dtype bfloat16")
    assert not (desk / "new.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("predict face.png --model model --task joy", "'joy'"),
        (f"predict face.png --model model {HI} --dtype int8", "int8"),
        (f"predict face.png --model model {HI} --num-frames few", "few"),
        (f"predict face.png --model model {HI} --colour red", "--colour"),
        ("inspect", "CHECKPOINT"),
        ("guess face.png", "guess"),
        ("", "predict"),
    ],
)
def test_arguments_that_are_not_understood(desk: Path, facellava: Run, arguments: str, named: str) -> None:
    before = snapshot(desk)
    outcome = facellava(arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert named in outcome.err
    assert "Traceback" not in outcome.err
    assert snapshot(desk) == before


# Inspect


def test_inspect_shows_all_there_is(desk: Path, facellava: Run, checkpoint: Path) -> None:
    status, out, err = facellava("inspect model")
    assert (status, err) == (0, "")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    parameters = manifest["parameters"]
    config, _, rest = out.partition("\n}\n")
    assert Config.from_json(config + "\n}\n") == Config.load(checkpoint / "config.json")
    for key, value in manifest["source"].items():
        if not isinstance(value, dict):
            assert f"{key}: {value}\n" in rest
    lines = [line.split() for line in rest.splitlines()]
    shown = {line[0]: line[1:] for line in lines if line[0] in parameters}
    assert shown == {
        path: ["x".join(map(str, entry["shape"])), entry["dtype"], f"{entry['bytes']:,}"]
        for path, entry in parameters.items()
    }
    totals = {line[0]: (line[1], line[3]) for line in lines if line[-1] == "bytes"}
    assert [*totals][-1] == "total"
    assert set(totals) == {path.split("/")[0] for path in parameters} | {"total"}
    for part, shown_totals in totals.items():
        entries = [entry for path, entry in parameters.items() if part in (path.split("/")[0], "total")]
        count = sum(int(np.prod(entry["shape"])) for entry in entries)
        assert shown_totals == (f"{count:,}", f"{sum(entry['bytes'] for entry in entries):,}")
    # Each stored piece of an array ends with a checksum of four bytes.
    pieces = [path for path in (checkpoint / "params").glob("*/c/**/*") if path.is_file()]
    stored = sum(path.stat().st_size - 4 for path in pieces)
    assert totals["total"][1] == f"{stored:,}"


# In a process of its own

COMMAND = [sys.executable, "-c", "from facellava_jax.cli import main; main()"]


def test_a_reader_that_has_enough_of_inspect(checkpoint: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "inspect", str(checkpoint)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)


def test_a_process_says_one_line_and_its_status(desk: Path) -> None:
    arguments = ["predict", "face.png", "--prompt", "hi", "--model", "nowhere"]
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    expect_one_line(Outcome(ended.returncode, ended.stdout, ended.stderr), "nowhere is no folder", IMPORT)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["predict", "--help"]])
def test_help_touches_no_accelerator(arguments: list[str]) -> None:
    """JAX would take the device, or say that it is not there."""
    environment = {**os.environ, "JAX_PLATFORMS": "nothing"}
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "facellava" in ended.stdout
