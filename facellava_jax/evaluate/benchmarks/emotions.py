"""DFEW, CREMA-D and RAF-DB: expressions."""

from pathlib import Path

from ..benchmark import Benchmark, Example, Medium, Selection
from .folder import Folder

# By the numbers of the labels, from 1.
DFEW_CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
DFEW_SPLITS = {**{f"fold{fold}": (fold,) for fold in range(1, 6)}, "all": (1, 2, 3, 4, 5)}
DFEW_LAYOUT = """
    EmoLabel_DataSplit/test(single-labeled)/set_1.csv .. set_5.csv   lines of video_name,label
    Clip/clip_224x224/00001/00001_00001.jpg ..                       each clip's frames, cut to the face
      or Clip/original/part_1/1.mp4 ..                               the clips as they were filmed
"""


def read_dfew(path: Path, split: str) -> Selection:
    folder = Folder(path, "DFEW", DFEW_LAYOUT)
    folds = folder.choose(split, DFEW_SPLITS)
    clips = folder.find("Clip/clip_224x224", "Clip/original", "Clip/clip_224x224_16f")
    found = _number_clips(folder, clips)
    examples = []
    for fold in folds:
        file = folder.find(f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv")
        for row in folder.match_lines(
            file, r"(\d+)\s*,\s*([1-7])", "a clip's number and a label from 1 to 7", headings=1
        ):
            number, label = int(row[1]), int(row[2])
            medium = Medium(path=found.get(number, clips / f"{number:05}"))
            examples.append(
                Example(name=f"{number:05}", task="emotion", truth=DFEW_CLASSES[label - 1], media=(medium,))
            )
    return folder.check(examples, split)


def _number_clips(folder: Folder, clips: Path) -> dict[int, Path]:
    """Folders of frames or clips by their numbers, here or, where none is here, one level below."""
    numbered: dict[int, Path] = {}
    for places in ([clips], [clips / name for name in sorted(folder.list_names(clips))]):
        for place in places if not numbered else ():
            names = {name: name.partition(".")[0] for name in folder.list_names(place)}
            numbered |= {int(stem): place / name for name, stem in names.items() if stem.isdecimal()}
    return numbered


# How clips are named: actor, sentence, emotion, level of it.
CREMA_CLASSES = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
CREMA_NAME = r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_([A-Z]{1,2})"
# One name ends in X in some releases and in XX in others.
CREMA_KEY = len("1001_IEO_ANG_L")
# Known to be broken: almost no frames, or all emotions one after the other.
CREMA_BROKEN = {"1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD"}
LFS_POINTER = b"version https://git-lfs"  # what git writes for a clip where git-lfs is not installed
CREMA_ACTORS = range(1001, 1092)
CREMA_SPLITS = {
    "all": CREMA_ACTORS,
    **{f"fold{fold + 1}": CREMA_ACTORS[18 * fold : 18 * (fold + 1) + fold // 4] for fold in range(5)},
}
CREMA_LAYOUT = """
    SentenceFilenames.csv                   lines of "Stimulus_Number","Filename"
    VideoFlash/1001_IEO_ANG_HI.flv ..       clips; the emotion is in the name (or VideoMP4/*.mp4, converted)
"""


def read_crema(path: Path, split: str) -> Selection:
    folder = Folder(path, "CREMA-D", CREMA_LAYOUT)
    actors = folder.choose(split, CREMA_SPLITS)
    listed = folder.find("SentenceFilenames.csv")
    clips = folder.find("VideoFlash", "VideoMP4")
    found = {name[:CREMA_KEY]: clips / name for name in sorted(folder.list_names(clips))}
    examples = []
    for row in folder.match_lines(listed, rf'\d+,"?({CREMA_NAME})"?', "a number and a clip's name", headings=1):
        name, actor, emotion = row[1], int(row[2]), row[3]
        if actor in actors and name not in CREMA_BROKEN:
            medium = Medium(path=found.get(name[:CREMA_KEY], clips / f"{name}.flv"))
            examples.append(Example(name=name, task="emotion", truth=CREMA_CLASSES[emotion], media=(medium,)))
    selection = folder.check(examples, split)
    if folder.read_bytes(examples[0].media[0].path, len(LFS_POINTER)) == LFS_POINTER:
        raise folder.error(f"{clips.name} holds pointers in the place of clips: fetch these with git lfs pull")
    return selection


# By the numbers of the labels, from 1.
RAF_CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
RAF_SPLITS = {"test": "test", "train": "train"}
RAF_LAYOUT = """
    basic/EmoLabel/list_patition_label.txt             lines such as test_0001.jpg 4
    basic/Image/aligned/test_0001_aligned.jpg ..       faces
      or basic/Image/original/test_0001.jpg ..         whole pictures
"""


def read_raf(path: Path, split: str) -> Selection:
    folder = Folder(path, "RAF-DB", RAF_LAYOUT)
    part = folder.choose(split, RAF_SPLITS)
    labels = folder.find("basic/EmoLabel/list_patition_label.txt", "EmoLabel/list_patition_label.txt")
    basic = labels.parent.parent.relative_to(path)
    pictures = folder.find(f"{basic}/Image/aligned", f"{basic}/Image/original")
    ending = "_aligned.jpg" if pictures.name == "aligned" else ".jpg"
    expected = "a picture's name and a label from 1 to 7"
    examples = [
        Example(
            name=row[1],
            task="emotion",
            truth=RAF_CLASSES[int(row[3]) - 1],
            media=(Medium(path=pictures / f"{row[1]}{ending}"),),
        )
        for row in folder.match_lines(labels, r"((train|test)_\d+)\.jpg\s+([1-7])", expected)
        if row[2] == part
    ]
    return folder.check(examples, split)


DFEW = Benchmark(
    name="dfew",
    title="DFEW",
    task="emotion",
    splits=tuple(DFEW_SPLITS),
    layout=DFEW_LAYOUT,
    source=(
        "Jiang et al., DFEW: A Large-Scale Database for Recognizing Dynamic Facial Expressions in the Wild, ACM MM "
        "2020, https://dfew-dataset.github.io: single-labelled clips in five official folds; `all` is the five test "
        "sets together. Which of them Face-LLaVA's numbers are of is not published; its authors' later AVERE tests on "
        "fold 1."
    ),
    read=read_dfew,
    classes=DFEW_CLASSES,
    paper={"uar": {"zero_shot": 0.469, "fine_tuned": 0.625}, "war": {"zero_shot": 0.564, "fine_tuned": 0.745}},
)
CREMA_D = Benchmark(
    name="crema-d",
    title="CREMA-D",
    task="emotion",
    splits=tuple(CREMA_SPLITS),
    layout=CREMA_LAYOUT,
    source=(
        "Cao et al., CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset, IEEE Transactions on Affective "
        "Computing 2014, https://github.com/CheyneyComputerScience/CREMA-D: the emotion that the actor was asked for; "
        "four clips that are known to be broken are left out. It has no official split, and Face-LLaVA's is not "
        "published: `all` is every clip; the folds, of 18 actors each (19 in the last) by their numbers, are those of "
        "HiCMAE (Sun et al., Information Fusion 2024)."
    ),
    read=read_crema,
    classes=tuple(CREMA_CLASSES.values()),
    paper={"uar": {"zero_shot": 0.582, "fine_tuned": 0.798}, "war": {"zero_shot": 0.681, "fine_tuned": 0.813}},
)
RAF_DB = Benchmark(
    name="raf-db",
    title="RAF-DB",
    task="emotion",
    splits=tuple(RAF_SPLITS),
    layout=RAF_LAYOUT,
    source=(
        "Li, Deng and Du, Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in "
        "the Wild, CVPR 2017, http://www.whdeng.cn/RAF/model1.html: the basic emotions, with the official split (3,068 "
        "test pictures)."
    ),
    read=read_raf,
    classes=RAF_CLASSES,
    paper={"accuracy": {"zero_shot": 0.780, "fine_tuned": 0.921}},
)
