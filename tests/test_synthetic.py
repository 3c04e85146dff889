"""Rendered faces: what is said of them is drawn, the drawing follows the landmarks, and all of it the seed."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Run

from facellava_jax.config import LANDMARK_POINTS
from facellava_jax.faces import Face, FaceError, FaceFinder
from facellava_jax.folders import FolderError, hold_folder
from facellava_jax.media import MediaError, load_image, load_landmarks, load_video
from facellava_jax.request import QUESTIONS
from facellava_jax.synthetic import (
    FOUND,
    RECORDS,
    Film,
    Sample,
    SyntheticError,
    dataset,
    find_landmarks,
    found,
    label_sample,
    render_dataset,
    render_sample,
    sample,
)
from facellava_jax.synthetic.actions import EXCLUDED, EXPRESSIONS, NAMES, NEEDS, move_landmarks
from facellava_jax.synthetic.film import film_person
from facellava_jax.synthetic.forgery import FAULTS, Flaw, draw_forgery, swap_face
from facellava_jax.synthetic.geometry import MEAN_LANDMARKS, Pose, place_head
from facellava_jax.synthetic.paint import Moment, Stage, cast, paint_face
from facellava_jax.synthetic.person import Person, draw_person, number_person
from facellava_jax.synthetic.sample import EMOTIONS, TASKS, check_request
from facellava_jax.synthetic.scene import draw_light, encode_jpeg
from facellava_jax.text import Medium, place_media, read_conversation
from facellava_jax.workers import WorkerError

FRAMES = 3
EVERY_UNIT = pytest.mark.parametrize("unit", NAMES, ids=lambda unit: f"AU{unit}")


def make_person(**traits: Any) -> Person:
    """A woman of 30 years with short brown hair, and nothing in or on her face but what `traits` say."""
    plain = {
        **dict.fromkeys(("male", "bangs", "glasses", "hat", "earrings", "rosy", "pale"), False),
        **{"age": 30, "hair_length": "short", "hair_colour": "brown", "grey": 0.0, "beard": "none", "recession": 0.0},
        **{"lipstick": None, "eye_shadow": None},
    }
    return dataclasses.replace(draw_person(11), **{**plain, **traits})


def paint(person: Person, units: dict[int, float] | None = None, blink: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A person from the front on grey, before the camera takes them; and the landmarks."""
    actor = cast(person)
    pose = place_head(actor.head.landmarks, Pose(0, 0, 0), 0.62, (0.5, 0.95))
    stage = Stage(np.full((256, 256, 3), 128, np.uint8), draw_light(np.random.default_rng(0), person))
    return paint_face(actor, Moment(pose, units or {}, blink, (0, 0)), stage)


