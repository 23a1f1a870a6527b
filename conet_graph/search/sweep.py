"""Many searches of one network with different settings, and what came of them."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conet_graph.ir.cores import cores
from conet_graph.ir.errors import BadUsage
from conet_graph.search.read_run import read_run
from conet_graph.search.run_folder import RunFolder

# A search that ends otherwise than with an answer, is killed for instance, is begun again so often.
ATTEMPTS = 3
# Exit codes that another attempt would not change: fine, the answer is no, bad usage, interrupted.
ANSWERS = (0, 1, 2, 130)

Arguments = list[str]
# Runs a command line of conet-graph; gives its exit code, negative where a signal ended it.
Launch = Callable[[Arguments, Path], int]
Tell = Callable[["Job", int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One search of a sweep.

    Attributes:
        folder: where it runs.
        options: what is different from search to search, by the option's name.
        seed: its seed.

    """

    folder: Path
    options: Mapping[str, float]
    seed: int

    @property
    def log(self) -> Path:
        """What the search printed."""
        return self.folder.with_name(self.folder.name + ".log")

    def arguments(self, model: Path, rest: Sequence[str]) -> Arguments:
        """The command line that begins this search, or goes on with it."""
        options = itertools.chain.from_iterable((f"--{k}", f"{v:g}") for k, v in self.options.items())
        resume = ["--resume"] if RunFolder(self.folder).database.exists() else []
        own = ["--out", str(self.folder), "--seed", str(self.seed)]
        return ["search", str(model), *own, *options, *rest, *resume]


def grid(lists: Mapping[str, Sequence[float]], seeds: int, out: Path) -> list[Job]:
    """All combinations of the lists' values, each with every seed.

    Args:
        lists: option -> its values; options without values are left to the search.
        seeds: how many seeds, from 0 on.
        out: the folder that holds the searches' folders.

    """
    given = {name: values for name, values in lists.items() if values}
    jobs = []
    for values in itertools.product(*given.values()):
        options = dict(zip(given, values, strict=True))
        name = "".join(f"{option}-{value:g}-" for option, value in options.items())
        jobs += [Job(out / f"{name}seed-{seed}", options, seed) for seed in range(seeds)]
    if len({job.folder for job in jobs}) != len(jobs):
        raise BadUsage("A value is given twice: each combination is searched once.")
    return jobs


def run_job(job: Job, model: Path, rest: Sequence[str], launch: Launch) -> int:
    """Run one search until it has an answer, or has failed too often; gives the last exit code."""
    code = 0
    for _ in range(ATTEMPTS):
        code = launch(job.arguments(model, rest), job.log)
        if code in ANSWERS:
            break
    return code


class LocalProcesses:
    """Runs command lines as processes of this machine."""

    def __init__(self, workers: int) -> None:
        """So many at a time; they share the processor's cores."""
        self.workers = workers
        self.stopped = False
        self.running: set[subprocess.Popen[bytes]] = set()
        threads = str(max(1, cores() // workers))
        self.environment = {"OMP_NUM_THREADS": threads, **os.environ}

    def run(self, jobs: Sequence[Job], model: Path, rest: Sequence[str], tell: Tell) -> None:
        """Run all searches; an interruption is passed on to those that run."""
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: dict[Future[int], Job] = {
                pool.submit(run_job, job, model, rest, self._launch): job for job in jobs
            }
            try:
                for done in as_completed(waiting):
                    tell(waiting[done], done.result())
            except BaseException:
                self.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self.running):
                    process.terminate()
                raise

    def _launch(self, arguments: Arguments, log: Path) -> int:
        if self.stopped:
            return ANSWERS[-1]
        command = [sys.executable, "-m", "conet_graph", *arguments]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.environment
            )
            self.running.add(process)
            try:
                return process.wait()
            finally:
                self.running.discard(process)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one search of a sweep has come to; its last finished trial's numbers."""

    job: Job
    status: str
    trials: int
    parameters: int | None
    macs: int | None
    accuracy: float | None
    seconds: float

    def entry(self) -> dict[str, Any]:
        """As it stands in the sweep's JSON."""
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "job"}
        return {"folder": str(self.job.folder), **self.job.options, "seed": self.job.seed, **numbers}


def result_of(job: Job) -> SweepResult:
    """Read what a search has come to; one that never began has the status 'missing'."""
    if not RunFolder(job.folder).database.exists():
        return SweepResult(job, "missing", 0, None, None, None, 0.0)
    run = read_run(job.folder)
    done = [trial for trial in run.trials if trial.status == "finished"]
    if not done:
        return SweepResult(job, run.status, 0, None, None, None, run.seconds)
    last = done[-1]
    return SweepResult(
        job, run.status, len(done), last.parameters, last.macs, last.test_accuracy, run.seconds
    )


@dataclass(slots=True)
class SweepRow:
    """The searches of one combination of options, over all seeds."""

    options: Mapping[str, float]
    results: list[SweepResult] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        """Mean over the seeds that have the number; None where none has."""
        found = self._numbers(name)
        return statistics.mean(found) if found else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        found = self._numbers(name)
        return statistics.stdev(found) if len(found) > 1 else None

    def _numbers(self, name: str) -> list[float]:
        return [float(n) for result in self.results if (n := getattr(result, name)) is not None]


def rows_of(results: Sequence[SweepResult]) -> list[SweepRow]:
    """The results by combination of options, in their order."""
    return list(_rows(results))


def _rows(results: Sequence[SweepResult]) -> Iterator[SweepRow]:
    for _, members in itertools.groupby(results, key=lambda result: tuple(result.job.options.items())):
        together = list(members)
        yield SweepRow(together[0].job.options, together)
