"""The command `facellava data`. What brings JAX along is imported when a command runs, so that `--help` is quick."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from .cli_train import load_experiment
from .config import ConfigError
from .experiment import DataConfig, Experiment, Source
from .program import say, write
from .synthetic import Split, render_dataset


@dataclass(frozen=True, kw_only=True)
class Render:
    """Render faces with known labels: pictures, clips, landmarks and conversations for all five tasks.

    What is written depends on the seed and the split alone; people of the two splits differ. The same command again
    goes on where it was stopped; what is finished is left alone, with an error.
    """

    out: Path
    """The folder to make: the media, and when all are there, OUT/data.json; or that of a run that was stopped."""
    samples: int
    """How many records."""
    seed: int = 0
    """Of everything that is drawn by chance."""
    split: Split = "train"
    """Train has all mixtures of tasks and media; test has each task in its usual medium."""
    frames: int = 8
    """Frames of each clip."""
    workers: int | None = None
    """Processes; one for each core by default. Their number changes nothing in what is written."""

    def run(self) -> int:
        rendered = render_dataset(self.out, self.samples, self.seed, self.split, self.frames, self.workers)
        with contextlib.closing(rendered), tqdm(total=self.samples, unit="sample", disable=None) as bar:
            for _ in rendered:
                bar.update()
        return 0


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Write a list and its media once to shards that training reads faster.

    OUT then stands in the place of the list, without roots. The same command again goes on where it stopped.
    """

    list: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LIST")]
    """Records in FaceInstruct-1M's format (.json)."""
    out: Path
    """The folder for the shards; a new one, or that of an earlier run."""
    image_root: Path | None = None
    """What pictures and their landmarks are relative to; by default the list's folder."""
    video_root: Path | None = None
    """What clips and their landmarks are relative to; by default the list's folder."""
    frames: int = 8
    """Frames kept of each clip: as many as the model takes."""
    workers: int | None = None
    """Processes; one for each core by default. Their number changes nothing in what is written."""

    def run(self) -> int:
        from .data import Preparation, RecordList

        records = RecordList(self.list, self.image_root, self.video_root)
        preparation = Preparation(records, self.out, self.frames)
        damaged = 0
        with (
            tqdm(total=len(records), unit="record", disable=None) as bar,
            contextlib.closing(preparation.run(self.workers)) as shards,
        ):
            for written in shards:
                damaged += len(written.damaged)
                bar.update(written.records)
        if damaged:
            say(
                f"facellava: {damaged} of {len(records)} records are damaged, and training will skip them: "
                f"{preparation.progress} says why"
            )
        return 0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Look at training data before a run: what there is, what is missing or wrong, and what will be cut.

    A file of configs/ says all of it but --json and --workers; for lists, --model is needed, and the rest is by default
    as training has it.
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Lists of records (.json), or prepared folders; or a file of configs/ (.py)."""
    model: Path | None = None
    """The checkpoint folder that training starts from: for its tokenizer and sizes."""
    image_root: Path | None = None
    """What pictures and their landmarks are relative to; by default each list's folder."""
    video_root: Path | None = None
    """What clips and their landmarks are relative to; by default each list's folder."""
    template: Literal["v1", "llava_v1"] | None = None
    """How conversations are written out."""
    max_text_length: int | None = None
    """Tokens of a conversation, each image or frame counted as one, beyond which it is cut."""
    batch_size: int | None = None
    """Samples to a step, for the number of steps and the share of padding."""
    json: Path | None = None
    """Write the report to this file too."""
    workers: int | None = None
    """Processes; one for each core by default."""

    def run(self) -> int:
        from .data import DataError, check_data
        from .run import load_tokenizer, resolve_experiment

        if self.json and not self.json.parent.is_dir():
            raise DataError(f"{self.json.parent}: no such folder: make it first")
        experiment = self.make_experiment()
        given = {name: getattr(self, name) for name in ("template", "max_text_length", "batch_size")}
        data = replace(experiment.data, **{name: value for name, value in given.items() if value is not None})
        resolved = resolve_experiment(experiment)
        assert resolved.model and resolved.tokenizer
        report = check_data(data, resolved.model, load_tokenizer(resolved.tokenizer, resolved.model), self.workers)
        write(report.format())
        if self.json:
            self.json.write_text(report.to_json(), encoding="utf-8")
        if report.damaged:
            raise DataError(f"{report.damaged} of {report.records} records are damaged: training will skip them")
        return 0

    def make_experiment(self) -> Experiment:
        """That of the file, or one that trains the model on the lists."""
        file, *others = self.sources
        if file.suffix != ".py":
            if self.model is None:
                raise ConfigError(f"--model is needed to measure {file}: name the checkpoint that training starts from")
            sources = (
                Source(path=path, image_root=self.image_root, video_root=self.video_root) for path in self.sources
            )
            return Experiment(start=self.model, data=DataConfig(sources=tuple(sources)))
        if others or self.model or self.image_root or self.video_root:
            raise ConfigError(f"{file} says what is read by which model: leave other sources, --model and roots out")
        experiment = load_experiment(file)
        if experiment.data.rendering:
            say(f"facellava: the faces that {file} renders are there when it trains: they are not looked at")
        return experiment


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training data: render faces, check lists of records, prepare them for fast reading."""

    command: Annotated[
        Annotated[Render, tyro.conf.subcommand("render")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        return self.command.run()
