"""folders.py: one process at a time, whoever was killed; lines that are whole."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from facellava_jax import folders
from facellava_jax.folders import FolderError, hold_folder, read_whole_lines

HOLD = """
import sys
from pathlib import Path
from facellava_jax.folders import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_process_s_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(FolderError, match=rf"folder is in use by process {other.pid} on .*: wait for its end"):
            hold_folder(folder).__enter__()
        other.kill()
        other.wait()
    assert (folder / "lock").exists()
    with hold_folder(folder), pytest.raises(FolderError, match="in use"):
        hold_folder(folder).__enter__()
    assert not list(folder.iterdir())


def test_a_lock_that_its_holder_takes_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def flock_too_late(file: object, operation: int) -> None:
        monkeypatch.setattr(folders.fcntl, "flock", flock)
        (tmp_path / "lock").unlink()
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(folders.fcntl, "flock", flock_too_late)
    with hold_folder(tmp_path), pytest.raises(FolderError, match="in use"):
        hold_folder(tmp_path).__enter__()


def test_a_line_that_is_cut_short_goes(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    assert read_whole_lines(file) == []
    for text, lines in (
        ("", []),
        ("cut", []),
        ("one\n", ["one"]),
        ("one\n\ntwo\u2028\x0b\nthr", ["one", "", "two\u2028\x0b"]),
    ):
        file.write_text(text)
        assert read_whole_lines(file) == lines
        assert file.read_text() == "".join(f"{line}\n" for line in lines)
