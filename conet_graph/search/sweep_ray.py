"""The searches of a sweep on a Ray cluster (extra ``conet-graph[ray]``).

All machines must see the sweep's folder, the model and the data under the same paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.search.sweep import ANSWERS, ATTEMPTS, Arguments, Job, Tell

# What a task that died with its worker or machine counts as: SIGKILL.
LOST = -9


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray cluster to run searches on.

    Attributes:
        address: of the cluster; 'local' starts one on this machine, 'auto' finds a running one.
        run: runs a command line of conet-graph in the process that calls it; gives the exit code.
        cpus, gpus: what each search takes; a GPU may be shared (0.5).

    """

    address: str
    run: Callable[[Arguments], int]
    cpus: float = 1.0
    gpus: float = 0.0

    def search(self, jobs: Sequence[Job], model: Path, rest: Sequence[str], tell: Tell) -> None:
        """Run all searches; one whose worker or machine dies goes on from its folder.

        Raises:
            BadUsage: Ray is not installed, or the cluster cannot be reached.
            Refused: Ray does not start.

        """
        try:
            import ray
        except ImportError:
            raise BadUsage("--ray needs Ray: pip install 'conet-graph[ray]'.") from None
        try:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BadUsage(f"The Ray cluster cannot be reached: {_sentence(error)}.") from None
        except Exception as error:  # what Ray raises where its own processes are not up in time
            raise Refused(f"Ray does not start, it says: {_sentence(error)}; try again later.") from None
        try:
            self._drain(ray, list(jobs), model, rest, tell)
        finally:
            ray.shutdown()

    def _drain(self, ray: Any, jobs: list[Job], model: Path, rest: Sequence[str], tell: Tell) -> None:
        # A process of its own for each search: nothing of an earlier one is left in it.
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, max_calls=1)(_search)

        def submit(job: Job) -> Any:
            return task.remote(self.run, job, model, list(rest))

        waiting = {submit(job): (job, 1) for job in jobs}
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            job, attempt = waiting.pop(reference)
            try:
                code = int(ray.get(reference))
            except ray.exceptions.RayError as error:
                code = LOST
                with job.log.open("a") as log:
                    log.write(f"lost: {error}\n")
            if code in ANSWERS or attempt == ATTEMPTS:
                tell(job, code)
            else:
                waiting[submit(job)] = (job, attempt + 1)


def _sentence(error: Exception) -> str:
    """The first of what an error says."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__


def _search(run: Callable[[Arguments], int], job: Job, model: Path, rest: list[str]) -> int:
    with job.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        return run(job.arguments(model, rest))
