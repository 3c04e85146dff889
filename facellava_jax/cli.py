"""The command `facellava`. What brings JAX along is imported when a command runs, so that `--help` is quick."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tqdm import tqdm

from .cli_data import Data
from .cli_faces import Faces
from .cli_train import Train
from .config import DType
from .errors import FaceLlavaError
from .media import SUFFIXES, MediaError, list_media
from .program import run_program, say, write
from .request import Options, PredictError, Request, Task, find_question
from .results import ResultFile, ResultsError

PROGRAM = "facellava"
Input = TypeVar("Input")

DESCRIPTION = "Ask questions about a face in a picture or a clip."
COLUMNS = ("file", "status", "answer", "error", "question", "tokens", "finish", "model", "settings")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Answer a question about pictures and clips.

    One input: the answer is written as it comes. Several, a folder or a glob go to --out FILE.jsonl or FILE.csv; the
    same command again goes on where it stopped.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")] = ()
    """Pictures, clips, folders of them, or globs; none for a question about nothing."""
    model: Path
    """The checkpoint folder."""
    prompt: str | None = None
    """The question."""
    task: Task | None = None
    """Ask the question that is known to work well for a task."""
    frames: tuple[Path, ...] = ()
    """Folders whose pictures are the frames of one clip each."""
    # "none" first, else it would be a path.
    landmarks: Literal["none"] | Path = "none"
    """A .npy file with the input's 68 points, in pixels of the 256 x 256 face crop."""
    num_frames: int | None = None
    """Frames taken from each clip; by default as many as the video tower was made for."""
    dtype: DType | None = None
    """Of parameters and arithmetic: bfloat16 by default, float32 on CPU."""
    out: Path | None = None
    """Write answers to this .jsonl or .csv file."""
    batch_size: int = 8
    """Inputs answered together, with --out."""
    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)

    def run(self) -> int:
        questions = self._questions()
        inputs = list(dict.fromkeys([*self._list_inputs(), *map(str, self.frames)]))
        if self.landmarks != "none" and len(inputs) != 1:
            raise PredictError(f"{self.landmarks}: landmarks of one input, and there are {len(inputs)}: give one input")
        if self.out is None:
            if len(inputs) > 1:
                raise ResultsError(f"{len(inputs)} inputs: name a file for the answers, --out FILE.jsonl or FILE.csv")
            return self._answer_one(inputs)
        if not inputs:
            raise PredictError("--out takes the answers about inputs: name some")
        return self._answer_all(inputs, self.out, questions)

    def _list_inputs(self) -> list[str]:
        """The media that the inputs name. Of several inputs, one that names none is left to fail on its own."""
        inputs: list[str] = []
        for source in self.inputs:
            try:
                inputs += map(str, list_media(Path(source)))
            except MediaError:
                if len(self.inputs) == 1:
                    raise
                inputs.append(source)
        return inputs

    def _settings(self) -> str:
        """What the answers depend on beside file, question and model."""
        options = dataclasses.asdict(self.options)
        return json.dumps(
            {"dtype": self.dtype, "num_frames": self.num_frames, "landmarks": str(self.landmarks), **options}
        )

    def _questions(self) -> set[str]:
        """What the inputs will be asked: of a task, the words for pictures and for clips."""
        if self.prompt is not None and not self.prompt.strip():
            raise PredictError("the prompt is empty: ask something")
        return {find_question(self._request(None), [kind]) for kind in SUFFIXES}

    def _answer_one(self, inputs: list[str]) -> int:
        from .predict import Predictor

        predictor = Predictor.load(self.model, dtype=self.dtype, num_frames=self.num_frames)
        for piece in predictor.stream(self._request(inputs[0] if inputs else None)):
            write(piece)
        write("\n")
        return 0

    def _answer_all(self, inputs: list[str], out: Path, questions: set[str]) -> int:
        if self.batch_size < 1:
            raise PredictError(f"batch_size {self.batch_size}: use at least 1")
        results = ResultFile(out, COLUMNS)
        for done in results.done.values():
            if done["model"] != str(self.model):
                raise ResultsError(f"{out} holds answers of {done['model']}: choose another --out")
            if done["question"] not in questions:
                raise ResultsError(f"{out} holds answers to {done['question']!r}: choose another --out")
            if done["settings"] != self._settings():
                raise ResultsError(f"{out} holds answers with other settings, {done['settings']}: choose another --out")
        left = [file for file in inputs if file not in results.done]
        if not left:
            return 0
        from .predict import Predictor

        predictor = Predictor.load(
            self.model, dtype=self.dtype, num_frames=self.num_frames, batch_size=min(self.batch_size, len(left))
        )
        failed = 0
        with results, tqdm(total=len(inputs), initial=len(inputs) - len(left), unit="file", disable=None) as bar:
            ahead = read_ahead(lambda file: predictor.prepare(self._request(file)), left, self.batch_size)
            for files, outcomes in ahead:
                good = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
                answers = iter(predictor.answer(good) if good else [])
                for file, outcome in zip(files, outcomes, strict=True):
                    row: dict[str, object] = {"file": file, "model": str(self.model), "settings": self._settings()}
                    if isinstance(outcome, Exception):
                        failed += 1
                        row |= {"status": "error", "error": str(outcome)}
                        with bar.external_write_mode(sys.stderr):
                            say(f"{PROGRAM}: {outcome}")
                    else:
                        answer = next(answers)
                        row |= {"status": "ok", "answer": answer.text, "question": answer.question}
                        row |= {"tokens": answer.tokens, "finish": answer.finish}
                    results.write(row)
                bar.update(len(files))
        if failed:
            raise ResultsError(f"{failed} of {len(inputs)} inputs failed; {out} says why: mend them and run this again")
        return 0

    def _request(self, source: str | None) -> Request:
        landmarks = None if self.landmarks == "none" else self.landmarks
        return Request(source, self.prompt, self.task, landmarks, self.options)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show a checkpoint: where it came from, its config, every parameter, and totals of its parts."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The checkpoint folder."""

    def run(self) -> int:
        from .checkpoint import read_config, read_manifest

        manifest = read_manifest(self.checkpoint)
        write(read_config(self.checkpoint).to_json())
        for key, value in manifest["source"].items():
            if not isinstance(value, dict):
                write(f"{key}: {value}\n")
        parameters = manifest["parameters"]
        width = max(map(len, parameters))
        totals: dict[str, list[int]] = {}
        for path, entry in parameters.items():
            count = math.prod(entry["shape"])
            shape = "x".join(map(str, entry["shape"])) or "scalar"
            write(f"{path:{width}}  {shape:>12}  {entry['dtype']:>8}  {entry['bytes']:>12,}\n")
            for part in (path.split("/")[0], "total"):
                total = totals.setdefault(part, [0, 0])
                total[0] += count
                total[1] += entry["bytes"]
        totals["total"] = totals.pop("total")
        for part, (count, size) in totals.items():
            write(f"{part:{width}}  {count:>14,} parameters  {size:>16,} bytes\n")
        return 0


def read_ahead(
    read: Callable[[str], Input], files: Sequence[str], batch_size: int
) -> Iterator[tuple[Sequence[str], list[Input | Exception]]]:
    """Parts of `batch_size` files, each read while the one before it is dealt with; errors in the places of the bad."""

    def read_part(part: Sequence[str]) -> list[Input | Exception]:
        outcomes: list[Input | Exception] = []
        for file in part:
            try:
                outcomes.append(read(file))
            except (FaceLlavaError, OSError) as error:
                outcomes.append(error)
        return outcomes

    parts = [files[at : at + batch_size] for at in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read_part, parts[0])
        for number, part in enumerate(parts, start=1):
            outcomes = ahead.result()
            if number < len(parts):
                ahead = reader.submit(read_part, parts[number])
            yield part, outcomes


def main() -> None:
    commands = {"predict": Predict, "faces": Faces, "data": Data, "train": Train, "inspect": Inspect}
    sys.exit(run_program(PROGRAM, DESCRIPTION, commands))
