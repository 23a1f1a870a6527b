"""A Slice of channels at other widths: every start, end, step and length, narrower and wider."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rewidth_case import free, rewidthed

from tests.graphs import GraphBuilder
from tests.test_random_graphs import rewrite_and_verify


def sliced(length: int, start: int, end: int, step: int, opset: int = 17) -> onnx.ModelProto:
    g = GraphBuilder(opset)
    x = g.input("x", [1, 3, 4, 4])
    wide = g.conv(x, length, 3, name="a")
    g.output(g.conv(g.slice(wide, start, end, 1, step), 5, 3, name="y"))
    return g.build()


def test_a_reversed_axis_with_an_end_before_its_first_channel() -> None:
    """The end -9 of 8 channels means "to the first"; of 10 it would stop before it."""
    made = rewidthed(sliced(8, 2**31 - 1, -9, -1), scale=1.25)
    assert made.shape(made.node("y").input[1]) == (5, 10, 3, 3)


def test_a_step_that_leaves_a_rest() -> None:
    """Of 7 channels 0, 3 and 6 are picked: two blocks of three, and a last one that stays single."""
    model = sliced(7, 0, 2**31 - 1, 3)
    assert (6, 3) in free(model)
    made = rewidthed(model, scale=0.5)
    assert made.shape(made.node("y").input[1])[1] == 2


@pytest.mark.parametrize(("start", "end", "step"), [(1, 7, 2), (6, 0, -2), (-2, -8, -3), (2, 5, 1)])
def test_channels_before_and_behind_a_cut_are_free(start: int, end: int, step: int) -> None:
    model = sliced(8, start, end, step)
    assert any(multiple == 1 for _, multiple in free(model))
    for scale in (0.5, 1.5, 2.0):
        rewidthed(model, scale=scale)


ENDS = st.integers(-14, 14) | st.sampled_from([2**31 - 1, 2**63 - 1, -(2**31), -(2**63)])
STEPS = st.sampled_from([-4, -3, -2, -1, 1, 2, 3, 4])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 12), ENDS, ENDS, STEPS, st.integers(0, 10**6), st.sampled_from([1.0, 2.5]))
def test_every_cut_at_every_width(
    length: int, start: int, end: int, step: int, seed: int, widest: float
) -> None:
    assume(len(range(length)[start:end:step]))
    rewrite_and_verify(sliced(length, start, end, step), seed, widest)
