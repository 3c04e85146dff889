"""data: from records to batches, with every kind of damage; prepared data; the quarantine."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import ROOT, TOK600

from facellava_jax.config import Config, tiny
from facellava_jax.data import (
    BatchLoader,
    DataError,
    LoadedBatch,
    Preparation,
    Quarantine,
    RecordList,
    check_data,
    iterate_batches,
    open_data,
)
from facellava_jax.data.plan import EMPTY
from facellava_jax.experiment import DataConfig, Source
from facellava_jax.folders import FolderError
from facellava_jax.text import IGNORE, Tokenizer
from facellava_jax.workers import WorkerError

FRAMES, SIZE = 9, (64, 48)  # of a clip


def write_clip(path: Path, frames: int, seed: int = 0) -> None:
    import av

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
        start = rng.integers(0, 255, 3)
        for index in range(frames):
            pixels = np.full((SIZE[1], SIZE[0], 3), (start + 20 * index) % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_media(folder: Path, count: int) -> None:
    """Pictures p0.png, p1.jpg, ..., clips v0.mp4, ..., and their landmarks beside them."""
    import cv2

    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(count):
        form = ("png", "jpg")[number % 2]
        cv2.imwrite(str(folder / f"p{number}.{form}"), rng.integers(0, 255, (40 + number, 52, 3), np.uint8))
        np.save(folder / f"p{number}.npy", rng.uniform(0, 255, 136).astype(np.float32))
        write_clip(folder / f"v{number}.mp4", FRAMES, number)
        np.save(folder / f"v{number}.npy", rng.uniform(0, 255, (FRAMES, 68, 2)))


def talk(question: str, answer: str = "A happy young face with raised cheeks.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def picture(number: int, **fields: Any) -> dict[str, Any]:
    file = f"p{number}.{('png', 'jpg')[number % 2]}"
    entry = {"id": f"picture {number}", "image": file, "landmarks_2d": f"p{number}.npy"}
    return entry | {"conversations": talk("<image>\nWhat is shown in the image, and how do you know?")} | fields


def clip(number: int, **fields: Any) -> dict[str, Any]:
    entry = {"id": f"clip {number}", "video": f"v{number}.mp4", "landmarks_2d": f"v{number}.npy"}
    return entry | {"conversations": talk("<video>\nWhat is shown in the video?")} | fields


MEDIA = 16


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "media"
    write_media(folder, MEDIA)
    return folder


@pytest.fixture(scope="session")
def whole(media: Path) -> Path:
    """A list of every kind of record; nothing is wrong with it."""
    records = [picture(number) for number in range(MEDIA)] + [clip(number) for number in range(MEDIA)]
    for number in range(4):
        records.append({"id": f"text {number}", "conversations": talk(f"Is {number} a number?")})
        pair = ["p0.png", f"p{2 * number + 1}.jpg"]
        records.append({"id": f"pair {number}", "image": pair, "conversations": talk("Who is <image>, who <image>?")})
        both = {"id": f"both {number}", "image": "p2.png", "video": f"v{number}.mp4"}
        both |= {"landmarks_2d": [f"v{number}.npy", "p2.npy"], "conversations": talk("<image> or <video>?")}
        records.append(both)
    (media / "whole.json").write_text(json.dumps(records))
    return media / "whole.json"


class Damage(NamedTuple):
    """What is done to a record of the whole list, or to its file, and what is said of it."""

    name: str
    cause: str
    file: str | None = None
    spoil: Callable[[Path], Any] | None = None
    conversations: list[dict[str, str]] | None = None


def cut(share: float) -> Callable[[Path], Any]:
    return lambda file: file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def put(array: Any) -> Callable[[Path], Any]:
    return lambda file: np.save(file, array)


NAN = np.where(np.arange(136) == 7, np.nan, 1.0)
TWO = "<image> and <image>: what is shown in these, and how?"
DAMAGES = [
    Damage("picture 2", "p2.png: no such file", "p2.png", Path.unlink),
    Damage("picture 3", "p3.jpg: a damaged JPEG picture", "p3.jpg", cut(0.6)),
    Damage("picture 4", "p4.png: empty", "p4.png", lambda file: file.write_bytes(b"")),
    Damage("picture 6", "p6.png: not a picture that can be read", "p6.png", lambda file: file.write_text("a face")),
    Damage("clip 5", "v5.mp4: no such file", "v5.mp4", Path.unlink),
    Damage("clip 6", "v6.mp4: no frame of it decodes", "v6.mp4", lambda file: write_clip(file, 0)),
    Damage("clip 7", "v7.mp4: no frame of it decodes", "v7.mp4", cut(0.3)),
    Damage("picture 7", "p7.npy: no such file", "p7.npy", Path.unlink),
    Damage("clip 8", "v8.npy: landmarks of 8 frames where the clip has 9", "v8.npy", put(np.ones((8, 68, 2)))),
    Damage("picture 8", "p8.npy: a landmark is not finite", "p8.npy", put(NAN)),
    Damage("picture 9", "p9.npy: no array of numbers", "p9.npy", put(np.array([{}], object))),
    Damage("picture 10", "p10.npy: shape (135,)", "p10.npy", put(np.ones(135))),
    Damage("clip 9", "the conversation does not end with an answer", conversations=[]),
    Damage("picture 12", "the prompt has 2 images and 0 videos and is given 1 images", conversations=talk(TWO)),
    Damage("clip 10", "turn 1 of the conversation", conversations=[{"from": "bot", "value": "What a nice face!"}]),
    Damage("clip 11", "signs of the template", conversations=talk("What is it?", "A </s> face in the video.")),
]
# Other records have the pictures that are missing and cut.
DAMAGED = {damage.name for damage in DAMAGES} | {f"both {number}" for number in range(4)} | {"pair 1"}


@pytest.fixture(scope="session")
def damaged(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same list with every kind of damage."""
    folder = tmp_path_factory.mktemp("damaged") / "media"
    shutil.copytree(whole.parent, folder)
    records = {record["id"]: record for record in json.loads(whole.read_text())}
    for damage in DAMAGES:
        if damage.file and damage.spoil:
            damage.spoil(folder / damage.file)
        else:
            assert damage.conversations is not None
            records[damage.name]["conversations"] = damage.conversations
    (folder / "damaged.json").write_text(json.dumps(list(records.values())))
    return folder / "damaged.json"


