"""data: lists of records, what is measured of them, and the report before a run."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TOK600

from facellava_jax.config import Config, tiny
from facellava_jax.data import DataError, RecordList, check_data
from facellava_jax.data import index as index_module
from facellava_jax.data.index import Reading, index_records
from facellava_jax.data.plan import measure_lengths
from facellava_jax.experiment import DataConfig, Source
from facellava_jax.text import Tokenizer

Write = Callable[..., Path]
TALK = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A face."}]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(record, ...)` is a list of them."""

    def save(*records: Any, text: str | bytes | None = None) -> Path:
        file = tmp_path / "list.json"
        text = json.dumps(records) if text is None else text
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return save


def entry(**fields: Any) -> dict[str, Any]:
    return {"conversations": TALK, **fields}


def test_media_come_clips_first_each_below_its_root(write: Write) -> None:
    file = write(
        entry(id="both", image=["a.png", "b/c.jpg"], video="v.mp4", landmarks_2d=["v.npy", "a.npy", None], task="age"),
        entry(image="a.png", landmarks_2d="a.npy", labels=[1]),
        entry(id=7, image="", video=[], landmarks_2d=None),
        entry(image="é.png"),
    )
    records = RecordList(file, Path("pictures"), Path("clips"))
    assert [records.read(number).name for number in range(4)] == ["both", "1", "7", "3"]
    assert [(*map(str, medium),) for medium in records.read(0).media] == [
        ("video", "clips/v.mp4", "clips/v.npy"),
        ("image", "pictures/a.png", "pictures/a.npy"),
        ("image", "pictures/b/c.jpg", "None"),
    ]
    assert records.read(0).conversations == tuple(TALK)
    assert records.read(1).media[0].landmarks == Path("pictures/a.npy")
    assert records.read(2).media == ()
    assert RecordList(file).read(3).media[0].path == file.parent / "é.png"


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff[{"a": 1},\r\n\t{"b": "]},[{", "c": "\\"é😀"} , 3]\n',
        '[{"a": 1},{"b": "]},[{", "c": "\\"é😀"},3]',
    ],
)
def test_records_are_found_where_they_stand(write: Write, text: str) -> None:
    records = RecordList(write(text=text))
    data = records.path.read_bytes()
    assert [data[first:end].decode() for first, end in records._spans] == [
        '{"a": 1}',
        '{"b": "]},[{", "c": "\\"é😀"}',
        "3",
    ]
    part = records.take(1, 3)
    assert len(part) == 2 and part.find_name(2) == "2"
    assert len(RecordList(write(text=" [ ] "))) == 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no list of records"),
        ('{"a": 1}', "no list of records"),
        ("[{}, {]", "record 1 is not JSON"),
        ("[{},]", "record 1 is not JSON"),
        ("[{}, {}", "not a whole list, at byte 7"),
        ("[{}] x", "not a whole list, at byte 3"),
        ("[" * 100_000, "record 0 is not JSON"),
    ],
)
def test_what_is_no_list_is_refused(write: Write, text: str, fault: str) -> None:
    with pytest.raises(DataError, match=f"list.json: .*{fault}"):
        RecordList(write(text=text))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.json: No such file or directory: name a list"):
        RecordList(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (5, "'5' is no object"),
        (entry(image=3), "image .3.: use a path"),
        (entry(image=["a.png", ""]), "image .*: use a path"),
        (entry(image="a.png", landmarks_2d=["a.npy", "b.npy"]), "for 1 media"),
        (entry(image=["a.png", "b.png"], landmarks_2d="a.npy"), "for 2 media"),
        (entry(landmarks_2d="a.npy"), "for 0 media"),
        (entry(image="a.png", landmarks_2d=[5]), "for 1 media"),
        (entry(image=["a.png"] * 17), "17 images, and at most 16"),
        (entry(video=["a.mp4"] * 2), "2 videos, and at most 1"),
        ({"image": "a.png"}, "conversations is no list of turns"),
        ({"conversations": ["hello"]}, "conversations is no list of turns"),
    ],
)
def test_an_entry_that_is_no_record_is_named(write: Write, record: Any, fault: str) -> None:
    records = RecordList(write(entry(), record))
    records.read(0)
    with pytest.raises(DataError, match=f"list.json: record 1: .*{fault}"):
        records.read(1)
    assert records.find_name(1) == "1"


def test_an_entry_that_is_not_utf8_is_named(write: Write) -> None:
    with pytest.raises(DataError, match="record 1: .*save the list as UTF-8"):
        RecordList(write(text=b'[{}, {"id": "\xff"}]')).read(1)


def test_the_index_measures_every_record(write: Write, tokenizer: Tokenizer) -> None:
    reading = Reading(tokenizer, "v1", 4, 2048)
    longer = [{"from": "human", "value": "What is it? " * 9}, TALK[1]]
    file = write(
        entry(),
        entry(image="a.png", landmarks_2d="a.npy"),
        entry(video="v.mp4", image=["a.png", "b.png"], landmarks_2d=["v.npy", "", "b.npy"]),
        {"conversations": longer},
        entry(image="a.png", landmarks_2d="a.npy"),
        entry(image="a.png", conversations=[{"from": "human", "value": "<image><image> What is it?"}, TALK[1]]),
        5,
    )
    index = index_records(RecordList(file), reading)
    assert index.images.tolist() == [0, 1, 2, 0, 1, 1, 0]
    assert index.videos.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert index.image_landmarks.tolist() == [0, 1, 1, 0, 1, 0, 0]
    assert index.video_landmarks.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert index.sound.tolist() == [True] * 5 + [False] * 2
    assert (index.digest[1] == index.digest[4]) and len(set(index.digest.tolist())) == 6
    # The media stand before the first question: "<image>\n" for it, of which each <image> is one token.
    text, image, video, *_ = index.tokens.tolist()
    newline = image - text - 1
    assert newline > 0 and video - text == 4 + 2 + newline
    model = tiny().model
    appending = replace(model, landmarks=replace(model.landmarks, use_landmark_tokens=True))
    frame, clip = model.image_tower.tokens_per_frame, 4 * model.video_tower.tokens_per_frame
    assert measure_lengths(index, model, 2048, 3072).tolist()[:3] == [
        text,
        image - 1 + frame,
        video - 6 + 2 * frame + clip,
    ]
    assert measure_lengths(index, appending, 2048, 3072).tolist()[:3] == [
        text,
        image + frame,
        video - 6 + 2 * frame + 1 + clip + 4,
    ]
    assert measure_lengths(index, model, 10, 3072)[0] == 10
    assert measure_lengths(index, model, 2048, 20).tolist()[:2] == [20, 20]