@pytest.fixture
def unfilmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples come without their pictures, hundreds a second."""
    blank = Film(np.zeros((1, 256, 256, 3), np.uint8), np.zeros((1, LANDMARK_POINTS, 2), np.float32))
    monkeypatch.setattr(sample, "film_person", lambda *_: blank)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "train"
    assert len(list(render_dataset(out, 20, seed=5, split="train", frames=FRAMES, workers=2))) == 20
    return out


# What it depends on.


def test_a_sample_follows_from_seed_split_and_number() -> None:
    def pixels(*which: Any) -> bytes:
        made = render_sample(*which, "action-units", frames=2)
        films = [medium.film for medium in made.media]
        return b"".join(film.frames.tobytes() + film.landmarks.tobytes() for film in films) + repr(made).encode()

    first = pixels(1, "test", 7)
    assert pixels(1, "test", 7) == first
    assert len({first, pixels(2, "test", 7), pixels(1, "train", 7), pixels(1, "test", 8)}) == 4


def test_workers_change_nothing(rendered: Path, tmp_path: Path) -> None:
    list(render_dataset(tmp_path / "one", 20, seed=5, split="train", frames=FRAMES, workers=1))
    files = {path.relative_to(rendered) for path in rendered.rglob("*")}
    assert files == {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*")}
    assert len(files) > 40
    assert not [
        file for file in files if (rendered / file).is_file() and read(rendered / file) != read(tmp_path / "one" / file)
    ]


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.usefixtures("unfilmed")
def test_nobody_is_in_both_splits() -> None:
    """Whatever the seeds: people of training have even numbers, those of the test odd ones."""
    train, test = (
        {who for number in range(200) for who in render_sample(seed, split, number).people}
        for seed, split in ((1, "train"), (2, "test"))
    )
    assert len(train) > 200 and len(test) > 200
    assert {who % 2 for who in train} == {0} and {who % 2 for who in test} == {1}
    assert draw_person(10) != dataclasses.replace(draw_person(11), number=10)
    rng = np.random.default_rng(0)
    assert len({number_person(rng, "test") for _ in range(1000)}) == 1000


# What is said.


def say(task: str, count: int = 120) -> list[tuple[str, Any, Sample]]:
    """Answers, their truth, and the sample, of both splits."""
    made = [render_sample(3, split, number, task) for split in ("train", "test") for number in range(count)]
    return [(each.conversation[1], each.labels, each) for each in made]


@pytest.mark.usefixtures("unfilmed")
class TestLabels:
    def test_the_emotion_stands_in_the_last_sentence(self) -> None:
        said = say("emotion")
        for answer, label, _ in said:
            *_, last = answer.rstrip(".").split(". ")
            assert [emotion for emotion in EMOTIONS if re.search(rf"\b{emotion}\b", last)] == [label]
        assert {label for _, label, _ in said} == set(EMOTIONS)

    def test_ages(self) -> None:
        said = say("age")
        for answer, label, _ in said:
            assert isinstance(label, float)
            assert float(re.match(r"(\d+) years old\. \w", answer)[1]) == label
        ages = [label for _, label, _ in said]
        assert min(ages) < 6 and max(ages) > 84 and len(set(ages)) > 60

    def test_action_units_are_named(self) -> None:
        said = say("action-units")
        for answer, label, _ in said:
            found = {int(number): name for number, name in re.findall(r"AU(\d+) \(([\w ]+)\)", answer)}
            assert sorted(found) == label
            assert all(NAMES[unit] == name for unit, name in found.items())
        assert {unit for _, label, _ in said for unit in label} == set(NAMES)
        assert any(not label for _, label, _ in said)

    def test_every_attribute_is_said_to_be_there_or_not(self) -> None:
        said = say("attributes")
        for answer, label, _ in said:
            assert parse_attributes(answer) == label
        values = Counter((name, value) for _, label, _ in said for name, value in label.items())
        assert {name for name, _ in values} == set(WORDS)
        assert all(values[name, True] >= 5 and values[name, False] >= 5 for name in WORDS), values

    def test_real_and_fake(self) -> None:
        said = say("deepfake")
        for answer, label, made in said:
            assert answer.startswith(f"{label.capitalize()}. ")
            assert (len(made.people) > len(made.media)) >= (label == "fake")
        assert 80 < Counter(label for _, label, _ in said)["fake"] < 160

    @pytest.mark.parametrize("task", TASKS)
    def test_more_rounds_tell_the_truth_as_well(self, task: str) -> None:
        """Of the person that the first is about, as far as any two say something of the same."""
        talks = [render_sample(4, "train", number, task).conversation for number in range(80)]
        rounds = Counter(len(talk) // 2 for talk in talks)
        if task == "deepfake":  # whose person would be spoken of?
            assert rounds == {1: 80}
            return
        assert min(rounds[1], rounds[2], rounds[3]) > 5
        for talk in talks:
            assert not any("<" in question for question in talk[2::2])
            text = " ".join(talk[1::2])
            assert len({*talk[1::2]}) == len(talk) // 2
            age = re.search(r"(\d+) years old", text)
            attributes = parse_attributes(next((answer for answer in talk[1::2] if "The person" in answer), ""))
            if age and "Young" in attributes:
                assert attributes["Young"] == (int(age[1]) < 42)
            if "AU" in text and "Smiling" in attributes:
                assert attributes["Smiling"] == ("AU12" in text)


WORDS = {
    "Bald": "bald", "Bangs": "bangs", "Big_Lips": "big lips", "Big_Nose": "big nose", "Black_Hair": "black hair",
    "Blond_Hair": "blond hair", "Brown_Hair": "brown hair", "Bushy_Eyebrows": "bushy eyebrows", "Chubby": "chubby",
    "Eyeglasses": "eyeglasses", "Goatee": "goatee", "Gray_Hair": "gray hair", "Heavy_Makeup": "heavy makeup",
    "Male": "(?:wo)?man", "Mouth_Slightly_Open": "mouth (?:slightly open|closed)", "Mustache": "mustache",
    "No_Beard": "beard", "Pale_Skin": "pale skin", "Rosy_Cheeks": "rosy cheeks", "Smiling": "smiling",
    "Wearing_Earrings": "earrings", "Wearing_Hat": "hat", "Wearing_Lipstick": "lipstick", "Young": "young",
}  # fmt: skip


def parse_attributes(text: str) -> dict[str, bool]:
    """What a reader takes from a description: a thing that is named is there, unless it is "no ..." or "not ..."."""
    labels = {}
    for name, words in WORDS.items():
        if found := re.findall(rf"\b(no |not )?(?:a )?({words})\b", text):
            ((denied, word),) = found
            opposite = name == "No_Beard" or word in ("woman", "mouth closed")
            labels[name] = bool(denied) == opposite
    return labels


@pytest.mark.usefixtures("unfilmed")
def test_training_has_all_mixtures() -> None:
    made = [render_sample(0, "train", number) for number in range(600)]
    seen = Counter((each.task, tuple(medium.kind for medium in each.media)) for each in made)
    for task in TASKS:
        assert seen[task, ("image",)] and seen[task, ("video",)]
        assert 90 <= sum(count for (each, _), count in seen.items() if each == task) <= 120
    kinds = Counter(kinds for _, kinds in seen.elements())
    assert kinds["image", "image"] > 20 and kinds["video", "image"] > 5 and kinds[()] > 10
    assert 30 < sum(bool(each.media) and not each.landmarks for each in made) < 90
    assert sum(len(each.conversation) > 2 for each in made) > 200
    assert len({each.conversation[0] for each in made}) > 40
    assert all(
        each.conversation[0].count("<image>") + each.conversation[0].count("<video>") == len(each.media)
        for each in made
    )
    assert all(
        "first" in each.conversation[0] or "second" in each.conversation[0]
        for each in made
        if seen and len(each.media) == 2 and each.media[0].kind == "image"
    )


@pytest.mark.usefixtures("unfilmed")
def test_the_test_split_asks_one_question_about_each_task_in_turn() -> None:
    for number in range(100):
        made = render_sample(0, "test", number)
        (medium,) = made.media
        assert made.task == TASKS[number % 5] and made.landmarks
        assert medium.kind == ("video" if made.task in ("emotion", "deepfake") else "image")
        words, names = QUESTIONS[made.task]
        assert made.conversation[0] == f"<{medium.kind}>\n{words.format(names[medium.kind])}"
        assert len(made.conversation) == 2


@pytest.mark.usefixtures("unfilmed")
def test_labels_are_known_without_rendering() -> None:
    for split in ("train", "test"):
        for number in range(20):
            made, labels = render_sample(2, split, number), label_sample(2, split, number)
            assert len(labels) == len(made.media)
            if made.task and len(labels) == 1:
                assert labels[0][made.task] == made.labels
            for each in labels:
                assert "action-units" in each and ("deepfake" in each) == (made.task == "deepfake")
                assert ("age" in each) == ("attributes" in each) == (each.get("deepfake") != "fake")
    everything = [label_sample(0, "train", number) for number in range(100)]
    assert {task for labels in everything for each in labels for task in each} == set(TASKS)


@pytest.mark.usefixtures("unfilmed")
def test_action_units_that_do_not_go_together_are_not_drawn_together() -> None:
    for _, label, _ in say("action-units"):
        if label not in [sorted(units) for units in EXPRESSIONS.values()]:
            assert not [pair for pair in EXCLUDED if pair <= set(label)]
        assert all(set(NEEDS[unit]) <= set(label) for unit in label if unit in NEEDS)


# What is drawn.


def measure(landmarks: np.ndarray) -> dict[str, float]:
    """Places and distances on a face from the front; y grows downwards."""
    return {
        "inner brows": landmarks[[21, 22], 1].mean(),
        "outer brows": landmarks[[17, 26], 1].mean(),
        "between brows": landmarks[22, 0] - landmarks[21, 0],
        "eyes": (landmarks[[40, 41, 46, 47], 1] - landmarks[[38, 37, 44, 43], 1]).mean(),
        "lower lids": landmarks[[40, 41, 46, 47], 1].mean(),
        "wings": landmarks[[31, 35], 1].mean(),
        "corners": landmarks[[48, 54], 1].mean(),
        "mouth width": landmarks[54, 0] - landmarks[48, 0],
        "mouth": landmarks[66, 1] - landmarks[62, 1],
        "lips": landmarks[57, 1] - landmarks[51, 1],
        "chin": landmarks[8, 1],
    }


# What each action unit makes larger (+) or smaller (-) by at least 0.02 units of the head, 1.4 mm.
SIGNS = {
    1: {"inner brows": -1},
    2: {"outer brows": -1},
    4: {"inner brows": 1, "between brows": -1},
    5: {"eyes": 1},
    6: {"eyes": -1, "lower lids": -1},
    7: {"eyes": -1},
    9: {"wings": -1},
    12: {"mouth width": 1, "corners": -1},
    15: {"corners": 1},
    17: {"chin": -1},
    20: {"mouth width": 1},
    23: {"mouth width": -1, "lips": -1},
    24: {"lips": -1},
    25: {"mouth": 1},
    26: {"mouth": 1, "chin": 1},
}


@EVERY_UNIT
def test_action_units_move_landmarks(unit: int) -> None:
    rest, moved = (measure(move_landmarks(MEAN_LANDMARKS, units)) for units in ({}, {unit: 1.0}))
    for what, sign in SIGNS[unit].items():
        assert sign * (moved[what] - rest[what]) > 0.02, what
    half = measure(move_landmarks(MEAN_LANDMARKS, {unit: 0.5}))
    assert all(abs(half[what] - rest[what]) < abs(moved[what] - rest[what]) for what in SIGNS[unit])


def test_no_expression_turns_the_mouth_or_the_eyes_inside_out() -> None:
    for units in [*EXPRESSIONS.values(), *[(unit,) for unit in NAMES], tuple(NAMES)]:
        for blink in (0.0, 1.0):
            points = measure(move_landmarks(MEAN_LANDMARKS, dict.fromkeys(units, 1.0), blink))
            assert points["mouth"] >= 0 and points["lips"] > 0.03 and points["eyes"] > 0


@EVERY_UNIT
def test_the_drawing_changes_where_the_landmarks_move(unit: int) -> None:
    """Near the points that move, more than three times as much as on the rest of the face."""
    (rest, before), (active, after) = (paint(make_person(), units) for units in ({}, {unit: 1.0}))
    change = np.abs(active - rest).mean(axis=-1)
    moved = after[np.linalg.norm(after - before, axis=1) > 1]
    y, x = np.mgrid[:256, :256]
    far = np.min([np.hypot(x - px, y - py) for px, py in moved], axis=0)
    face = np.abs(rest - 128).max(axis=-1) > 12
    assert change[far < 8].mean() > 4
    assert change[far < 8].mean() > 3 * change[(far > 40) & face].mean()


def test_an_open_mouth_is_dark_and_shows_teeth() -> None:
    (_, points), (picture, opened) = paint(make_person()), paint(make_person(), {25: 1.0, 26: 1.0})
    assert opened[66, 1] - opened[62, 1] > 12 > 2 > points[66, 1] - points[62, 1]
    column = picture[round(opened[62, 1]) : round(opened[66, 1]), round(opened[66, 0])].mean(axis=-1)
    assert column[:6].max() > 130
    assert column.min() < 70


@pytest.mark.parametrize(
    ("trait", "share"),
    [
        ({"glasses": True}, 0.028),
        ({"hat": True}, 0.03),
        ({"hair_length": "long"}, 0.05),
        ({"hair_length": "bald"}, 0.03),
        ({"hair_colour": "blond"}, 0.03),
        ({"grey": 1.0}, 0.03),
        ({"bangs": True}, 0.02),
        ({"male": True, "beard": "mustache"}, 0.004),
        ({"male": True, "beard": "goatee"}, 0.004),
        ({"male": True, "beard": "full"}, 0.02),
        ({"lipstick": (176, 22, 44)}, 0.004),
        ({"eye_shadow": (84, 96, 140)}, 0.002),
        ({"earrings": True}, 0.001),
        ({"rosy": True}, 0.01),
        ({"skin": (247, 216, 196)}, 0.1),
        ({"age": 85}, 0.05),
        ({"age": 4}, 0.05),
    ],
    ids=str,
)
def test_what_is_named_is_seen(trait: dict[str, Any], share: float) -> None:
    """`share` of the picture's pixels, at least, differ by more than 20 of 255."""
    (without, _), (picture, _) = paint(make_person(male=trait.get("male", False))), paint(make_person(**trait))
    assert (np.abs(picture - without).max(axis=-1) > 20).mean() > share


