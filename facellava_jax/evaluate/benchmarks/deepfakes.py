"""FaceForensics++: filmed faces and forged ones."""

import json
from pathlib import Path

from ..benchmark import Benchmark, Example, Medium, Selection
from .folder import Folder

FORGERIES = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
# How much the clips are compressed, by the names of its folder; older downloads say c0 for raw.
FFPP_SPLITS = {"test-c23": ("c23",), "test-c40": ("c40",), "test-raw": ("raw", "c0")}
FFPP_LAYOUT = """
    original_sequences/youtube/c23/videos/000.mp4 ..              (or c40, or raw)
    manipulated_sequences/Deepfakes/c23/videos/000_003.mp4 ..     and Face2Face, FaceSwap, NeuralTextures
    splits/test.json                                              of https://github.com/ondyari/FaceForensics, dataset
"""


def read_ffpp(path: Path, split: str) -> Selection:
    folder = Folder(path, "FaceForensics++", FFPP_LAYOUT)
    qualities = folder.choose(split, FFPP_SPLITS)
    pairs = _read_pairs(folder, folder.find("splits/test.json", "dataset/splits/test.json", "test.json"))
    originals = sorted(name for pair in pairs for name in pair)
    forgeries = sorted(f"{target}_{source}" for pair in pairs for target, source in (pair, pair[::-1]))
    places = [("original_sequences/youtube", "real", originals)]
    places += [(f"manipulated_sequences/{method}", "fake", forgeries) for method in FORGERIES]
    examples = []
    for place, truth, names in places:
        videos = folder.find(*(f"{place}/{quality}/videos" for quality in qualities))
        for name in names:
            medium = Medium(path=videos / f"{name}.mp4")
            label = f"{place.split('/')[1]}/{name}"
            examples.append(Example(name=label, task="deepfake", truth=truth, media=(medium,)))
    return folder.check(examples, split)


def _read_pairs(folder: Folder, file: Path) -> list[tuple[str, str]]:
    """Clips whose faces were put into each other."""
    text = folder.read_text(file)
    try:
        pairs = [(str(target), str(source)) for target, source in json.loads(text)]
    except (ValueError, TypeError):
        pairs = []
    if not pairs:
        raise folder.error(f'{file.relative_to(folder.path)}: no list of pairs such as [["953", "974"], ..]')
    return pairs


FFPP = Benchmark(
    name="ffpp",
    title="FaceForensics++",
    task="deepfake",
    splits=tuple(FFPP_SPLITS),
    layout=FFPP_LAYOUT,
    source=(
        "Rössler et al., FaceForensics++: Learning to Detect Manipulated Facial Images, ICCV 2019, "
        "https://github.com/ondyari/FaceForensics: the official test clips, 140 originals and their forgeries by four "
        "methods. The compression that Face-LLaVA's numbers are of is not published."
    ),
    read=read_ffpp,
    paper={"accuracy": {"zero_shot": 0.845, "fine_tuned": 0.888}},
)