@pytest.fixture(scope="session")
def load(tokenizer: Tokenizer) -> Callable[..., BatchLoader]:
    def open_list(*paths: Path, config: Config | None = None, host: int = 0, hosts: int = 1, **fields: Any) -> Any:
        sources = tuple(Source(path=path) for path in paths)
        data = DataConfig(**{"sources": sources, "batch_size": 4, "seed": 3} | fields)
        return open_data(data, config or tiny(), tokenizer, host=host, hosts=hosts)

    return open_list


def names_of(loader: BatchLoader, loaded: LoadedBatch) -> list[str | None]:
    """Of each row's record."""
    records = loader.sources[0].records
    return [None if number == EMPTY else records.find_name(number) for number in loaded.records.tolist()]


def flatten(loaded: LoadedBatch) -> list[np.ndarray]:
    import jax

    return jax.tree.leaves(loaded.batch)


def equal(one: LoadedBatch, other: LoadedBatch) -> bool:
    pairs = zip(flatten(one), flatten(other), strict=True)
    return one.step == other.step and all(np.array_equal(*pair) for pair in pairs)


def test_every_kind_of_record_is_read(whole: Path, load: Callable[..., BatchLoader]) -> None:
    loader, seen = load(whole), []
    shapes: dict[Any, set[Any]] = {}
    for loaded in iterate_batches(loader):
        assert loaded.skipped == ()
        places, length, _ = loader.plan.batch(loaded.step)
        shapes.setdefault((places, length), set()).add(tuple(array.shape for array in flatten(loaded)))
        batch, kept = loaded.batch, [name for name in names_of(loader, loaded) if name]
        seen += kept
        assert batch.tokens.shape == (4, length)
        assert (batch.images is None) == (places.images == 0) and (batch.videos is None) == (places.videos == 0)
        assert (batch.lengths > 0).tolist() == [name is not None for name in names_of(loader, loaded)]
        assert ((batch.labels != IGNORE).any(axis=1) == (batch.lengths > 0)).all()
        for row, name in enumerate(kept):
            kind = name.split()[0]
            if batch.images:
                images = {"picture": [True], "pair": [False, False], "both": [True]}[kind]
                assert batch.images.has_landmarks[row].tolist() == images
                assert np.abs(batch.images.pixels[row, : len(images)]).mean() > 0.1
            if batch.videos:
                assert batch.videos.has_landmarks[row].tolist() == [True]
                assert batch.videos.pixels.shape[1:3] == (1, 4)
            assert (batch.visual_index[row] >= 0).sum() == {
                "text": 0,
                "picture": 16,
                "pair": 32,
                "clip": 68,
                "both": 84,
            }[kind]
    assert sorted(seen) == sorted(record["id"] for record in json.loads(whole.read_text()))
    assert all(len(each) == 1 for each in shapes.values()) and len(shapes) >= 5


