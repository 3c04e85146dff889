"""The data sets' folders: what is read of each, and what is said of those that are not as published."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import BUILDERS, CELEBA_SEEN, build, draw_noise, write_clip, write_picture, write_text

from facellava_jax.answers import ATTRIBUTES, EMOTIONS
from facellava_jax.evaluate.benchmark import BenchmarkError, Example, Selection
from facellava_jax.evaluate.benchmarks import BENCHMARKS, action_units
from facellava_jax.media import count_frames, load_frames, load_image, load_video

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("miniatures")
    for name in BUILDERS:
        build(name, root / name)
    return root


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Folder:
    """`copy("dfew")` is a miniature that a test may change."""
    return lambda name: shutil.copytree(built / name, tmp_path / name, dirs_exist_ok=True)


def read(name: str, folder: Path, split: str | None = None) -> list[Example]:
    return select(name, folder, split).examples


def select(name: str, folder: Path, split: str | None = None, *task: str) -> Selection:
    return BENCHMARKS[name].read(folder, split or BENCHMARKS[name].splits[0], *task)


def read_truths(name: str, folder: Path, split: str | None = None) -> dict[str, Any]:
    return {example.name: example.truth for example in read(name, folder, split)}


def refuse(name: str, folder: Path, split: str | None = None) -> str:
    """What is said of a folder, without the drawing that ends it."""
    with pytest.raises(BenchmarkError) as caught:
        read(name, folder, split)
    cause, _, layout = str(caught.value).partition("\n")
    assert cause.startswith(f"{folder}: ")
    title, *drawing = layout.splitlines()
    assert "is expected as its authors lay it out" in title
    assert [line.strip() for line in drawing] == [line.strip() for line in BENCHMARKS[name].layout.strip().splitlines()]
    return cause.removeprefix(f"{folder}: ")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


CELEBA_TRUTHS = {
    name: dict.fromkeys(ATTRIBUTES, False) | dict.fromkeys([*ATTRIBUTES[: int(name[5]) - 2], *seen], True)
    for name, seen in CELEBA_SEEN.items()
}
TRUTHS: dict[tuple[str, str], dict[str, Any]] = {
    ("dfew", "fold1"): {"00010": "sadness", "00011": "neutral", "00012": "anger"},
    ("dfew", "fold5"): {"00050": "disgust", "00051": "fear", "00052": "happiness"},
    ("crema-d", "all"): {
        "1001_IEO_ANG_HI": "anger",
        "1018_IEO_DIS_HI": "disgust",
        "1019_IEO_FEA_HI": "fear",
        "1040_IEO_HAP_HI": "happiness",
        "1072_IEO_NEU_HI": "neutral",
        "1073_IEO_SAD_HI": "sadness",
        "1091_ITH_SAD_XX": "sadness",
    },
    ("crema-d", "fold1"): {"1001_IEO_ANG_HI": "anger", "1018_IEO_DIS_HI": "disgust"},
    ("crema-d", "fold2"): {"1019_IEO_FEA_HI": "fear"},
    ("crema-d", "fold3"): {"1040_IEO_HAP_HI": "happiness"},
    ("crema-d", "fold4"): {"1072_IEO_NEU_HI": "neutral"},
    ("crema-d", "fold5"): {"1073_IEO_SAD_HI": "sadness", "1091_ITH_SAD_XX": "sadness"},
    ("raf-db", "test"): {
        "test_0001": "surprise",
        "test_0002": "fear",
        "test_0003": "disgust",
        "test_0004": "happiness",
        "test_0005": "sadness",
        "test_0006": "anger",
        "test_0007": "neutral",
    },
    ("raf-db", "train"): {"train_00001": "happiness", "train_00002": "neutral"},
    ("celeba", "test"): CELEBA_TRUTHS,
    ("celeba", "valid"): {"000002.jpg": dict.fromkeys(ATTRIBUTES, False)},
    ("morph2", "test"): {"273546_01M22": 22.0, "306329_00F32": 32.0, "124805_06F54": 54.0},
    ("morph2", "all"): {"009055_1M54": 54.0, "124805_06F54": 54.0, "273546_01M22": 22.0, "306329_00F32": 32.0},
    # The race is missing in some names.
    ("utkface", "test"): {
        "40_1_3_20170119165539693": 40.0,
        "53_1_0_20170109133404907": 53.0,
        "26_1_20170116181301976": 26.0,
    },
    ("ffpp", "test-c23"): {
        "youtube/953": "real",
        "youtube/974": "real",
        **{
            f"{method}/{pair}": "fake"
            for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
            for pair in ("953_974", "974_953")
        },
    },
    ("faceinstruct", "all"): {
        "r0": "anger",
        "r1": 31.0,
        "r2": {"Eyeglasses": True, "Bald": False},
        "r3": frozenset({6, 12}),
        "r4": "fake",
    },
}


@pytest.mark.parametrize(("name", "split"), TRUTHS)
def test_what_is_true_of_each(built: Path, name: str, split: str) -> None:
    assert read_truths(name, built / name, split) == TRUTHS[name, split]


def test_disfa_counts_intensities_from_two(built: Path) -> None:
    truths = read_truths("disfa", built / "disfa", "fold3")
    assert truths.pop("SN001/1") == {25}
    assert truths.pop("SN001/2") == {1, 12}  # 5 is not scored
    assert truths == {
        f"{subject}/{frame}": ({6, 12} if frame == 2 else set())
        for subject in ("SN002", "SN009", "SN010", "SN016", "SN026", "SN027", "SN030", "SN032")
        for frame in (1, 2)
    }
    assert [example.media[0].frame for example in read("disfa", built / "disfa")[:2]] == [0, 1]
    assert len(read("disfa", built / "disfa", "all")) == 2 * 27


def test_bp4d_leaves_out_what_is_not_known(built: Path) -> None:
    examples = {example.name: example for example in read("bp4d", built / "bp4d", "fold3")}
    first = {name: example.truth for name, example in examples.items() if name.startswith("F001/T1/")}
    assert first == {"F001/T1/2440": {12}, "F001/T1/2442": {1}, "F001/T1/2443": set(), "F001/T1/2444": set()}
    assert examples["M001/T1/101"].truth == {6, 12} and examples["M001/T2/102"].truth == {4}
    assert examples["M001/T2/102"].media[0].path.name == "102.jpg"
    assert examples["F002/T2/102"].media[0].path.name == "0102.jpg"
    assert len(examples) == 14 * 8 + 3
    assert select("bp4d", built / "bp4d", "fold3").left_out == {"with units that are not known": 1}
    assert select("bp4d", built / "bp4d", "fold1").left_out == {}
    assert len(read("bp4d", built / "bp4d")) == 41 * 8 + 3


def test_folds_are_of_everybody_once() -> None:
    for folds, subjects in ((action_units.DISFA_FOLDS, 27), (action_units.BP4D_FOLDS, 41)):
        assert len(Counter(subject for fold in folds for subject in fold)) == subjects == sum(map(len, folds))
    women, men = ([f"{sex}{number:03}" for number in range(1, most + 1)] for sex, most in (("F", 23), ("M", 18)))
    assert sorted(subject for fold in action_units.BP4D_FOLDS for subject in fold) == women + men


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_split_has_media_that_open(built: Path, name: str) -> None:
    benchmark = BENCHMARKS[name]
    for split in benchmark.splits if name != "ffpp" else ("test-c23",):
        examples = read(name, built / name, split)
        assert len({example.name for example in examples}) == len(examples) > 0
        for example in examples[:3]:
            assert example.task == (benchmark.task or example.task)
            assert set(map(type, [example.truth])) <= {str, float, frozenset, dict}
            for medium in example.media:
                if medium.path.is_dir():
                    assert load_frames(medium.path, 2).length == 2
                elif medium.path.suffix.lower() == ".jpg":
                    assert load_image(medium.path).shape == (32, 32, 3)
                else:
                    assert load_video(medium.path, 2).length > (medium.frame or 0)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_records_are_whole(built: Path, name: str) -> None:
    """What a layout draws is what the miniature has, and labels are those that answers are read for."""
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name and benchmark.source and benchmark.splits
    for entry in (built / name).iterdir():
        assert entry.name in benchmark.layout
    if benchmark.task == "emotion":
        assert set(benchmark.classes) <= set(EMOTIONS)
        assert {example.truth for example in read(name, built / name)} <= set(benchmark.classes)
    for example in read(name, built / name):
        if benchmark.units:
            assert set(example.truth) <= set(benchmark.units)


def test_papers_numbers() -> None:
    """FACTS: zero-shot / fine-tuned."""
    table = {
        ("dfew", "uar"): (0.469, 0.625),
        ("dfew", "war"): (0.564, 0.745),
        ("crema-d", "uar"): (0.582, 0.798),
        ("crema-d", "war"): (0.681, 0.813),
        ("raf-db", "accuracy"): (0.780, 0.921),
        ("morph2", "mae"): (3.34, 2.02),
        ("utkface", "mae"): (4.89, 4.06),
        ("celeba", "mean_accuracy"): (0.868, 0.901),
        ("ffpp", "accuracy"): (0.845, 0.888),
    }
    assert all("could not be had" in BENCHMARKS[name].source for name in ("disfa", "bp4d"))
    assert {
        (name, metric): (values["zero_shot"], values["fine_tuned"])
        for name, benchmark in BENCHMARKS.items()
        for metric, values in (benchmark.paper or {}).items()
    } == table


@pytest.mark.parametrize("name", BENCHMARKS)
def test_folders_that_are_none_of_the_data_set(built: Path, tmp_path: Path, name: str) -> None:
    assert refuse(name, tmp_path / "absent") == "no such folder"
    (tmp_path / "empty").mkdir()
    assert refuse(name, tmp_path / "empty").endswith("it holds nothing")
    other = tmp_path / "other"
    for number in range(10):
        write_text(other / f"{number}.txt", "text")
    shown = "; it holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt, 7.txt and 2 more"
    assert refuse(name, other).startswith("there is no ") and refuse(name, other).endswith(shown)
    splits = " or ".join(BENCHMARKS[name].splits)
    with pytest.raises(BenchmarkError, match=rf"^.+ has no split 'best': choose {splits}$"):
        read(name, built / name, "best")


@pytest.mark.parametrize("name", BUILDERS)
def test_media_that_are_not_there(copy: Folder, name: str) -> None:
    folder = copy(name)
    count = len(dict.fromkeys(medium.path for example in read(name, folder) for medium in example.media))
    first = read(name, folder)[0].media[0].path
    shutil.rmtree(first) if first.is_dir() else first.unlink()
    cause = refuse(name, folder)
    assert f"1 of {count:,} " in cause and " are not there, such as " in cause
    absent, _, held = cause.split("such as ")[1].partition("; ")
    assert absent.split("/")[-1].split(".")[0] == first.name.split(".")[0]
    where, _, names = held.partition(" holds ")
    assert names and (folder / where).is_dir() and first.is_relative_to(folder / where)


def test_dfew_clips_as_filmed(copy: Folder) -> None:
    folder = copy("dfew")
    shutil.rmtree(folder / "Clip")
    for part, numbers in (("part_1", (10, 11)), ("part_2", (12,))):
        for number in numbers:
            write_clip(folder / f"Clip/original/{part}/{number}.mp4", draw_noise("", "video"))
    files = {example.name: example.media[0].path.relative_to(folder) for example in read("dfew", folder, "fold1")}
    assert files == {
        "00010": Path("Clip/original/part_1/10.mp4"),
        "00011": Path("Clip/original/part_1/11.mp4"),
        "00012": Path("Clip/original/part_2/12.mp4"),
    }


def test_dfew_clips_no_deeper_than_they_are_published(copy: Folder) -> None:
    folder = copy("dfew")
    (folder / "Clip/clip_224x224").rename(folder / "deep")
    (folder / "Clip/clip_224x224/below").mkdir(parents=True)
    (folder / "Clip/clip_224x224/round").symlink_to("..")
    (folder / "deep").rename(folder / "Clip/clip_224x224/below/deep")
    cause = "3 of 3 media are not there, such as Clip/clip_224x224/00010; Clip/clip_224x224 holds below, round"
    assert refuse("dfew", folder, "fold1") == cause
    (folder / "Clip/clip_224x224/below/deep").rename(folder / "Clip/clip_224x224/deep")
    assert read_truths("dfew", folder, "fold1") == TRUTHS["dfew", "fold1"]


def test_dfew_lists_that_are_wrong(copy: Folder) -> None:
    folder = copy("dfew")
    labels = folder / "EmoLabel_DataSplit/test(single-labeled)"
    where = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"
    edit(labels / "set_1.csv", "11,3", "11,8")
    assert refuse("dfew", folder) == f"{where}: line 3 is '11,8', and not a clip's number and a label from 1 to 7"
    write_text(labels / "set_1.csv", "video_name,label", "")
    assert refuse("dfew", folder) == f"{where}: holds no line of a clip's number and a label from 1 to 7"
    (labels / "set_1.csv").write_bytes(b"\xff\xfe\x00")
    assert refuse("dfew", folder) == f"{where}: no UTF-8 text"
    (labels / "set_1.csv").unlink()
    held = "EmoLabel_DataSplit/test(single-labeled) holds set_2.csv, set_3.csv, set_4.csv, set_5.csv"
    assert refuse("dfew", folder) == f"there is no {where}; {held}"
    write_text(labels / "set_1.csv", "20,1")  # the second fold has it too
    assert refuse("dfew", folder, "all") == "00020 has 2 labels"


def test_crema_without_git_lfs(copy: Folder) -> None:
    folder = copy("crema-d")
    for clip in (folder / "VideoFlash").iterdir():
        clip.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refuse("crema-d", folder)


def test_folders_in_the_place_of_files(copy: Folder) -> None:
    for name, place in (
        ("crema-d", "VideoFlash/1001_IEO_ANG_HI.flv"),
        ("crema-d", "SentenceFilenames.csv"),
        ("celeba", "Anno/list_attr_celeba.txt"),
        ("celeba", "Eval/list_eval_partition.txt"),
        ("ffpp", "splits/test.json"),
    ):
        folder = copy(name)
        (folder / place).unlink()
        (folder / place).mkdir()
        assert refuse(name, folder) == f"{place}: Is a directory"
        (folder / place).rmdir()


def test_crema_converted_clips(copy: Folder) -> None:
    folder = copy("crema-d")
    for clip in (folder / "VideoFlash").iterdir():
        clip.rename(clip.with_suffix(".mp4"))
    assert {example.media[0].path.suffix for example in read("crema-d", folder)} == {".mp4"}
    assert read_truths("crema-d", folder) == TRUTHS["crema-d", "all"]


def test_raf_whole_pictures_at_the_top(copy: Folder) -> None:
    folder = copy("raf-db")
    basic = folder / "basic"
    shutil.rmtree(basic / "Image/aligned")
    for number in range(1, 8):
        write_picture(basic / f"Image/original/test_{number:04}.jpg", draw_noise("", "image"))
    assert read_truths("raf-db", basic) == TRUTHS["raf-db", "test"]
    edit(basic / "EmoLabel/list_patition_label.txt", "test_0002.jpg 2", "test_0002.jpg two")
    assert "line 2 is 'test_0002.jpg two', and not a picture's name" in refuse("raf-db", folder)


def test_disfa_labels_that_are_wrong(copy: Folder) -> None:
    folder = copy("disfa")
    labels = folder / "ActionUnit_Labels"
    write_text(labels / "SN003/SN003_au9.txt", "1,0", "2,0", "3,0")
    assert refuse("disfa", folder) == "the label files of SN003 are not of the same frames"
    for text in ("1,0 2", "1,x", "1", "", "1,0\n2"):
        (labels / "SN003/SN003_au9.txt").write_text(text)
        cause = refuse("disfa", folder)
        assert cause == "ActionUnit_Labels/SN003/SN003_au9.txt: no table of 2 whole numbers a line, in commas"
    (labels / "SN003/SN003_au9.txt").unlink()
    assert refuse("disfa", folder).startswith("there is no ActionUnit_Labels/SN003/SN003_au9.txt; ")
    for unit in action_units.DISFA_UNITS:
        write_text(labels / f"SN003/SN003_au{unit}.txt", "0,0")
    assert refuse("disfa", folder) == "the label files of SN003 speak of frame 0, and frames count from 1"
    shutil.rmtree(labels / "SN005")
    assert read_truths("disfa", folder, "fold2")  # whose subjects are others
    assert refuse("disfa", folder, "fold1").startswith("the label files of SN003 speak")


def test_disfa_labels_past_the_end_of_a_video(copy: Folder) -> None:
    folder = copy("disfa")
    files = [folder / f"ActionUnit_Labels/SN003/SN003_au{unit}.txt" for unit in action_units.DISFA_UNITS]
    whole = select("disfa", folder, "fold1")
    assert whole.left_out == {}
    for file in files:
        file.write_text(file.read_text() + "3,0\n")
    assert select("disfa", folder, "fold1") == (whole.examples, {"past the end of the video": 1})
    for file in files:
        file.write_text("".join(f"{frame},0\n" for frame in range(1, 24)))
    assert refuse("disfa", folder) == "21 of 23 labels of SN003 are past its video's end: copy it again"
    # It is named when its frames are read, with the others' results.
    video = next((folder / "Videos_LeftCamera").glob("*SN003*"))
    video.write_bytes(video.read_bytes()[:64])
    assert len(read("disfa", folder, "fold1")) == 2 * 8 + 23


@pytest.mark.parametrize("length", [2, 24, 40])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_are_counted_from_the_last_ones(tmp_path: Path, length: int, suffix: str) -> None:
    clip = tmp_path / f"clip{suffix}"
    frames = np.random.default_rng(0).integers(0, 255, (length, 32, 32, 3), np.uint8)
    write_clip(clip, frames)
    assert count_frames(clip) == load_video(clip, 2).length == length
    if suffix == ".avi" and length > 2:  # which is read as far as it goes
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        assert count_frames(clip) == load_video(clip, 2).length < length


def test_bp4d_labels_that_are_wrong(copy: Folder) -> None:
    folder = copy("bp4d")
    file = folder / "AUCoding/AU_OCC/F004_T1.csv"
    where = "AUCoding/AU_OCC/F004_T1.csv"
    before = file.read_text()
    edit(file, "101,0", "101,5")
    assert refuse("bp4d", folder, "fold1") == f"{where}: a unit is 5, and not 0, 1 or 9"
    file.write_text(before.replace(",24\n", ",25\n"))
    assert refuse("bp4d", folder, "fold1") == f"{where}: its heading names no unit 24"
    file.write_text(before + "102,0\n")
    assert refuse("bp4d", folder, "fold1") == f"{where}: no table of 18 whole numbers a line, in commas"
    file.write_text("")
    assert refuse("bp4d", folder, "fold1") == f"{where}: its heading names no unit 1"
    file.unlink()
    assert refuse("bp4d", folder, "fold1").startswith(f"there is no {where}; AUCoding/AU_OCC holds F001_T1.csv, ")


def test_bp4d_of_other_layouts(copy: Folder) -> None:
    """Older releases; and a sequence that is coded whole, whose pictures count from 0."""
    folder = copy("bp4d")
    (folder / "Sequences(2D+3D)").rename(folder / "Sequences")
    for file in (folder / "AUCoding/AU_OCC").iterdir():
        file.rename(folder / "AUCoding" / file.name)
    (folder / "AUCoding/AU_OCC").rmdir()
    heading = (folder / "AUCoding/F004_T1.csv").read_text().splitlines()[0]
    zeros = ",0" * heading.count(",")
    write_text(folder / "AUCoding/F004_T1.csv", heading, *(f"{number}{zeros}" for number in (1, 2, 3)))
    for number in range(3):
        write_picture(folder / f"Sequences/F004/T1/{number:02}.jpg", draw_noise("", "image"))
    (folder / "Sequences/F004/T1/0101.jpg").unlink()
    files = [example.media[0].path.name for example in read("bp4d", folder, "fold1") if "F004/T1/" in example.name]
    assert files == ["01.jpg", "02.jpg"]
    assert select("bp4d", folder, "fold1").left_out == {"past the last picture": 1}


def test_celeba_as_kaggle_has_it(copy: Folder, tmp_path: Path) -> None:
    folder, kaggle = copy("celeba"), tmp_path / "kaggle"
    (kaggle / "img_align_celeba").mkdir(parents=True)
    (folder / "Img/img_align_celeba").rename(kaggle / "img_align_celeba/img_align_celeba")
    _, names, *rows = (folder / "Anno/list_attr_celeba.txt").read_text().splitlines()
    heading = ",".join(["image_id", *names.split()])
    write_text(kaggle / "list_attr_celeba.csv", heading, *(",".join(row.split()) for row in rows))
    parts = (folder / "Eval/list_eval_partition.txt").read_text().splitlines()
    write_text(kaggle / "list_eval_partition.csv", "image_id,partition", *(part.replace(" ", ",") for part in parts))
    assert read_truths("celeba", kaggle) == CELEBA_TRUTHS


def test_celeba_columns_in_another_order(copy: Folder) -> None:
    folder = copy("celeba")
    edit(folder / "Anno/list_attr_celeba.txt", " ".join(ATTRIBUTES[:2]), " ".join(ATTRIBUTES[1::-1]))
    assert read_truths("celeba", folder)["000003.jpg"]["Arched_Eyebrows"] is True
    assert read_truths("celeba", folder)["000003.jpg"]["5_o_Clock_Shadow"] is False


def test_celeba_labels_that_are_wrong(copy: Folder) -> None:
    folder = copy("celeba")
    labels = folder / "Anno/list_attr_celeba.txt"
    before = labels.read_text()
    edit(labels, " Young", "")
    assert refuse("celeba", folder).endswith("the heading of 40 attributes lacks Young")
    labels.write_text(before.replace(" Young", " Bald"))
    assert refuse("celeba", folder).endswith("lacks Young")
    labels.write_text(before.replace("000004.jpg  1", "000004.jpg  0"))
    assert "line 6 is '000004.jpg  0" in refuse("celeba", folder)
    labels.write_bytes(before.encode("utf-16"))
    assert refuse("celeba", folder) == "Anno/list_attr_celeba.txt: no UTF-8 text"
    labels.write_text("\n".join(before.splitlines()[:-1]))
    cause = "1 pictures of the split are not in Anno/list_attr_celeba.txt, such as 000005.jpg"
    assert refuse("celeba", folder) == cause
    edit(folder / "Eval/list_eval_partition.txt", "000004.jpg 2", "000004.jpg 3")
    assert "line 4 is '000004.jpg 3', and not a picture's name and 0, 1 or 2" in refuse("celeba", folder)


@pytest.mark.parametrize(("name", "listed"), [("morph2", "morph2_test.csv"), ("utkface", "utk_test.csv")])
def test_ages_need_a_list_for_the_test_split(copy: Folder, name: str, listed: str) -> None:
    folder = copy(name)
    (folder / listed).write_text("picture,age\n")
    assert refuse(name, folder) == f"{listed}: names no picture"
    (folder / listed).unlink()
    assert refuse(name, folder).startswith(f"there is no {listed}; it holds ")
    assert 'split "all"' in BENCHMARKS[name].layout and len(read(name, folder, "all")) == 4


def test_utk_names_of_every_kind(copy: Folder) -> None:
    """Whole pictures in three parts; and names that the release itself has."""
    folder = copy("utkface")
    shutil.rmtree(folder / "UTKFace")
    names = (
        "part1/40_1_3_20170119165539693.jpg",
        "part2/53_1_0_20170109133404907.JPG",
        "part3/26_1_20170116181301976.jpg",
    )
    for name in (*names, "part3/24_0_1_20170116220224657 .jpg", "part3/55_0_0_20170116232725357jpg.chip.jpg"):
        write_picture(folder / name, draw_noise("", "image"))
    assert read_truths("utkface", folder) == TRUTHS["utkface", "test"]
    assert sorted(read_truths("utkface", folder, "all").values()) == [24, 26, 40, 53, 55]
    shutil.rmtree(folder / "part2")
    assert refuse("utkface", folder) == "there is no UTKFace; it holds part1, part3, utk_test.csv"


def test_ffpp_compressions(copy: Folder) -> None:
    folder = copy("ffpp")
    cause = "there is no original_sequences/youtube/c40/videos; original_sequences/youtube holds c23"
    assert refuse("ffpp", folder, "test-c40") == cause
    for videos in folder.glob("*/*/c23"):
        videos.rename(videos.with_name("c0"))
    assert read_truths("ffpp", folder, "test-raw") == TRUTHS["ffpp", "test-c23"]
    for text in ("{", "[]", "[1]", '[["953"]]'):
        (folder / "splits/test.json").write_text(text)
        assert refuse("ffpp", folder, "test-raw").startswith("splits/test.json: no list of pairs such as ")


@pytest.fixture
def rewrite(copy: Folder) -> Callable[..., Path]:
    """`rewrite({1: {"task": None}})` is a list whose second record has a task of None; "" takes a field away."""

    def save(changes: dict[int, dict[str, Any]]) -> Path:
        folder = copy("faceinstruct")
        records = json.loads((folder / "data.json").read_text())
        for number, fields in changes.items():
            records[number] = {name: value for name, value in {**records[number], **fields}.items() if value != ""}
        (folder / "data.json").write_text(json.dumps(records))
        return folder

    return save


def test_faceinstruct_asks_as_its_records_do(built: Path) -> None:
    folder = built / "faceinstruct"
    first, second, *_ = read("faceinstruct", folder)
    assert first.prompt == "<video>\nWhat emotion is shown in the video?"
    assert first.media[0].path == folder / "videos/0.mp4"
    # A crop, with or without landmarks: no face is looked for.
    assert first.landmarks == (None,) and second.landmarks == (folder / "images/1.npy",)


def test_faceinstruct_leaves_out_what_asks_about_no_face(rewrite: Callable[..., Path]) -> None:
    folder = rewrite(
        {0: {"video": "", "task": "", "labels": ""}, 2: {"conversations": [{"from": "gpt", "value": "A"}]}}
    )
    selection = select("faceinstruct", folder)
    assert [example.name for example in selection.examples] == ["r1", "r3", "r4"]
    assert selection.left_out == {"without media": 1, "without a question": 1}
    selection = select("faceinstruct", folder, "all", "age")
    assert [example.name for example in selection.examples] == ["r1"]
    assert selection.left_out == {"without media": 1, "without a question": 1, "of another task": 2}
    with pytest.raises(BenchmarkError, match="no record to ask about: 3 of another task, 1 without media"):
        select("faceinstruct", folder, "all", "emotion")


def test_faceinstruct_without_labels_believes_the_answers(rewrite: Callable[..., Path]) -> None:
    def say(text: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": "<image>\nHow old?"}, {"from": "gpt", "value": text}]
        return {"task": "", "labels": "", "conversations": turns}

    folder = rewrite({number: say(f"{20 + number} years old.") for number in range(4)} | {4: say("A face.")})
    assert refuse("faceinstruct", folder) == "data.json: record 0 (r0) names no task: say what is asked with --task"
    selection = select("faceinstruct", folder, "all", "age")
    assert {example.name: example.truth for example in selection.examples} == {"r0": 20, "r1": 21, "r2": 22, "r3": 23}
    assert selection.left_out == {"whose answer does not say": 1}


def test_faceinstruct_takes_what_is_there_of_task_and_labels(rewrite: Callable[..., Path]) -> None:
    def say(text: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": "How old?"}, {"from": "gpt", "value": text}]

    only = {"task": "age", "labels": "", "conversations": say("40 years old.")}
    labelled = {"task": "", "labels": 12, "conversations": say("50 years old.")}
    folder = rewrite({0: only, 1: labelled, 2: {**only, "labels": None, "conversations": say("A face.")}})
    selection = select("faceinstruct", folder, "all", "age")
    assert {example.name: example.truth for example in selection.examples} == {"r0": 40, "r1": 12}
    assert selection.left_out == {"whose answer does not say": 1, "of another task": 2}
    with pytest.raises(BenchmarkError, match=r"record 1 \(r1\): labels 12 are none of task emotion"):
        select("faceinstruct", folder, "all", "emotion")


@pytest.mark.parametrize(
    ("number", "fields", "cause"),
    [
        (0, {"labels": "joy"}, r'record 0 \(r0\): labels "joy" are none of task emotion'),
        (0, {"labels": []}, r"labels \[\] are none of task emotion"),
        (1, {"labels": -1}, "labels -1 are none of task age"),
        (1, {"labels": True}, "labels true are none of task age"),
        (2, {"labels": {}}, "labels {} are none of task attributes"),
        (2, {"labels": {"Beauty": True}}, 'labels {"Beauty": true} are none'),
        (2, {"labels": {"Bald": 1}}, 'labels {"Bald": 1} are none'),
        (3, {"labels": ["AU6"]}, r'labels \["AU6"\] are none of task action-units'),
        (4, {"labels": "maybe"}, 'labels "maybe" are none of task deepfake'),
        (4, {"task": "beauty"}, r"record 4 \(r4\): task 'beauty' is not one of emotion, age"),
        (1, {"landmarks_2d": "images/absent.npy"}, "1 of 1 landmark files are not there, such as images/absent.npy"),
        (1, {"image": ["images/1.jpg", 2]}, "record 1: image .*: use a path, or a list of paths"),
    ],
)
def test_faceinstruct_records_that_are_wrong(
    rewrite: Callable[..., Path], number: int, fields: dict[str, Any], cause: str
) -> None:
    with pytest.raises(BenchmarkError, match=cause):
        read("faceinstruct", rewrite({number: fields}))


def test_faceinstruct_lists_that_are_wrong(copy: Folder) -> None:
    folder = copy("faceinstruct")
    (folder / "data.json").write_text("[")
    assert "record 0 is not JSON" in refuse("faceinstruct", folder)
    (folder / "data.json").write_text("[]")
    assert refuse("faceinstruct", folder) == "data.json has no record to ask about: it has none"


def test_faceinstruct_tells_records_of_one_name_apart(rewrite: Callable[..., Path]) -> None:
    folder = rewrite({0: {"id": "r4"}, 1: {"id": ""}})
    assert list(read_truths("faceinstruct", folder)) == ["r4#1", "1", "r2", "r3", "r4#2"]
    folder = rewrite({0: {"id": "r4"}, 1: {"id": "r4#1"}, 2: {"id": "r4#1"}, 3: {"id": "r4#2"}})
    assert list(read_truths("faceinstruct", folder)) == ["r4#3", "r4#1#1", "r4#1#2", "r4#2", "r4#4"]


def test_rendered_data_are_read(tmp_path: Path) -> None:
    from facellava_jax.synthetic import render_dataset

    names = [*render_dataset(tmp_path / "rendered", 5, 0, "test", frames=2, workers=1)]
    examples = read("faceinstruct", tmp_path / "rendered")
    assert [example.name for example in examples] == names
    assert {example.task for example in examples} == {"emotion", "age", "attributes", "action-units", "deepfake"}
    assert all(len(example.landmarks) == len(example.media) == 1 for example in examples)
