"""Measure import and export beside a plain `cp` of the same bytes: wall time, peak resident size, in turns.

python scripts/measure_import.py SRC SCRATCH [--rounds 2]
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Arguments:
    src: tyro.conf.Positional[Path]
    """A checkpoint of the original."""
    scratch: tyro.conf.Positional[Path]
    """A folder on the disk to measure, with room for twice the checkpoint."""
    rounds: int = 2


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Seconds and peak resident MiB of a command that must succeed."""
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"measure_import: {' '.join(command)} failed")
    return seconds, usage.ru_maxrss // 1024


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    copy, imported, exported = (arguments.scratch / name for name in ("copy", "imported", "exported"))
    convert = [sys.executable, "-m", "conversion"]
    commands = {
        "cp": (["cp", "-r", str(arguments.src), str(copy)], copy),
        "import": ([*convert, "import", str(arguments.src), str(imported)], None),
        "export": ([*convert, "export", str(imported), str(exported)], exported),
    }
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    size = sum(file.stat().st_size for file in arguments.src.rglob("*") if file.is_file())
    sys.stdout.write(f"{arguments.src}: {size / 1e9:.2f} GB\nround  step    seconds    GB/s  peak MiB\n")
    for number in range(1, arguments.rounds + 1):
        for name, (command, result) in commands.items():
            seconds, peak = measure(command, environment)
            sys.stdout.write(f"{number:5}  {name:6}  {seconds:7.1f}  {size / 1e9 / seconds:6.2f}  {peak:8}\n")
            sys.stdout.flush()
            if result:
                shutil.rmtree(result)
        shutil.rmtree(imported)


if __name__ == "__main__":
    main()
