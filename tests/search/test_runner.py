"""The search with trials that train nothing but behave like ones that do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import golden_text
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from conet_graph.analysis.analysis import analyze
from conet_graph.bridge import from_torch, to_torch, weights_by_name
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import load_model
from conet_graph.rewriting.rewriting import plan, rewrite
from conet_graph.search.algorithm import step_all
from conet_graph.search.begin import begin, go_on, network_in
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import RunStore
from conet_graph.search.runner import Search, Tools
from conet_graph.search.settings import RunSettings
from conet_graph.search.watch import Silent
from conet_graph.trials.errors import TrialFailed

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
SETTINGS = RunSettings("digits").changed(
    {"trials": 4, "epochs": 3, "start_width": 20, "min_width": 8, "max_width": 48, "delta": 0.02, "seed": 5}
)
Metrics = dict[str, float]


def learns(module: nn.Module, epochs: int) -> Iterator[Metrics]:
    """Every epoch adds a little more structure to all weights; takes no seed and no checkpoint."""
    for epoch in range(epochs):
        with torch.no_grad():
            for weight in module.parameters():
                if weight.ndim == 4:
                    flat = weight.view(len(weight), -1)
                    rank = min(*flat.shape, 2 + 2 * epoch)
                    flat += 0.5 * torch.randn(len(flat), rank) @ torch.randn(rank, flat.shape[1])
        yield {"test_accuracy": 0.5 + 0.1 * epoch}


def tools(trial: Callable[..., Iterator[Metrics | None]] = learns) -> Tools:
    return Tools(to_torch, from_torch, weights_by_name, lambda share: trial)


def searched(
    out: Path,
    settings: RunSettings = SETTINGS,
    made: Tools | None = None,
    resume: bool = False,
    model: Path = SAMPLE,
) -> RunStore:
    folder = RunFolder(out)
    if not resume:
        begin(model, folder, settings, "conet-graph search")
    given = {name: value for name, value in settings.flat().items() if value is not None}
    store, found = go_on(folder, model, given if resume else {})
    Search(folder, store, found, network_in(folder), made or tools()).run()
    return store


def contents(out: Path) -> dict[str, Any]:
    """All that a search found: its tables without times, and its files."""
    with closing(sqlite3.connect(out / "run.sqlite")) as database:
        tables = {
            "trials": "SELECT trial, status, parameters, macs, test_accuracy, onnx FROM trials",
            "metrics": "SELECT trial, epoch, metrics FROM epochs",
            **{name: f"SELECT * FROM {name}" for name in ("widths", "ranks", "layers", "outcomes")},
        }
        found: dict[str, Any] = {
            name: sorted(map(repr, database.execute(query))) for name, query in tables.items()
        }
    files = [*out.glob("*.onnx"), *out.glob("trials/*.onnx"), out / "widths.json"]
    return found | {str(file.relative_to(out)): file.read_bytes() for file in files}


def test_every_trial_has_the_widths_that_the_last_one_decided(tmp_path: Path) -> None:
    store = searched(tmp_path / "run")
    assert store.about()["status"] == "finished"
    assert [(t.trial, t.status, t.test_accuracy) for t in store.trials()] == [
        (k, "finished", 0.7) for k in range(4)
    ]
    network = network_in(RunFolder(tmp_path / "run"))
    assert {state.width for state in store.states(0).values()} == {20}
    moved = False
    for trial in range(3):
        after = step_all(
            store.states(trial), store.indicators(trial), SETTINGS.search, trial == 0, network.grains
        )
        assert store.states(trial + 1) == after
        moved |= store.states(trial + 1) != store.states(trial)
        found = analyze(tmp_path / "run" / "trials" / f"{trial + 1:03d}.onnx")
        assert {g.size: g.width for g in found.groups if g.free} == {n: s.width for n, s in after.items()}
        assert found.model.parameters == store.trials()[trial + 1].parameters
    assert moved


def test_the_found_network_runs_and_its_widths_are_written(tmp_path: Path) -> None:
    store = searched(tmp_path / "run")
    last = store.states(3)
    widths = json.loads((tmp_path / "run" / "widths.json").read_text())
    assert {widths["/merge/merge.0/Conv"], widths["/side/side.0/Conv"]} == {
        last["s5"].width,
        last["s4"].width,
    }
    session = ort.InferenceSession(tmp_path / "run" / "final.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"


# As exporters leave it: no BatchNorm, biases, nodes without names.
FOLDED = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,1,8,8] x) => (float[N,10] logits)
<float[16,1,3,3] wa, float[16] ba, float[24,16,3,3] wb, float[24] bb, float[10,24] wc, float[10] bc> {
    a = Conv<pads = [1, 1, 1, 1]>(x, wa, ba)  ra = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(ra, wb, bb)  rb = Relu(b)
    p = GlobalAveragePool(rb)  f = Flatten(p)  logits = Gemm<transB = 1>(f, wc, bc) }"""


