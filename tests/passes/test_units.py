"""The smallest parts of the passes, and each test helper on a planted fault, where it must fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import golden_text
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conet_graph.ir.errors import InvalidModel
from conet_graph.passes.channels.labels import in_copies, runs
from conet_graph.passes.channels.units import NoRule, Units

NET = """net (float[N,3,8,8] x) => (float[] y) <float[8,3,3,3] w1, float[4,8,3,3] w2>
{
    a = Conv(x, w1)
    y = Conv(a, w2)
}"""

EXPECTED = """conet-graph.ir/1
input %x f32[N,3,8,8]
weight %w1 f32[8:g0,3:g2,3,3]
weight %w2 f32[4:g1,8:g0,3,3]
%a f32[N,8:g0,6,6] = Conv(%x, %w1)  # conv
%y f32[N,4:g1,4,4] = Conv(%a, %w2)  # conv
output %y
group g0 width=8 free
group g1 width=4 frozen: graph output 'y'
group g2 width=3 frozen: graph input 'x'"""

CASE = golden_text.Case("two convolutions", NET, EXPECTED)


def units() -> Units:
    return Units(golden_text.after_pass(golden_text.parsed(NET), "tie_channels"))


# -- helpers must fail -----------------------------------------------------------------------------


def test_golden_case_passes_when_it_should() -> None:
    golden_text.check_case(CASE, "tie_channels")


def test_golden_case_fails_on_another_text_and_shows_the_difference() -> None:
    wrong = replace(CASE, expected=EXPECTED.replace("width=8", "width=9"))
    with pytest.raises(AssertionError, match=r"(?s)-group g0 width=9 free.*\+group g0 width=8 free"):
        golden_text.check_case(wrong, "tie_channels")


def test_golden_case_fails_without_expectation(tmp_path: Path) -> None:
    file = tmp_path / "tie_channels.txt"
    file.write_text(f"=== no arrow\n{NET}\n\n=== nothing behind it\n{NET}\n--->\n")
    cases = golden_text.read_cases(file)
    assert [case.title for case in cases] == ["no arrow", "nothing behind it"]
    for case in cases:
        with pytest.raises(AssertionError, match="has no expectation"):
            golden_text.check_case(case, "tie_channels")


def test_golden_update_writes_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "tie_channels.txt"
    file.write_text(f"=== {CASE.title}\n{NET}\n")
    golden_text.update(file)
    assert golden_text.read_cases(file) == [CASE]


def test_golden_update_is_refused_in_ci(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    refuse = next(p.refuse_in_ci for p in plugins if hasattr(p, "refuse_in_ci"))
    monkeypatch.delenv("CI", raising=False)
    refuse()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.UsageError, match="refused"):
        refuse()


def test_meaning_fails_when_a_weight_changes() -> None:
    model = golden_text.parsed(NET)
    graph = golden_text.after_pass(model, "tie_channels")
    golden_text.assert_same_meaning(model, golden_text.as_model(graph))
    array = np.array(graph.array("w2"))
    array[0, 0, 0, 0] += 0.1
    graph.constants["w2"].tensor.CopyFrom(numpy_helper.from_array(array, "w2"))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        golden_text.assert_same_meaning(model, golden_text.as_model(graph))


def test_meaning_fails_when_the_file_is_not_valid() -> None:
    model = golden_text.parsed(NET)
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    broken.graph.node[1].input[0] = "nobody"
    with pytest.raises((onnx.checker.ValidationError, InvalidModel)):
        golden_text.assert_same_meaning(model, broken)


def test_declared_weights_depend_on_their_names_only() -> None:
    first, again = golden_text.parsed(NET), golden_text.parsed(NET)
    other = golden_text.parsed(NET.replace("w1", "v1"))
    assert first.SerializeToString() == again.SerializeToString()
    arrays = [numpy_helper.to_array(m.graph.initializer[0]) for m in (first, other)]
    assert not np.array_equal(*arrays)


# -- units -----------------------------------------------------------------------------------------


def test_tied_units_are_one_class_and_frozen_ones_spread() -> None:
    t = units()
    op = t.graph.operators[0]
    left, right = t.axis("w1", 0), t.axis("w2", 1)
    t.tie(op, left, right)
    t.freeze(op, t.axis("w2", 0), "because")
    t.solve()
    assert not isinstance(left, int)
    assert not isinstance(right, int)
    assert np.array_equal(t.classes[left], t.classes[right])
    assert len(set(t.classes[left].tolist())) == 8
    assert not t.frozen_class[t.classes[left]].any()
    kept = t.classes[np.asarray(t.axis("w2", 0))]
    assert t.frozen_class[kept].all()
    assert t.reason_of(kept) == "because"


def test_axes_of_different_lengths_cannot_be_tied() -> None:
    t = units()
    with pytest.raises(NoRule, match="8 and 4 positions"):
        t.tie(t.graph.operators[0], t.axis("w1", 0), t.axis("w2", 0))


# -- names along an axis ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "width", "spelled"),
    [
        ([1, 2, 3, 4], 4, ["g"]),
        ([1, 1, 2, 2, 3, 3, 4, 4], 4, ["2*g"]),
        ([1, 2, 3, 4, 1, 2, 3, 4], 4, ["g", "g"]),
        ([1, 2], 4, ["g/2"]),
        ([1, 2, 3], 4, ["g[3]"]),
        ([1, 2, 3, 4, 1], 4, ["g[5]"]),
    ],
)
def test_copies_and_parts_of_a_group(classes: list[int], width: int, spelled: list[str]) -> None:
    assert in_copies("g", width, np.array(classes)) == spelled


def test_runs_side_by_side_and_interleaved() -> None:
    classes = np.arange(16)
    beside = runs(np.repeat([0, 1], 8), classes)
    assert [(r.key, len(r.classes), r.scattered) for r in beside] == [(0, 8, False), (1, 8, False)]
    shuffled = runs(np.tile([0, 1], 8), classes)
    assert [(r.key, len(r.classes), r.scattered) for r in shuffled] == [(0, 8, True), (1, 8, True)]
    assert runs(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []
