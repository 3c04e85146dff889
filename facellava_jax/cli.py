"""The command `facellava`."""

import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from .checkpoint import read_config, read_manifest
from .config import DType
from .errors import FaceLlavaError
from .media import list_media
from .predict import Options, PredictError, Predictor, Prepared, Request, Task
from .program import run_program, write
from .results import ResultFile, ResultsError

COLUMNS = ("file", "status", "answer", "error", "question", "tokens", "finish", "model")


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
    landmarks: Path | Literal["none"] = "none"
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
        inputs = [str(path) for source in self.inputs for path in list_media(Path(source))]
        inputs += [str(folder) for folder in self.frames]
        if self.landmarks != "none" and len(inputs) != 1:
            raise PredictError(f"{self.landmarks}: landmarks of one input, and there are {len(inputs)}: give one input")
        if self.out is None:
            if len(inputs) > 1:
                raise ResultsError(f"{len(inputs)} inputs: name a file for the answers, --out FILE.jsonl or FILE.csv")
            return self._answer_one(inputs)
        if not inputs:
            raise PredictError("--out takes the answers about inputs: name some")
        return self._answer_all(inputs, self.out)

    def _answer_one(self, inputs: list[str]) -> int:
        predictor = self._load()
        for piece in predictor.stream(self._request(inputs[0] if inputs else None)):
            write(piece)
        write("\n")
        return 0

    def _answer_all(self, inputs: list[str], out: Path) -> int:
        if self.batch_size < 1:
            raise PredictError(f"batch_size {self.batch_size}: use at least 1")
        with ResultFile(out, COLUMNS) as results:
            for other in {row["model"] for row in results.done.values()} - {str(self.model)}:
                raise ResultsError(f"{out} holds answers of {other}: choose another --out")
            left = [file for file in inputs if file not in results.done]
            predictor = self._load() if left else None
            failed = 0
            with tqdm(total=len(inputs), initial=len(inputs) - len(left), unit="file", disable=None) as bar:
                for files, outcomes in self._prepare_ahead(predictor, left):
                    good = [outcome for outcome in outcomes if isinstance(outcome, Prepared)]
                    answers = iter(predictor.answer(good) if predictor and good else [])
                    for file, outcome in zip(files, outcomes, strict=True):
                        row: dict[str, object] = {"file": file, "model": str(self.model)}
                        if isinstance(outcome, Prepared):
                            answer = next(answers)
                            row |= {"status": "ok", "answer": answer.text, "question": answer.question}
                            row |= {"tokens": answer.tokens, "finish": answer.finish}
                        else:
                            failed += 1
                            row |= {"status": "error", "error": str(outcome)}
                            bar.write(f"facellava: {outcome}", file=sys.stderr)
                        results.write(row)
                    bar.update(len(files))
        if failed:
            raise ResultsError(f"{failed} of {len(inputs)} inputs failed; {out} says why: mend them and run this again")
        return 0

    def _prepare_ahead(
        self, predictor: Predictor | None, files: Sequence[str]
    ) -> Iterator[tuple[Sequence[str], list[Prepared | Exception]]]:
        """Parts of a batch's size, each read while the one before it is answered; errors in the places of the bad."""

        def prepare(part: Sequence[str]) -> list[Prepared | Exception]:
            outcomes: list[Prepared | Exception] = []
            for file in part:
                try:
                    assert predictor is not None
                    outcomes.append(predictor.prepare(self._request(file)))
                except (FaceLlavaError, OSError) as error:
                    outcomes.append(error)
            return outcomes

        parts = [files[at : at + self.batch_size] for at in range(0, len(files), self.batch_size)]
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(prepare, parts[0]) if parts else None
            for number, part in enumerate(parts, start=1):
                assert ahead is not None
                outcomes = ahead.result()
                ahead = reader.submit(prepare, parts[number]) if number < len(parts) else None
                yield part, outcomes

    def _load(self) -> Predictor:
        return Predictor.load(self.model, dtype=self.dtype, num_frames=self.num_frames)

    def _request(self, source: str | None) -> Request:
        landmarks = None if self.landmarks == "none" else self.landmarks
        return Request(source, self.prompt, self.task, landmarks, self.options)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show a checkpoint: where it came from, its config, every parameter, and totals of its parts."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The checkpoint folder."""

    def run(self) -> int:
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


def main() -> None:
    sys.exit(run_program("facellava", __doc__, {"predict": Predict, "inspect": Inspect}))
