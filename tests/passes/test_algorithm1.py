"""Algorithm 1 of the paper on graphs after its figure 4.

Small letters are convolutions of 4 to 16 channels; every network ends in a convolution ``end`` whose
output, the network's, is frozen.
"""

from __future__ import annotations

import golden_text

from conet_graph.passes.assign_channels import SIZES
from conet_graph.passes.tie_channels import CHANNELS

Sizes = dict[str, list[str]]


def sizes(weights: str, body: str) -> Sizes:
    """The sizes of the feature maps of a network from an image with 3 channels."""
    source = f"net (float[N,3,8,8] x) => (float[] end) <{weights}> {{ {body} }}"
    graph = golden_text.after_pass(golden_text.parsed(source), "assign_channels")
    channels = graph.result(CHANNELS)
    # A view cannot disagree with the groups: each name is one of theirs.
    known = {group.size for group in channels.groups}
    found = graph.result(SIZES)
    used = {name.rpartition("*")[2].partition("/")[0] for names in found.values() for name in names}
    assert {name for name in used if name.startswith("s")} <= known
    return found


def test_conv_edge_gives_a_new_size_and_non_conv_edges_pass_it_on() -> None:
    found = sizes(
        "float[8,3,3,3] wa, float[8] g, float[8] b, float[8] m, float[8] v, float[5,8,1,1] we",
        """
        a = Conv(x, wa)
        norm = BatchNormalization(a, g, b, m, v)
        r = Relu(norm)
        p = MaxPool<kernel_shape = [2, 2]>(r)
        end = Conv(p, we)
        """,
    )
    assert found["x"] == ["3"]
    assert found["a"] == found["norm"] == found["r"] == found["p"] == ["s0"]
    assert found["end"] == ["s1"]


def test_separable_convolution_has_one_new_size() -> None:
    found = sizes(
        "float[8,3,1,1] wa, float[8,1,3,3] dw, float[6,8,1,1] pw, float[5,6,1,1] we",
        """
        a = Conv(x, wa)
        depthwise = Conv<group = 8>(a, dw)
        pointwise = Conv(depthwise, pw)
        end = Conv(pointwise, we)
        """,
    )
    assert found["a"] == found["depthwise"] == ["s0"]
    assert found["pointwise"] == ["s1"]
    assert found["end"] == ["s2"]


def test_summation_makes_its_inbound_sizes_equal() -> None:
    found = sizes(
        "float[8,3,1,1] wa, float[8,3,1,1] wb, float[5,8,1,1] we",
        "a = Conv(x, wa)  b = Conv(x, wb)  s = Add(a, b)  end = Conv(s, we)",
    )
    assert found["a"] == found["b"] == found["s"] == ["s0"]
    assert found["end"] == ["s1"]


def test_concatenation_has_the_sizes_of_its_inbound_edges_in_a_row() -> None:
    found = sizes(
        "float[8,3,1,1] wa, float[4,3,1,1] wb, float[5,12,1,1] we",
        "a = Conv(x, wa)  b = Conv(x, wb)  c = Concat<axis = 1>(a, b)  end = Conv(c, we)",
    )
    assert found["a"] == ["s0"]
    assert found["b"] == ["s1"]
    assert found["c"] == ["s0", "s1"]
    assert found["end"] == ["s2"]


def test_concatenation_with_the_input() -> None:
    found = sizes(
        "float[8,3,1,1] wa, float[5,11,1,1] we",
        "a = Conv(x, wa)  c = Concat<axis = 1>(x, a)  end = Conv(c, we)",
    )
    # The image's channels are a size of their own here, a frozen one.
    assert found["x"] == ["s2"]
    assert found["a"] == ["s0"]
    assert found["c"] == ["s2", "s0"]


def test_residual_chain_has_one_size_on_its_trunk_and_one_in_each_block() -> None:
    found = sizes(
        "float[8,3,1,1] ws, float[6,8,1,1] w1, float[8,6,1,1] w2, float[4,8,1,1] w3,"
        " float[8,4,1,1] w4, float[5,8,1,1] we",
        """
        stem = Conv(x, ws)
        inner1 = Conv(stem, w1)
        outer1 = Conv(inner1, w2)
        sum1 = Add(stem, outer1)
        inner2 = Conv(sum1, w3)
        outer2 = Conv(inner2, w4)
        sum2 = Add(sum1, outer2)
        end = Conv(sum2, we)
        """,
    )
    trunk = ["stem", "outer1", "sum1", "outer2", "sum2"]
    assert [found[name] for name in trunk] == [["s0"]] * 5
    assert found["inner1"] == ["s1"]
    assert found["inner2"] == ["s2"]
    assert found["end"] == ["s3"]


