"""Numbers in shapes that count channels follow them: Expand, Tile, ConstantOfShape, with a free batch too."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import parsed
from rewidth_case import free, reason, rewidthed

FIXED = "agraph (float[1,3,6,6] x) => (float[] y)"
FREE = "agraph (float[N,3,6,6] x) => (float[] y)"
WEIGHTS = "float[8,3,1,1] w, float[5,8,1,1] wy, float[1,8,1,1] ws"
END = "y = Conv(z, wy)"

GROWN = {
    "a map for all channels, expanded": (
        FIXED,
        "int64[4] s = {1,8,6,6}",
        "a = Conv(x, w) m = Conv(a, ws) e = Expand(m, s) g = Sigmoid(e) z = Mul(a, g)",
    ),
    "a map for all channels, tiled": (
        FIXED,
        "int64[4] s = {1,8,1,1}",
        "a = Conv(x, w) m = Conv(a, ws) e = Tile(m, s) g = Sigmoid(e) z = Mul(a, g)",
    ),
    "an expanded map of a free batch": (
        FREE,
        "int64[3] s = {8,6,6}",
        "a = Conv(x, w) m = Conv(a, ws) n = Shape<start=0, end=1>(x) t = Concat<axis=0>(n, s)"
        " e = Expand(m, t) g = Sigmoid(e) z = Mul(a, g)",
    ),
    "a map of ones of a free batch": (
        FREE,
        "int64[3] s = {8,6,6}, float half = {0.5}",
        "a = Conv(x, w) n = Shape<start=0, end=1>(x) t = Concat<axis=0>(n, s)"
        " o = ConstantOfShape<value = float[1] {2.0}>(t) z = Div(a, o)",
    ),
    "a shape chosen by a constant condition": (
        FREE,
        "int64[3] s = {8,6,6}, bool[4] asks = {0,0,0,0}, int64[4] ones = {1,1,1,1}",
        "a = Conv(x, w) m = Conv(a, ws) n = Shape<start=0, end=1>(x) t = Concat<axis=0>(n, s)"
        " c = Where(asks, ones, t) e = Expand(m, c) g = Tanh(e) z = Add(a, g)",
    ),
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", GROWN)
def test_the_number_follows(kind: str, scale: float) -> None:
    head, more, body = GROWN[kind]
    net = parsed(f"{head}<{WEIGHTS}, {more}>{{{body} {END}}}")
    assert (8, 1) in free(net)
    new = rewidthed(net, scale=scale)
    assert new.shape("w")[0] == 8 * scale
    numbers = [a.tolist() for n, a in new.arrays().items() if a.dtype == np.int64]
    assert any(8 * scale in n for n in numbers)
    assert not any(8 in n for n in numbers)


def test_the_one_channel_that_grows_stays() -> None:
    head, more, body = GROWN["a map for all channels, expanded"]
    net = parsed(f"{head}<{WEIGHTS}, {more}>{{{body} {END}}}")
    assert "Expand 'e' broadcasts this one channel over many" in reason(net, "ws")


def test_coordinates_of_a_free_batch_are_joined() -> None:
    """A grid of coordinates for each image: the convolution beside it is free, the coordinates stay."""
    net = parsed(
        f"{FREE}<float[8,3,1,1] w, float[5,10,1,1] wy, float[1,2,6,6] grid, int64[3] s = {{1,1,1}}>"
        "{a = Conv(x, w) n = Shape<start=0, end=1>(x) t = Concat<axis=0>(n, s)"
        " e = Expand(grid, t) z = Concat<axis=1>(a, e) y = Conv(z, wy)}"
    )
    assert free(net) == [(8, 1)]
    assert rewidthed(net, scale=0.5).shape("wy") == (5, 6, 1, 1)


def test_a_size_that_only_the_run_knows_is_named() -> None:
    net = parsed(
        "agraph (float[1,3,6,6] x, int64[4] s) => (float[] y)<float[8,3,1,1] w, float[5,8,1,1] wy>"
        "{a = Conv(x, w) o = ConstantOfShape<value = float[1] {1.0}>(s) z = Add(a, o) y = Conv(z, wy)}"
    )
    assert "ConstantOfShape 'o' makes it as long as the graph computes" in reason(net, "w")


def test_pixels_that_grow_carry_no_channels() -> None:
    """A pooled map expanded to the image again: its height and width are no groups, whatever their size."""
    net = parsed(
        f"{FIXED}<{WEIGHTS}, int64[4] s = {{1,8,512,512}}>"
        "{a = Conv(x, w) q = GlobalAveragePool(a) z = Expand(q, s) y = Conv(z, wy)}"
    )
    assert free(net) == [(8, 1)]


def test_one_number_of_two_axes_is_one_size() -> None:
    """A map of channels by channels, both counted by one number of the file."""
    net = parsed(
        "agraph (float[N,3,8] x) => (float[] y)<float[6,3,1] w, float[5,6,1] wy, int64[1] s = {6},"
        " int64[3] twice = {0,1,1}, float half = {0.5}>{a = Conv(x, w) n = Shape<start=0, end=1>(x)"
        " t = Concat<axis=0>(n, s) p = Gather(t, twice) e = Expand(half, p) g = Tanh(e) c = MatMul(g, a)"
        " y = Conv(c, wy)}"
    )
    assert free(net) == [(6, 1)]
    new = rewidthed(net, widths={"w": 3})
    assert (new.shape("w")[0], new.shape("wy")[1]) == (3, 3)


# Equal numbers that exporters store or compute once, in shapes of maps that are not each other's business.
STORED_ONCE = {
    "expanded": "t = Concat<axis=0>(n, eight, pixels) e = Expand(half, t)"
    " u = Concat<axis=0>(n, eight, pixels) f = Expand(one, u)",
    "expanded, and a slice's end": "k = Slice(a, zero, eight, axis) t = Concat<axis=0>(n, eight, pixels)"
    " r = Expand(half, t) e = Mul(k, r) u = Concat<axis=0>(n, eight, pixels) f = Expand(one, u)",
    "made from a shape": "t = Concat<axis=0>(n, eight, pixels) e = ConstantOfShape<value = float[1] {0.5}>(t)"
    " u = Concat<axis=0>(n, eight, pixels) f = ConstantOfShape<value = float[1] {2.0}>(u)",
    "a number alone, unsqueezed": "v = Unsqueeze(number, zero) t = Concat<axis=0>(n, v, pixels)"
    " e = Expand(half, t) w9 = Unsqueeze(number, zero) u = Concat<axis=0>(n, w9, pixels) f = Expand(one, u)",
    "one shape for both": "t = Concat<axis=0>(n, eight, pixels) e = Expand(half, t) f = Expand(one, t)",
    "one number unsqueezed for both": "v = Unsqueeze(number, zero) t = Concat<axis=0>(n, v, pixels)"
    " e = Expand(half, t) u = Concat<axis=0>(n, v, pixels) f = Expand(one, u)",
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", STORED_ONCE)
def test_equal_numbers_stored_once_tie_nothing(kind: str, scale: float) -> None:
    """Each map follows its own channels, at the same new width as at another."""
    net = parsed(
        f"{FREE}<float[8,3,1,1] w, float[8,8,1,1] w2, float[5,8,1,1] wy, int64[1] eight = {{8}},"
        " int64[2] pixels = {6,6}, int64[1] zero = {0}, int64[1] axis = {1}, int64 number = {8},"
        " float half = {0.5}, float one = {1.0}>"
        f"{{a = Conv(x, w) n = Shape<start=0, end=1>(x) {STORED_ONCE[kind]}"
        " g = Tanh(e) h = Tanh(f) c = Mul(a, g) b = Conv(c, w2) d = Add(b, h) y = Conv(d, wy)}"
    )
    assert free(net) == [(8, 1), (8, 1)]
    assert rewidthed(net, scale=scale).shape("w2")[:2] == (int(8 * scale), int(8 * scale))
    assert rewidthed(net, widths={"w": 3}).shape("w2")[:2] == (8, 3)


LIKE = {
    "zeros like a map": "n = Shape(a) o = ConstantOfShape(n) z = Max(a, o)",
    "one number expanded as a map": "n = Shape(a) e = Expand(half, n) t = Tanh(e) z = Mul(a, t)",
    "expanded as another map is": "m = Conv(a, ws) n = Shape(a) e = Expand(m, n) t = Tanh(e) z = Mul(a, t)",
}


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", LIKE)
def test_what_takes_another_s_shape_has_its_channels(kind: str, scale: float) -> None:
    net = parsed(f"{FREE}<{WEIGHTS}, float half = {{0.5}}>{{a = Conv(x, w) {LIKE[kind]} {END}}}")
    assert (8, 1) in free(net)
    assert rewidthed(net, scale=scale).shape("w")[0] == 8 * scale


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("times", ["n, one, h, one", "n, one, h, two", "n, two, h, one"])
def test_coordinates_repeated_for_images_of_a_free_batch(times: str, scale: float) -> None:
    """Rows of numbers, tiled as often as the run says, are joined with a map (CoordConv)."""
    joined = 14 if "n, two" in times else 13
    net = parsed(
        f"agraph (float[N,3,6,6] x) => (float[] y)<float[12,3,1,1] w, float[5,{joined},1,1] wy,"
        " float[6] row, float[3] half, int64[1] b = {0}, int64[1] i = {2}, int64[1] one = {1},"
        " int64[1] two = {2}>{a = Conv(x, w) z = Shape(a) n = Gather(z, b) h = Gather(z, i)"
        f" s = Concat<axis=0>({times}) k = Shape(s) o = ConstantOfShape<value = int64[1] {{1}}>(k)"
        f" e = Expand({'half' if times.endswith('two') else 'row'}, o) t = Tile(e, s)"
        " c = Concat<axis=1>(a, t) y = Conv(c, wy)}"
    )
    assert free(net) == [(12, 1)]
    assert rewidthed(net, scale=scale).shape("w")[0] == 12 * scale