def test_pictures_are_padded_as_the_recipe_says(whole: Path, load: Callable[..., BatchLoader]) -> None:
    from facellava_jax.media import load_image
    from facellava_jax.pixels import preprocess_image

    for pad in (True, False):
        loader = load(whole, pad_to_square=pad)
        media = dataclasses.replace(tiny().media, pad_to_square=pad)
        expected = preprocess_image(load_image(whole.parent / "p5.jpg"), 56, media)
        np.testing.assert_array_equal(loader.read(5).media[0].pixels[0], expected)


@pytest.mark.parametrize("template", ["v1", "llava_v1"])
def test_the_template_is_the_recipes(
    whole: Path, tokenizer: Tokenizer, load: Callable[..., BatchLoader], template: str
) -> None:
    ids = load(whole, template=template).read(2 * MEDIA).ids
    listener = {"v1": "user", "llava_v1": "human"}[template]
    assert f"a curious {listener} " in tokenizer.decode(ids[ids >= 0])


def test_labels_are_the_originals(
    media: Path, tmp_path: Path, tokenizer: Tokenizer, load: Callable[..., BatchLoader]
) -> None:
    """Through lists, media and cuts; the conversations that the original warns of are damaged ones here."""
    values = json.loads((TOK600.parent / "tokenizer_goldens.json").read_text())["tok600"]["preprocess_v1"]
    entries = {name: entry for name, entry in values.items() if name != "__im_start_end_texts"}
    config = tiny()
    video_tower = dataclasses.replace(config.model.video_tower, num_frames=8)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, video_tower=video_tower))
    for name, entry in entries.items():
        text = "".join(turn["value"] for turn in entry["conversations"])
        record = {"conversations": entry["conversations"], "image": ["p0.png"] * text.count("<image>")}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps([record | {"video": ["v0.mp4"] * text.count("<video>")}]))
        source = Source(path=file, image_root=media, video_root=media)
        loader = load(*(), sources=(source,), config=config, batch_size=1, max_text_length=entry["model_max_length"])
        loaded = loader(0)
        if entry["warning"]:
            assert ["signs of the template" in skipped.cause for skipped in loaded.skipped] == [True], name
            continue
        sample = loader.read(0)
        assert sample.ids.tolist() == entry["input_ids"], name
        assert sample.labels is not None and sample.labels.tolist() == entry["labels"], name
        batch, text = loaded.batch, sample.ids[sample.ids >= 0]
        written = batch.tokens[0, : batch.lengths[0]][batch.visual_index[0, : batch.lengths[0]] < 0]
        assert written.tolist() == text.tolist(), name
        learnt = batch.labels[batch.labels != IGNORE].tolist()
        assert learnt == [label for label in entry["labels"] if label != IGNORE], name
    assert sum(bool(entry["warning"]) for entry in entries.values()) >= 2


def test_the_first_batch_of_a_real_training_run(golden_case: Callable[[str], Path]) -> None:
    case = golden_case("16_e2e_train_stage1")
    golden = np.load(case / "first_batch.npz")
    config = tiny()
    towers = {
        name: dataclasses.replace(getattr(config.model, name), image_size=224, patch_size=56)
        for name in ("image_tower", "video_tower")
    }
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **towers))
    data = DataConfig(sources=(Source(path=case / "data" / "data.json"),), batch_size=4)
    loader = open_data(data, config, Tokenizer.load(case / "checkpoint"))
    ids = [row[mask].tolist() for row, mask in zip(golden["input_ids"], golden["attention_mask"], strict=True)]
    seen = set()
    for number in range(4):
        sample = loader.read(number)
        row = ids.index(sample.ids.tolist())
        seen.add(row)
        assert sample.labels.tolist() == golden["labels"][row][: len(ids[row])].tolist()
        (visual,) = sample.media
        assert golden["image_ndim"][row] == {"image": 3, "video": 4}[visual.medium.kind]
        assert abs(visual.pixels.mean() - golden["image_mean"][row]) < 1e-5
        np.testing.assert_allclose(
            visual.landmarks.reshape(-1, 136), golden[f"landmarks_{row}"].reshape(-1, 136), atol=1e-6
        )
    assert seen == {0, 1, 2, 3}


