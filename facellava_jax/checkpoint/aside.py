"""A folder that appears whole or not at all."""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from glob import escape
from pathlib import Path

from ..errors import FaceLlavaError


class CheckpointError(FaceLlavaError):
    """A checkpoint folder that cannot be read or written; the message names the file or array and the remedy."""


@contextlib.contextmanager
def write_aside(out: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A new folder beside `out` that becomes `out` when the block ends, and is removed when the block fails.

    SIGINT and SIGTERM wait until the block ends or calls the function that comes with the folder, which raises
    KeyboardInterrupt (with the signal's number) for one that came. What a killed process left beside `out` is removed
    first. Raises CheckpointError where `out` exists and where the disk is full.
    """
    # Resolved, because tensorstore takes no path with `..`.
    out = out.parent.resolve() / out.name
    _refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(unwritable(out, error)) from None
    for stale in out.parent.glob(f"{escape(out.name)}.partial-" + "[0-9a-f]" * 8):
        with _locked(stale) as locked:
            if locked and stale.is_dir():
                shutil.rmtree(stale)
    aside = out.with_name(f"{out.name}.partial-{secrets.token_hex(4)}")
    with deferred_signals() as check_signals:
        aside.mkdir()
        try:
            with _locked(aside):
                yield aside, check_signals
                check_signals()
                _refuse_existing(out)
                aside.rename(out)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(unwritable(out, error)) from None
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Puts off SIGINT and SIGTERM to where they can be acted on; the function raises KeyboardInterrupt if one came.

    An exception raised wherever a signal happens to find the interpreter can be lost in a callback, or leave threads
    writing into a folder that is being removed.
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise KeyboardInterrupt(came[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda caught, _: came.append(caught)) for number in numbers]
    try:
        yield check
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, holds the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists: remove it or choose another name")


def unwritable(out: Path, error: Exception) -> str:
    """What to say where a disk does not take a folder."""
    return f"{out} cannot be written ({str(error).splitlines()[0]}): make room or choose another disk"
