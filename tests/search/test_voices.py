"""Who speaks for which size: the paper's tables, derived, and graphs made by hand."""

from __future__ import annotations

from pathlib import Path

import golden_text
import pytest
from darts_tables import TABLES, conv_names

from conet_graph.ir.load import load_model
from conet_graph.models.export import export_onnx
from conet_graph.passes import analysed
from conet_graph.search.voices import Size, Speakers, speakers_of

Said = frozenset[str]


def network(weights: str, body: str) -> Speakers:
    """A network from an image with 3 channels; its output, and so the size of ``end``, is frozen."""
    source = f"net (float[N,3,8,8] x) => (float[] end) <{weights}> {{ {body} }}"
    return speakers_of(golden_text.after_pass(golden_text.parsed(source), "assign_channels"))


def said(found: Speakers) -> list[set[str]]:
    """Of each size its voices, as in 'out a' or 'out a+b'."""
    return [{f"{v.side} {'+'.join(v.layers)}" for v in size.voices} for size in found.sizes]


def test_producers_speak_by_their_output_and_consumers_by_their_input() -> None:
    found = network(
        "float[8,3,3,3] wa, float[8,1,3,3] wd, float[6,8,1,1] wb, float[5,6,1,1] we",
        "a = Conv(x, wa) d = Conv<group = 8>(a, wd) b = Conv(d, wb) end = Conv(b, we)",
    )
    assert said(found) == [{"out a", "in b"}, {"out b", "in end"}]
    assert found.weights == {"a": "wa", "b": "wb", "end": "we"}
    assert [size.width for size in found.sizes] == [8, 6]


def test_reader_of_a_concatenation_speaks_by_its_output_only() -> None:
    found = network(
        "float[8,3,1,1] wa, float[6,3,1,1] wb, float[4,14,1,1] wc, float[5,4,1,1] we",
        "a = Conv(x, wa) b = Conv(x, wb) ab = Concat<axis = 1>(a, b) c = Conv(ab, wc) end = Conv(c, we)",
    )
    assert said(found) == [{"out a"}, {"out b"}, {"out c", "in end"}]


def test_reader_of_one_size_several_times_speaks_by_its_input_too() -> None:
    found = network(
        "float[8,3,1,1] wa, float[4,16,1,1] wb, float[5,4,1,1] we",
        "a = Conv(x, wa) r = Relu(a) ar = Concat<axis = 1>(a, r) b = Conv(ar, wb) end = Conv(b, we)",
    )
    assert said(found) == [{"out a", "in b"}, {"out b", "in end"}]


def test_halves_that_are_concatenated_are_one_voice() -> None:
    found = network(
        "float[4,3,1,1] wa, float[3,3,1,1] wb, float[7,3,1,1] wc, float[5,7,1,1] we",
        """
        a = Conv(x, wa) b = Conv(x, wb) ab = Concat<axis = 1>(a, b)
        c = Conv(x, wc) sum = Add(ab, c) end = Conv(sum, we)
        """,
    )
    assert said(found) == [{"out c", "out a+b", "in end"}]
    assert found.sizes[0].width == 7
    assert len(found.sizes[0].groups) == 2


def test_input_with_something_frozen_beside_it_does_not_count() -> None:
    found = network(
        "float[8,3,1,1] wa, float[5,11,1,1] we",
        "a = Conv(x, wa) ax = Concat<axis = 1>(a, x) end = Conv(ax, we)",
    )
    assert said(found) == [{"out a"}]


def test_size_of_depthwise_layers_alone_has_no_voice() -> None:
    found = network(
        "float[12,1,3,3] wd, float[5,12,1,1] we, float[4,15,1,1] wf",
        "d = Conv<group = 3>(x, wd) dx = Concat<axis = 1>(d, x) end = Conv(dx, wf)",
    )
    assert [(size.width, size.multiple, size.voices) for size in found.sizes] == [(12, 3, ())]


def test_products_speak_but_the_classifier_does_not() -> None:
    source = """net (float[N,3,4,4] x) => (float[] end)
        <float[8,3,1,1] wa, float[8,6] wb, float[9,6] wc, float[9,5] we> {
        a = Conv(x, wa) p = GlobalAveragePool(a) f = Flatten(p)
        b = MatMul(f, wb) c = Gemm<transB = 1>(b, wc) end = MatMul(c, we) }"""
    found = speakers_of(golden_text.after_pass(golden_text.parsed(source), "assign_channels"))
    assert said(found) == [{"out a", "in b"}, {"out b", "in c"}, {"out c"}]
    assert found.input_first == {"b"}


def test_reader_of_flattened_pixels_speaks_by_its_output_only() -> None:
    source = """net (float[N,3,4,4] x) => (float[] end)
        <float[8,3,1,1] wa, float[128,6] wb, float[6,5] we> {
        a = Conv(x, wa) f = Flatten(a) b = MatMul(f, wb) end = MatMul(b, we) }"""
    found = speakers_of(golden_text.after_pass(golden_text.parsed(source), "assign_channels"))
    assert said(found) == [{"out a"}, {"out b"}]


