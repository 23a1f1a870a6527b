"""Pieces of work side by side, each on its share of the cores.

What takes the time here are BLAS and ONNX Runtime, which let other threads of Python run meanwhile. Many
small pieces on a core each are done sooner than one after the other on all cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from conet_graph.ir.cores import cores

# Pieces of work at once, at most: each has feature maps of its own.
MOST = 4

T = TypeVar("T")
R = TypeVar("R")

_here = threading.local()


def own_threads() -> int:
    """Threads that a library may start for the piece of work at hand; 0 for as many as there are cores."""
    return int(getattr(_here, "threads", 0))


@dataclass(frozen=True)
class Workers:
    """Threads that do pieces of work, ``count`` at once.

    A thread cannot be stopped from outside: a long piece of work asks ``go_on`` at times whether the others
    failed meanwhile, or somebody stopped the program.
    """

    count: int
    pool: ThreadPoolExecutor | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def go_on(self) -> None:
        """End the piece of work at hand, if nobody waits for it any more."""
        if self.over.is_set():
            raise CancelledError

    def map(self, work: Callable[[T], R], pieces: Sequence[T]) -> Iterable[R]:
        """The results, in the order of the pieces."""
        return map(work, pieces) if self.pool is None else self.pool.map(work, pieces)


@contextmanager
def workers(pieces: int) -> Iterator[Workers]:
    """Threads for so many pieces of work; none within a piece, which has its share of the cores already."""
    count = 1 if own_threads() else min(cores(), MOST, pieces)
    if count <= 1:
        yield Workers(1)
        return
    from threadpoolctl import threadpool_limits

    share = cores() // count

    def begin() -> None:
        _here.threads = share

    pool = ThreadPoolExecutor(count, initializer=begin)
    made = Workers(count, pool)
    try:
        with threadpool_limits(share, "blas"):
            yield made
    finally:
        made.over.set()
        pool.shutdown(cancel_futures=True)