def test_damaged_records_leave_the_others_in_their_places(
    whole: Path, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
) -> None:
    good, bad = load(whole, epochs=2), load(damaged, epochs=2)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", 1.0, bad)
    causes = {}
    for expected, loaded in zip(iterate_batches(good), iterate_batches(bad), strict=True):
        quarantine.add(loaded)
        assert loaded.records.tolist() == expected.records.tolist()
        names = names_of(bad, loaded)
        assert sorted(skipped.name for skipped in loaded.skipped) == sorted(filter(DAMAGED.__contains__, names))
        for row, name in enumerate(names):
            for ours, theirs in zip(flatten(loaded), flatten(expected), strict=True):
                assert ours.shape == theirs.shape
                assert name in DAMAGED or np.array_equal(ours[row], theirs[row])
            if name in DAMAGED:
                assert loaded.batch.lengths[row] == 0 and (loaded.batch.labels[row] == IGNORE).all()
                assert (loaded.batch.visual_index[row] == -1).all() and not loaded.batch.tokens[row].any()
        causes |= {skipped.name: skipped.cause for skipped in loaded.skipped}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == len(DAMAGED) and {line["name"]: line["cause"] for line in lines} == causes
    assert {line["source"] for line in lines} == {str(damaged)}
    assert len(DAMAGES) >= 12
    for damage in DAMAGES:
        assert damage.cause in causes[damage.name]
    assert (quarantine.damaged, quarantine.met) == (2 * len(DAMAGED), 2 * bad.plan.size)


def test_the_report_finds_what_is_missing_before_a_run(damaged: Path, tokenizer: Tokenizer) -> None:
    report = check_data(DataConfig(sources=(Source(path=damaged),)), tiny(), tokenizer, 1)
    missing = next(problem for problem in report.sources[0].problems if problem.what == "no such file")
    assert missing.records == 3 + 4
    assert report.damaged == 3 + 4 + 4


def test_workers_and_the_start_change_nothing(damaged: Path, load: Callable[..., BatchLoader]) -> None:
    loader = load(damaged)
    straight = list(iterate_batches(loader))
    assert len(straight) == loader.plan.steps
    for start, workers in ((5, 2), (5, 0), (loader.plan.steps, 0)):
        batches = list(iterate_batches(loader, start=start, workers=workers))
        assert len(batches) == len(straight) - start
        for one, other in zip(straight[start:], batches, strict=True):
            assert equal(one, other) and one.skipped == other.skipped
            assert one.records.tolist() == other.records.tolist()


class Probe(BatchLoader):
    """Reports on its process in the place of samples."""

    def __call__(self, step: int) -> LoadedBatch:
        backends = sys.modules["jax._src.xla_bridge"]._backends if "jax._src.xla_bridge" in sys.modules else {}
        ours = [name for name in sys.modules if name.startswith("facellava_jax")]
        threads = os.environ.get("OPENBLAS_NUM_THREADS")
        skipped = (os.getpid(), threads, len(backends), "flax" in sys.modules, "facellava_jax.models" in ours)
        return super().__call__(step)._replace(skipped=skipped)


def test_workers_touch_no_device_and_end_with_the_iterator(whole: Path, load: Callable[..., BatchLoader]) -> None:
    loader = load(whole)
    loader.__class__ = Probe
    threads, batches = os.environ.get("OPENBLAS_NUM_THREADS"), iterate_batches(loader, workers=2)
    seen = {next(batches).skipped for _ in range(3)}
    pids = {pid for pid, *_ in seen}
    assert len(pids) == 2 and os.getpid() not in pids
    # Grain itself imports JAX, but nothing makes it look for devices.
    assert {each[1:] for each in seen} == {("1", 0, False, False)}
    assert os.environ.get("OPENBLAS_NUM_THREADS") == threads
    batches.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_is_killed(whole: Path, load: Callable[..., BatchLoader]) -> None:
    loader = load(whole)
    loader.__class__ = Probe
    with contextlib.closing(iterate_batches(loader, workers=1)) as batches:
        ((pid, *_),) = {next(batches).skipped}
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"a worker that reads was killed.*with fewer data.workers, it goes on"):
            list(batches)


