"""Predictor.score: candidates against plain forward passes and training conversations, in any company."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from facellava_jax import generate
from facellava_jax.axes import Batch
from facellava_jax.config import tiny
from facellava_jax.data import collate
from facellava_jax.models.facellava import FaceLlava
from facellava_jax.predict import Answer, Predictor, Prepared
from facellava_jax.request import PredictError, Request
from facellava_jax.scoring import Scores, list_texts
from facellava_jax.text import IGNORE, Medium, Tokenizer, build_prompt, encode_answer, label_answers, place_media

QUESTION = "What emotion is shown?"
EMOTIONS = ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]
# One begins another; one has many tokens; one has letters that are bytes.
ODD = ["sad", "sad and afraid", "The person in the video seems to be angry, as the lowered brows tell.", "Zoë 😀"]
WHOLE: Any = {"crop": "none", "landmarks": "none"}


CONFIG = tiny()


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return Tokenizer.load(goldens / "tokenizer" / "tok600")


@pytest.fixture(scope="module")
def predictor(make_model: Callable[..., FaceLlava], tokenizer: Tokenizer) -> Predictor:
    return Predictor(make_model(CONFIG.model), CONFIG, tokenizer)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Words alone, a picture with landmarks, and a clip with a picture: prompts of three lengths."""
    rng = np.random.default_rng(0)
    picture, clip = (rng.integers(0, 256, shape, np.uint8) for shape in ((50, 60, 3), (6, 40, 40, 3)))
    points = tmp_path_factory.mktemp("points") / "points.npy"
    np.save(points, rng.uniform(0, 256, (1, 68, 2)).astype(np.float32))
    return [
        Request(None, QUESTION),
        Request(picture, QUESTION, landmarks=points),
        Request([clip, picture], "<video> or <image>: who is happier?", **WHOLE),
    ]


@pytest.fixture(scope="module")
def prepared(predictor: Predictor, requests: list[Request]) -> list[Prepared]:
    return [predictor.prepare(each) for each in requests]


@nnx.jit
def log_probs(model: FaceLlava, batch: Batch) -> jax.Array:
    h_BLD, _ = model(batch)
    return jax.nn.log_softmax(model.decoder.logits(h_BLD), axis=-1)


def score_plainly(predictor: Predictor, prepared: Prepared, candidate: str) -> float:
    """The log-probabilities of the candidate's tokens, of a whole forward pass over prompt and candidate."""
    ids = encode_answer(predictor.tokenizer, prepared.text, candidate)
    sample = prepared.sample._replace(ids=[*prepared.sample.ids, *ids])
    batch = collate([sample], predictor.config.model)
    model = nnx.merge(predictor._generator.graphdef, predictor._generator.params)
    (table_LV,) = np.asarray(log_probs(model, batch), np.float64)
    first = batch.lengths[0] - len(ids)
    return sum(table_LV[first + place - 1, token] for place, token in enumerate(ids))


@pytest.mark.parametrize("heads", [2, 4], ids=["gqa", "mha"])
def test_scores_are_those_of_plain_forward_passes(
    heads: int, make_model: Callable[..., FaceLlava], tokenizer: Tokenizer, requests: list[Request]
) -> None:
    """Of mixed requests in one batch, each with candidates of its own; with so many key-value heads for four heads."""
    decoder = dataclasses.replace(CONFIG.model.decoder, num_key_value_heads=heads)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, decoder=decoder))
    predictor = Predictor(make_model(config.model), config, tokenizer)
    prepared = [predictor.prepare(each) for each in requests]
    candidates = [EMOTIONS, ODD, [*ODD[::-1], "happiness"]]
    for each, texts, scores in zip(prepared, candidates, predictor.score_prepared(prepared, candidates), strict=True):
        assert scores.candidates == tuple(texts)
        expected = [score_plainly(predictor, each, text) for text in texts]
        np.testing.assert_allclose(scores.log_probs, expected, atol=1e-4, rtol=0)
        assert np.ptp(expected) > 1
        tokens = [len(encode_answer(predictor.tokenizer, each.text, text)) for text in texts]
        np.testing.assert_array_equal(scores.tokens, tokens)


def test_a_candidate_scores_the_same_in_any_company(predictor: Predictor, prepared: list[Prepared]) -> None:
    together = predictor.score_prepared(prepared, [[*EMOTIONS, *ODD]] * 3)
    turned = predictor.score_prepared(prepared[::-1], [[*EMOTIONS, *ODD][::-1]] * 3)
    for one, other in zip(together, turned[::-1], strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs[::-1], atol=1e-5, rtol=0)
    for place, text in enumerate(EMOTIONS):
        (alone,) = predictor.score_prepared(prepared[1:2], [[text]])
        np.testing.assert_allclose(alone.log_probs, together[1].log_probs[place], atol=1e-5, rtol=0)
        assert alone.probabilities.tolist() == [1.0]
    assert predictor.score_prepared([], []) == []


