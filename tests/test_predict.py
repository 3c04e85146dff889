"""predict.py: rows of mixed batches against single runs, what compiles, and requests that are asked wrongly.

The model is the tiny one with random weights, and its words mean nothing; the end-of-sequence token is made likely.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import random_params

from facellava_jax import framing, memory, reading
from facellava_jax.config import Config, MediaConfig, tiny
from facellava_jax.faces import Face, FaceFinder, choose_window, cut_window, to_crop
from facellava_jax.faces.encode import ClipWriter
from facellava_jax.generate import NO_TOKEN
from facellava_jax.media import iterate_video
from facellava_jax.models.facellava import FaceLlava, build_model
from facellava_jax.pixels import preprocess_image, preprocess_video
from facellava_jax.predict import Answer, Predictor, Prepared
from facellava_jax.reading import AnswerReader
from facellava_jax.request import Options, PredictError, Request
from facellava_jax.text import PLACEHOLDER_ID, Tokenizer, build_prompt, encode_with_images

CONFIG = tiny()
# Noise has no face. Landmarks are "none" or a file.
WHOLE = {"crop": "none", "landmarks": "none"}
# Images and clips of a row, the most random ids beside them, and how often the mix is drawn. Few shapes come of it:
# alone a row is padded to 64 or 128, in its batch to 128.
MIXES = {
    "text": (0, 0, 64, 0.2),
    "image": (1, 0, 48, 0.2),
    "images": (2, 0, 32, 0.2),
    "clip": (0, 1, 60, 0.15),
    "image_and_clip": (1, 1, 44, 0.1),
    "images_and_clip": (2, 1, 28, 0.15),
}
BATCH_SIZES = [8, 7, 6, 5] * 7 + [8, 5, 5]


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return Tokenizer.load(goldens / "tokenizer" / "tok600")


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> FaceLlava:
    params = random_params(CONFIG.model)
    # About one token in ten ends an answer.
    head = params["decoder/lm_head/kernel"]
    params["decoder/lm_head/kernel"] = head.at[:, tokenizer.eos_id].multiply(2.5)
    return build_model(CONFIG.model, params)


@pytest.fixture(scope="module")
def predictor(model: FaceLlava, tokenizer: Tokenizer) -> Predictor:
    return Predictor(model, CONFIG, tokenizer)


@pytest.fixture
def read_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Predictor, Sequence[Prepared]], list[tuple[Answer, list[int]]]]:
    """Answers of one batch, each with the ids that it was read from."""
    fed: list[list[int]] = []

    class Recorder(AnswerReader):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.ids: list[int] = []
            fed.append(self.ids)

        def feed(self, ids: np.ndarray) -> None:
            if not self.finish:
                self.ids += ids[ids != NO_TOKEN].tolist()
            super().feed(ids)

    def read(predictor: Predictor, prepared: Sequence[Prepared]) -> list[tuple[Answer, list[int]]]:
        fed.clear()
        return list(zip(predictor.answer(prepared), [ids[:16] for ids in fed], strict=True))

    monkeypatch.setattr(reading, "AnswerReader", Recorder)
    return read


def picture(rng: np.random.Generator) -> np.ndarray:
    height, width = rng.integers(40, 90, 2)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def clip(rng: np.random.Generator, frames: int | None = None) -> np.ndarray:
    height, width = rng.integers(40, 90, 2)
    return rng.integers(0, 256, (frames or rng.integers(1, 10), height, width, 3), np.uint8)


def save_landmarks(path: Path, rng: np.random.Generator, medium: np.ndarray) -> Path:
    frames = 1 if medium.ndim == 3 else len(medium)
    np.save(path, rng.uniform(0, 256, (frames, 68, 2)).astype(np.float32))
    return path


def make_row(predictor: Predictor, rng: np.random.Generator, folder: Path, options: Options) -> Prepared:
    """A request of random kind, media, order, landmarks and length: of words, or of random ids in their place."""
    name = rng.choice(list(MIXES), p=[share for *_, share in MIXES.values()])
    images, clips, most, _ = MIXES[name]
    media = [picture(rng) for _ in range(images)] + [clip(rng) for _ in range(clips)]
    media = [media[place] for place in rng.permutation(len(media))]
    paths = [folder / f"{rng.integers(2**60)}.npy" for _ in media]
    landmarks = [
        save_landmarks(path, rng, medium) if rng.random() < 0.5 else None
        for path, medium in zip(paths, media, strict=True)
    ]
    words = "x" * int(rng.integers(1, 10))
    prepared = predictor.prepare(Request(media, words, None, landmarks, "none", options))
    if name in ("text", "image") and rng.random() < 0.4:
        return prepared
    length = int(rng.integers(2, most))
    frames = sum(visual.medium.frames for visual in prepared.sample.media)
    ids = np.array([PLACEHOLDER_ID] * frames + rng.integers(3, 600, length).tolist())
    return prepared._replace(sample=prepared.sample._replace(ids=rng.permutation(ids).tolist()))


def make_batches(predictor: Predictor, folder: Path, draw: bool) -> Iterator[list[Prepared]]:
    """200 rows in batches of 5 to 8."""
    rng = np.random.default_rng(12)
    for size in BATCH_SIZES:
        rows = []
        for _ in range(size):
            drawing = {
                "temperature": float(rng.choice([0.0, 0.3, 1.0, 2.0])),
                "top_k": int(rng.choice([0, 5, 100])),
                "top_p": float(rng.choice([1.0, 0.9, 0.5])),
                "seed": int(rng.integers(2**32)),
            }
            options = Options(max_new_tokens=16, **(drawing if draw else {}))
            rows.append(make_row(predictor, rng, folder, options))
        yield rows


@pytest.mark.parametrize("draw", [False, True], ids=["greedy", "drawn"])
def test_rows_of_mixed_batches_equal_single_runs(
    draw: bool, predictor: Predictor, read_ids: Callable[..., list[tuple[Answer, list[int]]]], tmp_path: Path
) -> None:
    rows, finishes, answers = 0, set(), set()
    for batch in make_batches(predictor, tmp_path, draw):
        for prepared, together in zip(batch, read_ids(predictor, batch), strict=True):
            rows += 1
            (alone,) = read_ids(predictor, [prepared])
            assert together == alone, f"row {rows}"
            finishes.add(together[0].finish)
            answers.add(tuple(together[1]))
    assert rows == 200
    assert finishes == {"stop", "length"}
    assert len(answers) > 150


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """What JAX traces, lowers or compiles from here on; a program taken from the cache on disk counts, too."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **of: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            seen.append(f"{event} {of.get('fun_name')}")

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_compiles_after_warm_up(
    model: FaceLlava, tokenizer: Tokenizer, compilations: list[str], tmp_path: Path
) -> None:
    jax.clear_caches()
    predictor = Predictor(model, CONFIG, tokenizer)
    rng = np.random.default_rng(3)

    def ask(kind: str) -> None:
        """A request whose size, words, options and landmarks are new each time."""
        options = {
            "max_new_tokens": int(rng.integers(1, 40)),
            "temperature": float(rng.choice([0.0, rng.random()])),
            "top_k": int(rng.integers(0, 50)),
            "top_p": float(rng.uniform(0.1, 1)),
            "seed": int(rng.integers(2**32)),
            "stop": (["e"], [])[rng.integers(2)],
        }
        options["stop"] = tuple(options["stop"])
        words = "x" * int(rng.integers(1, 5))
        if kind == "batch":
            media = [[], [picture(rng)], [clip(rng)], [clip(rng), picture(rng)], [picture(rng)]]
            size = int(rng.integers(5, 9))
            chosen = [media[3], *(media[i] for i in rng.integers(0, 5, size - 1))]
            predictor.predict_batch([Request(each, words, **WHOLE, options=Options(**options)) for each in chosen])
        else:
            medium = {"text": None, "image": picture(rng), "video": clip(rng)}[kind]
            landmarks: Any = "none"
            if medium is not None and rng.random() < 0.5:
                landmarks = save_landmarks(tmp_path / "points.npy", rng, medium)
            method = predictor.stream if kind == "video" and rng.random() < 0.5 else predictor.predict
            answer = method(medium, words, landmarks=landmarks, crop="none", **options)
            assert answer.tokens if isinstance(answer, Answer) else list(answer) is not None

    kinds = ["text", "image", "video", "batch"]
    for kind in kinds:
        ask(kind)
    assert any("backend_compile" in each and "_prefill" in each for each in compilations)
    assert any("backend_compile" in each and "_decode" in each for each in compilations)
    compilations.clear()
    for kind in [*kinds, *rng.choice(kinds, 46)]:
        ask(kind)
    assert compilations == []


