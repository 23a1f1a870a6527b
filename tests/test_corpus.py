"""Every real file of the corpus, analysed and rewritten: narrower, wider and at random widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus import files, needs_corpus
from numpy.typing import NDArray

from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import shared_evenly
from conet_graph.verification.verification import verify

FILES = files("open", "exports")
GOLDEN = Path(__file__).parent / "golden" / "corpus_frozen.txt"


def scaled(graph: Graph, factor: float) -> NDArray[np.int64]:
    channels = graph.result(CHANNELS)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            count = len(group.classes)
            copies[group.classes] = shared_evenly(max(1, round(count * factor)), count)
    return copies


def random_widths(graph: Graph, seed: int) -> NDArray[np.int64]:
    channels = graph.result(CHANNELS)
    rng = np.random.default_rng(seed)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for group in channels.groups:
        if group.free:
            kept = rng.permutation(group.classes)[: rng.integers(1, len(group.classes) + 1)]
            copies[group.classes] = np.isin(group.classes, kept)
    return copies


def check(graph: Graph, copies: NDArray[np.int64], init: str = "keep") -> None:
    try:
        plan, layout = planned(graph, copies, init, noise=False, seed=0)
    except Refused as refusal:
        # A file without weights makes them of their shape alone: they cannot be shared out among copies.
        if "through ConstantOfShape of its weight" in str(refusal):
            return
        raise
    plan = Plan.loads(plan.dumps())
    report = verify(graph, rewritten(graph, plan, layout), plan, graph.folder)
    assert report.ok, report.failures
    if init == "keep" and "skipped" not in report.runs[0]:
        # A network asleep on every input is looked into by noise, which would wake what is dead in it.
        asleep = any(group.dead for group in plan.groups) and report.equality.startswith(
            "not checked: no input tried shows"
        )
        assert report.equality == "passed" or asleep


@needs_corpus
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_rewrites_of_a_real_file(path: Path) -> None:
    graph = analysed(load_model(path))
    for factor in (0.5, 0.75, 1.25):
        check(graph, scaled(graph, factor))
    for seed in range(3):
        check(graph, random_widths(graph, seed))
    check(graph, scaled(graph, 0.5), init="fresh")


@needs_corpus
def test_what_is_frozen_and_why(request: pytest.FixtureRequest) -> None:
    lines: list[str] = []
    for path in FILES:
        graph = analysed(load_model(path))
        channels = graph.result(CHANNELS)
        lines.append(path.name)
        for layer in graph.result(LAYERS):
            groups = channels.groups_on(channels.layer_axes[layer.op.index][1])
            if not any(group.free for group in groups):
                reason = groups[0].reason if groups else "its output carries no channels"
                lines.append(f"  {layer.op.op_type} {layer.op.name}: {reason}")
    text = "\n".join(lines) + "\n"
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, "utf-8")
    assert GOLDEN.read_text("utf-8") == text


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    from conet_graph.models.export import export_onnx

    export_onnx("resnet8", tmp_path / "m.onnx", width=8)
    graph = analysed(load_model(tmp_path / "m.onnx"))
    plan, layout = planned(graph, scaled(graph, 0.5), "keep", noise=False, seed=0)
    tensor = next(t for t in layout.tensors.values() if 1 in t.axes and len(t.axes[1]) > 1)
    tensor.axes[1] = tensor.axes[1][::-1].copy()
    report = verify(graph, rewritten(graph, plan, layout), plan, graph.folder)
    assert not report.ok
    assert report.equality == "failed"


def test_copies_that_disagree_are_refused() -> None:
    from conet_graph.passes.widths.relabel import old_positions

    with pytest.raises(Refused):
        old_positions(np.array([1, 2]), np.array([3 << 20]))
