"""The paper's hand-written tables: which convolutions speak for which channel size of a cell.

Convolutions are numbered inside a cell in building order: out5 is the output rank of convolution 5,
in7 the input rank of convolution 7; two halves that are concatenated are joined by +. TABLES: network
-> number of convolutions of a cell -> size -> who speaks for it.
"""

from __future__ import annotations

import re

from torch import nn

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
    "C0": "out0+out1 in4 in12 out22 out24",
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
    "C0": "out0+out1 out6 in8 out10 in16 in20",
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
PLUS_REDUCTION = {"C0": "out0 out2+out3 in5 out5 in7 out7", "C1": "out1 in2 in3"}
TABLES = {
    "darts7": {24: NORMAL, 25: AFTER, 2: {"C0": "out0 out1"}},
    "darts14": {24: NORMAL, 25: AFTER, 2: {"C0": "out0 out1"}},
    "dartsplus7": {26: PLUS_NORMAL, 27: PLUS_AFTER, 8: PLUS_REDUCTION},
}


def conv_names(module: nn.Module) -> list[list[str]]:
    """Names of the convolution weights in each cell, in the order in which the cell builds them."""
    cells: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters():
        cell = re.match(r"cells\.(\d+)\.", name)
        if cell and parameter.ndim == 4:
            cells.setdefault(int(cell[1]), []).append(name)
    return [cells[index] for index in sorted(cells)]
