"""Forms that real exporters write: the channels found are the right ones."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS


def graph_of(text: str, opset: int = 20, **weights: tuple[int, ...]) -> Graph:
    """The analysed graph of ``onnx.parser`` text, with weights of ones of the given shapes."""
    header = f'<ir_version: 9, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(header + text)
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return analysed(LoadedModel(model, None))


def out_groups(graph: Graph) -> dict[str, list[tuple[str, int, bool]]]:
    """For each layer's first output: the groups on it, as (group, units, whether free)."""
    channels = graph.result(CHANNELS)
    return {
        layer.op.outputs[0]: [
            (g.id, len(g.classes), g.free) for g in channels.groups_on(channels.layer_axes[layer.op.index][1])
        ]
        for layer in graph.result(LAYERS)
    }


def test_bias_expanded_from_one_zero_is_the_layers_own() -> None:
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <float zero = {0.0}> {
            n = Shape <start: int = 0, end: int = 1> (w)
            b = Expand (zero, n)
            a = Conv (x, w, b)
            y = Conv (a, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert graph.constants["b"].dims == (6,)
    groups = out_groups(graph)
    assert groups["a"] == [("g0", 6, True)]
    assert not groups["y"][0][2]


@pytest.mark.parametrize("pieces", ["int64 half = {3}", "int64[2] half = {2, 4}"])
def test_split_to_sequence_is_a_split(pieces: str) -> None:
    graph = graph_of(
        f"""net (float[1,3,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z)
        <{pieces}, int64 first = {{0}}, int64 last = {{-1}}> {{
            a = Conv (x, w)
            s = SplitToSequence <axis: int = 1> (a, half)
            p = SequenceAt (s, first)
            q = SequenceAt (s, last)
            y = Conv (p, u)
            z = Conv (q, v)
        }}""",
        w=(6, 3, 1, 1),
        u=(4, 3 if "{3}" in pieces else 2, 1, 1),
        v=(4, 3 if "{3}" in pieces else 4, 1, 1),
    )
    first = 3 if "{3}" in pieces else 2
    assert [op.op_type for op in graph.operators].count("Split") == 1
    assert out_groups(graph)["a"] == [("g0", first, True), ("g1", 6 - first, True)]


@pytest.mark.parametrize("axis", [2, 3])
def test_split_to_sequence_by_computed_sizes_is_a_split(axis: int) -> None:
    """Rows and columns in one map that come apart again, in images of any size (CoordAtt)."""
    graph = graph_of(
        f"""net (float[1,3,H,W] x) => (float[] y, float[] z)
        <int64 first = {{0}}, int64 last = {{1}}, int64[1] i = {{{axis}}}, int64[1] one = {{1}}> {{
            a = Conv (x, w)
            shape = Shape (a)
            n = Gather (shape, i)
            m = Sub (n, one)
            sizes = Concat <axis = 0> (one, m)
            s = SplitToSequence <axis: int = {axis}> (a, sizes)
            p = SequenceAt (s, first)
            q = SequenceAt (s, last)
            y = Conv (p, u)
            z = Conv (q, v)
        }}""",
        w=(6, 3, 1, 1),
        u=(4, 6, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert [op.op_type for op in graph.operators].count("Split") == 1
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_a_sequence_read_as_a_whole_stays_one() -> None:
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <int64 half = {3}> {
            a = Conv (x, w)
            s = SplitToSequence <axis: int = 1> (a, half)
            c = ConcatFromSequence <axis: int = 1> (s)
            y = Conv (c, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert [op.op_type for op in graph.operators].count("Split") == 0
    assert not any(free for _, _, free in out_groups(graph)["a"])


def test_padding_written_back_to_front_is_understood() -> None:
    # torch's order (last axis first) is turned into ONNX's by Reshape, Slice and Transpose.
    graph = graph_of(
        """net (float[1,3,9,9] x) => (float[1,4,10,12] y)
        <int64[8] torch = {2, 1, 1, 0, 0, 0, 0, 0}, int64[2] pairs = {-1, 2}, int64[1] flat = {-1},
         int64[1] zero = {0}, int64[1] last = {-1}, int64[1] end = {-9223372036854775807}> {
            a = Conv (x, w)
            p = Reshape (torch, pairs)
            q = Slice (p, last, end, zero, last)
            r = Transpose <perm = [1, 0]> (q)
            pads = Reshape (r, flat)
            b = Pad (a, pads)
            y = Conv (b, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert graph.array("pads").tolist() == [0, 0, 1, 2, 0, 0, 0, 1]
    assert graph.shape("b") == (1, 6, 10, 12)
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_expand_to_a_size_chosen_by_where() -> None:
    # torch's expand: -1 keeps a size, so Where(size == -1, 1, size).
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <int64[4] size = {-1, 6, 8, 8}, int64[1] four = {4}, int64 minus = {-1}> {
            a = Conv (x, w)
            m = GlobalAveragePool (a)
            ones = ConstantOfShape <value = int64[1] {1}> (four)
            none = Mul (ones, minus)
            asked = Equal (size, none)
            to = Where (asked, ones, size)
            b = Expand (m, to)
            y = Conv (b, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert graph.array("to").tolist() == [1, 6, 8, 8]
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_padding_clipped_at_zero_is_understood() -> None:
    # "same" padding of TensorFlow's networks: max((ceil(size / 2) - 1) * 2 + 3 - size, 0), size = 8.
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,9,9] y)
        <int64 two = {2}, int64 three = {3}, int64 one = {1}, int64 none = {0}, int64[1] flat = {1},
         int64[6] zeros = {0, 0, 0, 0, 0, 0}, int64[1] size = {8}> {
            a = Conv (x, w)
            s = Div (size, two)
            t = Sub (s, one)
            u = Mul (t, two)
            k = Add (u, three)
            l = Sub (k, size)
            n = Clip (l, none)
            pads = Concat <axis: int = 0> (zeros, n, n)
            b = Pad (a, pads)
            y = Conv (b, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert graph.array("pads").tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_group_norm_in_reshapes_costs_channels_not_pixels() -> None:
    graph = graph_of(
        """net (float[1,3,64,64] x) => (float[1,4,64,64] y)
        <int64[3] groups = {1, 4, -1}, int64[4] back = {1, 8, 64, 64},
         float[4] one = {1.0, 1.0, 1.0, 1.0}, float[4] none = {0.0, 0.0, 0.0, 0.0}> {
            a = Conv (x, w)
            r = Reshape (a, groups)
            n = InstanceNormalization (r, one, none)
            b = Reshape (n, back)
            y = Conv (b, v)
        }""",
        w=(8, 3, 1, 1),
        v=(4, 8, 1, 1),
    )
    assert out_groups(graph)["a"] == [("g0", 2, True)]
    channels = graph.result(CHANNELS)
    assert sum(len(part) for part in channels.units.left) < 200


def test_expanded_norm_is_read_unexpanded() -> None:
    # F.normalize: x / norm.expand_as(x), over channels-last tokens.
    graph = graph_of(
        """net (float[1,5,3] x) => (float[1,5,4] y)
        <int64[1] last = {-1}> {
            a = MatMul (x, w)
            n = ReduceL2 <keepdims = 1> (a, last)
            s = Shape (a)
            e = Expand (n, s)
            b = Div (a, e)
            y = MatMul (b, v)
        }""",
        w=(3, 6),
        v=(6, 4),
    )
    assert "Expand" not in [op.op_type for op in graph.operators]
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_expand_that_makes_the_shape_stays() -> None:
    graph = graph_of(
        """net (float[1,5,3] x) => (float[1,5,6] y)
        <int64[3] to = {1, 5, 6}> {
            a = MatMul (x, w)
            e = Expand (a, to)
            y = Add (e, v)
        }""",
        w=(3, 1),
        v=(6,),
    )
    assert "Expand" in [op.op_type for op in graph.operators]


def test_a_gather_of_everything_in_order_is_a_reshape() -> None:
    # as_strided, which torch makes of a mean over a map of one pixel.
    graph = graph_of(
        """net (float[1,3,1,1] x) => (float[1,4,1,1] y)
        <int64[1] flat = {-1}, int64[1,6,1,1] places = {0, 1, 2, 3, 4, 5}> {
            a = Conv (x, w)
            f = Reshape (a, flat)
            b = Gather (f, places)
            y = Conv (b, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_merged_heads_leave_the_longer_axis_free() -> None:
    # Attention whose heads a convolution mixes: heads (2) and channels of a head (6) are merged.
    graph = graph_of(
        """net (float[1,3,4,4] x, float[1,2,5,16] k) => (float[1,4,5] y)
        <int64[4] apart = {1, 2, 6, 16}, int64[3] joined = {1, 5, 12}> {
            a = Conv (x, w)
            r = Reshape (a, apart)
            values = Transpose <perm = [0, 1, 3, 2]> (r)
            h = Conv (k, u)
            m = MatMul (h, values)
            p = Transpose <perm = [0, 2, 1, 3]> (m)
            j = Reshape (p, joined)
            z = MatMul (j, v)
            y = Transpose <perm = [0, 2, 1]> (z)
        }""",
        w=(12, 3, 1, 1),
        u=(2, 2, 1, 1),
        v=(12, 4),
    )
    groups = out_groups(graph)
    assert groups["a"] == [("g0", 6, True)]
    assert [free for _, _, free in groups["h"]] == [False]


def test_weight_standardised_through_reshape_stays_free() -> None:
    # The dynamo-based exporter's form of it: the target of the first Reshape is a Concat.
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,6,6] y)
        <int64[1] one = {1}, int64[1] six = {6}, int64[1] rest = {-1}, int64[1] last = {2},
         int64[4] back = {6, 5, 3, 3}> {
            a = Conv (x, u)
            to = Concat <axis = 0> (one, six, rest)
            flat = Reshape (w, to)
            mean = ReduceMean (flat, last)
            centred = Sub (flat, mean)
            own = Reshape (centred, back)
            b = Conv (a, own)
            y = Conv (b, v)
        }""",
        u=(5, 3, 1, 1),
        w=(6, 5, 3, 3),
        v=(4, 6, 1, 1),
    )
    groups = out_groups(graph)
    assert groups["a"] == [("g0", 5, True)]
    assert groups["b"] == [("g1", 6, True)]


def test_a_window_that_shortens_the_channels_freezes_them() -> None:
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,1,4] y)
        <int64[3] tokens = {1, 1, 6}> {
            a = Conv (x, w)
            m = GlobalAveragePool (a)
            t = Reshape (m, tokens)
            y = Conv (t, v)
        }""",
        w=(6, 3, 1, 1),
        v=(1, 1, 3),
    )
    assert not any(free for _, _, free in out_groups(graph)["a"])


def test_axes_counted_by_range_are_known() -> None:
    # Group normalisation of an unoptimised dynamo export unsqueezes its scale so.
    graph = graph_of(
        """net (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <int64 one = {1}, int64 rank = {4}> {
            a = Conv (x, w)
            end = Sub (rank, one)
            axes = Range (one, end, one)
            c = Unsqueeze (s, axes)
            b = Mul (a, c)
            y = Conv (b, v)
        }""",
        w=(6, 3, 1, 1),
        s=(6,),
        v=(4, 6, 1, 1),
    )
    assert graph.array("axes").tolist() == [1, 2]
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_a_free_batch_keeps_its_name_through_reshapes() -> None:
    # The target is computed from the batch size, with 0 meaning zero; then there is one with -1.
    graph = graph_of(
        """net (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <int64[1] c = {6}, int64[1] p = {64}, int64[4] back = {-1, 6, 8, 8}> {
            a = Conv (x, w)
            n = Shape <start = 0, end = 1> (x)
            to = Concat <axis = 0> (n, c, p)
            r = Reshape <allowzero = 1> (a, to)
            b = Reshape (r, back)
            d = Add (a, b)
            y = Conv (d, v)
        }""",
        w=(6, 3, 1, 1),
        v=(4, 6, 1, 1),
    )
    assert graph.shape("r") == ("N", 6, 64)
    assert graph.shape("d") == ("N", 6, 8, 8)
    assert out_groups(graph)["a"] == [("g0", 6, True)]


def test_expanded_norm_of_a_free_batch_is_read_unexpanded() -> None:
    graph = graph_of(
        """net (float[N,5,3] x) => (float[N,5,4] y)
        <int64[1] last = {-1}, int64[1] tokens = {5}, int64[1] channels = {6}> {
            a = MatMul (x, w)
            n = ReduceL2 <keepdims = 1> (a, last)
            batch = Shape <start = 0, end = 1> (x)
            to = Concat <axis = 0> (batch, tokens, channels)
            e = Expand (n, to)
            b = Div (a, e)
            y = MatMul (b, v)
        }""",
        w=(3, 6),
        v=(6, 4),
    )
    assert "Expand" not in [op.op_type for op in graph.operators]
    assert out_groups(graph)["a"] == [("g0", 6, True)]
