"""The command `facellava data`. What brings JAX along is imported when a command runs, so that `--help` is quick."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from .experiment import DataConfig, Source
from .program import say, write
from .synthetic import Split, render_dataset


@dataclass(frozen=True, kw_only=True)
class Render:
    """Render faces with known labels: pictures, clips, landmarks and conversations for all five tasks.

    What is written depends on the seed and the split alone; people of the two splits differ.
    """

    out: Path
    """The folder to make: OUT/data.json, and the media beside it."""
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
    """Look at training data before a run: what there is, what is missing or wrong, and what will be cut."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Lists of records (.json), or prepared folders."""
    model: Path
    """The checkpoint folder that training starts from: for its tokenizer and sizes."""
    image_root: Path | None = None
    """What pictures and their landmarks are relative to; by default each list's folder."""
    video_root: Path | None = None
    """What clips and their landmarks are relative to; by default each list's folder."""
    template: Literal["v1", "llava_v1"] = DataConfig.template
    """How conversations are written out."""
    max_text_length: int = DataConfig.max_text_length
    """Tokens of a conversation, each image or frame counted as one; longer ones are cut."""
    batch_size: int = DataConfig.batch_size
    """Samples to a step, for the number of steps and the share of padding."""
    json: Path | None = None
    """Write the report to this file too."""
    workers: int | None = None
    """Processes; one for each core by default."""

    def run(self) -> int:
        from .checkpoint import read_config
        from .data import DataError, check_data
        from .text import Tokenizer

        data = DataConfig(
            sources=tuple(
                Source(path=path, image_root=self.image_root, video_root=self.video_root) for path in self.sources
            ),
            template=self.template,
            max_text_length=self.max_text_length,
            batch_size=self.batch_size,
        )
        config, tokenizer = read_config(self.model), Tokenizer.load(self.model / "tokenizer")
        report = check_data(data, config, tokenizer, self.workers)
        write(report.format())
        if self.json:
            self.json.write_text(report.to_json(), encoding="utf-8")
        if report.damaged:
            raise DataError(f"{report.damaged} of {report.records} records are damaged: training will skip them")
        return 0


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
