"""text/: ids, text, labels and splice against what the original recorded, and what must hold for any input."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES

from facellava_jax.text import (
    IGNORE,
    PLACEHOLDER_ID,
    TEMPLATES,
    AnswerStream,
    Layout,
    Medium,
    Row,
    TextError,
    Tokenizer,
    bucket,
    build_prompt,
    encode_with_images,
    label_answers,
    pad_rows,
    place_media,
    read_answer,
    read_conversation,
    splice,
)

GoldenCase = Callable[[str], Path]
IMAGE, CLIP, LONG_CLIP = Medium("image"), Medium("video", 4), Medium("video", 8)
# The words of the prompts in the goldens' `prompts`, by their `kind`.
KINDS = {"image": [IMAGE], "video4_inference": [CLIP], "video8_inference": [LONG_CLIP], "text": []}
TOKENIZERS = ("tok600", "mistral_v1")
# Cases without the arrays that a splice is compared with, or without media.
UNSPLICED = ("11b_train_stage1_masked", "15_text_only_no_images")


@pytest.fixture(scope="module")
def recorded(goldens: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((goldens / "tokenizer" / "tokenizer_goldens.json").read_text())
    return values


@pytest.fixture(params=TOKENIZERS)
def golden(request: pytest.FixtureRequest, recorded: dict[str, Any], golden_case: GoldenCase) -> Any:
    """A tokenizer, and what the original recorded of it."""
    return Tokenizer.load(golden_case(f"tokenizer/{request.param}")), recorded[request.param]


@pytest.fixture(scope="module")
def folder(goldens: Path) -> Path:
    return goldens / "tokenizer" / "tok600"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def media_of(turns: Sequence[str], frames: int = 8) -> list[Medium]:
    """The media that a conversation has placeholders for, videos first."""
    text = "".join(turns)
    return [Medium("video", frames)] * text.count("<video>") + [IMAGE] * text.count("<image>")


def test_special_ids_and_size(golden: Any) -> None:
    tokenizer, values = golden
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id)
    assert ids == tuple(values[name] for name in ("bos", "eos", "unk", "pad"))
    assert (len(tokenizer), tokenizer.max_length) == (values["len"], values["model_max_length"])
    assert [[tokenizer.eos_id]] == values["stop_keyword_ids"]


def test_texts_encode_and_decode(golden: Any) -> None:
    tokenizer, values = golden
    for entry in values["texts"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"]
        assert tokenizer.decode(entry["ids"]) == entry["decoded"]
        assert tokenizer.decode(entry["ids"], skip_special=True) == entry["decoded_skip_special"]


def test_random_ids_decode(golden: Any) -> None:
    tokenizer, values = golden
    for entry in values["decode_random"]:
        assert tokenizer.decode(entry["ids"]) == entry["text"]
        assert tokenizer.decode(entry["ids"], skip_special=True) == entry["text_skip"]


def test_prompts_encode(golden: Any) -> None:
    tokenizer, values = golden
    for entry in values["prompts"]:
        assert encode_with_images(tokenizer, entry["prompt"]) == entry["ids"]


def test_prompts_are_built(recorded: dict[str, Any]) -> None:
    built = 0
    for entry in recorded["tok600"]["prompts"]:
        if entry["kind"] in KINDS:
            system, _, words = entry["prompt"].partition("USER: ")
            question = words.rpartition("\n")[2].removesuffix(" ASSISTANT:")
            prompt = build_prompt(question, KINDS[entry["kind"]], entry["template"])
            assert prompt.text == entry["prompt"] and system
            built += 1
    assert built == 2 * 4 * len(KINDS)


def test_templates_hold_the_recorded_words(recorded: dict[str, Any]) -> None:
    assert TEMPLATES.keys() == recorded["templates"].keys()
    for name in ("v1", "llava_v1"):
        form = recorded["templates"][name]
        user, assistant = form["roles"]
        expected = f"{form['system']} {user}: q {assistant}: a{form['sep2']}{user}: r {assistant}:"
        assert TEMPLATES[name].render(["q", "a", "r"]) == expected
    system = recorded["templates"]["llava_llama_2"]["system"]
    rendered = TEMPLATES["llava_llama_2"].render(["q", "a", "r"])
    assert rendered == f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\nq [/INST] a </s><s>[INST] r [/INST]"
    assert build_prompt("Describe.", [IMAGE], "plain").text == "<image>\nDescribe.\n"


def test_prefixes_stream_as_whole_characters(golden: Any) -> None:
    tokenizer, values = golden
    for entry in values["decode_prefixes"]:
        stream, text = AnswerStream(tokenizer), ""
        for id_, decoded in zip(entry["ids"], entry["texts"], strict=True):
            text += stream.feed([id_])
            assert text == decoded.rstrip("\ufffd")
        assert text + stream.finish() == entry["texts"][-1]


def test_conversations_are_labelled(golden: Any) -> None:
    tokenizer, values = golden
    # The one left out is of checkpoints with mm_use_im_start_end, which are refused at import.
    entries = {name: entry for name, entry in values["preprocess_v1"].items() if name != "__im_start_end_texts"}
    for name, entry in entries.items():
        turns = read_conversation(entry["conversations"])
        turns, _ = place_media(turns, media_of(turns))
        ids, labels, aligned = label_answers(tokenizer, turns, max_length=entry["model_max_length"])
        assert ids.tolist() == entry["input_ids"], name
        assert labels.tolist() == entry["labels"], name
        assert aligned == (not entry["warning"]), name
    assert not entries.keys() ^ {
        *("single_image", "multi_turn_image", "video", "video_multi_turn", "no_image_single", "no_image_multi"),
        *("starts_with_gpt", "two_images", "image_at_end", "empty_answer_space", "contains_eos_text"),
        *("contains_sep_text", "too_long_no_image"),
    }


def test_what_is_cut_off_need_not_be_aligned(tokenizer: Tokenizer) -> None:
    turns = ["Who?", "A man.", "Say ASSISTANT: please.", "No."]
    whole = label_answers(tokenizer, turns)
    assert not whole.aligned and (whole.labels == IGNORE).all()
    end = len(label_answers(tokenizer, turns[:2]).ids)
    cut = label_answers(tokenizer, turns, max_length=end)
    assert cut.aligned and tokenizer.decode(cut.labels[cut.labels != IGNORE]) == " A man.</s>"
    assert not label_answers(tokenizer, turns, max_length=end + 1).aligned


@pytest.mark.parametrize("template", ["plain", "llava_llama_2"])
def test_other_templates_are_labelled(golden: Any, template: str) -> None:
    tokenizer, values = golden
    turns = read_conversation(values["preprocess_v1"]["single_image"]["conversations"])
    example = label_answers(tokenizer, turns, template)
    assert example.ids.tolist() == values[f"preprocess_{template}"]["input_ids"]
    assert example.labels.tolist() == values[f"preprocess_{template}"]["labels"]
    assert example.aligned


def test_examples_are_padded_as_the_collator_does(golden: Any) -> None:
    tokenizer, values = golden
    collated, rows = values["collator"], []
    for name in collated["order"]:
        turns = read_conversation(values["preprocess_v1"][name]["conversations"])
        turns, _ = place_media(turns, media_of(turns))
        ids, labels, _ = label_answers(tokenizer, turns)
        limit = collated["model_max_length"]
        rows.append(Row(ids[:limit], np.full_like(ids[:limit], -1), labels[:limit]))
    padded = pad_rows(rows, len(collated["input_ids"][0]))
    assert padded.labels is not None
    assert padded.tokens.tolist() == collated["input_ids"]
    assert padded.labels.tolist() == collated["labels"]
    assert padded.lengths.tolist() == np.sum(collated["attention_mask"], axis=1).tolist()


def test_the_first_batch_of_a_real_training_run(golden_case: GoldenCase) -> None:
    case = golden_case("16_e2e_train_stage1")
    tokenizer = Tokenizer.load(case / "checkpoint")
    batch = np.load(case / "first_batch.npz")
    texts = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    seen = set()
    for record in json.loads((case / "data" / "data.json").read_text()):
        turns = read_conversation(record["conversations"])
        turns, _ = place_media(turns, media_of(turns, frames=4))
        ids, labels, aligned = label_answers(tokenizer, turns, max_length=2048)
        row = texts.index(ids.tolist())
        assert batch["labels"][row][: len(ids)].tolist() == labels.tolist() and aligned
        seen.add(row)
    assert seen == {0, 1, 2, 3}


def recorded_features(outputs: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    """The visual tokens as they are spliced: the last recorded stage, since equal ones are left out."""
    keys = (f"{kind}_{stage}" for stage in ("features", "cross_attn_out", "mm_proj_out"))
    return next((outputs[key] for key in keys if key in outputs), np.zeros((0, 0, 0)))


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNSPLICED])
def test_splice_agrees_with_the_original(golden_case: GoldenCase, name: str) -> None:
    case = golden_case(name)
    meta = json.loads((case / "meta.json").read_text())
    inputs, outputs = (np.load(case / name) for name in ("inputs.npz", "outputs.npz"))
    features = {kind: recorded_features(outputs, kind) for kind in ("image", "video")}
    queue = [(entry["kind"].removeprefix("dummy_"), entry["kind"]) for entry in meta["images_order"]]
    taken = {"image": 0, "video": 0}
    for row in range(len(inputs["input_ids"])):
        valid = inputs["attention_mask"][row] == 1
        ids = inputs["input_ids"][row][valid]
        media: list[Medium] = []
        blocks: dict[str, list[np.ndarray]] = {"image": [], "video": []}
        wanted = max(1, int(np.sum(ids == PLACEHOLDER_ID)))  # a row without media takes a dummy image
        while queue and sum(medium.frames for medium in media) < wanted:
            kind, label = queue.pop(0)
            block = features[kind][taken[kind]]
            taken[kind] += 1
            medium = Medium("video", len(block)) if kind == "video" else IMAGE
            media.append(medium)
            blocks[kind].append(block.reshape(-1, block.shape[-1]))
        if label == "dummy_image":
            media, blocks = [], {"image": [], "video": []}
        slots = {kind: features[kind].shape[-2] for kind in features}
        layout = Layout(len(blocks["image"]), slots["image"], max((m.frames for m in media), default=0), slots["video"])
        spans = layout.locate(media, [slots[medium.kind] for medium in media])
        spliced = splice(
            ids, [span for each in spans for span in each], inputs["labels"][row][valid], meta["mm"].get("max_length")
        )
        merged = outputs["attention_mask_merged"][row] == 1
        assert spliced.labels is not None
        assert len(spliced.tokens) == merged.sum()
        assert spliced.labels.tolist() == outputs["labels_merged"][row][merged].tolist()
        visual = spliced.visual_index >= 0
        if visual.any():
            tokens = np.concatenate(blocks["image"] + blocks["video"])
            embeds = outputs["inputs_embeds"][row][merged]
            np.testing.assert_array_equal(embeds[visual], tokens[spliced.visual_index[visual]])
        text = ids[ids != PLACEHOLDER_ID]
        assert spliced.tokens[~visual].tolist() == text[: np.sum(~visual)].tolist()
    assert not queue


def test_splice_of_random_mixes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.choice([PLACEHOLDER_ID, rng.randrange(600)]) for _ in range(rng.randrange(30))]
        labels = np.array([rng.choice([IGNORE, 5]) for _ in ids], np.int64)
        spans = [(rng.randrange(50), rng.randrange(1, 6)) for id_ in ids if id_ == PLACEHOLDER_ID]
        limit = rng.choice([None, rng.randrange(1, 60)])
        queue, expected = list(spans), []
        for id_, label in zip(ids, labels.tolist(), strict=True):
            if id_ == PLACEHOLDER_ID:
                first, count = queue.pop(0)
                expected += [(0, first + i, IGNORE) for i in range(count)]
            else:
                expected.append((id_, -1, label))
        row = splice(ids, spans, labels, limit)
        assert row.labels is not None
        assert row.tokens.dtype == row.visual_index.dtype == row.labels.dtype == np.int32
        parts = (row.tokens.tolist(), row.visual_index.tolist(), row.labels.tolist())
        assert list(zip(*parts, strict=True)) == expected[:limit]
        assert splice(ids, spans).labels is None


def test_every_visual_token_has_its_place() -> None:
    layout = Layout(images=3, image_slots=5, frames=4, video_slots=7)
    media = [Medium("video", 4), IMAGE, Medium("video", 2), IMAGE]
    clip_0, image_0, clip_1, image_1 = layout.locate(media, [7, 5, 6, 4])
    assert (image_0, image_1) == ([(0, 5)], [(5, 4)])
    assert clip_0 == [(15, 7), (22, 7), (29, 7), (36, 7)]
    assert clip_1 == [(43, 6), (50, 6)]


def test_rows_are_padded_on_the_right() -> None:
    rows = [splice([1, PLACEHOLDER_ID, 7], [(2, 2)]), splice([1], [])]
    padded = pad_rows(rows, 5)
    assert padded.tokens.tolist() == [[1, 0, 0, 7, 0], [1, 0, 0, 0, 0]]
    assert padded.visual_index.tolist() == [[-1, 2, 3, -1, -1], [-1] * 5]
    assert padded.lengths.tolist() == [4, 1] and padded.labels is None
    assert pad_rows(rows).tokens.shape == (2, 64)


def test_buckets_are_few_and_fit() -> None:
    sizes = [bucket(length) for length in range(1, 6000)]
    assert all(size >= length for length, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes) and len(set(sizes)) <= 16
    assert (bucket(316), bucket(2116), bucket(4097)) == (384, 2304, 5120)


def test_placeholders_say_where_the_media_go() -> None:
    prompt = build_prompt("Is <video> the one in <image>, or in <image>?", [IMAGE, CLIP, IMAGE])
    assert "Is <image> <image> <image> <image> the one in <image>, or in <image>?" in prompt.text
    assert prompt.order == (1, 0, 2)
    first = build_prompt("Which?", [IMAGE, CLIP])
    assert "USER: <image> <image> <image> <image> <image>\nWhich? ASSISTANT:" in first.text
    assert first.order == (0, 1)
    assert place_media(["<video>\nq", "a", "and <image>?", "b"], [IMAGE, Medium("video", 2)]) == (
        ["<image><image>\nq", "a", "and <image>?", "b"],
        (1, 0),
    )


def test_the_answer_ends_at_the_end_token_and_at_stop_strings(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("The face is happy. USER: no", bos=False), tokenizer.eos_id, 300]
    assert read_answer(tokenizer, ids) == "The face is happy. USER: no"
    assert read_answer(tokenizer, ids, ["USER:", "happy!"]) == "The face is happy. "
    stream = AnswerStream(tokenizer, ["USER:"])
    pieces = [stream.feed([id_]) for id_ in ids]
    assert "".join(pieces) == "The face is happy. " and stream.stopped
    assert stream.feed([300]) == stream.finish() == ""
    # Of overlapping stops the one that is complete first counts; one that is only begun is text after all.
    assert read_answer(tokenizer, tokenizer.encode("xabcd", bos=False), ["abcd", "bc"]) == "xa"
    assert read_answer(tokenizer, tokenizer.encode("xab", bos=False), ["abcd"]) == "xab"


def test_chunks_make_no_difference_to_a_stream(golden: Any) -> None:
    tokenizer, _ = golden
    rng = random.Random(1)
    stops = ["of", "e t", "\ufffda", "ing the"]
    for number in range(300):
        ids = [rng.choice([rng.randrange(len(tokenizer)), rng.randrange(3, 259), 1, 0]) for _ in range(40)]
        ids = [id_ for id_ in ids if id_ != tokenizer.eos_id]
        some = stops if number % 2 else []
        stream, text, rest = AnswerStream(tokenizer, some), "", list(ids)
        while rest:
            size = rng.randrange(1, 6)
            text += stream.feed(rest[:size])
            rest = rest[size:]
        text += stream.finish()
        whole = tokenizer.decode(ids, skip_special=True)
        ends = [(at + len(stop), at) for stop in some if (at := whole.find(stop)) >= 0]
        assert text == (whole[: min(ends)[1]] if ends else whole)


def copy_folder(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Puts `values` into a JSON file of the folder."""
    old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(old | values))