def test_the_answers_that_begin_with_a_token_are_as_likely_as_it(
    predictor: Predictor, prepared: list[Prepared]
) -> None:
    """The distribution is proper: answers of two tokens, over all second ones."""
    batch = collate([prepared[0].sample], predictor.config.model)
    seconds = np.arange(predictor.config.model.decoder.vocab_size, dtype=np.int32)[None]
    first = np.full_like(seconds, 77)
    branches = generate.Branches(first, seconds, answers=seconds, positions=np.zeros_like(seconds))
    scores = np.asarray(predictor._generator.score(batch, branches), np.float64)
    (logits,) = predictor._generator.prefill(batch, 64).logits
    assert np.exp(scores).sum() == pytest.approx(float(jax.nn.softmax(logits)[77]), rel=1e-4)


def test_score_reads_what_predict_reads(predictor: Predictor, prepared: list[Prepared]) -> None:
    rng = np.random.default_rng(0)
    picture, other = (rng.integers(0, 256, (50, 60, 3), np.uint8) for _ in range(2))
    one = predictor.score(picture, QUESTION, EMOTIONS, **WHOLE)
    assert (one.question, one.task) == (QUESTION, None)
    by_task = predictor.score(picture, task="emotion", candidates=EMOTIONS, **WHOLE)
    assert (by_task.question, by_task.task) == ("What emotion is shown in the image?", "emotion")
    assert abs(by_task.log_probs - one.log_probs).max() > 1e-3
    again = predictor.score(Request(picture, QUESTION, **WHOLE), candidates=EMOTIONS)
    np.testing.assert_array_equal(again.log_probs, one.log_probs)
    batch = predictor.score_batch(
        [picture, other, Request(picture, task="emotion", **WHOLE)], QUESTION, EMOTIONS, **WHOLE, batch_size=2
    )
    for scores, expected in zip(batch, [one, None, by_task], strict=True):
        if expected:
            np.testing.assert_allclose(scores.log_probs, expected.log_probs, atol=1e-5, rtol=0)
    assert abs(batch[1].log_probs - one.log_probs).max() > 1e-3


def test_candidates_come_in_any_collection(predictor: Predictor, requests: list[Request]) -> None:
    expected = predictor.score(requests[0], candidates=EMOTIONS)
    for candidates in (np.array(EMOTIONS), tuple(EMOTIONS), dict.fromkeys(EMOTIONS), iter(EMOTIONS)):
        scores = predictor.score(requests[0], candidates=candidates)
        assert scores.candidates == tuple(EMOTIONS) and {*map(type, scores.candidates)} == {str}
        np.testing.assert_array_equal(scores.log_probs, expected.log_probs)
    batch = predictor.score_batch(requests[:1] * 3, candidates=(each for each in EMOTIONS), batch_size=2)
    assert [scores.candidates for scores in batch] == [tuple(EMOTIONS)] * 3


def test_other_candidates_of_similar_length_compile_nothing(predictor: Predictor, prepared: list[Prepared]) -> None:
    def count(candidates: list[str]) -> int:
        (scores,) = predictor.score_prepared(prepared[:1], [candidates])
        assert scores.tokens.sum() - len(candidates) <= 32
        return generate._score._cache_size()

    compiled = count(["joy", "grief"])
    assert [count(each) for each in (["real", "fake", "unknown"], ["no"], ["one", "two", "three", "4"])] == [
        compiled
    ] * 3


def test_normalised_scores() -> None:
    log_probs = np.log([0.2, 0.05, 0.2])
    scores = Scores(
        question="?", task=None, candidates=("a", "b", "c"), log_probs=log_probs, tokens=np.array([2, 1, 4])
    )
    np.testing.assert_allclose(scores.probabilities, [4 / 9, 1 / 9, 4 / 9])
    np.testing.assert_allclose(scores.mean_log_probs, [np.log(0.2) / 2, np.log(0.05), np.log(0.2) / 4])
    assert scores.best == "a"  # of equals the first
    far = dataclasses.replace(scores, log_probs=np.array([-2000.0, -1000.0, -1001.0]))
    np.testing.assert_allclose(far.probabilities, [0, 1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1))])
    assert far.best == "b"


