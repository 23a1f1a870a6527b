"""What converters to half floats and to bytes leave behind."""

from __future__ import annotations

import pytest
from golden_text import filled
from rewidth_case import free, groups, rewidthed

WEIGHTS = "float[8,3,1,1] w0, float[4,8,1,1] w1"
# Scales that double height and width, computed from constants.
SCALES = {
    "cast": "d = Constant<value=double[4] {1.0, 1.0, 2.0, 2.0}>() s = Cast<to=1>(d)",
    "multiplied": "i = Constant<value=float[4] {0.5, 0.5, 1.0, 1.0}>()"
    " j = Constant<value=float[1] {2.0}>() s = Mul(i, j)",
    "joined": "i = Constant<value=float[2] {1.0, 1.0}>() d = Constant<value=double[2] {2.0, 2.0}>()"
    " j = Cast<to=1>(d) s = Concat<axis=0>(i, j)",
}
RESIZES = {13: 'Resize<mode="nearest">(a, , s)', 9: 'Upsample<mode="nearest">(a, s)'}


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("opset", RESIZES)
def test_channels_pass_where_scales_are_computed_from_constants(scales: str, opset: int) -> None:
    model = filled(
        f'<ir_version: 7, opset_import: ["": {opset}]>\n'
        f"agraph (float[1,3,h,w] x) => (float[1,4,h2,w2] y)<{WEIGHTS}>"
        f"{{{SCALES[scales]} a = Conv(x, w0) u = {RESIZES[opset]} y = Conv(u, w1)}}"
    )
    assert free(model) == [(8, 1)]
    assert rewidthed(model, scale=0.5).shape("w0") == (4, 3, 1, 1)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_an_embedding_of_bytes_gives_its_channels_out(kind: str) -> None:
    model = filled(
        '<ir_version: 8, opset_import: ["": 17]>\n'
        f"agraph (int64[1,6] x) => (float[1,4,6] y)<{kind}[10,8] table, {kind} z, float s, float[4,8,1] w>"
        "{g = Gather(table, x) f = DequantizeLinear(g, s, z) t = Transpose<perm=[0,2,1]>(f) y = Conv(t, w)}"
    )
    assert free(model) == [(8, 1)]
    assert rewidthed(model, scale=0.5).shape("table") == (10, 4)


def test_a_table_of_long_numbers_keeps_its_channels() -> None:
    model = filled(
        '<ir_version: 8, opset_import: ["": 17]>\n'
        "agraph (int64[1,6] x) => (float[1,4,6] y)<int32[10,8] table, float[4,8,1] w>"
        "{g = Gather(table, x) f = Cast<to=1>(g) t = Transpose<perm=[0,2,1]>(f) y = Conv(t, w)}"
    )
    assert free(model) == []
    assert "positions of a constant" in next(str(g.reason) for g in groups(model) if g.width == 8)
