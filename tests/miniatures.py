"""Miniatures of the data sets' folders, laid out as published: a few examples each, in every split."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facellava_jax.answers import ATTRIBUTES, Label
from facellava_jax.evaluate.benchmarks.action_units import BP4D_FOLDS, DISFA_FOLDS
from facellava_jax.media import Kind
from facellava_jax.request import QUESTIONS

# What shows a truth: an image (Y, X, 3), or a clip (T, Y, X, 3), in RGB.
Draw = Callable[[Label, Kind], np.ndarray]
CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".flv": "flv"}


def draw_noise(truth: Label, kind: Kind) -> np.ndarray:
    size = (2, 32, 32, 3) if kind == "video" else (32, 32, 3)
    return np.random.default_rng(len(str(truth))).integers(0, 256, size, np.uint8)


def build(name: str, root: Path, draw: Draw = draw_noise) -> Path:
    """The folder of the data set of this name, made in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    BUILDERS[name](root, draw)
    return root


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_picture(path: Path, pixels: np.ndarray) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes())


def write_clip(path: Path, frames: np.ndarray) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=24, options={"g": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def build_dfew(root: Path, draw: Draw) -> None:
    emotions = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
    for fold in range(1, 6):
        labels = {10 * fold + index: 1 + (fold + index) % 7 for index in range(3)}
        rows = (f"{number},{label}" for number, label in labels.items())
        write_text(root / f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv", "video_name,label", *rows)
        for number, label in labels.items():
            for index, frame in enumerate(draw(emotions[label - 1], "video"), 1):
                write_picture(root / f"Clip/clip_224x224/{number:05}/{number:05}_{index:05}.jpg", frame)


def build_crema(root: Path, draw: Draw) -> None:
    emotions = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    names = [
        f"{actor}_IEO_{code}_HI" for actor, code in zip((1001, 1018, 1019, 1040, 1072, 1073), emotions, strict=True)
    ]
    names += ["1091_ITH_SAD_XX", "1064_IEO_DIS_MD"]
    rows = (f'{number},"{name}"' for number, name in enumerate(names, 1))
    write_text(root / "SentenceFilenames.csv", '"Stimulus_Number","Filename"', *rows)
    for name in names:
        clip = name.replace("_XX", "_X")
        write_clip(root / f"VideoFlash/{clip}.flv", draw(emotions[name.split("_")[2]], "video"))


def build_raf(root: Path, draw: Draw) -> None:
    emotions = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    labels = {f"test_{number:04}": number for number in range(1, 8)} | {"train_00001": 4, "train_00002": 7}
    rows = (f"{name}.jpg {label}" for name, label in labels.items())
    write_text(root / "basic/EmoLabel/list_patition_label.txt", *rows)
    for name, label in labels.items():
        write_picture(root / f"basic/Image/aligned/{name}_aligned.jpg", draw(emotions[label - 1], "image"))


def build_disfa(root: Path, draw: Draw) -> None:
    """Of each subject two frames: at rest, and with a smile; SN001 parts its lips, then does more."""
    for subject in (subject for fold in DISFA_FOLDS for subject in fold):
        intensities = {25: (5, 1), 1: (0, 2), 12: (1, 3), 5: (5, 5)} if subject == "SN001" else {12: (0, 3), 6: (1, 2)}
        for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
            values = intensities.get(unit, (0, 0))
            rows = (f"{frame},{value}" for frame, value in enumerate(values, 1))
            write_text(root / f"ActionUnit_Labels/{subject}/{subject}_au{unit}.txt", *rows)
        truths = [{unit for unit, values in intensities.items() if values[frame] >= 2} for frame in (0, 1)]
        frames = np.concatenate([draw(frozenset(truth), "image")[None] for truth in truths])
        write_clip(root / f"Videos_LeftCamera/LeftVideo{subject}_comp.avi", frames)


def build_bp4d(root: Path, draw: Draw) -> None:
    """Of each sequence one coded frame, whose number is that of its task; of F001's first, five."""
    units = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 23, 24)
    heading = ",".join(map(str, (0, *units)))
    for subject in (subject for fold in BP4D_FOLDS for subject in fold):
        for task in range(1, 9):
            coded: dict[int, dict[int, int]] = {100 + task: {12: 1, 6: 1} if task == 1 else {4: 1}}
            if (subject, task) == ("F001", 1):
                # A scored unit is not known in the second, one that is not scored in the third.
                coded = {2440: {12: 1}, 2441: {12: 1, 24: 9}, 2442: {1: 1, 11: 9}, 2443: {5: 1}, 2444: {}}
            rows = (
                ",".join(str(value) for value in (number, *(codes.get(unit, 0) for unit in units)))
                for number, codes in coded.items()
            )
            write_text(root / f"AUCoding/AU_OCC/{subject}_T{task}.csv", heading, *rows)
            for number, codes in coded.items():
                truth = frozenset(unit for unit, code in codes.items() if code == 1)
                name = f"{number:04}" if subject.startswith("F") else f"{number:03}"
                write_picture(root / f"Sequences(2D+3D)/{subject}/T{task}/{name}.jpg", draw(truth, "image"))


# What three of the rendered faces have.
CELEBA_SEEN = {
    "000003.jpg": ("Eyeglasses", "Gray_Hair", "Male", "No_Beard"),
    "000004.jpg": ("Blond_Hair", "No_Beard", "Smiling", "Young"),
    "000005.jpg": ("Bushy_Eyebrows", "Gray_Hair", "Male", "Mustache"),
}


def build_celeba(root: Path, draw: Draw) -> None:
    parts = {"000001.jpg": 0, "000002.jpg": 1, "000003.jpg": 2, "000004.jpg": 2, "000005.jpg": 2}
    # The third has the first attribute, the fourth the first two .., beside what is seen.
    truths = {
        name: {each: at < int(name[5]) - 2 or each in CELEBA_SEEN.get(name, ()) for at, each in enumerate(ATTRIBUTES)}
        for name in parts
    }
    rows = (f"{name}  " + " ".join("1" if here else "-1" for here in truth.values()) for name, truth in truths.items())
    write_text(root / "Anno/list_attr_celeba.txt", str(len(parts)), " ".join(ATTRIBUTES) + " ", *rows)
    write_text(root / "Eval/list_eval_partition.txt", *(f"{name} {part}" for name, part in parts.items()))
    for name, truth in truths.items():
        write_picture(root / f"Img/img_align_celeba/{name}", draw(truth, "image"))


def build_morph(root: Path, draw: Draw) -> None:
    names = ("009055_1M54", "273546_01M22", "306329_00F32", "124805_06F54")
    for name in names:
        write_picture(root / f"Album2/{name}.JPG", draw(float(name[-2:]), "image"))
    rows = (f"{name}.jpg,{int(name[:6])},0,B,1,,{int(name[-2:]) - 16},,GOOD" for name in names[1:])
    heading = ",id_num,picture_num,race,Male,facial_hair,age,glasses,quality"
    write_text(root / "morph2_test.csv", heading, *rows)


def build_utk(root: Path, draw: Draw) -> None:
    names = (
        "40_1_3_20170119165539693",
        "53_1_0_20170109133404907",
        "26_1_20170116181301976",
        "1_0_0_20161219140530307",
    )
    for name in names:
        write_picture(root / f"UTKFace/{name}.jpg.chip.jpg", draw(float(name.split("_")[0]), "image"))
    rows = (f"{number},{name}.jpg.chip.jpg,{int(name[:2]) - 21}" for number, name in enumerate(names[:3], 18896))
    write_text(root / "utk_test.csv", ",file,age", *rows)


def build_ffpp(root: Path, draw: Draw) -> None:
    write_text(root / "splits/test.json", json.dumps([["953", "974"]]))
    for name in ("953", "974"):
        write_clip(root / f"original_sequences/youtube/c23/videos/{name}.mp4", draw("real", "video"))
    for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"):
        for name in ("953_974", "974_953"):
            write_clip(root / f"manipulated_sequences/{method}/c23/videos/{name}.mp4", draw("fake", "video"))


def build_faceinstruct(root: Path, draw: Draw) -> None:
    """A record of each task; the second has landmarks."""
    records = []
    for number, (task, labels, kind) in enumerate(
        (
            ("emotion", "anger", "video"),
            ("age", 31, "image"),
            ("attributes", {"Eyeglasses": True, "Bald": False}, "image"),
            ("action-units", [6, 12], "image"),
            ("deepfake", "fake", "video"),
        )
    ):
        media = f"videos/{number}.mp4" if kind == "video" else f"images/{number}.jpg"
        truth = frozenset(labels) if isinstance(labels, list) else labels
        (write_clip if kind == "video" else write_picture)(root / media, draw(truth, kind))
        question, words = QUESTIONS[task]
        asked = f"<{kind}>\n{question.format(words[kind])}"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "I cannot say."}]
        records.append({"id": f"r{number}", kind: media, "conversations": turns, "task": task, "labels": labels})
    np.save(root / "images/1.npy", np.full((68, 2), 128, np.float32).reshape(-1))
    records[1]["landmarks_2d"] = "images/1.npy"
    write_text(root / "data.json", json.dumps(records, indent=1))


BUILDERS: dict[str, Callable[[Path, Draw], None]] = {
    "dfew": build_dfew,
    "crema-d": build_crema,
    "raf-db": build_raf,
    "disfa": build_disfa,
    "bp4d": build_bp4d,
    "celeba": build_celeba,
    "morph2": build_morph,
    "utkface": build_utk,
    "ffpp": build_ffpp,
    "faceinstruct": build_faceinstruct,
}