BARE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PADDED = {"pad_token": "[PAD]"}
# tok600 with a changed file: (file, values, length, pad, rows of text, ids, decoded, decoded without special tokens),
# recorded from LlamaTokenizer of transformers 4.31.0.
VARIANTS: dict[str, tuple[dict[str, dict[str, Any]], int, int, list[tuple[str, list[int], str, str]]]] = {
    "not legacy": (
        {"tokenizer_config.json": {"legacy": False}},
        600,
        0,
        [
            ("a</s>b", [1, 262, 2, 524], "<s> a</s>b", "ab"),
            ("</s>USER: hi", [1, 2, 551, 537, 463, 540, 503, 512, 507], "<s></s>USER: hi", "USER: hi"),
            ("x </s> \u2581y", [1, 503, 533, 503, 2, 259, 412], "<s> x </s>  y", "x    y"),
            ("one</s> two", [1, 392, 504, 2, 259, 505, 530, 510], "<s> one</s> two", "one  two"),
            ("x</s>\u2581y", [1, 503, 533, 2, 259, 525], "<s> x</s> y", "x  y"),
        ],
    ),
    "bare special tokens swallow spaces": (
        {"special_tokens_map.json": BARE},
        600,
        0,
        [
            ("x </s> \u2581y", [1, 503, 533, 2, 259, 525], "<s> x</s> y", "x  y"),
            ("x <unk> y", [1, 503, 533, 0, 412], "<s> x<unk>y", "x y"),
        ],
    ),
    "added tokens": (
        {"special_tokens_map.json": PADDED, "added_tokens.json": {"<im_start>": 600, "<im_end>": 601, "[PAD]": 602}},
        603,
        602,
        [
            ("a <im_start> b[PAD] c", [1, 262, 600, 286, 602, 275], "<s>a <im_start> b [PAD] c", "a <im_start> b c"),
            ("a</s>b", [1, 262, 2, 286], "<s> a</s>b", "a b"),
        ],
    ),
    "a special token that the vocabulary lacks": (
        {"special_tokens_map.json": PADDED},
        601,
        600,
        [("a[PAD]b", [1, 262, 600, 286], "<s>a [PAD] b", "a b")],
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_tokenizer_files_are_honoured(folder: Path, tmp_path: Path, name: str) -> None:
    files, length, pad, rows = VARIANTS[name]
    variant = copy_folder(folder, tmp_path / "variant")
    for file, values in files.items():
        edit(variant, file, values)
    tokenizer = Tokenizer.load(variant)
    assert (len(tokenizer), tokenizer.pad_id) == (length, pad)
    for text, ids, decoded, bare in rows:
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == decoded
        assert tokenizer.decode(ids, skip_special=True) == bare


def test_a_model_alone_is_enough(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    alone = Tokenizer.load(tmp_path)
    assert (alone.bos_id, alone.eos_id, alone.pad_id, alone.max_length) == (1, 2, 0, None)
    assert alone.encode("a </s> b") == tokenizer.encode("a </s> b")


BAD_FOLDERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no model": ("tokenizer.model", lambda path: path.unlink(), "copy"),
    "empty model": ("tokenizer.model", lambda path: path.write_bytes(b""), "copy it again"),
    "half a model": ("tokenizer.model", lambda path: path.write_bytes(path.read_bytes()[:4000]), "copy it again"),
    "no model at all": ("tokenizer.model", lambda path: path.write_bytes(b"a page of HTML"), "copy it again"),
    "half a config": ("tokenizer_config.json", lambda path: path.write_text('{"legacy"'), "copy it again"),
    "a list for a config": ("tokenizer_config.json", lambda path: path.write_text("[]"), "no JSON object"),
    "another tokenizer": (
        "tokenizer_config.json",
        lambda path: edit(path.parent, path.name, {"tokenizer_class": "GPT2Tokenizer"}),
        "only 'LlamaTokenizer'",
    ),
    "an end token": (
        "tokenizer_config.json",
        lambda path: edit(path.parent, path.name, {"add_eos_token": True}),
        "add_eos_token True is not supported",
    ),
    "no token": (
        "eos_token",
        lambda path: edit(path.parent, "special_tokens_map.json", {"eos_token": {"contents": "</s>"}}),
        "is no token",
    ),
    "a gap in added tokens": (
        "added_tokens.json",
        lambda path: edit(path.parent, path.name, {"<im_start>": 601}),
        "'<im_start>' has id 601, and should have 600",
    ),
    "a known token at another place": (
        "added_tokens.json",
        lambda path: edit(path.parent, path.name, {"</s>": 7}),
        "'</s>' has id 7, and should have 2",
    ),
    "an id that is none": (
        "added_tokens.json",
        lambda path: edit(path.parent, path.name, {"<im_start>": "600"}),
        "'<im_start>' has id '600'",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders_are_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    file, spoil, remedy = BAD_FOLDERS[name]
    bad = copy_folder(folder, tmp_path / "bad")
    spoil(bad / file)
    with pytest.raises(TextError) as caught:
        Tokenizer.load(bad)
    assert file in str(caught.value) and remedy in str(caught.value) and "\n" not in str(caught.value)


BAD_TEXTS: dict[str, tuple[Callable[[Tokenizer], object], str]] = {
    "an id beyond the vocabulary": (lambda tokenizer: tokenizer.decode([5, 600]), "token id 600"),
    "a placeholder": (lambda tokenizer: tokenizer.decode([PLACEHOLDER_ID]), "token id -200"),
    "half a surrogate pair": (lambda tokenizer: tokenizer.encode("a\ud83d"), "at character 1"),
    "an empty stop string": (lambda tokenizer: AnswerStream(tokenizer, ["x", ""]), "stop string is empty"),
    "an empty prompt": (lambda _: build_prompt(" ", [IMAGE]), "the prompt is empty"),
    "no image for a placeholder": (lambda _: build_prompt("<image> who?"), "has 1 images and 0 videos"),
    "an image for a clip": (lambda _: build_prompt("<video> who?", [IMAGE]), "is given 1 images and 0 videos"),
    "two images for one": (lambda _: build_prompt("<image> who?", [IMAGE] * 2), "is given 2 images"),
    "an unknown template": (lambda _: build_prompt("who?", [], "v2"), "'v2' is not one of llava_v1, v1"),
    "a caption without media": (lambda tokenizer: label_answers(tokenizer, ["q", "a"], "plain"), "<image> or <video>"),
    "an empty answer": (lambda tokenizer: label_answers(tokenizer, ["q", ""]), "turn 2"),
    "no conversation": (lambda _: read_conversation([]), "does not end with an answer"),
    "no answer": (lambda _: read_conversation([{"from": "human", "value": "q"}]), "does not end with an answer"),
    "two questions": (lambda _: read_conversation([{"from": "human", "value": "q"}] * 2), "turn 2"),
    "an unknown speaker": (
        lambda _: read_conversation([{"from": "system", "value": "q"}]),
        "from 'human' is due",
    ),
    "a number for a text": (lambda _: read_conversation([{"from": "human", "value": 3}]), "turn 1"),
    "a frame too few": (lambda _: splice([1, PLACEHOLDER_ID, PLACEHOLDER_ID], [(0, 3)]), "2 image placeholders"),
    "a frame too many": (lambda _: splice([1], [(0, 3)]), "the media give 1 frames"),
    "a row too long": (lambda _: pad_rows([splice(range(9), [])], 8), "9 tokens does not fit into 8"),
    "labels of some": (lambda _: pad_rows([splice([1], []), splice([1], [], np.ones(1, np.int32))]), "1 of 2 samples"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line(tokenizer: Tokenizer, name: str) -> None:
    act, words = BAD_TEXTS[name]
    with pytest.raises(TextError) as caught:
        act(tokenizer)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_text_comes_without_jax_and_transformers() -> None:
    code = (
        "import sys, facellava_jax.text; "
        "print(sorted({'jax', 'sentencepiece', 'transformers', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
