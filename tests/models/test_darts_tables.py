"""The paper's hand-written tables, derived: which convolutions speak for which channel size of a cell.

Convolutions are numbered inside a cell in building order. The published tables stop at the border of a
cell; inside it, everything that they list under one size must come out as one size, different sizes apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from darts_tables import TABLES, conv_names

from conet_graph.analysis.analysis import analyze
from conet_graph.models.export import export_onnx


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
            for entry in entries.replace("+", " ").split():
                side, number = ("out", entry[3:]) if entry.startswith("out") else ("in", entry[2:])
                layer = layers[cell[int(number)]]
                groups = layer.out_groups if side == "out" else layer.in_groups
                mine.update(size_of[g] for g in groups)
            assert len(mine) == 1, (name, len(cell), entries)
            assert not mine & seen
            seen |= mine
