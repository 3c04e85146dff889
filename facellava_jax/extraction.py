"""The faces of many pictures and clips: worker processes, the face table, a report, and going on after an end.

No JAX: workers import this.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from .errors import FaceLlavaError
from .face_tables import CSV_HEADER, append, continue_table, open_table, order_table
from .faces import FaceError, FaceFinder
from .faces.extract import Extracted, ExtractOptions, extract_faces, list_outputs, open_finder
from .faces.inputs import list_inputs, name_outputs
from .faces.records import list_record_media, read_records, replace_media
from .media import SUFFIXES
from .results import ResultFile, ResultsError
from .workers import count_workers, run_jobs

REPORT, TABLES = "report.csv", ("faces.csv", "faces.jsonl")
REPORT_COLUMNS = ("file", "status", "error", "output", "kind", "faces", "frames", "bridged", "settings")
# Pictures that take as long as a worker to start (0.05 and 0.4 s).
PICTURES_PER_WORKER = 8


class Outcome(NamedTuple):
    """Of one input: what was found, or why nothing was."""

    file: str
    found: Extracted | None
    error: str | None


class Job(NamedTuple):
    """What a worker does."""

    source: Path
    out: Path
    options: ExtractOptions


class Extraction:
    """Inputs whose faces are written to a folder; what an earlier run has done there stays.

    In `out`: per input what `list_outputs` names, `faces.csv` and `faces.jsonl` with a row for each face of each frame,
    `report.csv` with a row for each input, and each list of records with its media replaced by their crops.
    `names` are the inputs with what their outputs' names begin with, `left` those that are to be done.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        out: Path,
        options: ExtractOptions,
        root: Path | None = None,
    ) -> None:
        """`sources`: pictures, clips, folders, globs, and lists of records, whose media lie in `root` or beside them.

        Writes nothing yet. Raises FaceError, MediaError and ResultsError for what cannot be, and ImportError without
        the extra of the backend.
        """
        with open_finder(options):
            pass  # so that what it lacks is known before anything is written
        self.out, self.options = out, options
        paths = [Path(source) for source in sources]
        lists = [path for path in paths if path.suffix == ".json"]
        _check_sources(paths, lists, options, root)
        places = list_inputs([path for path in paths if path not in lists], out)
        self._records = {path: read_records(path) for path in lists}
        self._roots = {path: path.parent if root is None else root for path in lists}
        for path, records in self._records.items():
            media = sorted({medium for record in records for medium in list_record_media(record)})
            folder, whole = self._roots[path], out.resolve()
            if any(place.is_relative_to(whole) for place in (path.resolve(), *map(folder.resolve().joinpath, media))):
                raise FaceError(f"{path}: it or some of its media lie in {out}, where outputs go: choose another --out")
            places |= {folder / medium: PurePath(medium) for medium in media}
        self._done = self._read_done()
        self.names = name_outputs(places, {file: row["output"] for file, row in self._done.items()})
        self.left = [path for path in self.names if str(path) not in self._done]

    def run(self, workers: int | None = None) -> Generator[Outcome, None, None]:
        """Extracts what is left, one outcome each, in order; when one is given, it is on the disk.

        `workers` processes, by default one for each core, or fewer for few inputs; what they give does not depend on
        how many they are. In the end rows stand in the order of the inputs. Raises ResultsError where the disk takes no
        more, and WorkerError where a worker is killed.
        """
        workers = choose_workers(self.left) if workers is None else count_workers(workers)
        order = [*self._done, *map(str, self.left)]
        if self.left:
            yield from self._extract(workers)
        places = {str(path): place for place, path in enumerate(self.names)}
        if order != sorted(order, key=lambda file: places.get(file, -1)):
            for name in (*TABLES, REPORT):
                order_table(self.out / name, places)

    def _extract(self, workers: int) -> Iterator[Outcome]:
        self.out.mkdir(parents=True, exist_ok=True)
        jobs = [Job(path, self.out / self.names[path], self.options) for path in self.left]
        with contextlib.ExitStack() as stack:
            tables = [stack.enter_context(continue_table(self.out / name, self._done)) for name in TABLES]
            report = stack.enter_context(ResultFile(self.out / REPORT, REPORT_COLUMNS))
            report.done = self._done.copy()
            stack.callback(_close_finders)
            results = stack.enter_context(run_jobs(extract_job, jobs, min(workers, len(jobs))))
            for path, result in zip(self.left, results, strict=True):
                row: dict[str, Any] = {"file": str(path), "settings": self._settings}
                if isinstance(result, str):
                    report.write(row | {"status": "error", "error": result})
                    yield Outcome(str(path), None, result)
                    continue
                row |= {"status": "ok", "output": self.names[path], "kind": result.kind}
                row |= {"faces": result.faces, "frames": result.frames, "bridged": result.bridged}
                for table, lines in zip(tables, (result.csv, result.jsonl), strict=True):
                    append(table, lines)
                report.write(row)
                self._done[str(path)] = row
                yield Outcome(str(path), result, None)

    def write_records(self) -> int:
        """Writes the lists of records, as far as their media are done, and returns how many records are left out."""
        left_out = 0
        for path, records in self._records.items():
            crops = {}
            for medium in {medium for record in records for medium in list_record_media(record)}:
                if row := self._done.get(str(self._roots[path] / medium)):
                    crop, landmarks, *_ = (output.relative_to(self.out).as_posix() for output in self._outputs_of(row))
                    crops[medium] = crop, landmarks
            kept = [new for record in records if (new := replace_media(record, crops)) is not None]
            left_out += len(records) - len(kept)
            aside = self.out / f".{path.name}.part"
            aside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            aside.replace(self.out / path.name)
        return left_out

    @property
    def _settings(self) -> str:
        return json.dumps(dataclasses.asdict(self.options), default=str)

    def _outputs_of(self, row: Mapping[str, Any]) -> list[Path]:
        return list_outputs(self.out / row["output"], row["kind"], int(row["faces"]), self.options.overlay)

    def _read_done(self) -> dict[str, dict[str, Any]]:
        """The report's rows of inputs whose outputs are all there, in a folder that is this command's."""
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return {}
        if not self.out.is_dir():
            raise ResultsError(f"{self.out} is a file: name a folder with --out")
        table = self.out / TABLES[0]
        if not table.is_file():
            raise ResultsError(f"{self.out} holds other files: choose another --out, one that is empty or not there")
        with open_table(table, "r") as file:
            if file.readline() not in (CSV_HEADER, ""):
                raise ResultsError(f"{table} is not a table of this command: choose another --out")
        done = ResultFile(self.out / REPORT, REPORT_COLUMNS).done
        for row in done.values():
            if row["settings"] != self._settings:
                raise ResultsError(f"{self.out} holds faces of other settings, {row['settings']}: choose another --out")
        if not all((self.out / name).is_file() for name in TABLES):
            return {}
        return {file: row for file, row in done.items() if all(path.is_file() for path in self._outputs_of(row))}


