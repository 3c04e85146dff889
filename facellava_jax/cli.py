"""The command `facellava`. What brings JAX along is imported when a command runs, so that `--help` is quick."""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from tqdm import tqdm

from .cli_data import Data
from .cli_eval import Eval, Report
from .cli_faces import Faces
from .cli_train import Train
from .config import NANO, DType
from .faces import draw_regions
from .media import SUFFIXES, MediaError, list_media
from .overlay import check_picture_path, draw_views, write_picture
from .program import choose_model, run_program, say, write
from .request import Crop, Options, PredictError, Request, Task, find_question, refuse_to_look
from .results import ResultFile, ResultsError
from .workers import read_ahead

if TYPE_CHECKING:
    from .predict import Answer, Predictor, Prepared

PROGRAM = "facellava"

DESCRIPTION = "Ask questions about a face in a picture or a clip."
COLUMNS = (
    *("file", "status", "face", "rows", "answer", "error", "question", "tokens", "finish"),
    *("crop", "box", "landmarks", "seconds", "model", "settings"),
)


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Answer a question about pictures and clips.

    One input: the answer is written as it comes. Several, a folder or a glob go to --out FILE.jsonl or FILE.csv; the
    same command again goes on where it stopped.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")] = ()
    """Pictures, clips, folders of them, or globs; none for a question about nothing."""
    model: Path | None = None
    """The checkpoint folder; by default the small model of this package, which knows rendered faces only."""
    prompt: str | None = None
    """The question."""
    task: Task | None = None
    """Ask the question that is known to work well for a task."""
    frames: tuple[Path, ...] = ()
    """Folders whose pictures are the frames of one clip each."""
    # The words first, else they would be paths.
    landmarks: Literal["auto", "none"] | Path = "auto"
    """auto: find the 68 points where the model has landmark modules. none: leave them out. Else a .npy file with the
    input's, in pixels of the 256 x 256 face crop, which the input is then."""
    crop: Crop = "auto"
    """auto: cut the input to the face where the model has landmark modules, unless it is 256 x 256 already or the face
    spans 60 % of both sides. none: take it as it is."""
    face: Literal["largest", "all"] = "largest"
    """Where there are several: ask about the largest, or about each, followed through a clip."""
    overlay: Path | None = None
    """Write a picture of the only input, or of the frames taken of it, with face, landmarks and crop: .png or .jpg."""
    attention: Path | None = None
    """Write a picture of how the model weighs the nine regions of the only input's face: .png or .jpg."""
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
        if self.landmarks not in ("auto", "none") and len(inputs) != 1:
            raise PredictError(f"{self.landmarks}: landmarks of one input, and there are {len(inputs)}: give one input")
        if why := refuse_to_look(self.landmarks, self.crop):
            for option, given in (("--face all", self.face == "all"), ("--overlay", self.overlay is not None)):
                if given:
                    raise PredictError(f"{option} needs a face, and none is looked for, as {why}: leave {option} out")
        for option, picture in (("--overlay", self.overlay), ("--attention", self.attention)):
            if picture:
                self._check_picture(option, picture, inputs)
        if self.attention:
            self._check_attention(self.attention)
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

    def _check_picture(self, option: str, picture: Path, inputs: Sequence[str]) -> None:
        if len(inputs) != 1 or self.out is not None:
            raise PredictError(f"{picture}: {option} draws the only input, without --out: give one input, and no --out")
        if picture.resolve() == Path(inputs[0]).resolve():
            raise PredictError(f"{picture} is the input itself: choose another {option}")
        check_picture_path(picture, option)

    def _check_attention(self, attention: Path) -> None:
        if self.landmarks == "none":
            raise PredictError(f"{attention}: --attention goes to landmarks, and they are none: use --landmarks auto")
        if self.face == "all":
            raise PredictError(f"{attention}: --attention draws the largest face: leave out --face all")
        if self.overlay and attention.resolve() == self.overlay.resolve():
            raise PredictError(f"{attention}: --attention and --overlay name the same file: give each its own")

    def _settings(self) -> str:
        """What the answers depend on beside file, question and model."""
        options = dataclasses.asdict(self.options)
        return json.dumps(
            {
                **{"dtype": self.dtype, "num_frames": self.num_frames, "landmarks": str(self.landmarks)},
                **{"crop": self.crop, "face": self.face, **options},
            }
        )

    def _questions(self) -> set[str]:
        """What the inputs will be asked: of a task, the words for pictures and for clips."""
        if self.prompt is not None and not self.prompt.strip():
            raise PredictError("the prompt is empty: ask something")
        return {find_question(self._request(None), [kind]) for kind in SUFFIXES}

    def _answer_one(self, inputs: list[str]) -> int:
        from .predict import Predictor

        predictor = Predictor.load(choose_model(self.model), dtype=self.dtype, num_frames=self.num_frames)
        prepared = self._prepare(predictor, inputs[0] if inputs else None)
        if self.overlay:
            write_picture(self.overlay, draw_views(inputs[0], [each.views[0] for each in prepared]))
        if self.attention:
            attention = predictor.attend_prepared(inputs[0], prepared[0])
            write_picture(self.attention, draw_regions(*attention))
        if self.face == "all":
            for each in prepared:
                (answer,) = predictor.answer([each])
                write(f"{describe_face(answer)}: {answer.text}\n")
            return 0
        for piece in predictor.stream_prepared(prepared[0]):
            write(piece)
        write("\n")
        return 0

    def _prepare(self, predictor: "Predictor", source: str | None) -> "list[Prepared]":
        """The question about the input, or about each face in it."""
        request = self._request(source)
        return predictor.prepare_faces(request) if self.face == "all" else [predictor.prepare(request)]

    def _answer_all(self, inputs: list[str], out: Path, questions: set[str]) -> int:
        if self.batch_size < 1:
            raise PredictError(f"batch_size {self.batch_size}: use at least 1")
        results, model = ResultFile(out, COLUMNS), str(self.model or NANO.name)
        for done in results.done.values():
            if done["model"] != model:
                raise ResultsError(f"{out} holds answers of {done['model']}: choose another --out")
            if done["question"] not in questions:
                raise ResultsError(f"{out} holds answers to {done['question']!r}: choose another --out")
            if done["settings"] != self._settings():
                raise ResultsError(f"{out} holds answers with other settings, {done['settings']}: choose another --out")
        left = [file for file in inputs if file not in results.done]
        if not left:
            return 0
        from .predict import Predictor

        together = self.batch_size if self.face == "all" else min(self.batch_size, len(left))
        predictor = Predictor.load(
            choose_model(self.model), dtype=self.dtype, num_frames=self.num_frames, batch_size=together
        )
        failed = 0
        with results, tqdm(total=len(inputs), initial=len(inputs) - len(left), unit="file", disable=None) as bar:
            for files, outcomes in read_ahead(partial(self._prepare, predictor), left, self.batch_size):
                good = [each for outcome in outcomes if not isinstance(outcome, Exception) for each in outcome]
                answers = iter(predictor.answer_in_parts(good, self.batch_size))
                for file, outcome in zip(files, outcomes, strict=True):
                    common = {"file": file, "model": model, "settings": self._settings()}
                    if isinstance(outcome, Exception):
                        failed += 1
                        results.write({**common, "status": "error", "error": str(outcome)})
                        with bar.external_write_mode(sys.stderr):
                            say(f"{PROGRAM}: {outcome}")
                    else:
                        results.write(*(common | make_row(next(answers)) for _ in outcome))
                bar.update(len(files))
        if failed:
            raise ResultsError(f"{failed} of {len(inputs)} inputs failed; {out} says why: mend them and run this again")
        return 0

    def _request(self, source: str | None) -> Request:
        return Request(source, self.prompt, self.task, self.landmarks, self.crop, self.options)


def make_row(answer: "Answer") -> dict[str, object]:
    """What a table holds of an answer; boxes and points in pixels of the original, of a clip in each frame taken."""
    (view,) = answer.views
    return {
        **{"status": "ok", "answer": answer.text, "question": answer.question},
        **{"tokens": answer.tokens, "finish": answer.finish, "face": view.number, "crop": view.crop},
        "box": None if answer.face is None else np.round(answer.face, 3).tolist(),
        "landmarks": None if answer.landmarks is None else np.round(answer.landmarks, 3).tolist(),
        "seconds": {step: round(seconds, 6) for step, seconds in answer.seconds.items()},
    }


def describe_face(answer: "Answer") -> str:
    """Its number, and its box: in a clip that of the first frame."""
    (view,) = answer.views
    assert view.boxes, "only faces that were found are asked about"
    x, y, width, height = (round(side) for side in view.boxes[0])
    return f"face {view.number} ({x}, {y}, {width} x {height})"


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


def main() -> None:
    commands = {
        **{"predict": Predict, "faces": Faces, "data": Data, "train": Train, "eval": Eval, "report": Report},
        "inspect": Inspect,
    }
    sys.exit(run_program(PROGRAM, DESCRIPTION, commands))
