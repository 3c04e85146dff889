"""How programs end: their status, and one line on standard error for what a user can mend."""

import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

from facellava_jax import __version__
from facellava_jax.errors import FaceLlavaError
from facellava_jax.program import run_program, say, write

FAILURES = {
    "ours": (FaceLlavaError("a.png: empty: save it again"), 1, "tool: a.png: empty: save it again\n"),
    "of several lines": (FaceLlavaError("one\n  two\n\nthree"), 1, "tool: one two three\n"),
    "of the system": (FileNotFoundError(2, "No such file", "a.png"), 1, "tool: [Errno 2] No such file: 'a.png'\n"),
    "a missing package": (ImportError("cv2 is needed"), 1, "tool: cv2 is needed\n"),
    "interrupted": (KeyboardInterrupt(), 130, "tool: interrupted\n"),
}


@dataclass(frozen=True)
class Work:
    """Does what it is told."""

    status: int = 0
    """To end with."""
    fail: Literal["", "ours", "of several lines", "of the system", "a missing package", "interrupted"] = ""
    """How to fail."""

    def run(self) -> int:
        if self.fail:
            raise FAILURES[self.fail][0]
        write("done\n")
        return self.status


@dataclass(frozen=True)
class Break:
    """Has a bug."""

    def run(self) -> int:
        raise KeyError("a bug")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(*arguments: str) -> int:
    return run_program("tool", "A tool.", {"work": Work, "break": Break}, arguments)


@pytest.mark.parametrize("status", [0, 3])
def test_the_command_says_its_status(capsys: pytest.CaptureFixture[str], status: int) -> None:
    assert run("work", "--status", str(status)) == status
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("kind", FAILURES)
def test_what_a_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    _, status, line = FAILURES[kind]
    assert run("work", "--fail", kind) == status
    assert capsys.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError, match="a bug"):
        run("break")


def test_the_version_comes_from_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr() == (f"tool {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "work"), (("play",), "play"), (("work", "--status", "x"), "--status"), (("work", "--speed", "1"), "--speed")],
)
def test_arguments_that_are_not_understood(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert named in err
    assert "Traceback" not in err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert not end.value.code
    assert "Does what it is told." in capsys.readouterr().out


def test_a_terminal_that_lacks_a_character_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    latin = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", latin)
    run("--version")
    assert run("work") == 0
    write("é \ufffd\n")
    assert latin.buffer.getvalue().endswith(b"done\n\xe9 ?\n")  # type: ignore[attr-defined]


def test_say_writes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb\r\n\tc")
    assert capsys.readouterr() == ("", "a b c\n")


PROGRAM = textwrap.dedent("""
    import contextlib, signal, sys, time
    from dataclasses import dataclass
    from facellava_jax.program import run_program, write

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    @dataclass
    class Count:
        def run(self):
            try:
                for number in range(10**9):
                    write(f"{number}\\n")
                    time.sleep(0.001)
            finally:
                with contextlib.suppress(BrokenPipeError):
                    write("put away\\n")

    @dataclass
    class Stop:
        def run(self):
            return 0

    sys.exit(run_program("tool", "A tool.", {"count": Count, "stop": Stop}))
""")


def start() -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, "count"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_reader_that_has_enough_ends_the_program_in_silence() -> None:
    with start() as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_as_an_error_does(number: signal.Signals, status: int) -> None:
    with start() as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "0\n"
        os.kill(process.pid, number)
        assert process.stdout.read().endswith("put away\n")
        assert (process.stderr.read(), process.wait(timeout=60)) == ("tool: interrupted\n", status)
