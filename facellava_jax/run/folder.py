"""The folder of a run: one process at a time, one experiment for good."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..errors import FaceLlavaError
from ..experiment import Experiment, find_changes

LOCK, EXPERIMENT = "lock", "experiment.json"


class RunError(FaceLlavaError):
    """A run that cannot start, go on or be written; the message names the folder, file or step, and the remedy."""


@contextlib.contextmanager
def claim_folder(folder: Path, experiment: Experiment) -> Iterator[None]:
    """Makes `folder` that of a run of `experiment`, or takes it up again; no other process has it meanwhile.

    Raises RunError where another process has it, where it holds something else, and where it holds a run that differs
    in more than `CHANGEABLE`; ConfigError for an `experiment.json` that is damaged.
    """
    with _open_lock(folder):
        file, aside = folder / EXPERIMENT, folder / f"{EXPERIMENT}.partial"
        if file.exists():
            for name, old, new in find_changes(Experiment.load(file), experiment):
                raise RunError(
                    f"{folder} holds a run with {name} {old}, not {new}: go on with that, or choose another folder"
                )
        elif foreign := sorted({file.name for file in folder.iterdir()} - {LOCK, aside.name}):
            raise RunError(f"{folder} holds {foreign[0]} and no run: choose a new folder")
        aside.write_text(experiment.to_json())
        aside.replace(file)
        yield


def _open_lock(folder: Path) -> TextIO:
    """The open lock of a folder that no other process has; closing gives it back, and so does the process's end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise RunError(f"{folder} cannot be written to ({error.strerror}): choose another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            lock.seek(0)
            holder = lock.read()
        raise RunError(f"{folder} is in use by {holder}: wait for its end, or choose another folder") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock
