"""The subcommand `facellava train`. What brings JAX along is imported when it runs, so that `--help` is quick."""

import dataclasses
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import tyro

from .config import ConfigError
from .errors import FaceLlavaError
from .experiment import Experiment
from .program import say

# A process that is done waits so long for the others, which without it could not end well.
SHUTDOWN_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model as a file of configs/ says; the same command again goes on where it stopped.

    `facellava train FILE --help` lists every field of the experiment, with the values of the file; each can be given
    here, by its dotted name. OUT/model is the result, as `facellava predict --model` takes it.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A Python file that binds an Experiment to the name `config`."""
    out: Path
    """The folder for all that the run writes; a new one, or that of an earlier run."""
    distributed: bool = False
    """This is one of several processes of the run, on a cluster that JAX knows: TPU pods, Slurm, Kubernetes."""

    @classmethod
    def configure(cls, arguments: Sequence[str]) -> type[Self]:
        """The command with a field for the experiment, of which the file that the arguments name gives the default.

        Raises ConfigError for a file that gives none.
        """
        file = next((argument for argument in arguments if argument.endswith(".py")), None)
        if file is None:
            return cls
        default = dataclasses.field(default=load_experiment(Path(file)))
        annotation = Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
        return dataclasses.make_dataclass(
            cls.__name__,
            [("experiment", annotation, default)],
            bases=(cls,),
            namespace={"__doc__": cls.__doc__},
            frozen=True,
            kw_only=True,
        )

    def run(self) -> int:
        if not isinstance(experiment := getattr(self, "experiment", None), Experiment):
            raise ConfigError(f"{self.file} is no Python file: name one whose name ends in .py")
        start_jax(self.distributed)
        from .train import train

        try:
            train(experiment, self.out)
        except KeyboardInterrupt as interrupt:
            say(f"facellava: stopped; the same command goes on with {self.out}")
            return 0 if interrupt.args == (signal.SIGTERM,) else 128 + signal.SIGINT
        except Exception as error:
            if self.distributed:
                leave_others(error)
            raise
        return 0


def leave_others(error: Exception) -> NoReturn:
    """Ends this process of several at once, so that the others, which wait for it, soon end too.

    An end in good order would wait for them, for SHUTDOWN_SECONDS.
    """
    if isinstance(error, FaceLlavaError | ImportError | OSError):
        say(f"facellava: {error}")
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def start_jax(distributed: bool) -> None:
    """Before JAX is imported elsewhere. `distributed`: this process is one of several."""
    flags, scheduler = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_enable_concurrency_optimized_scheduler"
    if "host_platform_device_count" in flags and scheduler not in flags:
        # Else virtual devices may take collectives in different orders, and wait for each other for ever.
        os.environ["XLA_FLAGS"] = f"{scheduler}=false {flags}"
    import jax

    if distributed:
        jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_SECONDS)


def load_experiment(file: Path) -> Experiment:
    """What a file binds to `config`. Raises ConfigError for a file that cannot be run, or binds no Experiment to it."""
    try:
        names: dict[str, Any] = runpy.run_path(str(file))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}: name a file like those of configs/") from None
    except Exception as error:
        # Of this file, not of a module that it calls.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        where = f"{file}, line {lines[-1]}" if lines else file
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from None
    if not isinstance(config := names.get("config"), Experiment):
        what = f"a {type(config).__name__}" if "config" in names else "nothing"
        raise ConfigError(f"{file} binds {what} to the name `config`: let it be an Experiment")
    return config
