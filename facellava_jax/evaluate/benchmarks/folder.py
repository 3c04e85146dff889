"""A data set's folder as its reader goes through it: errors say what is wrong, what is there, and what should be."""

import os
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..benchmark import BenchmarkError, Example, Selection

SHOWN = 8  # names of what a folder holds

Value = TypeVar("Value")


class Folder:
    """Lists and reads what a data set holds, and compares it with what its labels speak of."""

    def __init__(self, path: Path, title: str, layout: str) -> None:
        """`layout` is shown with each error. Raises BenchmarkError where there is no folder."""
        self.path, self._title, self._layout = path, title, layout
        self._names: dict[Path, frozenset[str]] = {}
        if not path.is_dir():
            raise self.error("no such folder")

    def error(self, cause: str) -> BenchmarkError:
        layout = textwrap.indent(textwrap.dedent(self._layout).strip("\n"), "  ")
        return BenchmarkError(f"{self.path}: {cause}\n{self._title} is expected as its authors lay it out:\n{layout}")

    def choose(self, split: str, splits: Mapping[str, Value]) -> Value:
        """What a split's name stands for."""
        if split not in splits:
            raise BenchmarkError(f"{self._title} has no split {split!r}: choose {' or '.join(splits)}")
        return splits[split]

    def find(self, *names: str) -> Path:
        """The first of these files or folders that is there; raises BenchmarkError where none is."""
        for name in names:
            if (path := self.path / name).exists():
                return path
        raise self.error(f"there is no {' or '.join(names)}; {self.describe((self.path / names[0]).parent)}")

    def list_names(self, folder: Path) -> frozenset[str]:
        """What a folder holds, read once; nothing where there is no folder."""
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    names = frozenset(entry.name for entry in entries if not entry.name.startswith("."))
            except OSError:
                names = frozenset()
            self._names[folder] = names
        return self._names[folder]

    def read_text(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self._refuse(file, error) from None

    def read_bytes(self, file: Path, count: int) -> bytes:
        """The first bytes of a file."""
        try:
            with file.open("rb") as stream:
                return stream.read(count)
        except OSError as error:
            raise self._refuse(file, error) from None

    def _refuse(self, file: Path, error: OSError | UnicodeDecodeError) -> BenchmarkError:
        cause = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        return self.error(f"{file.relative_to(self.path)}: {cause}")

    def match_lines(self, file: Path, pattern: str, expected: str, headings: int = 0) -> list[re.Match[str]]:
        """Every line of a file, as the pattern takes it apart; blank ones are left out.

        Up to `headings` first lines may be something else. Raises BenchmarkError for a line that is not as `expected`,
        and for a file without any.
        """
        compiled = re.compile(pattern)
        matches = []
        for number, line in enumerate(self.read_text(file).splitlines(), 1):
            if match := compiled.fullmatch(line.strip()):
                matches.append(match)
            elif line.strip() and number > headings:
                raise self.error(f"{file.relative_to(self.path)}: line {number} is {line[:60]!r}, and not {expected}")
        if not matches:
            raise self.error(f"{file.relative_to(self.path)}: holds no line of {expected}")
        return matches

    def check(self, examples: Sequence[Example], split: str, left_out: Mapping[str, int] | None = None) -> Selection:
        """The examples of a split, if there are any, each has a name of its own, and their media and landmarks exist.

        Raises BenchmarkError else. Only folders are listed: nothing is opened.
        """
        if not examples:
            raise self.error(f"split {split!r} is empty; {self.describe(self.path)}")
        name, count = Counter(example.name for example in examples).most_common(1)[0]
        if count > 1:
            raise self.error(f"{name} has {count} labels")
        media = dict.fromkeys(medium.path for example in examples for medium in example.media)
        points = dict.fromkeys(file for example in examples for file in example.landmarks if file)
        for kind, files in (("media", media), ("landmark files", points)):
            absent = [file for file in files if file.name not in self.list_names(file.parent)]
            if absent:
                first = os.path.relpath(absent[0], self.path)
                missing = f"{len(absent):,} of {len(files):,} {kind} are not there, such as {first}"
                raise self.error(f"{missing}; {self.describe(absent[0].parent)}")
        return Selection([*examples], dict(left_out or {}))

    def describe(self, folder: Path) -> str:
        """What a folder holds; where it is not there, what the nearest above it does."""
        while not folder.is_dir():
            folder = folder.parent
        where = "it" if folder == self.path else os.path.relpath(folder, self.path)
        names = sorted(self.list_names(folder))
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        return f"{where} holds {', '.join(names[:SHOWN]) or 'nothing'}{more}"