QUESTION = "Who is it?"


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return picture(np.random.default_rng(4))


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return clip(np.random.default_rng(5), 7)


@pytest.fixture(scope="module")
def answer(predictor: Predictor, image: np.ndarray) -> Answer:
    """What is said of `image`: long enough to cut it."""
    answer = predictor.predict(image, QUESTION, **WHOLE, max_new_tokens=40, temperature=1.0, seed=LONG_SEED)
    assert answer.tokens > 12 and len(answer.text) > 20
    return answer


LONG_SEED = 1


def test_the_pieces_of_a_stream_join_to_the_answer(predictor: Predictor, image: np.ndarray, answer: Answer) -> None:
    pieces = list(predictor.stream(image, QUESTION, **WHOLE, max_new_tokens=40, temperature=1.0, seed=LONG_SEED))
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1 and all(pieces)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_stop_string_ends_the_answer_before_it(
    size: int, predictor: Predictor, image: np.ndarray, answer: Answer
) -> None:
    stop = answer.text[10 : 10 + size]
    options = WHOLE | {"max_new_tokens": 40, "temperature": 1.0, "seed": LONG_SEED, "stop": ("never to be found", stop)}
    stopped = predictor.predict(image, QUESTION, **options)
    assert stopped.text == answer.text[: answer.text.index(stop)]
    assert stopped.finish == "stop"
    assert stopped.tokens < answer.tokens or stopped.tokens <= 17
    assert "".join(predictor.stream(image, QUESTION, **options)) == stopped.text


