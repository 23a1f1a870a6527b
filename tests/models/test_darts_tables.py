"""The paper's hand-written tables, derived: which convolutions speak for which channel size of a cell.

Convolutions are numbered inside a cell in building order. The published tables stop at the border of a
cell; inside it, everything that they list under one size must come out as one size, different sizes apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conet_graph.analysis import analyze
from conet_graph.models import conv_names
from conet_graph.models.export import export_onnx

NORMAL = {
    "C0": "out0 in3 in11 out21 out23",
    "C1": "out1 in7 in15 in19",
    "C2": "out5 out9 in23",
    "C3": "out17 out13",
    "mid1": "out3 in5",
    "mid2": "out7 in9",
    "mid3": "out11 in13",
    "mid4": "out15 in17",
    "mid5": "out19 in21",
}
AFTER = {
    "C0": "out0 out1 in4 in12 out22 out24",
    "C1": "out2 in8 in16 in20",
    "C2": "out6 out10 in24",
    "C3": "out18 out14",
    "mid1": "out4 in6",
    "mid2": "out8 in10",
    "mid3": "out12 in14",
    "mid4": "out16 in18",
    "mid5": "out20 in22",
}
PLUS_NORMAL = {
    "C0": "out0 out5 in7 out9 in15 in19",
    "C1": "out1 in3 in11",
    "C2": "out13 out17 in23",
    "C3": "out21 out25",
    "mid1": "out3 in5",
    "mid2": "out7 in9",
    "mid3": "out11 in13",
    "mid4": "out15 in17",
    "mid5": "out19 in21",
    "mid6": "out23 in25",
}
PLUS_AFTER = {
    "C0": "out0 out1 out6 in8 out10 in16 in20",
    "C1": "out2 in4 in12",
    "C2": "out14 out18 in24",
    "C3": "out22 out26",
    "mid1": "out4 in6",
    "mid2": "out8 in10",
    "mid3": "out12 in14",
    "mid4": "out16 in18",
    "mid5": "out20 in22",
    "mid6": "out24 in26",
}
PLUS_REDUCTION = {"C0": "out0 out2 out3 in5 out5 in7 out7", "C1": "out1 in2 in3"}
TABLES = {
    "darts7": {24: NORMAL, 25: AFTER, 2: {"C0": "out0 out1"}},
    "darts14": {24: NORMAL, 25: AFTER, 2: {"C0": "out0 out1"}},
    "dartsplus7": {26: PLUS_NORMAL, 27: PLUS_AFTER, 8: PLUS_REDUCTION},
}


@pytest.mark.parametrize(("name", "sizes"), [("darts7", 48), ("darts14", None), ("dartsplus7", 55)])
def test_groups_agree_with_the_tables(name: str, sizes: int | None, tmp_path: Path) -> None:
    module = export_onnx(name, tmp_path / "m.onnx", width=8)
    found = analyze(tmp_path / "m.onnx")
    size_of = {g.id: g.size for g in found.groups if g.free}
    layers = {layer.weight: layer for layer in found.layers}
    if sizes is not None:
        assert len(set(size_of.values())) == sizes
    cells = conv_names(module)
    assert len(cells) == int("".join(c for c in name if c.isdigit()))
    for cell in cells:
        seen: set[str] = set()
        for entries in TABLES[name][len(cell)].values():
            mine: set[str] = set()
            for entry in entries.split():
                side, number = ("out", entry[3:]) if entry.startswith("out") else ("in", entry[2:])
                layer = layers[cell[int(number)]]
                groups = layer.out_groups if side == "out" else layer.in_groups
                mine.update(size_of[g] for g in groups)
            assert len(mine) == 1, (name, len(cell), entries)
            assert not mine & seen
            seen |= mine