def test_the_face_finder_sees_the_faces_where_they_are_drawn(finder: FaceFinder) -> None:
    """Of 16, 15 at least; its points lie within 8 % of the distance between the eyes from those drawn."""
    distances = []
    for number in range(16):
        film = film_person(draw_person(2 * number), {}, np.random.default_rng(number))
        for face in finder.find(film.frames[0])[:1]:
            points = film.landmarks[0]
            distances.append(
                np.linalg.norm(face.landmarks - points, axis=1).mean() / np.linalg.norm(points[36] - points[45])
            )
    assert len(distances) >= 15
    assert np.mean(distances) < 0.08


def test_found_landmarks_stand_in_a_list_beside_the_known_ones(
    rendered: Path, tmp_path: Path, finder: FaceFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        looks = 0

        def find(self, frame: np.ndarray) -> list[Face]:
            self.looks += 1
            return finder.find(frame) if self.looks > 1 else []

    seeing, folder = Finder(), shutil.copytree(rendered, tmp_path / "faces")
    monkeypatch.setattr(found, "_make_finder", lambda: seeing)
    records = json.loads((folder / RECORDS).read_text())
    assert list(find_landmarks(folder, 1)) == [record["id"] for record in records]
    again = json.loads((folder / FOUND).read_text())
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for record, other in zip(records, again, strict=True):
        lists = [as_list(each.pop("landmarks_2d", None)) for each in (record, other)]
        assert record == other
        pairs += [(np.load(folder / first), np.load(folder / second)) for first, second in zip(*lists, strict=True)]
    assert len(pairs) == len(list((folder / "found").iterdir())) > 20
    assert [known.shape for known, _ in pairs] == [seen.shape for _, seen in pairs]
    moves = np.concatenate([(known - seen).reshape(-1, LANDMARK_POINTS, 2) for known, seen in pairs])
    distances = np.linalg.norm(moves, axis=2).mean(axis=1)
    assert distances[0] == 0  # where no face is found
    assert (distances[1:] > 0).mean() > 0.9 and np.median(distances) < 8  # of 256 pixels
    looks = seeing.looks
    assert len(list(find_landmarks(folder, 1))) == len(records) and seeing.looks == looks == len(distances)


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("data.json", '[{"id"', FaceError, "data.json: not JSON"),
        ("images/one.npy", "none", MediaError, "one.npy: no array of numbers"),
        ("images/one.jpg", "none", MediaError, "one.jpg: not a picture that can be read"),
        ("lock", None, FolderError, "is in use by"),
    ],
)
def test_landmarks_cannot_be_found_in_what_is_damaged(
    file: str, content: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    film = film_person(draw_person(2), {}, np.random.default_rng(0))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.jpg").write_bytes(encode_jpeg(cv2, film.frames[0], 95))
    np.save(tmp_path / "images" / "one.npy", film.landmarks.reshape(-1))
    record = {"id": "one", "image": "images/one.jpg", "landmarks_2d": "images/one.npy"}
    (tmp_path / RECORDS).write_text(json.dumps([record]))
    with hold_folder(tmp_path) if content is None else contextlib.nullcontext():
        if content is not None:
            (tmp_path / file).write_text(content)
        with pytest.raises(error, match=message):
            list(find_landmarks(tmp_path, 1))
    assert not (tmp_path / FOUND).exists()


def test_an_expression_unfolds_in_a_clip() -> None:
    film = film_person(make_person(), {25: 1.0, 26: 1.0}, np.random.default_rng(3), 8)
    assert film.frames.shape == (8, 256, 256, 3) and film.landmarks.shape == (8, LANDMARK_POINTS, 2)
    opening = film.landmarks[:, 66, 1] - film.landmarks[:, 62, 1]
    assert opening[0] < 2 and opening[-1] > 12
    assert np.all(np.diff(opening) > -2)
    assert np.abs(np.diff(film.landmarks.mean(axis=1), axis=0)).max() < 8


def test_landmarks_lie_in_the_picture() -> None:
    for number in range(10):
        (medium, *_) = render_sample(6, "test", number, frames=2).media
        inner = medium.film.landmarks[:, 17:]
        assert np.all((inner > 0) & (inner < 255))
        assert np.mean((medium.film.landmarks > -8) & (medium.film.landmarks < 264)) > 0.99


class TestForgeries:
    def swap(self, flaw: Flaw, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        (picture, points), (other, theirs) = (
            paint(make_person()),
            paint(dataclasses.replace(make_person(), shape=draw_person(8).shape)),
        )
        return picture, points, *swap_face(picture, points, other, theirs, flaw, np.random.default_rng(seed))

    @pytest.mark.parametrize("edge", [0.5, 6.0])
    def test_the_inner_face_changes_and_nothing_else(self, edge: float) -> None:
        picture, points, forged, seen = self.swap(Flaw(("colour",), (1.2, 1.0, 0.85), edge, 0.0))
        change = np.abs(forged - picture).mean(axis=-1)
        top = points[17:27, 1].min()
        assert change[: int(top) - 20].max() < 0.5 and change[:, : int(points[0, 0]) - 2].max() < 0.5
        x, y = points[30].astype(int)
        assert change[y - 10 : y + 10, x - 10 : x + 10].mean() > 8
        np.testing.assert_array_equal(seen[:17], points[:17])
        assert np.abs(seen[17:] - points[17:]).max() > 0.5

    def test_a_wrong_colour_is_wrong_and_others_fit(self) -> None:
        cheek = (slice(120, 150), slice(150, 165))
        picture, _, forged, _ = self.swap(Flaw(("edge",), (1.0, 1.0, 1.0), 5.0, 0.0))
        assert np.abs(forged[cheek].mean(axis=(0, 1)) / picture[cheek].mean(axis=(0, 1)) - 1).max() < 0.12
        _, _, tinted, _ = self.swap(Flaw(("colour",), (1.15, 1.0, 0.85), 5.0, 0.0))
        red, _, blue = tinted[cheek].mean(axis=(0, 1)) / picture[cheek].mean(axis=(0, 1))
        assert red / blue > 1.2

    def test_jitter_moves_the_features_against_the_head(self) -> None:
        def tremble(jitter: float) -> float:
            places = [self.swap(Flaw((), (1.0, 1.0, 1.0), 5.0, jitter), seed)[3][30] for seed in range(6)]
            return float(np.std(places, axis=0).max())

        assert tremble(0.0) < 1e-9
        assert tremble(3.0) > 1.5

    def test_the_landmarks_are_those_of_what_is_seen(self) -> None:
        """A mouth that is put in elsewhere is dark where its landmarks have it, and not where it would have been."""

        def brightness(mouth: np.ndarray) -> float:
            import cv2

            inside = np.zeros((256, 256), np.uint8)
            cv2.fillPoly(inside, [np.rint(mouth).astype(np.int32)], 1)
            return float(forged.mean(axis=-1)[inside > 0].mean())

        (picture, points), (other, theirs) = (paint(make_person(), {25: 1.0, 26: 1.0}) for _ in range(2))
        flaw = Flaw(("jitter",), (1.0, 1.0, 1.0), 5.0, 9.0)
        forged, seen = swap_face(picture, points, other, theirs, flaw, np.random.default_rng(3))
        assert np.linalg.norm(seen[66] - points[66]) > 6
        assert brightness(seen[60:68]) < 0.8 * brightness(points[60:68])

    def test_faults_are_those_that_a_medium_can_show(self) -> None:
        target, other = make_person(), draw_person(8)
        drawn = [
            [draw_forgery(np.random.default_rng(seed), target, other, clip).flaw for seed in range(40)]
            for clip in (True, False)
        ]
        assert {fault for flaw in drawn[0] for fault in flaw.faults} == set(FAULTS)
        assert {fault for flaw in drawn[1] for fault in flaw.faults} == {"colour", "edge"}
        for flaw in (*drawn[0], *drawn[1]):
            assert (flaw.tint != (1.0, 1.0, 1.0)) == ("colour" in flaw.faults)
            assert (flaw.edge < 1) == ("edge" in flaw.faults)
            assert (flaw.jitter > 0) == ("jitter" in flaw.faults)

    def test_a_forged_clip_is_noisy_and_compressed_as_a_real_one(self) -> None:
        """The border, which no forgery reaches, is as rough in both."""
        person = make_person()
        forgery = draw_forgery(np.random.default_rng(1), person, draw_person(8), True)
        real, forged = (
            film_person(person, {}, np.random.default_rng(5), 2, forgery=each).frames for each in (None, forgery)
        )
        rough = [np.abs(np.diff(frames[:, :40, :40].astype(float), axis=2)).mean() for frames in (real, forged)]
        assert rough[0] == pytest.approx(rough[1], rel=0.05)
        assert np.abs(real.astype(float) - forged)[:, 60:200, 60:200].mean() > 3


# What is written.


def test_records_are_faceinstructs(rendered: Path) -> None:
    records = json.loads((rendered / "data.json").read_text())
    assert [record["id"] for record in records] == [f"train_5_{number:02}" for number in range(20)]
    seen = set()
    for record in records:
        media, landmarks = [], as_list(record.get("landmarks_2d"))
        for kind in ("video", "image"):
            for name in as_list(record.get(kind)):
                if kind == "video":
                    clip = load_video(rendered / name, 8)
                    assert clip.length == FRAMES and clip.frames.shape == (8, 256, 256, 3)
                else:
                    clip = None
                    assert load_image(rendered / name).shape == (256, 256, 3)
                media.append(Medium(kind, 8 if clip else 1))
                if landmarks:
                    path = rendered / landmarks[len(media) - 1]
                    assert path == (rendered / name).with_suffix(".npy")
                    raw = np.load(path)
                    assert raw.dtype == np.float32 and raw.shape == ((FRAMES, 68, 2) if clip else (136,))
                    assert load_landmarks(path, clip).shape == (8 if clip else 1, 68, 2)
        assert not landmarks or len(landmarks) == len(media)
        turns = read_conversation(record["conversations"])
        _, order = place_media(turns, media)
        assert sorted(order) == list(range(len(media)))
        assert ("task" in record) == ("labels" in record) == bool(media)
        seen |= {medium.kind for medium in media} | {record.get("task")}
    assert seen >= {"image", "video", *TASKS}
    written = {path.relative_to(rendered).as_posix() for path in rendered.glob("*/*")}
    named = [
        name for record in records for kind in ("video", "image", "landmarks_2d") for name in as_list(record.get(kind))
    ]
    assert sorted(named) == sorted(written)


def as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def test_written_media_are_the_samples(rendered: Path) -> None:
    record = next(
        each for each in json.loads((rendered / "data.json").read_text()) if isinstance(each.get("video"), str)
    )
    film = render_sample(5, "train", int(record["id"][-2:]), frames=FRAMES).media[0].film
    clip = load_video(rendered / record["video"], FRAMES)
    assert np.abs(clip.frames.astype(float) - film.frames).mean() < 4


def test_the_command(facellava: Run, tmp_path: Path) -> None:
    done = facellava("data render --samples 2 --split test --frames 2 --workers 1 --out", tmp_path / "new" / "faces")
    assert (done.status, done.out) == (0, "")
    assert len(json.loads((tmp_path / "new" / "faces" / "data.json").read_text())) == 2
    again = facellava("data render --samples 2 --out", tmp_path / "new" / "faces")
    assert again.status == 1
    assert (
        again.err.splitlines()[-1]
        == f"facellava: {tmp_path / 'new' / 'faces'} exists: remove it or choose another name"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "samples 0: use at least 1"),
        ({"frames": 0}, "frames 0: use at least 1"),
        ({"seed": -1}, "seed -1: use at least 0"),
        ({"workers": 0}, "workers 0: use at least 1"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_requests(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    request = {"samples": 1, "seed": 0, "split": "train", "frames": 2, "workers": 1, **wrong}
    with pytest.raises((SyntheticError, WorkerError), match=f"^{re.escape(message)}$"):
        list(render_dataset(tmp_path / "out", **request))
    assert not list(tmp_path.iterdir())
    with pytest.raises(SyntheticError, match=r"^split 'dev': use train or test$"):
        check_request(0, "dev", 1, 1)


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    list(render_dataset(tmp_path / "empty", 1, 0, "test", 2, 1))
    assert (tmp_path / "empty" / "data.json").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="file cannot be written to"):
        list(render_dataset(tmp_path / "file", 1, 0, "test", 2, 1))
    with pytest.raises(SyntheticError, match=f"{tmp_path} exists: remove it"):
        list(render_dataset(tmp_path, 1, 0, "test", 2, 1))
    assert {file.name for file in tmp_path.iterdir()} == {"empty", "file"}


def read_all(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_left_or_fails_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after what a killed process leaves: a line cut short, and a file that no line names."""
    request: dict[str, Any] = {"samples": 4, "seed": 0, "split": "test", "frames": 2, "workers": 1}
    straight, out = tmp_path / "straight", tmp_path / "out"
    ids = list(render_dataset(straight, **request))
    started = render_dataset(out, **request)
    assert [next(started), next(started)] == ids[:2]
    with pytest.raises(FolderError, match=f"{out} is in use by process {os.getpid()} on "):
        list(render_dataset(out, **request))
    started.close()
    assert "data.json" not in read_all(out)
    done = {name: (out / name).stat().st_mtime_ns for name in read_all(out) if name.endswith((".jpg", ".mp4"))}
    assert len(done) == 2
    with pytest.raises(SyntheticError, match="out holds another rendering, which has not ended: remove it"):
        list(render_dataset(out, **{**request, "seed": 1}))

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(dataset, "_write_sample", fail)
        list(render_dataset(out, **request))
    with (out / dataset.PROGRESS).open("a") as progress:
        progress.write('{"id": "test_0_2", "vid')
    for file in straight.glob("*/test_0_2.*"):
        (out / file.relative_to(straight)).write_bytes(b"half")
    shutil.copytree(out, tmp_path / "damaged")
    assert list(render_dataset(out, **request)) == ids
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert read_all(out) == read_all(straight)

    (tmp_path / "damaged" / dataset.PROGRESS).write_text("a poem\n")
    with pytest.raises(SyntheticError, match="rendering.jsonl is damaged: remove "):
        list(render_dataset(tmp_path / "damaged", **request))


def test_rendering_needs_no_jax() -> None:
    source = (
        "import sys, facellava_jax.synthetic as rendering; rendering.render_sample(0, 'test', 1);"
        "print('jax' in sys.modules, 'av' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