# --- candidates as training has them


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("template", ["llava_v1", "v1", "llava_llama_2"])
@pytest.mark.parametrize("media", [[], [Medium("image")], [Medium("video", 4), Medium("image")]], ids=len)
def test_candidates_are_tokenised_as_in_training(
    media: list[Medium], template: str, legacy: bool, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids are those that a recorded conversation has labels at."""
    monkeypatch.setattr(tokenizer, "legacy", legacy)
    prompt = build_prompt(QUESTION, media, template)
    for answer in [*EMOTIONS, *ODD, "Fake.", "AU6, AU12", " spaced", "two\nlines"]:
        (question, _), _ = place_media([QUESTION, answer], media)
        example = label_answers(tokenizer, [question, answer], template)
        assert example.aligned
        expected = example.labels[example.labels != IGNORE].tolist()
        assert encode_answer(tokenizer, prompt.text, answer, template) == expected
        assert expected[-1] == tokenizer.eos_id


# --- what cannot be scored


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], r"candidates \[\]: give a list of answers"),
        ("happy", "candidates 'happy': give a list of answers"),
        (iter([]), "give a list of answers, at least one"),
        (["happy", ""], "an answer is empty: give it a text, or leave it out"),
        (["happy", " \n"], "an answer is empty"),
        (["happy", "sad", "happy"], "the candidates 'happy' and 'happy' are the same answer"),
        (["happy", "happy "], "the candidates 'happy' and 'happy ' are the same answer"),
        (["<image>"], "no model answers '<image>': leave <image> and special tokens out"),
        (["happy</s>"], "no model answers 'happy</s>': leave <image> and special tokens out"),
        (
            ["no", "x " * 4000],
            r"a prompt of \d+ tokens and a candidate of \d{4}, and the model takes \d+: shorten 'x x",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:20],
)
def test_wrong_candidates_are_named(candidates: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        predictor.score(None, QUESTION, candidates)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (None, "candidates None: give a list of answers, at least one"),
        (3, "candidates 3: give a list of answers, at least one"),
        ([3, "sad"], "the candidate 3 is no text: give a list of answers"),
        (["sad", None], "the candidate None is no text: give a list of answers"),
        ([["sad"]], "the candidate ['sad'] is no text: give a list of answers"),
        (np.array([1.5, 2]), "the candidate np.float64(1.5) is no text: give a list of answers"),
        (np.array("sad"), "candidates array('sad', dtype='<U3'): give a list of answers, at least one"),
    ],
    ids=repr,
)
def test_candidates_of_other_types_are_named(candidates: Any, message: str) -> None:
    with pytest.raises(PredictError, match=f"^{re.escape(message)}$"):
        inspect.unwrap(list_texts)(candidates)  # without the checks of types that tests have


def test_the_longest_candidate_that_fits(predictor: Predictor, tokenizer: Tokenizer) -> None:
    """Prompt and candidate fill all positions that the model has, and no more."""
    prompt = len(predictor.prepare(Request(None, QUESTION)).sample.ids)
    decoder = dataclasses.replace(predictor.config.model.decoder, max_position_embeddings=prompt + 12)
    config = dataclasses.replace(predictor.config, model=dataclasses.replace(predictor.config.model, decoder=decoder))
    model = nnx.merge(predictor._generator.graphdef, predictor._generator.params)
    short = Predictor(model, config, tokenizer)
    texts = ["?" * count for count in range(1, 13)]
    lengths = [len(encode_answer(tokenizer, build_prompt(QUESTION).text, text)) for text in texts]
    fits = texts[lengths.index(12)]
    np.testing.assert_allclose(
        short.score(None, QUESTION, [fits]).log_probs, predictor.score(None, QUESTION, [fits]).log_probs, atol=1e-5
    )
    with pytest.raises(PredictError, match=f"a prompt of {prompt} tokens and a candidate of 13, and the model takes"):
        short.score(None, QUESTION, [fits, fits + "?"])


# --- labels


def test_an_answer_has_its_label(predictor: Predictor) -> None:
    said = {"question": "?", "tokens": 5, "finish": "stop", "views": (), "seconds": {}}
    assert Answer(text="The person looks happy.", task="emotion", **said).label == "happiness"
    assert Answer(text="AU6 and AU12", task="action-units", **said).label == frozenset({6, 12})
    assert Answer(text="The person looks happy.", task=None, **said).label is None
    assert Answer(text="", task="age", **said).label is None
    picture = np.zeros((50, 50, 3), np.uint8)
    assert predictor.predict(picture, task="age", **WHOLE, max_new_tokens=2).task == "age"
    assert predictor.predict(picture, QUESTION, **WHOLE, max_new_tokens=2).task is None
