"""`facellava-convert import | export | verify`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Conversion moves bytes; a GPU would only be held, and start slowly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tyro

from facellava_jax.config import DType
from facellava_jax.program import run_program, say, write

from .convert import InitPart, import_checkpoint

PROGRAM = "facellava-convert"
DESCRIPTION = "Take checkpoints from the PyTorch original and back, and compare what they compute."


@dataclass(frozen=True)
class Import:
    """Import a checkpoint of the PyTorch original: sharded or single .bin, or safetensors."""

    src: tyro.conf.Positional[Path]
    """The original's folder; of a LoRA run with --base."""
    out: tyro.conf.Positional[Path]
    """The checkpoint folder to write; must not exist."""
    image_tower: Path | None = None
    """LanguageBind_Image's folder. Without it, the one in SRC or beside it, then the weights in SRC."""
    video_tower: Path | None = None
    """LanguageBind_Video_merge's folder; likewise."""
    projector: Path | None = None
    """A file with the projector (mm_projector.bin), for a checkpoint without one."""
    base: Path | None = None
    """The checkpoint that the LoRA run in SRC started from."""
    dtype: DType | None = None
    """Of all weights. Without it, each tensor's own."""
    init_missing: tuple[InitPart, ...] = ()
    """Parts to start anew where SRC lacks them."""
    seed: int = 0
    """For these."""

    def run(self) -> int:
        import_checkpoint(**vars(self), say=note)
        return 0


@dataclass(frozen=True)
class Export:
    """Write a checkpoint in the original's format."""

    ckpt: tyro.conf.Positional[Path]
    """A checkpoint folder."""
    out: tyro.conf.Positional[Path]
    """The folder to write; must not exist."""
    fill_from: Path | None = None
    """A checkpoint of the original: tensors that the model has no use for, and so does not hold, are taken from it."""

    def run(self) -> int:
        from .export import export_checkpoint

        export_checkpoint(**vars(self), say=note)
        return 0


@dataclass(frozen=True)
class Verify:
    """Compare a checkpoint's numbers with those recorded from PyTorch."""

    ckpt: tyro.conf.Positional[Path]
    """A checkpoint folder."""
    case: tyro.conf.Positional[Path]
    """A folder with inputs.npz, outputs.npz and meta.json."""

    def run(self) -> int:
        from .verify import render_table, verify

        rows = verify(self.ckpt, self.case)
        write(render_table(rows))
        return int(any(row.verdict == "FAIL" for row in rows))


def note(line: str) -> None:
    """A line that the user should know of, to standard error."""
    say(f"{PROGRAM}: {line}")


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with SystemExit 1 for what cannot be done, 2 for what was not understood."""
    commands = {"import": Import, "export": Export, "verify": Verify}
    sys.exit(run_program(PROGRAM, DESCRIPTION, commands, arguments))


if __name__ == "__main__":
    main()