def test_folded_batchnorms_are_put_back_to_train_and_folded_again(tmp_path: Path) -> None:
    model = golden_text.parsed(FOLDED)
    onnx.save(model, tmp_path / "folded.onnx")
    searched(tmp_path / "run", SETTINGS.changed({"trials": 2}), model=tmp_path / "folded.onnx")

    def operators(file: str) -> list[str]:
        return [node.op_type for node in onnx.load(tmp_path / "run" / file).graph.node]

    assert operators("trials/001.onnx").count("BatchNormalization") == 2
    assert operators("final.onnx") == operators("original.onnx")
    sessions = [
        ort.InferenceSession(tmp_path / "run" / name, providers=["CPUExecutionProvider"])
        for name in ("trials/001.onnx", "final.onnx")
    ]
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    trained, folded = (session.run(None, {"x": images})[0] for session in sessions)
    np.testing.assert_allclose(folded, trained, rtol=1e-3, atol=1e-3 * np.abs(trained).max())
    # The names in widths.json are those of the file that was given.
    widths = json.loads((tmp_path / "run" / "widths.json").read_text())
    assert set(widths) == {"a", "b"}
    given = load_model(tmp_path / "folded.onnx")
    again = rewrite(given, plan(given, widths=widths), check=False)
    assert {t.name: list(t.dims) for t in again.proto.graph.initializer}["wb"][:2] == [
        widths["b"],
        widths["a"],
    ]


class Stopped(BaseException):
    """Stands for a process that ends."""


def stops_after(epochs: int) -> Callable[..., Iterator[Metrics]]:
    """A trial that ends the process after so many epochs of all trials together."""
    left = [epochs]

    def trial(module: nn.Module, count: int) -> Iterator[Metrics]:
        for metrics in learns(module, count):
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            yield metrics

    return trial


@pytest.mark.parametrize("epochs", [0, 1, 3, 7])
def test_a_search_that_was_stopped_ends_where_the_other_one_did(tmp_path: Path, epochs: int) -> None:
    searched(tmp_path / "whole")
    with pytest.raises(Stopped):
        searched(tmp_path / "stopped", made=tools(stops_after(epochs)))
    store = searched(tmp_path / "stopped", resume=True)
    assert store.about()["status"] == "finished"
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_another_seed_gives_another_search(tmp_path: Path) -> None:
    searched(tmp_path / "one")
    searched(tmp_path / "other", SETTINGS.changed({"seed": 6}))
    assert contents(tmp_path / "one")["ranks"] != contents(tmp_path / "other")["ranks"]


