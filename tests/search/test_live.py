"""What one sees of a search."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from conet_graph.search.algorithm import SizeState
from conet_graph.search.live import LiveTable, LogLines, clock, count_marks
from conet_graph.search.run_store import TrialRow
from conet_graph.search.settings import RunSettings
from conet_graph.search.voices import Size

SETTINGS = RunSettings("digits").changed({"trials": 5, "epochs": 4})
SIZES = [Size(f"s{k}", 32, 1, (f"g{k}",), (f"layer{k}\x1b[31m",), ()) for k in range(4)]
BEFORE = {f"s{k}": SizeState(32, 1, 0.2, False) for k in range(4)}
AFTER = {
    "s0": SizeState(38, 1, 0.2, False),
    "s1": SizeState(28, -1, 0.1, False),
    "s2": SizeState(32, 1, 0.01, False),
    "s3": SizeState(32, 0, 0.01, True),
}
DONE = TrialRow(1, "finished", 12345, 99999, 75.0, 1.0, 1.0, 0.876, "trials/001.onnx")


def console(terminal: bool, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, height=height, color_system=None)


def text(made: Console) -> str:
    file = made.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_log_has_a_plain_line_for_each_trial() -> None:
    made = console(terminal=False)
    watch = LogLines(made, SETTINGS, SIZES)
    watch.begins(1, BEFORE, 12345, 99999)
    watch.epoch(1, 1, {"test_accuracy": 0.5}, 2.0)
    watch.ends(DONE, BEFORE, AFTER)
    assert text(made) == (
        "trial 1 (2 of 5), accuracy 87.6%, 12,345 parameters, 1 min 15 s;"
        " sizes: 1 grow, 1 shrink, 1 stay, 1 settled\n"
    )


def shown(height: int) -> str:
    made = console(terminal=True, height=height)
    watch = LiveTable(made, SETTINGS, SIZES)
    watch.begins(0, BEFORE, 11111, 99999)
    watch.ends(DONE, BEFORE, AFTER)
    watch.begins(1, AFTER, 12345, 99999)
    watch.epoch(1, 3, {"test_accuracy": 0.5}, 2.0)
    made.print(watch)
    return text(made)


def test_table_shows_trial_epoch_accuracy_and_where_sizes_go() -> None:
    found = shown(40)
    assert "trial 1 (2 of 5)   epoch 3/4   accuracy 50.0%   12,345 parameters   at most" in found
    rows = [line.split() for line in found.splitlines() if line.strip().startswith("s")]
    assert [(row[0], row[-2], row[-1]) for row in rows[1:]] == [
        *(("s0", "38", "▲"), ("s1", "28", "▼"), ("s2", "32", "·"), ("s3", "32", "■"))
    ]
    assert "\x1b[31m" not in found  # names from the model are escaped
    assert "1 grow, 1 shrink, 1 stay, 1 settled" in found


def test_table_of_many_sizes_fits_the_terminal() -> None:
    assert "and 1 more sizes" in shown(11)


def test_counts_name_only_what_there_is() -> None:
    assert count_marks(BEFORE, BEFORE) == "4 stay"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(59.4, "59 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min")]
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected
