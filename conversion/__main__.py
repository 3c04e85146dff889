"""`facellava-convert import | export | verify`."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

# Conversion moves bytes; a GPU would only be held, and start slowly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tyro

from facellava_jax.checkpoint import CheckpointError
from facellava_jax.config import ConfigError, DType

from .convert import InitPart, import_checkpoint
from .source import SourceError

PROGRAM = "facellava-convert"


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

    def run(self) -> None:
        import_checkpoint(**vars(self), say=say)


@dataclass(frozen=True)
class Export:
    """Write a checkpoint in the original's format."""

    ckpt: tyro.conf.Positional[Path]
    """A checkpoint folder."""
    out: tyro.conf.Positional[Path]
    """The folder to write; must not exist."""
    fill_from: Path | None = None
    """A checkpoint of the original: tensors that the model has no use for, and so does not hold, are taken from it."""

    def run(self) -> None:
        from .export import export_checkpoint

        export_checkpoint(**vars(self), say=say)


@dataclass(frozen=True)
class Verify:
    """Compare a checkpoint's numbers with those recorded from PyTorch."""

    ckpt: tyro.conf.Positional[Path]
    """A checkpoint folder."""
    case: tyro.conf.Positional[Path]
    """A folder with inputs.npz, outputs.npz and meta.json."""

    def run(self) -> None:
        from .verify import verify

        sys.exit(not verify(self.ckpt, self.case))


Command = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def say(line: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {line}\n")


def main(args: list[str] | None = None) -> None:
    """The command line; ends with SystemExit 1 for what cannot be done, 2 for what was not understood."""
    command = tyro.cli(Command, prog=PROGRAM, description=__doc__, args=args)
    try:
        command.run()
    except (SourceError, CheckpointError, ConfigError, ImportError, OSError) as error:
        say(" ".join(str(error).split()))
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        say("interrupted: nothing was written")
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


if __name__ == "__main__":
    main()