def test_what_is_measured_is_kept(
    write: Write, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = RecordList(write(*[entry(id=number) for number in range(5)]))
    reading, cache = Reading(tokenizer, "v1", 4, 2048), tmp_path / "run" / "data"
    first = index_records(records, reading, cache)
    (file,) = cache.iterdir()
    monkeypatch.setattr(index_module, "measure_part", None)  # measuring again would call it
    again = index_records(RecordList(records.path), Reading(Tokenizer.load(TOK600), "v1", 4, 2048), cache)
    assert all(map(np.array_equal, first, again))
    monkeypatch.undo()
    for other in (reading._replace(template="llava_v1"), reading._replace(max_text_length=9)):
        index_records(records, other, cache)
    assert len(list(cache.iterdir())) == 3
    file.write_bytes(file.read_bytes()[:-30])
    assert all(map(np.array_equal, first, index_records(records, reading, cache)))
    assert len(list(cache.iterdir())) == 3


def test_workers_measure_what_one_does_and_load_no_jax(
    write: Write, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = RecordList(write(*[entry(id=number, image="a.png" * (number % 2)) for number in range(7)]))
    reading = Reading(tokenizer, "v1", 4, 2048)
    one = index_records(records, reading, workers=1)
    monkeypatch.setattr(index_module, "PART", 3)
    assert all(map(np.array_equal, one, index_records(records, reading, workers=2)))
    source = (
        "import sys\n"
        "import facellava_jax.data.index, facellava_jax.data.prepare\n"
        "from facellava_jax.data.prepare import describe_features\n"
        "describe_features()\n"
        "sys.exit(any(name in sys.modules for name in ('jax', 'tensorflow', 'grain')))"
    )
    subprocess.run([sys.executable, "-c", source], check=True, cwd=ROOT)


@pytest.fixture
def report_of(write: Write, tokenizer: Tokenizer) -> Callable[..., Any]:
    def check(*records: Any, config: Config | None = None, **fields: Any) -> Any:
        data = DataConfig(sources=(Source(path=write(*records)),), batch_size=4, **fields)
        return check_data(data, config or tiny(), tokenizer, 1)

    return check


def test_the_report_counts(report_of: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a.png", "v.mp4", "a.npy"):
        (tmp_path / name).touch()
    long = [{"from": "human", "value": "What? " * 200}, TALK[1]]
    report = report_of(
        entry(id="good", image="a.png", landmarks_2d="a.npy"),
        entry(id="again", image="a.png", landmarks_2d="a.npy"),
        entry(id="no picture", image="gone.png"),
        entry(id="no points", video="v.mp4", landmarks_2d="gone.npy"),
        entry(id="two for one", image="a.png", conversations=[{"from": "human", "value": "<image><image>"}, TALK[1]]),
        entry(id="silent", conversations=[]),
        entry(id="text"),
        {"id": "long", "conversations": long},
        entry(id="stranger", conversations=[{"from": "bot", "value": "hi"}]),
        9,
        max_text_length=120,
    )
    (source,) = report.sources
    assert (source.records, source.damaged, report.damaged, source.duplicates) == (10, 6, 6, 1)
    assert source.kinds == {"text alone": 5, "1 image": 4, "1 video": 1}
    assert (source.media, source.landmarks) == (5, 3)
    assert (source.text_cut, source.whole_cut) == (1, 0) and source.text.most > 120 >= source.whole.most
    problems = {problem.what: (problem.records, list(problem.examples)) for problem in source.problems}
    assert problems["no such file"] == (2, ["no picture", "no points"])
    assert problems["the prompt has N images and N videos and is given N images and N videos"] == (1, ["two for one"])
    assert {name for _, names in problems.values() for name in names} == {
        *("no picture", "no points", "two for one", "silent", "stranger", "9")
    }
    # Three of pictures, one clip, two of text in length buckets of 64 (text, damaged) and 128.
    assert report.steps > 3 and 0 < report.padding < 1
    assert json.loads(report.to_json())["sources"][0]["damaged"] == 6
    text = report.format()
    assert "2 x no such file" in text and "gone.png: no such file: check the path" in text
    assert "together: 10 records, 6 damaged, 1 duplicates" in text


def test_a_report_of_nothing_wrong(report_of: Callable[..., Any]) -> None:
    report = report_of(entry(id=1), entry(id=2, conversations=[{"from": "human", "value": "Why?"}, TALK[1]]))
    assert report.damaged == 0 and report.sources[0].problems == []
    with pytest.raises(DataError, match="there is no record to train on"):
        report_of()


def test_media_without_a_tower_are_refused(report_of: Callable[..., Any]) -> None:
    config = tiny()
    blind = replace(config, model=replace(config.model, video_tower=None))
    with pytest.raises(DataError, match=r"list.json has videos and the model no video tower"):
        report_of(entry(video="v.mp4"), config=blind)