@pytest.mark.parametrize("limit", [1, 2, 9, 12])
def test_max_new_tokens_cuts_the_answer(limit: int, predictor: Predictor, image: np.ndarray, answer: Answer) -> None:
    cut = predictor.predict(image, QUESTION, **WHOLE, max_new_tokens=limit, temperature=1.0, seed=LONG_SEED)
    assert (cut.tokens, cut.finish, cut.question) == (limit, "length", QUESTION)
    # What is not a whole character at the cut is written as U+FFFD.
    assert answer.text.startswith(cut.text.rstrip("\ufffd"))


def test_answers_end_where_the_positions_do(model: FaceLlava, tokenizer: Tokenizer) -> None:
    decoder = dataclasses.replace(CONFIG.model.decoder, max_position_embeddings=105)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, decoder=decoder))
    prepared = (short := Predictor(model, config, tokenizer)).prepare(Request(prompt="Hi"))
    room = 105 - len(prepared.sample.ids)
    assert 5 < room < 20
    answers = [short.predict(prompt="Hi", max_new_tokens=50, temperature=3.0, seed=seed) for seed in range(4)]
    assert {(answer.tokens, answer.finish) for answer in answers} >= {(room, "length")}
    assert all(answer.tokens <= room for answer in answers)


def test_a_batch_is_answered_in_order_and_in_parts(predictor: Predictor, image: np.ndarray, video: np.ndarray) -> None:
    own = Request(image, "Which?", **WHOLE, options=Options(max_new_tokens=5))
    requests: list[Any] = [image, video, own, Request(prompt="Hi", options=Options(max_new_tokens=7)), video, image]
    answers = predictor.predict_batch(requests, QUESTION, **WHOLE, max_new_tokens=9, batch_size=5)
    single = [
        predictor.predict(each)
        if isinstance(each, Request)
        else predictor.predict(each, QUESTION, **WHOLE, max_new_tokens=9)
        for each in requests
    ]
    assert answers == single
    assert [answer.question for answer in answers] == [QUESTION, QUESTION, "Which?", "Hi", QUESTION, QUESTION]
    assert len({answer.text for answer in answers}) == 4
    assert predictor.predict_batch([]) == []


