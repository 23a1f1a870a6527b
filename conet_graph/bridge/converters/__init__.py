"""The converters: one file an operator family, gathered here in one table."""

from __future__ import annotations

from conet_graph.bridge.converters import (
    arrange,
    attention,
    conv,
    elementwise,
    matmul,
    normalize,
    pick,
    pool,
    private,
    quantize,
    random,
    recurrent,
    reduce,
    reshape,
    resize,
    spectrum,
)
from conet_graph.ir.op_table import gathered

CONVERTERS = gathered(
    family.CONVERTERS
    for family in (
        arrange,
        attention,
        conv,
        elementwise,
        matmul,
        normalize,
        pick,
        pool,
        private,
        quantize,
        random,
        recurrent,
        reduce,
        reshape,
        resize,
        spectrum,
    )
)
