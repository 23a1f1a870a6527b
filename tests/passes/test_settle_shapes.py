"""Shape inference and folding in turn come to an end, also where sizes stay unknown."""

from __future__ import annotations

import pytest
from golden_text import filled
from onnx import parser

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import from_proto
from conet_graph.passes import analysed, structured
from conet_graph.passes.fold_shapes import FoldShapes
from conet_graph.passes.tie_channels import CHANNELS

# How many points are found the run alone knows; a detector expands its anchors by two such numbers.
POINTS = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,H,W] x) => (float[p,q] y, float[p,1] z)
<int64[1] zero = {0}, int64[1] one = {1}, int64[2] flat = {-1, 1}, int64[1] two = {2}>
{
    found = NonZero (x)
    places = Cast <to: int = 1> (found)
    column = Reshape (places, flat)
    size = Shape (found)
    count = Slice (size, one, two, zero)
    sizes = Concat <axis: int = 0> (count, count)
    y = Expand (column, sizes)
    tall = Shape (column)
    rows = Slice (tall, zero, one, zero)
    narrow = Concat <axis: int = 0> (rows, one)
    wide = Expand (column, narrow)
    z = Relu (wide)
}"""


def test_unknown_sizes_settle_in_a_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Graph] = []
    run = FoldShapes.run

    def counted(step: FoldShapes, graph: Graph) -> None:
        rounds.append(graph)
        run(step, graph)

    monkeypatch.setattr(FoldShapes, "run", counted)
    graph = structured(from_proto(parser.parse_model(POINTS)))
    assert len(rounds) <= 3
    assert graph.shape("z") is not None
    assert graph.shape("z")[1] == 1  # type: ignore[index]


@pytest.mark.parametrize(("kind", "x", "w"), [("Conv", "N,3,9,9", "8,3,3,3"), ("FusedMatMul", "4,3", "3,8")])
def test_a_stranger_with_a_known_name_is_not_known(kind: str, x: str, w: str) -> None:
    """What another domain calls a Conv may be anything: its shape stays open, what it touches is frozen."""
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
    g (float[{x}] x) => (float[] y) <float[{w}] w> {{ a = com.example.{kind} (x, w)  y = Relu (a) }}"""
    graph = analysed(from_proto(filled(text)))
    assert graph.shape("a") is None
    assert graph.result(CHANNELS).units.unsupported[0][0].op_type == kind
