"""Folders that long jobs write to: by one process at a time, and taken up again where one was killed."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .errors import FaceLlavaError

LOCK = "lock"


class FolderError(FaceLlavaError):
    """A folder that cannot be written to, or that another process has; the message names it and the remedy."""


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Makes `folder`, and keeps other processes from it by a file `lock`, which is there while the block runs.

    What a killed process held is free. Raises FolderError where another process holds the folder, by its number, and
    where it cannot be written to.
    """
    with _take_lock(folder) as lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def read_whole_lines(file: Path) -> list[str]:
    """The lines of a file, if it is there; one that was being written when its process was killed is cut off it."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    return whole.decode().split("\n")[:-1]


def _take_lock(folder: Path) -> TextIO:
    """The open lock; closing it gives it back, and so does the end of the process, however that comes."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK).open("a+")
        except OSError as error:
            raise FolderError(f"{folder} cannot be written to ({error.strerror}): choose another folder") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                lock.seek(0)
                holder = lock.read()
            raise FolderError(f"{folder} is in use by {holder}: wait for its end, or choose another folder") from None
        # Else it was opened just before its holder took it away.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                return lock
        lock.close()
