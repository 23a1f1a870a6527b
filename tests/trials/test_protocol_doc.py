"""The examples of docs/TRIALS.md run as they stand, and what starts them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conet_graph.models.sample_net import SampleNet
from conet_graph.search.runner import Tools
from conet_graph.trials.protocol import Trial, start

PAGE = (Path(__file__).parents[2] / "docs" / "TRIALS.md").read_text("utf-8")
PLAIN, LIGHTNING, SEARCH = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def defined(source: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, "docs/TRIALS.md", "exec"), names)
    return names


def accuracies(trial: Trial, epochs: int) -> list[float]:
    torch.manual_seed(0)
    found = [metrics or {} for metrics in start(trial, SampleNet(), epochs, seed=1)]
    return [metrics["test_accuracy"] for metrics in found]


def test_the_plain_loop_learns() -> None:
    found = accuracies(defined(PLAIN)["plain_trial"], 3)
    assert len(found) == 3
    assert found[-1] > 0.9


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and workers
def test_lightning_learns() -> None:
    pytest.importorskip("lightning")
    found = accuracies(defined(LIGHTNING)["lightning_trial"], 3)
    assert len(found) == 3
    assert found[-1] > 0.9


def test_a_search_takes_the_trial() -> None:
    plain = defined(PLAIN)["plain_trial"]
    tools = defined(SEARCH, plain_trial=plain)["tools"]
    assert isinstance(tools, Tools)
    assert tools.trial(0.5) is plain


def test_keywords_go_only_to_trials_that_take_them(tmp_path: Path) -> None:
    given: list[dict[str, object]] = []

    def bare(module: nn.Module, epochs: int) -> Iterator[None]:
        given.append({})
        yield

    def seeded(module: nn.Module, epochs: int, *, seed: int) -> Iterator[None]:
        given.append({"seed": seed})
        yield

    def anything(module: nn.Module, epochs: int, **others: object) -> Iterator[None]:
        given.append(others)
        yield

    class Whole:
        def __call__(
            self, module: nn.Module, epochs: int, seed: int = 0, checkpoint: Path | None = None
        ) -> Iterator[None]:
            given.append({"seed": seed, "checkpoint": checkpoint})
            yield

    both: dict[str, object] = {"seed": 3, "checkpoint": tmp_path}
    for trial in (bare, seeded, anything, Whole()):
        assert list(start(trial, nn.Identity(), 1, seed=3, checkpoint=tmp_path)) == [None]
    assert given == [{}, {"seed": 3}, both, both]
