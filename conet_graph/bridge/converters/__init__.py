"""One file an operator family; importing the package enters all converters."""

from __future__ import annotations

from conet_graph.bridge.converters import (
    arrange,
    conv,
    elementwise,
    matmul,
    normalize,
    pick,
    pool,
    private,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
)

FAMILIES = (
    arrange,
    conv,
    elementwise,
    matmul,
    normalize,
    pick,
    pool,
    private,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
)
