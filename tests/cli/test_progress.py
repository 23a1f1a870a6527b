"""A step that is told, and a bar: one at a time."""

from __future__ import annotations

import pytest

from conet_graph.cli import steps
from conet_graph.cli.progress import progress


@pytest.mark.parametrize("quiet", [False, True])
def test_a_bar_ends_the_step_before_it(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = steps.Steps(quiet)
    monkeypatch.setattr(steps, "_now", now)
    steps.step("verifying")
    with progress() as tell:
        assert now.name == ""
        tell("refitting", 0.5)
    steps.step("writing")
    assert now.name == "writing"
