"""A process that runs cases: a seed (or a file) a line on stdin, its outcome as a line of JSON on stdout.

A case that needs more processor time than the argument says (in seconds) ends the process with SIGPROF, even
inside native code; the process that started it sees that, and crashes, from the exit status.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.cases import mutant, outcome, placed

# Address space of a worker in bytes.
MEMORY = 6 * 2**30


def fresh_peak() -> None:
    """Start counting the largest resident size anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident(what: str) -> int:
    """VmHWM (the peak) or VmRSS of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    return 0


def run_case(text: str, folder: Path, longest: float) -> dict[str, Any]:
    planted = text.endswith(".planted")  # code, for the test of what the driver notices
    data = mutant(int(text)) if text.isdigit() else Path(text).read_bytes()
    path = placed(data, folder)
    fresh_peak()
    before, start, wall = resident("VmRSS"), time.process_time(), time.perf_counter()
    signal.setitimer(signal.ITIMER_PROF, longest)
    bug = ""
    try:
        told = str(exec(data, {"os": os})) if planted else outcome(path)
    except Exception as error:
        told, bug = f"bug: {type(error).__name__}", traceback.format_exc()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {
        "case": text,
        "outcome": told,
        "bug": bug,
        "seconds": round(time.process_time() - start, 3),
        "wall": round(time.perf_counter() - wall, 3),
        "memory": resident("VmHWM") - before,
    }


def main() -> None:
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what native code prints must not stand between the answers
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="conet-graph-fuzz-") as folder:
        for line in sys.stdin:
            print(json.dumps(run_case(line.strip(), Path(folder), float(sys.argv[1]))), file=answers)


if __name__ == "__main__":
    main()