def test_voices_of_layers_that_were_not_measured_fall_silent() -> None:
    found = network(
        "float[4,3,1,1] wa, float[3,3,1,1] wb, float[5,7,1,1] we",
        "a = Conv(x, wa) b = Conv(x, wb) ab = Concat<axis = 1>(a, b) end = Conv(ab, we)",
    )
    heard = found.heard(["a"])
    assert [[voice.layers for voice in voices] for voices in heard.values()] == [[("a",)], []]


def spoken_of(layer: str, cell: list[str], found: Speakers) -> set[str]:
    """The voices of the size that a cell's convolution speaks for first, within the cell and beyond."""
    entry = layer.partition("+")[0]
    side, number = ("out", entry[3:]) if entry.startswith("out") else ("in", entry[2:])
    name = next(n for n, weight in found.weights.items() if weight == cell[int(number)])
    voices = next(
        size.voices
        for size in found.sizes
        if any(voice.side == side and name in voice.layers for voice in size.voices)
    )
    return {"+".join(f"{voice.side} {found.weights[layer]}" for layer in voice.layers) for voice in voices}


@pytest.mark.parametrize(("name", "sizes"), [("darts7", 48), ("dartsplus7", 55)])
def test_voices_are_those_of_the_published_tables(name: str, sizes: int, tmp_path: Path) -> None:
    """Beyond them only later cells' convolutions that read the size alone: a table ends with its cell."""
    module = export_onnx(name, tmp_path / "m.onnx", width=8)
    found = speakers_of(analysed(load_model(tmp_path / "m.onnx")))
    assert len(found.sizes) == sizes
    cells = conv_names(module)
    seen = 0
    for index, cell in enumerate(cells):
        for entries in TABLES[name][len(cell)].values():
            listed = {
                "+".join(
                    f"out {cell[int(part[3:])]}" if part.startswith("out") else f"in {cell[int(part[2:])]}"
                    for part in entry.split("+")
                )
                for entry in entries.split()
            }
            derived = spoken_of(entries.split()[0], cell, found)
            assert listed <= derived
            later = [f"cells.{index + k}.preprocess" for k in (1, 2)]
            for beyond in derived - listed:
                assert beyond.startswith("in ")
                assert any(part in beyond for part in later)
            seen += 1
    assert seen == sizes - 1  # all but the stem's
    stem = {"out stem.0.weight", f"in {cells[0][0]}", f"in {cells[0][1]}", f"in {cells[1][0]}"}
    spoken = [{f"{v.side} {found.weights[n]}" for v in size.voices for n in v.layers} for size in found.sizes]
    assert stem in spoken


def test_stem_and_shortcuts_of_a_residual_network_are_silent(tmp_path: Path) -> None:
    export_onnx("resnet20", tmp_path / "m.onnx", width=8, keep_batchnorm=False)
    found = speakers_of(analysed(load_model(tmp_path / "m.onnx")))
    spoken = {size.layers[0]: said_of(size) for size in found.sizes}
    assert spoken["/conv1/Conv"] == {
        *(f"out /layer1/layer1.{k}/conv2/Conv" for k in range(3)),
        *(f"in /layer1/layer1.{k}/conv1/Conv" for k in range(3)),
        "in /layer2/layer2.0/conv1/Conv",
    }
    everyone = set().union(*spoken.values())
    assert not any("shortcut" in voice for voice in everyone)
    assert not any(size.pointwise for size in found.sizes)


def said_of(size: Size) -> set[str]:
    return {f"{v.side} {'+'.join(v.layers)}" for v in size.voices}


def test_a_stem_that_is_the_only_producer_speaks() -> None:
    found = network(
        "float[8,3,3,3] wa, float[6,8,3,3] wb, float[5,6,1,1] we",
        "a = Conv(x, wa) b = Conv(a, wb) end = Conv(b, we)",
    )
    assert said(found)[0] == {"out a", "in b"}


def test_a_pointwise_branch_from_elsewhere_is_no_shortcut() -> None:
    found = network(
        "float[8,3,3,3] wa, float[8,3,3,3] wo, float[8,8,1,1] wb, float[8,8,3,3] wc, float[5,8,1,1] we",
        """a = Conv<pads = [1,1,1,1]>(x, wa) o = Conv<pads = [1,1,1,1]>(x, wo)
        b = Conv(o, wb) c = Conv<pads = [1,1,1,1]>(a, wc) sum = Add(b, c) end = Conv(sum, we)""",
    )
    assert "out b" in said(found)[-1]


def test_sizes_of_pointwise_weights_alone_say_so() -> None:
    found = network(
        "float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] we",
        "a = Conv(x, wa) b = Conv(a, wb) end = Conv(b, we)",
    )
    assert [size.pointwise for size in found.sizes] == [False, True]