def test_workers_end_when_their_run_is_killed(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import os, sys, multiprocessing\n"
        "from pathlib import Path\n"
        "from facellava_jax.config import tiny\n"
        "from facellava_jax.data import iterate_batches, open_data\n"
        "from facellava_jax.experiment import DataConfig, Source\n"
        "from facellava_jax.text import Tokenizer\n"
        "def main():\n"
        "    data = DataConfig(sources=(Source(path=Path(sys.argv[1])),), batch_size=2, epochs=50)\n"
        "    batches = iterate_batches(open_data(data, tiny(), Tokenizer.load(sys.argv[2])), workers=2)\n"
        "    next(batches), next(batches)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "train.py"), str(whole), str(TOK600)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pids = ended.stdout.split()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.05)


def test_hosts_read_their_own_rows(whole: Path, load: Callable[..., BatchLoader]) -> None:
    together, hosts = load(whole), [load(whole, host=host, hosts=2) for host in range(2)]
    assert {loader.plan.fingerprint for loader in hosts} == {together.plan.fingerprint}
    for step in range(0, together.plan.steps, 3):
        parts = [loader(step) for loader in hosts]
        assert parts[0].records.tolist() == parts[1].records.tolist() == together(step).records.tolist()
        for row, *halves in zip(flatten(together(step)), *map(flatten, parts), strict=True):
            np.testing.assert_array_equal(row, np.concatenate(halves))
    with pytest.raises(DataError, match="data.batch_size 4 cannot be shared by 3 hosts"):
        load(whole, hosts=3)


def test_long_samples_are_cut(whole: Path, load: Callable[..., BatchLoader]) -> None:
    config = dataclasses.replace(tiny(), text=dataclasses.replace(tiny().text, max_length=150))
    loader = load(whole, config=config)
    longest = max(int(loaded.batch.lengths.max()) for loaded in iterate_batches(loader))
    assert longest == 150
    # A cut that takes the medium away leaves nothing to learn from.
    loader = load(whole, max_text_length=40)
    (loaded, *_) = (loaded for loaded in iterate_batches(loader) if loaded.batch.images)
    assert {"cut after 40 tokens, before its last medium" in skipped.cause for skipped in loaded.skipped} == {True}


def test_several_lists_in_one_run(whole: Path, damaged: Path, load: Callable[..., BatchLoader]) -> None:
    loader = load(whole, damaged)
    skipped = [each for loaded in iterate_batches(loader) for each in loaded.skipped]
    assert {each.name for each in skipped} == DAMAGED and {each.source for each in skipped} == {str(damaged)}
    assert min(each.record for each in skipped) >= len(loader.sources[0].records)


class TestQuarantine:
    def test_a_run_that_goes_on_repeats_no_line(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        loader, file, straight = load(damaged, epochs=2), tmp_path / "q.jsonl", tmp_path / "straight.jsonl"
        batches = list(iterate_batches(loader))
        quarantine = Quarantine(straight, 1.0, loader)
        for loaded in batches:
            quarantine.add(loaded)
        for first, end in ((0, 9), (6, 14), (14, len(batches))):  # the first is ended after its last checkpoint
            quarantine = Quarantine(file, 1.0, loader, start=first)
            for loaded in batches[first:end]:
                quarantine.add(loaded)
            with file.open("a") as target:
                target.write('{"record": 3, "na')
        Quarantine(file, 1.0, loader, start=len(batches))
        assert file.read_text() == straight.read_text()
        again = Quarantine(file, 1.0, loader, start=len(batches))
        assert (again.met, again.damaged) == (quarantine.met, quarantine.damaged) == (88, 2 * len(DAMAGED))

    def test_a_line_is_there_when_its_step_is_counted(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        loader, file = load(damaged), tmp_path / "q.jsonl"
        quarantine, lines = Quarantine(file, 1.0, loader), 0
        for loaded in iterate_batches(loader):
            quarantine.add(loaded)
            lines += len(loaded.skipped)
            assert len(file.read_text().splitlines() if file.exists() else []) == lines

    def test_too_much_damage_ends_the_run(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        loader, file = load(damaged, epochs=3), tmp_path / "q.jsonl"
        batches = list(iterate_batches(loader))
        epoch = loader.plan.count_steps(0)

        def run(most: float) -> int:
            quarantine = Quarantine(file, most, loader)
            for loaded in batches:
                quarantine.add(loaded)
            return len(batches)

        assert run(0.6) == len(batches)
        with pytest.raises(DataError) as error:
            run(0.4)
        assert "most often: no such file; " in str(error.value) and str(file) in str(error.value)
        assert f"of {loader.plan.size} samples" in str(error.value)  # not before that many are met
        assert len(file.read_text().splitlines()) == len(DAMAGED) and epoch < len(batches)

    def test_a_run_shorter_than_an_epoch_is_judged_at_its_end(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        loader = load(damaged)
        batches = list(iterate_batches(loader))
        steps = next(loaded.step for loaded in batches[1:] if loaded.skipped) + 1
        assert 1 < steps < loader.plan.steps
        quarantine = Quarantine(tmp_path / "q.jsonl", 0.01, loader, steps=steps)
        for loaded in batches[: steps - 1]:
            quarantine.add(loaded)
        with pytest.raises(DataError, match=r"samples are damaged, more than data.max_damaged 0.01 allows"):
            quarantine.add(batches[steps - 1])

    def test_a_host_with_few_rows_is_judged_at_its_end(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        """Of the samples of an epoch it has less than its share: the last batches of each shape are not full."""
        loader = load(damaged, host=1, hosts=2, batch_size=8)
        quarantine = Quarantine(tmp_path / "q.jsonl", 0.01, loader)
        assert loader.plan.show(loader.plan.steps, loader.rows).sum() < loader.plan.size // 2
        with pytest.raises(DataError, match=r"samples are damaged"):
            for loaded in iterate_batches(loader):
                quarantine.add(loaded)

    def test_a_run_that_begins_anew_lists_anew(
        self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path
    ) -> None:
        """The records may be mended meanwhile, or be others."""
        line = {"record": 1, "name": "a", "source": "b", "cause": "c", "step": 0}
        (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n")
        loader = load(damaged)
        quarantine = Quarantine(tmp_path / "q.jsonl", 1.0, loader)
        for loaded in iterate_batches(loader):
            quarantine.add(loaded)
        lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
        assert {line["name"] for line in lines} == DAMAGED

    def test_another_file_is_refused(self, damaged: Path, load: Callable[..., BatchLoader], tmp_path: Path) -> None:
        (tmp_path / "q.jsonl").write_text('{"step": 1}\n')
        with pytest.raises(DataError, match="is no list of skipped records"):
            Quarantine(tmp_path / "q.jsonl", 1.0, load(damaged))
        line = {"record": 99, "name": "a", "source": "b", "cause": "c", "step": 1}
        (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(DataError, match="lists records of other data"):
            Quarantine(tmp_path / "q.jsonl", 1.0, load(damaged), start=1)


@pytest.fixture(scope="session")
def prepared(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    written = list(Preparation(RecordList(damaged), out, 4, shard_records=7).run(1))
    assert [each.records for each in written] == [7] * 6 + [2]
    return out


class TestPrepared:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_batches_equal_those_of_the_list(
        self, damaged: Path, prepared: Path, load: Callable[..., BatchLoader], workers: int
    ) -> None:
        ours, theirs = load(prepared), load(damaged)
        for one, other in zip(iterate_batches(ours, workers=workers), iterate_batches(theirs), strict=True):
            assert equal(one, other)
            assert [each._replace(source="") for each in one.skipped] == [
                each._replace(source="") for each in other.skipped
            ]

    def test_tensorflow_datasets_reads_it(self, damaged: Path, prepared: Path) -> None:
        import tensorflow_datasets

        from facellava_jax.media import load_image, load_video

        examples = tensorflow_datasets.builder_from_directory(prepared).as_data_source("train")
        records = json.loads(damaged.read_text())
        assert [example["id"].decode() for example in examples] == [record["id"] for record in records]
        example = examples[MEDIA]
        assert json.loads(example["conversations"]) == records[MEDIA]["conversations"]
        video = load_video(damaged.parent / "v0.mp4", 4)
        np.testing.assert_array_equal(example["pictures"], video.frames)
        points = np.load(damaged.parent / "v0.npy")[video.frame_ids] / 256
        np.testing.assert_array_equal(example["landmarks"], points.astype(np.float32))
        np.testing.assert_array_equal(examples[0]["pictures"][0], load_image(damaged.parent / "p0.png"))
        assert b"p2.png: no such file" in examples[2]["cause"] and not examples[2]["pictures"]
        assert "tensorflow" not in sys.modules

    def test_a_run_that_is_killed_goes_on(
        self, damaged: Path, prepared: Path, tmp_path: Path, load: Callable[..., BatchLoader]
    ) -> None:
        (tmp_path / "prepare.py").write_text(
            "import os, sys\n"
            "from pathlib import Path\n"
            "from facellava_jax.data import Preparation, RecordList\n"
            "def main():\n"
            "    preparation = Preparation(RecordList(Path(sys.argv[1])), Path('out'), 4, shard_records=7)\n"
            "    for count, _ in enumerate(preparation.run(2), start=1):\n"
            "        if count == 2:\n"
            "            os.kill(os.getpid(), 9)\n"
            "if __name__ == '__main__':\n"
            "    main()\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "prepare.py", str(damaged)]
        ended = subprocess.run(command, capture_output=True, timeout=60, env=environment, cwd=tmp_path)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        out = tmp_path / "out"
        with pytest.raises(DataError, match="out: is not wholly prepared: run `facellava data prepare` again"):
            open_data(DataConfig(sources=(Source(path=out),)), tiny(), Tokenizer.load(TOK600))
        early = {file.name: file.stat().st_mtime_ns for file in out.glob("*array_record*0000[01]-of*")}
        assert len(early) == 2
        (out / ".face_instruct-train.array_record-00005-of-00007.part").write_bytes(b"half")
        assert sum(each.records for each in Preparation(RecordList(damaged), out, 4, shard_records=7).run(1)) == 44
        assert {file.name: file.stat().st_mtime_ns for file in out.glob("*array_record*0000[01]-of*")} == early
        assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in prepared.iterdir())
        for one, other in zip(iterate_batches(load(out)), iterate_batches(load(prepared)), strict=True):
            assert equal(one, other)
        before = {file: file.stat().st_mtime_ns for file in out.glob("*array_record*")}
        assert len(list(Preparation(RecordList(damaged), out, 4, shard_records=7).run(1))) == 7
        assert {file: file.stat().st_mtime_ns for file in out.glob("*array_record*")} == before

    def test_two_at_once_do_not_mix(self, whole: Path, tmp_path: Path) -> None:
        records, out = RecordList(whole).take(0, 2), tmp_path / "out"
        first, second, other = (Preparation(records, out, frames, shard_records=1) for frames in (4, 4, 8))
        with contextlib.closing(first.run(1)) as shards:
            next(shards)
            for late in (second, other):
                with pytest.raises(FolderError, match=f"{out} is in use by process {os.getpid()} on "):
                    next(late.run(1))
        assert len(list(second.run(1))) == 2
        with pytest.raises(DataError, match="holds another list, or the same with other settings"):
            next(other.run(1))

    def test_other_frames_and_other_lists_are_refused(
        self, whole: Path, damaged: Path, prepared: Path, tmp_path: Path, tokenizer: Tokenizer
    ) -> None:
        with pytest.raises(DataError, match="holds another list, or the same with other settings"):
            Preparation(RecordList(whole), prepared, 4, shard_records=7)
        with pytest.raises(DataError, match="holds another list, or the same with other settings"):
            Preparation(RecordList(damaged), prepared, 8, shard_records=7)
        (tmp_path / "notes.txt").touch()
        with pytest.raises(DataError, match="no prepared data there"):
            Preparation(RecordList(whole), tmp_path, 4)
        with pytest.raises(DataError, match="0 frames of each clip"):
            Preparation(RecordList(whole), tmp_path / "new", 0)
        config = tiny()
        tower = dataclasses.replace(config.model.video_tower, num_frames=2)
        fewer = dataclasses.replace(config, model=dataclasses.replace(config.model, video_tower=tower))
        with pytest.raises(DataError, match="has 4 frames of each clip, and the model takes 2: .*--frames 2"):
            open_data(DataConfig(sources=(Source(path=prepared),)), fewer, tokenizer)
        with pytest.raises(DataError, match="a prepared folder holds its media"):
            open_data(DataConfig(sources=(Source(path=prepared, image_root=tmp_path),)), config, tokenizer)
        copy = tmp_path / "copy"
        shutil.copytree(prepared, copy)
        (copy / "records.json").write_text("[]")
        with pytest.raises(DataError, match="records.json: is not the list that was prepared"):
            open_data(DataConfig(sources=(Source(path=copy),)), config, tokenizer)

    def test_a_shard_that_is_lost_is_damage_of_its_records(
        self, prepared: Path, tmp_path: Path, load: Callable[..., BatchLoader]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(prepared, copy)
        (copy / "face_instruct-train.array_record-00006-of-00007").unlink()
        skipped = [each for loaded in iterate_batches(load(copy)) for each in loaded.skipped]
        lost = {each.name for each in skipped if "cannot be read" in each.cause}
        assert lost == {"pair 3", "both 3"}

    @pytest.mark.parametrize(
        "line", ["[]", "3", "{}", '{"shard": "a"}', '{"shard": 0, "records": 7, "damaged": 3}', "{"]
    )
    def test_a_damaged_line_is_a_shard_to_be_prepared_again(
        self, damaged: Path, prepared: Path, tmp_path: Path, tokenizer: Tokenizer, line: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(prepared, copy)
        data, progress = DataConfig(sources=(Source(path=copy),)), copy / "shards.jsonl"
        whole = progress.read_text().splitlines()
        progress.write_text("\n".join([*whole[:-1], line, ""]))
        with pytest.raises(DataError, match=r"shards.jsonl is damaged .*: run `facellava data prepare` again, it goes"):
            check_data(data, tiny(), tokenizer, 1)
        before = {file: file.stat().st_mtime_ns for file in copy.glob("*array_record*")}
        list(Preparation(RecordList(damaged), copy, 4, shard_records=7).run(1))
        assert progress.read_text().splitlines() == whole
        again = [file.name for file, time in before.items() if file.stat().st_mtime_ns != time]
        assert again == ["face_instruct-train.array_record-00006-of-00007"]
        assert check_data(data, tiny(), tokenizer, 1).damaged == len(DAMAGED)

    def test_a_list_of_shards_that_is_no_text_is_made_again(
        self, damaged: Path, prepared: Path, tmp_path: Path, tokenizer: Tokenizer
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(prepared, copy)
        (copy / "shards.jsonl").write_bytes(b"\xff\xfe\n")
        with pytest.raises(DataError, match=r"shards.jsonl is damaged .*: run `facellava data prepare` again, it goes"):
            check_data(DataConfig(sources=(Source(path=copy),)), tiny(), tokenizer, 1)
        list(Preparation(RecordList(damaged), copy, 4, shard_records=7).run(1))
        assert (copy / "shards.jsonl").read_text() == (prepared / "shards.jsonl").read_text()

    @pytest.mark.parametrize("name", ["shards.jsonl", "dataset_info.json", "features.json", "records.json"])
    def test_a_file_that_is_lost_is_named(
        self, damaged: Path, prepared: Path, tmp_path: Path, tokenizer: Tokenizer, name: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(prepared, copy)
        (copy / name).unlink()
        data = DataConfig(sources=(Source(path=copy),))
        for look in (check_data, open_data):
            with pytest.raises(DataError, match=rf"/{name}: no such file: run `facellava data prepare` again, it goes"):
                look(data, tiny(), tokenizer)
        list(Preparation(RecordList(damaged), copy, 4, shard_records=7).run(1))
        assert check_data(data, tiny(), tokenizer, 1).damaged == len(DAMAGED)

    def test_the_report_knows_what_was_damaged(self, prepared: Path, damaged: Path, tokenizer: Tokenizer) -> None:
        report = check_data(DataConfig(sources=(Source(path=prepared),)), tiny(), tokenizer, 1)
        assert report.damaged == len(DAMAGED)

    def test_a_run_is_told_what_it_will_read(self, prepared: Path, whole: Path, tokenizer: Tokenizer) -> None:
        """What could not be prepared is known to be damaged, before anything is read."""
        told: list[str] = []
        sources = (Source(path=prepared), Source(path=whole))
        loader = open_data(DataConfig(sources=sources, batch_size=4), tiny(), tokenizer, say=told.append)
        kinds = "32 of 1 image, 32 of 1 video, 8 of text alone, 8 of 2 images, 8 of 1 video and 1 image"
        steps, shapes = loader.plan.steps, len({loader.plan.batch(step)[:2] for step in range(loader.plan.steps)})
        records, epoch = told
        assert records == f"data: 88 records ({kinds}), known to be damaged: {len(DAMAGED)}"
        assert epoch.startswith(f"an epoch: {steps} steps of 4, in {shapes} shapes, padding ")
