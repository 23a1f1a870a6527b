"""Many cases in worker processes, watched: crashes, hangs and tracebacks are what is looked for.

python -m tests.fuzz.driver --cases 50000          cases 0 to 49,999, and a table of what became of them
python -m tests.fuzz.driver 4711 some/file.onnx    these cases alone
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conet_graph.ir.errors import RAISING
from tests.fuzz.cases import mutant

ROOT = Path(__file__).parents[2]
# Seconds of processor time that a case may take, and of wall-clock time where it uses no processor.
LONGEST, PATIENCE = 10.0, 600.0
# A worker is replaced after so many cases, so that what native libraries leak does not add up.
FRESH = 2000


@dataclass
class Tally:
    """What became of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")

    def add(self, result: dict[str, Any]) -> None:
        self.outcomes[result["outcome"]] += 1
        self.slowest = max(self.slowest, (result.get("seconds", 0.0), result["case"]))
        self.largest = max(self.largest, (result.get("memory", 0), result["case"]))
        if result["bug"]:
            self.failures.append(result)

    def table(self) -> str:
        lines = [f"{count:8d}  {kind}" for kind, count in self.outcomes.most_common()]
        lines.append(f"{sum(self.outcomes.values()):8d}  cases, {len(self.failures)} of them bugs")
        lines.append(f"slowest case: {self.slowest[0]:.2f} s of processor time (case {self.slowest[1]})")
        lines.append(f"largest case: {self.largest[0] / 1e6:.0f} MB more memory (case {self.largest[1]})")
        return "\n".join(lines)


class Worker:
    """One worker process and its conversation."""

    def __init__(self, longest: float = LONGEST) -> None:
        self.longest = longest
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz.worker", str(longest)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", RAISING: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.cases = 0

    def run(self, case: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.cases += 1
        try:
            self.process.stdin.write(f"{case}\n".encode())
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                return self._ended(case, f"bug: hangs for {PATIENCE:.0f} s")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        status = self.process.wait()
        if status == -signal.SIGPROF:
            return self._ended(case, f"bug: more than {self.longest:.0f} s of processor time")
        name = signal.Signals(-status).name if status < 0 else str(status)
        return self._ended(case, f"bug: the process ends with {name}")

    def _ended(self, case: str, what: str) -> dict[str, Any]:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.seek(0)
        told = self.errors.read().decode("utf-8", "replace")[-4000:]
        return {"case": case, "outcome": what, "bug": told or what}

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process and close what it was talked to through."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def run_cases(cases: list[str], workers: int, longest: float = LONGEST, show: bool = False) -> Tally:
    """Run cases in ``workers`` processes."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    tally, lock = Tally(), threading.Lock()

    def work() -> None:
        worker: Worker | None = None
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                break
            if worker is None:
                worker = Worker(longest)
            result = worker.run(case)
            with lock:
                tally.add(result)
                done = sum(tally.outcomes.values())
                if show and (result["bug"] or done % 1000 == 0):
                    print(f"[{done}] {result['case']}: {result['outcome']}\n{result['bug']}", flush=True)
            if worker.cases >= FRESH or not worker.alive():
                worker.stop()
                worker = None
        if worker is not None:
            worker.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def keep(tally: Tally, folder: Path) -> None:
    """Write the mutants of what failed, so that they can be looked at and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for failure in tally.failures:
        if failure["case"].isdigit():
            (folder / f"{failure['case']}.onnx").write_bytes(mutant(int(failure["case"])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", nargs="*", help="seeds or files")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    cases = options.which or [str(n) for n in range(options.first, options.first + options.cases)]
    tally = run_cases(cases, options.workers, show=True)
    keep(tally, options.keep)
    print(tally.table())
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