def _check_sources(paths: Sequence[Path], lists: Sequence[Path], options: ExtractOptions, root: Path | None) -> None:
    if not paths:
        raise FaceError("no input: name pictures, clips, folders, or lists of records")
    if len({path.name for path in lists}) < len(lists):
        raise FaceError(f"{', '.join(map(str, lists))}: lists of the same name: give each an --out of its own")
    if lists and options.face == "all":
        raise FaceError(f"{lists[0]}: a medium of a record has one face: take the largest")
    if root and not lists:
        raise FaceError(f"{root}: holds the media of records, and no list of records is given: leave out --root")


def choose_workers(inputs: Sequence[Path]) -> int:
    """One for each core, but none for so little that starting it takes longer."""
    clips = sum(path.suffix.lower() in SUFFIXES["video"] for path in inputs)
    useful = clips + -(-(len(inputs) - clips) // PICTURES_PER_WORKER)
    return max(1, min(count_workers(None), useful))


# A process's own, for all its jobs.
_finders = contextlib.ExitStack()


@functools.cache
def _load_finder(options: ExtractOptions) -> FaceFinder:
    return _finders.enter_context(open_finder(options))


def _close_finders() -> None:
    _load_finder.cache_clear()
    _finders.close()


def extract_job(job: Job) -> Extracted | str:
    """What was found, or why nothing was."""
    try:
        return extract_faces(job.source, job.out, _load_finder(job.options), job.options)
    except (FaceLlavaError, OSError) as error:
        return str(error)
