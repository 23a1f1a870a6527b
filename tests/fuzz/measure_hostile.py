"""What each file of the corpus of hostile ones costs: ``conet-graph analyze`` as a process of its own.

    python -m tests.fuzz.measure_hostile

Prints a row a file (exit code, processor seconds and peak memory beyond those of a valid small file), then
the largest of each; exit code 1 if one passes 2 s or 500 MB, shows a traceback or is not what is expected.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.ir.test_hostile import cases, placed

CONTROL = "00_control_valid.onnx"
SECONDS, BYTES = 2.0, 500 * 10**6
CODES = {0: "ok", 2: "error"}


@dataclass(frozen=True)
class Cost:
    """What one process did."""

    code: int
    seconds: float
    memory: int
    told: str


def analyze(path: Path) -> Cost:
    """Analyse one file in a process of its own, and wait for what it used."""
    command = [sys.executable, "-m", "conet_graph", "analyze", str(path)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        told = errors.read().decode("utf-8", "replace")
    return Cost(process.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, told)


def main() -> int:
    """Print the table."""
    bad: list[str] = []
    slowest, largest = (0.0, ""), (0, "")
    with tempfile.TemporaryDirectory(prefix="conet-graph-hostile-") as folder:
        base = min((analyze(placed(CONTROL, Path(folder))) for _ in range(3)), key=lambda c: c.seconds)
        print(
            f"{base.code:4d} {base.seconds:6.2f} s {base.memory / 1e6:6.0f} MB  {CONTROL} as a whole process"
        )
        for name, expected in cases():
            found = analyze(placed(name, Path(folder)))
            seconds, memory = found.seconds - base.seconds, found.memory - base.memory
            print(f"{found.code:4d} {seconds:+6.2f} s {memory / 1e6:+6.0f} MB  {name}")
            slowest, largest = max(slowest, (seconds, name)), max(largest, (memory, name))
            fine = CODES.get(found.code, "bug") in expected.split("-or-") and "Traceback" not in found.told
            if not fine or found.told.count("\n") > 1 or seconds > SECONDS or memory > BYTES:
                bad.append(name)
    print(f"{len(cases())} files; slowest {slowest[0]:.2f} s ({slowest[1]}),", end=" ")
    print(f"largest {largest[0] / 1e6:.0f} MB ({largest[1]}); not as promised: {', '.join(bad) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
