"""DISFA and BP4D: action units of every coded frame."""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ...media import SUFFIXES, MediaError, count_frames
from ..benchmark import Benchmark, Example, Medium, Selection
from .folder import Folder

# Subjects that test in each fold. Both data sets are divided so by Zhao et al. (BP4D: DRML, CVPR 2016) and all who
# follow: JAA-Net (Shao et al., ECCV 2018), ME-GraphAU (Luo et al., IJCAI 2022).
DISFA_FOLDS = (
    ("SN003", "SN004", "SN005", "SN007", "SN008", "SN017", "SN023", "SN025", "SN029"),
    ("SN006", "SN011", "SN012", "SN013", "SN018", "SN021", "SN024", "SN028", "SN031"),
    ("SN001", "SN002", "SN009", "SN010", "SN016", "SN026", "SN027", "SN030", "SN032"),
)
BP4D_FOLDS = (
    (
        *("F004", "F006", "F007", "F012", "F014", "F015", "F017", "F019", "F021"),
        *("M003", "M006", "M009", "M015"),
    ),
    (
        *("F003", "F005", "F011", "F013", "F020", "F022"),
        *("M002", "M005", "M010", "M011", "M013", "M016", "M017", "M018"),
    ),
    (
        *("F001", "F002", "F008", "F009", "F010", "F016", "F018", "F023"),
        *("M001", "M004", "M007", "M008", "M012", "M014"),
    ),
)


def _name_splits(folds: tuple[tuple[str, ...], ...]) -> dict[str, tuple[str, ...]]:
    everyone = tuple(sorted(subject for fold in folds for subject in fold))
    return {"all": everyone, **{f"fold{number}": fold for number, fold in enumerate(folds, 1)}}


DISFA_UNITS = (1, 2, 4, 6, 9, 12, 25, 26)
DISFA_ACTIVE = 2  # the intensity, of 0 to 5, from which papers count a unit as there
DISFA_SPARE = 20  # rows that may be past a video's end: a second
DISFA_SPLITS = _name_splits(DISFA_FOLDS)
DISFA_LAYOUT = """
    ActionUnit_Labels/SN001/SN001_au1.txt ..     lines of frame,intensity for each unit; frames count from 1
    Videos_LeftCamera/LeftVideoSN001_comp.avi ..
"""


def read_disfa(path: Path, split: str) -> Selection:
    folder = Folder(path, "DISFA", DISFA_LAYOUT)
    subjects = folder.choose(split, DISFA_SPLITS)
    labels = folder.find("ActionUnit_Labels")
    videos = folder.find("Videos_LeftCamera", "Video_LeftCamera")
    examples = []
    left_out: Counter[str] = Counter()
    for subject in subjects:
        video = _find_video(folder, videos, subject)
        files = [folder.find(f"{labels.name}/{subject}/{subject}_au{unit}.txt") for unit in DISFA_UNITS]
        frames, *others = [_read_numbers(folder, file, columns=2) for file in files]
        if any(not np.array_equal(frames[:, 0], other[:, 0]) for other in others):
            raise folder.error(f"the label files of {subject} are not of the same frames")
        active = np.stack([column[:, 1] >= DISFA_ACTIVE for column in (frames, *others)], axis=1)
        numbers = frames[:, 0].tolist()
        if min(numbers) < 1:
            raise folder.error(f"the label files of {subject} speak of frame {min(numbers)}, and frames count from 1")
        # The labels of a video may be a row more than its frames. One that does not open is named when it is read.
        with contextlib.suppress(MediaError):
            kept = frames[:, 0] <= count_frames(video)
            past = int((~kept).sum())
            if past > DISFA_SPARE:
                raise folder.error(
                    f"{past:,} of {len(kept):,} labels of {subject} are past its video's end: copy it again"
                )
            numbers, active = frames[kept, 0].tolist(), active[kept]
            left_out.update({"past the end of the video": past} if past else {})
        media = (Medium(path=video, frame=number - 1) for number in numbers)
        examples += _make_examples(subject, numbers, media, active, DISFA_UNITS)
    return folder.check(examples, split, left_out)


def _find_video(folder: Folder, videos: Path, subject: str) -> Path:
    for name in sorted(folder.list_names(videos)):
        if f"video{subject}_".lower() in name.lower() and name.lower().endswith(SUFFIXES["video"]):
            return videos / name
    return videos / f"LeftVideo{subject}_comp.avi"


BP4D_UNITS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
BP4D_TASKS = ("T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8")
BP4D_CODES = (0, 1, 9)  # not there, there, and not known
BP4D_SPLITS = _name_splits(BP4D_FOLDS)
BP4D_LAYOUT = """
    AUCoding/AU_OCC/F001_T1.csv ..           a heading 0,1,2,4 .. of units; then a frame's number, and for each unit
                                             0, 1 or 9 (unknown)
    Sequences(2D+3D)/F001/T1/2440.jpg ..     frames, named by their numbers (or Sequences, or BP4D-training)
"""


