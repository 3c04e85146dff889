"""The subcommand `facellava faces`."""

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from .extraction import REPORT, Extraction
from .faces.extract import ExtractOptions
from .program import say
from .results import ResultsError


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Crop the faces of pictures and clips, and place 68 landmarks on them.

    For each input: STEM.png or .mp4 (the 256 x 256 crop), STEM.npy (the landmarks in its pixels) and STEM_overlay.png
    or .mp4 (a drawing to look at); STEM_face1, STEM_face2 where several faces are taken. Two inputs of the same stem
    keep their extension: a.png.png, a.mp4.mp4. For all of them: faces.csv and faces.jsonl (box and points in pixels of
    the original) and report.csv (what failed, and why). The same command again goes on where it stopped.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Pictures, clips, folders of them with their subfolders, globs, or a FaceInstruct-1M list (.json), which is
    written anew with crops and landmarks."""
    out: Path
    """The folder for all that is written; a new one, or that of an earlier run."""
    root: Path | None = None
    """The folder that a list's media are relative to; by default the list's own."""
    workers: int | None = None
    """Processes; by default one for each core, or fewer for few inputs. Their number changes nothing in what is
    written."""
    options: Annotated[ExtractOptions, tyro.conf.arg(name="")] = field(default_factory=ExtractOptions)

    def run(self) -> int:
        extraction = Extraction(self.inputs, self.out, self.options, self.root)
        total, failed = len(extraction.names), 0
        with (
            tqdm(total=total, initial=total - len(extraction.left), unit="file", disable=None) as bar,
            contextlib.closing(extraction.run(self.workers)) as outcomes,
        ):
            for outcome in outcomes:
                if outcome.error:
                    failed += 1
                    with bar.external_write_mode(sys.stderr):
                        say(f"facellava: {outcome.error}")
                bar.update()
        left_out = extraction.write_records()
        if failed:
            report = self.out / REPORT
            records = f", {left_out} records are left out" if left_out else ""
            raise ResultsError(
                f"{failed} of {total} inputs failed{records}; {report} says why: mend them and run this again"
            )
        return 0