def test_status_tells_what_stopped_a_search(tmp_path: Path) -> None:
    def interrupted(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        yield {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "run", made=tools(interrupted))
    with closing(RunStore(tmp_path / "run" / "run.sqlite")) as store:
        assert store.about()["status"] == "interrupted"
    store = searched(tmp_path / "run", resume=True)
    assert store.about()["status"] == "finished"


class Heard(Silent):
    """Keeps what a search says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def diverging(times: int) -> tuple[Tools, list[float]]:
    """A trial that diverges so many times; and the shares of the learning rate that were asked for."""
    shares: list[float] = []

    def make(share: float) -> Any:
        shares.append(share)

        def trial(module: nn.Module, epochs: int) -> Iterator[Metrics]:
            for metrics in learns(module, epochs):
                yield metrics
                if len(shares) <= times:
                    raise TrialFailed("the loss is not finite")

        return trial

    return Tools(to_torch, from_torch, weights_by_name, make), shares


def test_a_trial_that_diverges_is_tried_again_with_half_the_learning_rate(tmp_path: Path) -> None:
    made, shares = diverging(1)
    store = searched(tmp_path / "run", made=made)
    assert shares == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert store.about()["status"] == "finished"
    assert len(store.metrics(0)) == 3


def test_a_trial_that_diverges_twice_ends_the_search(tmp_path: Path) -> None:
    made, shares = diverging(2)
    with pytest.raises(TrialFailed):
        searched(tmp_path / "run", made=made)
    assert shares == [1.0, 0.5]
    with closing(RunStore(tmp_path / "run" / "run.sqlite")) as store:
        assert store.about()["status"] == "failed"
        assert [t.status for t in store.trials()] == ["failed"]
    assert searched(tmp_path / "run", resume=True).about()["status"] == "finished"


def test_hours_end_a_search_before_a_trial_that_would_pass_them(tmp_path: Path) -> None:
    def hourly(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        for metrics in learns(module, epochs):
            yield {**metrics, "seconds": 1200.0}

    store = searched(tmp_path / "run", SETTINGS.changed({"max_hours": 2.5}), tools(hourly))
    assert len(store.trials()) == 2
    assert store.about()["status"] == "finished"
    assert (tmp_path / "run" / "final.onnx").exists()
    more = searched(tmp_path / "run", SETTINGS.changed({"max_hours": 3.5}), tools(hourly), resume=True)
    assert [t.status for t in more.trials()] == ["finished"] * 3


def test_hours_that_end_within_the_first_trial_leave_it_to_be_resumed(tmp_path: Path) -> None:
    def slow(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        for metrics in learns(module, epochs):
            yield {**metrics, "seconds": 3600.0}

    store = searched(tmp_path / "run", SETTINGS.changed({"max_hours": 0.5}), tools(slow))
    assert store.about()["status"] == "interrupted"
    assert len(store.metrics(0)) == 1


def test_every_trial_keeps_the_budget(tmp_path: Path) -> None:
    settings = SETTINGS.changed({"max_parameters": 9000, "delta": 0.0})
    store = searched(tmp_path / "run", settings)
    assert all(0 < trial.parameters <= 9000 for trial in store.trials())
    assert max(trial.parameters for trial in store.trials()) > 7000


def test_own_widths_and_kept_weights(tmp_path: Path) -> None:
    settings = SETTINGS.changed({"own_widths": True, "warm": True, "trials": 2, "max_width": 96})
    store = searched(tmp_path / "run", settings)
    network = network_in(RunFolder(tmp_path / "run"))
    assert {name: s.width for name, s in store.states(0).items()} == network.own_widths()
    assert store.last_trial() is not None


def test_a_trial_may_yield_nothing_but_must_yield(tmp_path: Path) -> None:
    def silent(module: nn.Module, epochs: int) -> Iterator[Mapping[str, float] | None]:
        yield from (None for _ in range(epochs))

    store = searched(tmp_path / "silent", SETTINGS.changed({"trials": 1}), tools(silent))
    assert store.metrics(0) == [{}, {}, {}]
    assert store.trials()[0].test_accuracy is None

    def empty(module: nn.Module, epochs: int) -> Iterator[Metrics]:
        yield from ()

    with pytest.raises(Refused, match="ended before its first epoch"):
        searched(tmp_path / "empty", made=tools(empty))
