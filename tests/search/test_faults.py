"""What breaks while a search runs is told in one sentence, and the search goes on where it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conet_graph.ir.errors import BadUsage, ConetGraphError
from conet_graph.search.begin import go_on
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import RunStore
from conet_graph.trials.errors import TrialBroke
from conet_graph.trials.settings import TrainSettings
from conet_graph.trials.training import ClassificationTrial
from tests.helpers.small_trial import Spots, small_net
from tests.search.test_runner import SAMPLE, SETTINGS, Metrics, contents, learns, searched, tools

SHORT = SETTINGS.changed({"trials": 2})


def breaks(error: Exception, after: int) -> Callable[..., Iterator[Metrics]]:
    """A trial that raises after so many epochs of all trials together."""
    left = [after]

    def trial(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        for metrics in learns(module, epochs):
            if left[0] == 0:
                raise error
            left[0] -= 1
            yield metrics

    return trial


def status(out: Path) -> str:
    with closing(RunStore(out / "run.sqlite")) as store:
        return store.about()["status"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "The GPU has not enough"),
        (OSError(5, "Input/output error", "cat.png"), r"stopped with 'OSError: \[Errno 5\] .*cat\.png"),
        (KeyError("no\nlabel"), r"stopped with 'KeyError: .*no\\\\nlabel"),
    ],
)
@pytest.mark.parametrize("after", [0, 4])
def test_a_trial_that_raises_costs_that_trial_only(
    error: Exception, sentence: str, after: int, tmp_path: Path
) -> None:
    searched(tmp_path / "whole", SHORT)
    with pytest.raises(TrialBroke, match=sentence) as told:
        searched(tmp_path / "broken", SHORT, tools(breaks(error, after)))
    assert "\n" not in str(told.value)
    assert status(tmp_path / "broken") == "interrupted"
    searched(tmp_path / "broken", SHORT, resume=True)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_full_disk_costs_that_trial_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(tmp_path / "whole", SHORT)
    from conet_graph.search import runner

    def full(*_: Any) -> None:
        raise BadUsage("'000.onnx' cannot be written: No space left on device.")

    with monkeypatch.context() as broken:
        broken.setattr(runner, "save", full)
        with pytest.raises(BadUsage, match="No space left"):
            searched(tmp_path / "full", SHORT)
    assert status(tmp_path / "full") == "interrupted"
    searched(tmp_path / "full", SHORT, resume=True)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_database_on_a_full_disk(tmp_path: Path) -> None:
    out = tmp_path / "run"
    searched(out, SHORT)
    with closing(RunStore(out / "run.sqlite")) as store:
        before = store.about()
        store._database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(BadUsage, match="cannot be read or written: database or disk is full"):
            store.tell("long", "x" * 1_000_000)
    with closing(RunStore(out / "run.sqlite")) as store:
        found = store.about()
    assert {key: found[key] for key in before} == before


@pytest.mark.parametrize("damage", ["cut", "overwritten", "emptied", "removed", "rows"])
def test_a_damaged_database_is_told_and_left_alone(damage: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    searched(out, SHORT).close()
    path = out / "run.sqlite"
    data = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "rows":
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE about SET value = '{\"trials\": []}' WHERE key = 'settings'")
    else:
        spoilt = {"cut": data[: len(data) // 3], "overwritten": data[:200] + bytes(4000) + data[4200:]}
        path.write_bytes(spoilt.get(damage, b""))
    spoilt_bytes = path.read_bytes() if path.exists() else b""
    files = {file: file.read_bytes() for file in out.glob("**/*.onnx")}
    with pytest.raises(ConetGraphError) as told:
        go_on(RunFolder(out), SAMPLE, {})
    assert "\n" not in str(told.value)
    if damage != "emptied":  # SQLite writes its header into an empty file
        assert (path.read_bytes() if path.exists() else b"") == spoilt_bytes
    assert {file: file.read_bytes() for file in out.glob("**/*.onnx")} == files


def test_a_damaged_checkpoint_is_named_and_the_trial_begins_again_without_it(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    trial = ClassificationTrial(Spots(), TrainSettings(batch=32), "cpu")
    whole = [m["test_loss"] for m in trial(small_net(), 2, checkpoint=kept)]
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(BadUsage, match="is damaged: remove it, and the training begins again"):
        next(iter(trial(small_net(), 2, checkpoint=kept)))
    kept.unlink()
    assert [m["test_loss"] for m in trial(small_net(), 2, checkpoint=kept)] == whole