# --- what is prepared


@pytest.mark.parametrize(("frames", "chosen"), [(1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6])])
def test_num_frames(
    frames: int, chosen: list[int], model: FaceLlava, tokenizer: Tokenizer, video: np.ndarray, tmp_path: Path
) -> None:
    predictor = Predictor(model, CONFIG, tokenizer, num_frames=frames)
    points = np.random.default_rng(6).uniform(0, 256, (7, 68, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    prepared = predictor.prepare(Request(video, QUESTION, landmarks=tmp_path / "points.npy"))
    (visual,) = prepared.sample.media
    np.testing.assert_array_equal(visual.pixels, preprocess_video(video[chosen], 56, MediaConfig()))
    np.testing.assert_array_equal(visual.landmarks, points[chosen] / 256)
    assert list(prepared.sample.ids).count(PLACEHOLDER_ID) == frames


def test_fewer_frames_than_the_tower_takes(model: FaceLlava, tokenizer: Tokenizer, video: np.ndarray) -> None:
    predictor = Predictor(model, CONFIG, tokenizer, num_frames=3)
    whole, chosen = (
        predictor.predict(frames, QUESTION, **WHOLE, max_new_tokens=8) for frames in (video, video[[0, 3, 6]])
    )
    assert whole == chosen and whole.tokens


def test_an_image_is_a_clip_of_one_frame(predictor: Predictor, image: np.ndarray) -> None:
    (visual,) = predictor.prepare(Request(image, QUESTION, **WHOLE)).sample.media
    np.testing.assert_array_equal(visual.pixels, preprocess_image(image, 56, MediaConfig())[None])
    assert visual.landmarks is None and visual.medium == ("image", 1)


def test_placeholders_say_where_media_go(predictor: Predictor, image: np.ndarray, video: np.ndarray) -> None:
    other = 255 - image
    prompt = "First <video> then <image> and <image> last"
    prepared = predictor.prepare(Request([image, video, other], prompt, **WHOLE))
    expected = [preprocess_video(video[[0, 2, 4, 6]], 56, MediaConfig())]
    expected += [preprocess_image(each, 56, MediaConfig())[None] for each in (image, other)]
    for visual, pixels in zip(prepared.sample.media, expected, strict=True):
        np.testing.assert_array_equal(visual.pixels, pixels)
    written = "First <image> <image> <image> <image> then <image> and <image> last"
    text = build_prompt("Q", [], "llava_v1").text.replace("Q", written)
    assert list(prepared.sample.ids) == encode_with_images(predictor.tokenizer, text)
    # The same media in another order of the same placeholders give another answer.
    drawing = {"temperature": 1.0, "max_new_tokens": 30}
    orders = ([image, other], [other, image])
    assert len({predictor.predict(media, "<image> or <image>?", **WHOLE, **drawing).text for media in orders}) == 2


def test_landmarks_change_the_answer(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    path = save_landmarks(tmp_path / "points.npy", np.random.default_rng(7), image)
    with_points = predictor.prepare(Request(image, QUESTION, landmarks=str(path)))
    assert with_points.sample.media[0].landmarks.shape == (1, 68, 2)
    drawing = {"temperature": 1.0, "max_new_tokens": 30}
    assert predictor.predict(image, QUESTION, landmarks=str(path), **drawing) != predictor.predict(
        image, QUESTION, **WHOLE, **drawing
    )


@pytest.mark.parametrize(
    ("task", "of_image", "of_video"),
    [
        ("emotion", "What emotion is shown in the image?", "What emotion is shown in the video?"),
        (
            "age",
            "How old do you think the person in the picture is, and what makes you think so?",
            "How old do you think the person in the video is, and what makes you think so?",
        ),
        (
            "attributes",
            "Describe the person's face as seen in the photograph.",
            "Describe the person's face as seen in the video.",
        ),
        (
            "action-units",
            "Which facial action units appear in this image?",
            "Which facial action units appear in this video?",
        ),
        ("deepfake", "Is the image authentic, or is it a fake?", "Is the video authentic, or is it a fake?"),
    ],
)
def test_a_task_asks_its_question(
    task: Any, of_image: str, of_video: str, predictor: Predictor, image: np.ndarray, video: np.ndarray
) -> None:
    for medium, question in ((image, of_image), (video, of_video), ([image, video], of_video)):
        by_task = predictor.prepare(Request(medium, task=task, **WHOLE))
        by_words = predictor.prepare(Request(medium, question, **WHOLE))
        assert by_task.question == question
        assert by_task.sample.ids == by_words.sample.ids


# --- faces


def cut_out(pixels: np.ndarray, faces: list[Face], mode: Any, folder: Path) -> tuple[np.ndarray, Path]:
    """The crop of a picture or a clip, and its landmark file, as `facellava faces` writes them."""
    frames = pixels[None] if pixels.ndim == 3 else pixels
    windows = [choose_window(face.box, *frames.shape[1:3], mode, "it") for face in faces]
    crops = np.stack([cut_window(frame, window, mode) for frame, window in zip(frames, windows, strict=True)])
    points = [to_crop(face.landmarks, window) for face, window in zip(faces, windows, strict=True)]
    np.save(folder / "crop.npy", np.stack(points).astype(np.float32))
    return crops[0] if pixels.ndim == 3 else crops, folder / "crop.npy"


def expect_same(one: Prepared, other: Prepared) -> None:
    assert one.sample.ids == other.sample.ids
    for visual, twin in zip(one.sample.media, other.sample.media, strict=True):
        assert visual.medium == twin.medium
        np.testing.assert_array_equal(visual.pixels, twin.pixels)
        assert (visual.landmarks is None) == (twin.landmarks is None)
        np.testing.assert_array_equal(visual.landmarks, twin.landmarks)


DRAWING = {"temperature": 1.0, "max_new_tokens": 30}


def test_a_photograph_is_answered_as_the_crop_of_its_face(
    predictor: Predictor, astronaut: np.ndarray, face: Face, tmp_path: Path
) -> None:
    crop, points = cut_out(astronaut, [face], "reference", tmp_path)
    raw = predictor.predict(astronaut, QUESTION, **DRAWING)
    cropped = predictor.predict(crop, QUESTION, landmarks=points, **DRAWING)
    assert raw == cropped != predictor.predict(astronaut, QUESTION, **WHOLE, **DRAWING)
    assert raw.face == face.box and cropped.face is None
    np.testing.assert_array_equal(raw.landmarks, face.landmarks)
    assert [view.crop for view in (*raw.views, *cropped.views)] == ["reference", "none"]
    expect_same(
        predictor.prepare(Request(astronaut, QUESTION)), predictor.prepare(Request(crop, QUESTION, landmarks=points))
    )
    assert "".join(predictor.stream(astronaut, QUESTION, **DRAWING)) == raw.text
    assert predictor.predict_batch([astronaut], QUESTION, **DRAWING) == [raw]


def test_a_clip_is_answered_as_the_crop_of_its_face(
    predictor: Predictor, astronaut: np.ndarray, finder: FaceFinder, tmp_path: Path
) -> None:
    pan = np.stack([astronaut[20 + k : 212 + k, 60 + 4 * k : 316 + 4 * k] for k in range(9)])
    with ClipWriter(tmp_path / "pan.mp4", 24.0) as writer:
        for index, frame in enumerate(pan):
            writer.add(frame, index / 24)
    frames = np.stack([frame.pixels for frame in iterate_video(tmp_path / "pan.mp4")])
    faces = [finder.find(frame)[0] for frame in frames]
    crop, points = cut_out(frames, faces, "reference", tmp_path)
    raw = predictor.predict(tmp_path / "pan.mp4", QUESTION, **DRAWING)
    assert raw == predictor.predict(crop, QUESTION, landmarks=points, **DRAWING)
    assert raw.views[0].frame_ids == (0, 2, 5, 8)
    assert raw.face == [faces[index].box for index in (0, 2, 5, 8)]
    np.testing.assert_array_equal(raw.landmarks, [faces[index].landmarks for index in (0, 2, 5, 8)])
    expect_same(
        predictor.prepare(Request(tmp_path / "pan.mp4", QUESTION)),
        predictor.prepare(Request(crop, QUESTION, landmarks=points)),
    )


def test_each_face_is_answered_as_its_crop(
    predictor: Predictor, astronaut: np.ndarray, finder: FaceFinder, tmp_path: Path
) -> None:
    group = np.hstack([astronaut[:400], astronaut[40:440, ::-1]])
    faces = finder.find(group)
    assert len(faces) == 2
    answers = predictor.predict_faces(group, QUESTION, **DRAWING)
    for number, (answer, face) in enumerate(zip(answers, faces, strict=True), start=1):
        crop, points = cut_out(group, [face], "centered", tmp_path)
        assert answer == predictor.predict(crop, QUESTION, landmarks=points, **DRAWING)
        assert (answer.face, answer.views[0].number, answer.views[0].found) == (face.box, number, 2)
    assert answers[0].text != answers[1].text
    assert predictor.predict(group, QUESTION, **DRAWING) == answers[0]
    assert predictor.predict_faces(Request(group, QUESTION, options=Options(**DRAWING)), batch_size=1) == answers
    (alone,) = predictor.predict_faces(astronaut, QUESTION, landmarks="none", **DRAWING)
    assert alone == predictor.predict(astronaut, QUESTION, landmarks="none", **DRAWING)
    assert alone != predictor.predict(astronaut, QUESTION, **DRAWING)


def test_every_medium_is_framed_on_its_own(predictor: Predictor, astronaut: np.ndarray) -> None:
    media = [astronaut, astronaut[:256, 96:352], np.stack([astronaut] * 2)]
    together = predictor.prepare(Request(media, QUESTION))
    assert [view.crop for view in together.views] == ["reference", "none", "reference"]
    for visual, medium in zip(together.sample.media, media, strict=True):
        (alone,) = predictor.prepare(Request(medium, QUESTION)).sample.media
        np.testing.assert_array_equal(visual.pixels, alone.pixels)
        np.testing.assert_array_equal(visual.landmarks, alone.landmarks)


@pytest.mark.parametrize("none", ["none", None])
def test_without_crop_and_landmarks_no_face_is_looked_for(
    none: str | None,
    model: FaceLlava,
    tokenizer: Tokenizer,
    image: np.ndarray,
    video: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The media as they are, resized and normalised, and the words: what the original gives the model."""
    monkeypatch.setattr(framing, "FaceFinder", lambda: pytest.fail("looked for a face"))
    predictor = Predictor(model, CONFIG, tokenizer)
    prepared = predictor.prepare(Request([image, video], QUESTION, landmarks=none, crop="none"))
    tower = CONFIG.model.image_tower.image_size
    picture, clip = prepared.sample.media
    np.testing.assert_array_equal(picture.pixels, preprocess_image(image, tower, MediaConfig())[None])
    np.testing.assert_array_equal(clip.pixels, preprocess_video(video[[0, 2, 4, 6]], tower, MediaConfig()))
    assert picture.landmarks is clip.landmarks is None
    text = build_prompt(QUESTION, [visual.medium for visual in (picture, clip)], "llava_v1").text
    assert list(prepared.sample.ids) == encode_with_images(predictor.tokenizer, text)
    assert [view.why for view in prepared.views] == ["crop and landmarks are none"] * 2
    # So it is, whatever is asked for, where the model has no landmark modules.
    unguided = Predictor(
        build_model(CONFIG.model, random_params(CONFIG.model)), without(landmarks=None), predictor.tokenizer
    )
    expect_same(unguided.prepare(Request([image, video], QUESTION)), prepared)


def test_answers_say_how_long_each_step_took(predictor: Predictor, astronaut: np.ndarray, image: np.ndarray) -> None:
    answer = predictor.predict(astronaut, QUESTION, max_new_tokens=5)
    assert [*answer.seconds] == ["read", "faces", "preprocess", "tokenize", "prefill", "decode"]
    assert all(seconds > 0 for seconds in answer.seconds.values())
    whole, nothing = (predictor.predict(each, QUESTION, **WHOLE, max_new_tokens=5) for each in (image, None))
    assert whole.seconds["faces"] == nothing.seconds["faces"] == nothing.seconds["read"] == 0
    assert whole.face is whole.landmarks is nothing.face is nothing.landmarks is None
    assert nothing.views == ()


# --- what cannot be answered

BLACK = np.zeros((50, 50, 3), np.uint8)


def ask_unchecked(field: str, value: Any) -> Request:
    """A request as it comes where annotations are not checked, as they are in tests."""
    request = Request(BLACK, **WHOLE)
    object.__setattr__(request, field, value)
    return request


WRONG_REQUESTS = {
    "no_question": (Request(BLACK, **WHOLE), "give a prompt or a task.*emotion, age"),
    "prompt_and_task": (Request(BLACK, "Hi", task="age", **WHOLE), "give a prompt or a task"),
    "unknown_task": (ask_unchecked("task", "mood"), "task 'mood' is not one of emotion, age"),
    "task_without_media": (Request(task="age"), "task 'age' is about a picture or a clip: give one"),
    "empty_prompt": (Request(BLACK, "  ", **WHOLE), "the prompt is empty"),
    "prompt_too_long": (Request(prompt="x " * 4000), r"a prompt of \d{4} tokens.* the model takes 3072: shorten"),
    "placeholder_too_many": (Request(BLACK, "<image> <image>", **WHOLE), "2 images and 0 videos and is given 1 images"),
    "placeholder_of_another_kind": (Request(BLACK, "<video> Hi", **WHOLE), "0 images and 1 videos and is given 1 "),
    "floats": (Request(BLACK.astype(np.float32), "Hi"), r"\(50, 50, 3\) and type float32: give uint8 RGB"),
    "grey": (Request(BLACK[..., 0], "Hi"), r"an array of shape \(50, 50\)"),
    "rgba": (Request(np.zeros((5, 5, 4), np.uint8), "Hi"), r"an array of shape \(5, 5, 4\)"),
    "no_frames": (Request(np.zeros((0, 5, 5, 3), np.uint8), "Hi"), r"an array of shape \(0, 5, 5, 3\)"),
    "landmarks_for_one_of_two": (Request([BLACK, BLACK], "Hi", landmarks="a.npy"), "1 landmark files for 2 media"),
    "landmarks_for_nothing": (Request(None, "Hi", landmarks="a.npy"), "1 landmark files for 0 media"),
    "landmarks_in_no_file": (ask_unchecked("landmarks", [np.zeros((68, 2))]), "type ndarray: give auto, none"),
    "no_face": (Request(BLACK, "Hi"), r"array \(50, 50, 3\): no face found: .* --crop none --landmarks none$"),
    "no_such_file": (Request("nowhere/face.png", "Hi"), "nowhere/face.png"),
    "no_such_landmarks": (Request(BLACK, "Hi", landmarks="nowhere/points.npy"), "nowhere/points.npy"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "message"), WRONG_REQUESTS.values(), ids=WRONG_REQUESTS)
def test_a_wrong_request_is_named(request_: Request, message: str, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        predictor.predict(request_)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_new_tokens", 0, "a whole number of at least 1"),
        ("temperature", -0.1, "0 .greedy. or more"),
        ("temperature", float("inf"), "0 .greedy. or more"),
        ("temperature", float("nan"), "0 .greedy. or more"),
        ("top_k", -1, "0 .off. or a whole number"),
        ("top_k", 3_000_000_000, "0 .off. or a whole number"),
        ("top_p", 0.0, "above 0"),
        ("top_p", 1.1, "above 0, and 1 .off. at most"),
        ("top_p", float("nan"), "above 0"),
        ("seed", -1, "a whole number from 0 to 4294967295"),
        ("seed", 2**32, "a whole number from 0 to 4294967295"),
        ("stop", ("",), "a tuple of strings"),
    ],
)
def test_options_are_checked(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(PredictError, match=f"^{name} .*: use {allowed}"):
        Options(**{name: value})


@pytest.mark.parametrize("frames", [0, 5, -1])
def test_num_frames_are_those_of_the_tower(frames: int, model: FaceLlava, tokenizer: Tokenizer) -> None:
    with pytest.raises(PredictError, match=f"num_frames {frames}: the video tower takes 1 to 4"):
        Predictor(model, CONFIG, tokenizer, num_frames=frames)


def without(**changes: Any) -> Config:
    return dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": None}, "points.npy: this checkpoint has no landmark modules: ask without landmarks"),
        (
            {"image_tower": None},
            r"array \(50, 50, 3\): this checkpoint has no image tower: import one with --image-tower",
        ),
    ],
    ids=["landmarks", "image_tower"],
)
def test_a_part_that_the_model_lacks_is_named(
    changes: dict[str, Any], message: str, model: FaceLlava, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = save_landmarks(tmp_path / "points.npy", np.random.default_rng(0), BLACK)
    predictor = Predictor(model, without(**changes), tokenizer)
    with pytest.raises(PredictError, match=message):
        predictor.predict(BLACK, "Hi", landmarks=path)


def test_a_tokenizer_must_fit_the_vocabulary(model: FaceLlava, tokenizer: Tokenizer) -> None:
    config = without(decoder=dataclasses.replace(CONFIG.model.decoder, vocab_size=599))
    with pytest.raises(PredictError, match="the tokenizer has 600 tokens and the model 599: put the checkpoint's own"):
        Predictor(model, config, tokenizer)


def test_ids_beyond_the_tokenizer_give_no_error(tokenizer: Tokenizer) -> None:
    """Checkpoints may pad their vocabulary: such an id counts as a token of no known text."""
    reader = AnswerReader(tokenizer, Options(max_new_tokens=3), room=10)
    reader.feed(np.array([300, 640, 301, 302]))
    assert (reader.tokens, reader.finish) == (3, "length")
    known = AnswerReader(tokenizer, Options(max_new_tokens=3), room=10)
    known.feed(np.array([300, tokenizer.unk_id, 301]))
    assert reader.text == known.text


@pytest.mark.parametrize(("dtype", "remedy"), [
    ("float32", "--dtype bfloat16 needs"), ("bfloat16", "use a machine with more memory"),
])  # fmt: skip
def test_memory_is_compared_before_loading(
    dtype: Any, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = without(dtype=dtype)
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)
    with pytest.raises(PredictError, match=rf"needs .* GiB in {dtype}, and .* GiB are free: .*{remedy}") as raised:
        memory.check_memory(tmp_path / "model", config, 1)
    assert str(tmp_path / "model") in str(raised.value)
    for enough in (2**40, None):
        monkeypatch.setattr(memory, "free_memory", lambda enough=enough: enough)
        memory.check_memory(tmp_path / "model", config, 1)


def test_free_memory_is_known_here() -> None:
    free = memory.free_memory()
    assert free is None or 2**24 < free < 2**50


def test_what_predictor_refuses(predictor: Predictor, checkpoint: Path) -> None:
    with pytest.raises(PredictError, match="batch_size 0: use at least 1"):
        predictor.predict_batch([], "Who?", batch_size=0)
    assert predictor.answer([]) == []
    for more in ({"prompt": "Why?"}, {"crop": "none"}, {"landmarks": "none"}, {"seed": 1}):
        with pytest.raises(PredictError, match="a Request brings its own"):
            predictor.predict(Request(None, "Who?"), **more)
    for media in (None, [BLACK, BLACK]):
        with pytest.raises(PredictError, match="every face is asked about in one picture or clip, not in [02]"):
            predictor.prepare_faces(Request(media, "Who?"))
    request = Request(BLACK, "Who?")
    object.__setattr__(request, "crop", "all")
    with pytest.raises(PredictError, match="crop 'all' is not one of auto, none"):
        predictor.predict(request)
    with pytest.raises(PredictError, match="'float16' is not computed on CPU: use float32"):
        Predictor.load(checkpoint, dtype="float16")


def test_a_full_device_is_one_error(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(predictor._generator, "prefill", fill)
    with pytest.raises(PredictError, match="too little memory for 2 prompts at once: use a smaller --batch-size"):
        predictor.predict_batch([Request(None, "Who?"), Request(None, "Why?")])