def read_bp4d(path: Path, split: str) -> Selection:
    folder = Folder(path, "BP4D", BP4D_LAYOUT)
    subjects = folder.choose(split, BP4D_SPLITS)
    labels = folder.find("AUCoding/AU_OCC", "AUCoding").relative_to(path)
    sequences = folder.find("Sequences(2D+3D)", "Sequences", "BP4D-training")
    examples = []
    left_out: Counter[str] = Counter()
    for subject in subjects:
        for task in BP4D_TASKS:
            file = folder.find(f"{labels}/{subject}_{task}.csv")
            coded = _read_occurrences(folder, file)
            numbers, codes = coded[:, 0], coded[:, 1:]
            pictures = sequences / subject / task
            # Numbers have four, three or two digits.
            names = {
                int(name[:-4]): name
                for name in folder.list_names(pictures)
                if name[:-4].isdecimal() and name.lower().endswith(".jpg")
            }
            # Where pictures count from 0, the coding of a whole sequence ends one past the last.
            past = (numbers == len(names)) & (0 in names)
            known = (codes != BP4D_CODES[2]).all(axis=1) & ~past
            whys = {"past the last picture": past, "with units that are not known": ~known & ~past}
            left_out.update({why: count for why, rows in whys.items() if (count := int(rows.sum()))})
            kept = numbers[known].tolist()
            media = (Medium(path=pictures / names.get(number, f"{number:04}.jpg")) for number in kept)
            examples += _make_examples(f"{subject}/{task}", kept, media, codes[known] == 1, BP4D_UNITS)
    return folder.check(examples, split, left_out)


def _read_occurrences(folder: Folder, file: Path) -> Int64[np.ndarray, "N U"]:
    """Each coded frame's number, and its codes of the scored units."""
    heading = next(csv.reader(folder.read_text(file).splitlines()[:1]), [])
    columns = [cell.strip() for cell in heading]
    absent = [unit for unit in BP4D_UNITS if str(unit) not in columns[1:]]
    if absent:
        raise folder.error(f"{file.relative_to(folder.path)}: its heading names no unit {absent[0]}")
    coded = _read_numbers(folder, file, columns=len(columns), headings=1)
    coded = coded[:, [0, *(columns.index(str(unit), 1) for unit in BP4D_UNITS)]]
    if wrong := set(np.unique(coded[:, 1:]).tolist()) - set(BP4D_CODES):
        raise folder.error(f"{file.relative_to(folder.path)}: a unit is {min(wrong)}, and not 0, 1 or 9")
    return coded


def _read_numbers(folder: Folder, file: Path, columns: int, headings: int = 0) -> Int64[np.ndarray, "N C"]:
    """A file of whole numbers between commas."""
    lines = folder.read_text(file).splitlines()[headings:]
    try:
        table = np.loadtxt(lines, np.int64, delimiter=",", ndmin=2) if any(map(str.strip, lines)) else np.empty((0, 0))
    except ValueError:
        table = np.empty((0, 0))
    if not len(table) or table.shape[1] != columns:
        raise folder.error(f"{file.relative_to(folder.path)}: no table of {columns} whole numbers a line, in commas")
    return table


def _make_examples(
    sequence: str, numbers: list[int], media: Iterable[Medium], active: np.ndarray, units: tuple[int, ...]
) -> list[Example]:
    # Few combinations occur, in many frames.
    truths: dict[bytes, frozenset[int]] = {}
    examples = []
    for number, medium, row in zip(numbers, media, active, strict=True):
        key = row.tobytes()
        if key not in truths:
            truths[key] = frozenset(np.array(units)[row].tolist())
        examples.append(Example(name=f"{sequence}/{number}", task="action-units", truth=truths[key], media=(medium,)))
    return examples


DISFA = Benchmark(
    name="disfa",
    title="DISFA",
    task="action-units",
    splits=tuple(DISFA_SPLITS),
    layout=DISFA_LAYOUT,
    source=(
        "Mavadati et al., DISFA: A Spontaneous Facial Action Intensity Database, IEEE Transactions on Affective "
        "Computing 2013, http://mohammadmahoor.com/disfa: left camera, every frame; a unit is there from intensity 2. "
        "It has no official split, and Face-LLaVA's is not published: `all` is everybody, the folds are the three of "
        "JAA-Net (Shao et al., ECCV 2018) and of the papers after it. Face-LLaVA's paper has a mean F1 of it, but the "
        "number could not be had for this table."
    ),
    read=read_disfa,
    units=DISFA_UNITS,
)
BP4D = Benchmark(
    name="bp4d",
    title="BP4D",
    task="action-units",
    splits=tuple(BP4D_SPLITS),
    layout=BP4D_LAYOUT,
    source=(
        "Zhang et al., BP4D-Spontaneous: A High-Resolution Spontaneous 3D Dynamic Facial Expression Database, Image "
        "and Vision Computing 2014, http://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html: coded frames "
        "whose scored units are all known; frame n is the picture numbered n, as JAA-Net and ME-GraphAU (Luo et al., "
        "IJCAI 2022) read it. It has no official split, and Face-LLaVA's is not published: `all` is everybody, the "
        "folds are the three of JAA-Net (Shao et al., ECCV 2018) and of the papers after it. Face-LLaVA's paper has a "
        "mean F1 of it, but the number could not be had for this table."
    ),
    read=read_bp4d,
    units=BP4D_UNITS,
)
