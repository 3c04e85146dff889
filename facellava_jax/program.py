"""How the command-line programs run: subcommands, one way to each output, errors of one line."""

import io
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import tyro

from . import __version__
from .config import NANO
from .errors import FaceLlavaError


@runtime_checkable
class Command(Protocol):
    """A subcommand: a dataclass whose fields are its arguments.

    One with fields that depend on its arguments has a classmethod `configure`, from these to the class to take.
    """

    def run(self) -> int:
        """Does the work and returns the exit status."""
        ...


def run_program(
    name: str, description: str, commands: Mapping[str, type[Command]], arguments: Sequence[str] | None = None
) -> int:
    """Runs the subcommand that the arguments name, and returns the exit status.

    An error that a user can mend is one line on standard error and status 1; arguments that cannot be understood are
    tyro's to explain, with status 2. SIGTERM interrupts like SIGINT, so that what is half written goes.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        write(f"{name} {__version__}\n")
        return 0
    signal.signal(signal.SIGTERM, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal lacks costs no answer
    try:
        chosen: Any = commands.get(arguments[0]) if arguments else None
        if hasattr(chosen, "configure"):
            commands = {**commands, arguments[0]: chosen.configure(arguments[1:])}
        command = tyro.extras.subcommand_cli_from_dict(
            dict(commands), prog=name, description=description, args=arguments
        )
        return command.run()
    except BrokenPipeError:
        # Whoever read standard output has had enough; nothing more can be said there.
        sys.stdout = None
        return 0
    except KeyboardInterrupt as interrupt:
        say(f"{name}: interrupted")
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except (FaceLlavaError, ImportError, OSError) as error:
        say(f"{name}: {error}")
        return 1


def choose_model(given: Path | None) -> Path:
    """The checkpoint folder that --model names; without it that of the small model, and a line that says so."""
    if given is None:
        say(
            "no --model: the small model of this package answers, which knows rendered faces only; import real weights "
            "with facellava-convert import"
        )
    return given or NANO


def write(text: str) -> None:
    """To standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(line: str) -> None:
    """One line to standard error."""
    sys.stderr.write(" ".join(part.strip() for part in line.splitlines() if part.strip()) + "\n")


def show(text: str) -> None:
    """Lines to standard error, as they are."""
    sys.stderr.write(f"{text}\n")


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
