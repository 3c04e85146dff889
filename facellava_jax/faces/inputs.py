"""Which pictures and clips are meant, and under which names their faces are written."""

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath

from ..media import SUFFIXES, MediaError, list_media
from .face import FaceError

WILDCARDS = re.compile(r"[*?\[]")
# What outputs have more in their names than inputs do.
ADDED = r"_overlay|_face\d+"
ADDED_END = re.compile(rf"({ADDED})+$")
NAME_END = re.compile(
    rf"({ADDED}|{'|'.join(re.escape(suffix) for suffixes in SUFFIXES.values() for suffix in suffixes)})+$",
    re.IGNORECASE,
)


def list_inputs(sources: Sequence[Path], out: Path) -> dict[Path, PurePath]:
    """Pictures and clips, and the place of each below `out`: a relative path, with its own suffix.

    Folders are searched with their subfolders, hidden ones excepted; a place is relative to the folder, to what comes
    before a glob's first wildcard, or for files by name to the folder that holds them all. What lies in `out` is no
    input: FaceError where it is named, else it is passed over. Raises MediaError for a folder or glob without a medium,
    and for a file that is not there, unless it is one of several sources: then it is left to fail on its own.
    """
    named = [source for source in sources if _names_a_file(source)]
    if named and len(sources) == 1:
        list_media(named[0])
    inside = [source for source in named if _lies_in(source, out)]
    if inside:
        raise FaceError(f"{inside[0]} lies in {out}, where outputs go: choose another --out")
    resolved = [source.parent.resolve() for source in named]
    above = Path(os.path.commonpath(resolved)) if resolved else Path()
    places: dict[Path, PurePath] = {}
    for source in sources:
        if source in named:
            places[source] = source.parent.resolve().relative_to(above) / source.name
        else:
            places |= _search(source, out)
    return places


def _names_a_file(source: Path) -> bool:
    return source.is_file() or not (source.is_dir() or WILDCARDS.search(str(source)))


def _search(source: Path, out: Path) -> dict[Path, PurePath]:
    if source.is_dir():
        folder, pattern = source, Path(glob.escape(str(source))) / "**" / "*"
    else:
        folder, pattern = Path(*takewhile(lambda part: not WILDCARDS.search(part), source.parts)), source
    found: dict[Path, PurePath] = {}
    for path in list_media(pattern):
        place = path.relative_to(folder)
        if not _lies_in(path, out) and not any(part.startswith(".") for part in place.parts):
            found[path] = place
    if not found:
        raise MediaError(f"{source}: no picture or clip there outside {out}: name those to be searched for faces")
    return found


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def name_outputs(places: Mapping[Path, PurePath], taken: Mapping[str, str]) -> dict[Path, str]:
    """The name that each input's outputs begin with: its place, without the suffix.

    The suffix stays (a.png, a.mp4: a.png.png, a.mp4.mp4) where others begin with the same stem, or would but for what
    outputs have added: a.png and a_overlay.png, say. `taken` are names that were given before, by file; they stay.
    Raises FaceError where two inputs have the same place.
    """
    owners = {ADDED_END.sub("", name): file for file, name in taken.items()}
    before = [name for file, name in taken.items() if Path(file) not in places]
    stems = {path: place.with_suffix("").as_posix() for path, place in places.items()}
    crowd = Counter(NAME_END.sub("", name) for name in [*before, *stems.values()])
    names = {}
    for path, place in places.items():
        alone = crowd[NAME_END.sub("", stems[path])] == 1
        names[path] = taken.get(str(path)) or (stems[path] if alone else place.as_posix())
        owner = owners.setdefault(ADDED_END.sub("", names[path]), str(path))
        if owner != str(path):
            raise FaceError(
                f"{path} and {owner} would be written under the same name, {names[path]}: "
                "give the folder above both, or choose another --out for one"
            )
    return names