def test_densenet_chain_adds_a_size_a_layer() -> None:
    found = sizes(
        "float[8,3,1,1] ws, float[4,8,1,1] w1, float[4,12,1,1] w2, float[4,16,1,1] w3, float[5,20,1,1] we",
        """
        stem = Conv(x, ws)
        one = Conv(stem, w1)
        c1 = Concat<axis = 1>(stem, one)
        two = Conv(c1, w2)
        c2 = Concat<axis = 1>(c1, two)
        three = Conv(c2, w3)
        c3 = Concat<axis = 1>(c2, three)
        end = Conv(c3, we)
        """,
    )
    assert [found[n] for n in ("stem", "one", "two", "three")] == [["s0"], ["s1"], ["s2"], ["s3"]]
    assert found["c1"] == ["s0", "s1"]
    assert found["c2"] == ["s0", "s1", "s2"]
    assert found["c3"] == ["s0", "s1", "s2", "s3"]
    assert found["end"] == ["s4"]


def test_inception_module_has_one_size_a_branch() -> None:
    found = sizes(
        "float[8,3,1,1] ws, float[4,8,1,1] w1, float[6,8,1,1] w2, float[4,6,3,3] w3,"
        " float[3,8,1,1] w4, float[5,11,1,1] we",
        """
        stem = Conv(x, ws)
        b1 = Conv(stem, w1)
        reduce = Conv(stem, w2)
        b2 = Conv<pads = [1, 1, 1, 1]>(reduce, w3)
        pool = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(stem)
        b3 = Conv(pool, w4)
        c = Concat<axis = 1>(b1, b2, b3)
        end = Conv(c, we)
        """,
    )
    assert found["stem"] == found["pool"] == ["s0"]
    names = [found[n][0] for n in ("b1", "reduce", "b2", "b3")]
    assert len(set(names)) == 4
    assert found["c"] == [*found["b1"], *found["b2"], *found["b3"]]


def test_cell_whose_nodes_are_sums_of_several_edges() -> None:
    """A DARTS cell: two inputs, two nodes of two edges each, their concatenation."""
    found = sizes(
        "float[4,3,1,1] wp, float[4,3,1,1] wq, float[4,1,3,3] dw, float[4,4,1,1] pw,"
        " float[4,4,3,3] wc, float[5,8,1,1] we",
        """
        in1 = Conv(x, wp)
        in2 = Conv(x, wq)
        dw1 = Conv<group = 4, pads = [1, 1, 1, 1]>(in1, dw)
        sep = Conv(dw1, pw)
        skip = Identity(in2)
        node1 = Add(sep, skip)
        pool = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(in2)
        conv = Conv<pads = [1, 1, 1, 1]>(node1, wc)
        node2 = Add(pool, conv)
        cell = Concat<axis = 1>(node1, node2)
        end = Conv(cell, we)
        """,
    )
    # The skip and the pooling pass in2's size on to both nodes; in1 is read through weights only.
    assert found["in1"] == found["dw1"] == ["s0"]
    for name in ("in2", "skip", "sep", "node1", "pool", "conv", "node2"):
        assert found[name] == ["s1"], name
    assert found["cell"] == ["s1", "s1"]
    assert found["end"] == ["s2"]


def test_a_later_sum_makes_sizes_given_out_before_equal() -> None:
    """Back propagation: a and b look independent until their descendants meet."""
    found = sizes(
        "float[8,3,1,1] wa, float[8,3,1,1] wb, float[5,8,1,1] w1, float[5,8,1,1] we",
        """
        a = Conv(x, wa)
        side = Conv(a, w1)
        b = Conv(x, wb)
        ra = Relu(a)
        rb = Sigmoid(b)
        late = Mul(ra, rb)
        end0 = Conv(late, we)
        end = Concat<axis = 1>(end0, side)
        """,
    )
    assert found["a"] == found["b"] == found["ra"] == found["rb"] == found["late"] == ["s0"]
    assert found["side"] != found["a"]


def test_a_sum_with_a_concatenation_reaches_back_through_it() -> None:
    """Two halves and a whole (FactorizedReduce beside a convolution): one size, in halves."""
    found = sizes(
        "float[4,3,1,1] wa, float[4,3,1,1] wb, float[8,3,1,1] wc, float[5,8,1,1] we",
        """
        a = Conv(x, wa)
        b = Conv(x, wb)
        c = Concat<axis = 1>(a, b)
        d = Conv(x, wc)
        s = Add(c, d)
        end = Conv(s, we)
        """,
    )
    assert found["a"] == found["b"] == ["s0/2"]
    assert found["c"] == found["d"] == found["s"] == ["s0"]


def test_depthwise_multiplier_and_flatten_hold_each_channel_several_times() -> None:
    found = sizes(
        "float[4,3,1,1] wa, float[8,1,1,1] dw, float[512,5] fc",
        """
        a = Conv(x, wa)
        d = Conv<group = 4>(a, dw)
        f = Flatten(d)
        end = MatMul(f, fc)
        """,
    )
    assert found["a"] == ["s0"]
    assert found["d"] == ["2*s0"]
    assert found["f"] == ["128*s0"]
    assert found["end"] == ["s1"]
