"""Pieces of work side by side: results in order, a share of the cores each, and an end to all of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from conet_graph.calibration import side_by_side
from conet_graph.calibration.allocation import Copies, Trials
from conet_graph.calibration.side_by_side import Workers, own_threads, workers


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 4)


def test_results_come_in_the_order_of_the_pieces() -> None:
    with workers(3) as pool:
        assert list(pool.map(lambda n: (time.sleep(0.05 * (3 - n)), n)[1], [0, 1, 2])) == [0, 1, 2]


def test_each_piece_has_its_share_of_the_cores() -> None:
    assert own_threads() == 0
    with workers(2) as pool:
        assert list(pool.map(lambda _: own_threads(), [0, 1])) == [2, 2]
    assert own_threads() == 0


def test_no_threads_for_one_piece_or_within_a_piece() -> None:
    def inner(_: int) -> tuple[int, str]:
        with workers(2) as pool:
            return pool.count, next(iter(pool.map(lambda _: threading.current_thread().name, [0])))

    with workers(1) as pool:
        assert pool.count == 1
        assert list(pool.map(lambda _: own_threads(), [0])) == [0]
    with workers(2) as pool:
        found = list(pool.map(inner, [0, 1]))
    assert [count for count, _ in found] == [1, 1]
    assert all("ThreadPool" in name for _, name in found)  # its own thread did it


def test_pieces_nobody_waits_for_end() -> None:
    ended, begun = [], threading.Event()

    def piece(number: int) -> None:
        if number == 0:
            begun.wait(5)
            raise ValueError("the first one fails")
        begun.set()
        try:
            for _ in range(1000):
                time.sleep(0.01)
                pool.go_on()
        except CancelledError:
            ended.append(number)

    with pytest.raises(ValueError, match="the first"), workers(2) as pool:
        list(pool.map(piece, [0, 1]))
    assert ended == [1]


@pytest.mark.parametrize(("at_once", "count"), [(1, 1), (2, 2), (9, 3)])
def test_as_many_trials_at_once_as_memory_holds(at_once: int, count: int) -> None:
    counts = []

    class Counted(Trials):
        def _error(self, copies: Copies, pool: Workers) -> float:
            counts.append(pool.count)
            return float(copies.sum())

    trials = Counted(None, [], None, at_once=at_once)  # type: ignore[arg-type]
    three = [np.array([number]) for number in range(3)]
    trials.measure([*three, *three])
    assert counts == [count] * 3  # each is measured once
    assert [trials.error(copies) for copies in three] == [0.0, 1.0, 2.0]
