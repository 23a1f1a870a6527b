"""Every network of the golden tests of tie_channels, at other widths: rewritten, and verified."""

from __future__ import annotations

from pathlib import Path

import golden_text
import onnx
import pytest

import conet_graph as cg

CASES = [
    case
    for case in golden_text.read_cases(golden_text.FOLDER / "tie_channels.txt")
    if not case.title.endswith(golden_text.NO_RUNTIME)
]


def rewritten(case: golden_text.Case, scale: float, folder: Path) -> None:
    """Rewrite a case; ``rewrite`` raises where the result is not what the plan says."""
    file = folder / "net.onnx"
    onnx.save(golden_text.parsed(case.source), file)
    model = cg.load(file)
    plan = cg.plan(model, scale=scale, multiple_of=1)
    assert any(group.new_width != group.old_width for group in plan.groups)
    slim = folder / "out.onnx"
    cg.save(cg.rewrite(model, plan), slim)
    golden_text.run(onnx.load(slim))


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_narrower(case: golden_text.Case, tmp_path: Path) -> None:
    rewritten(case, 0.5, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_wider(case: golden_text.Case, tmp_path: Path) -> None:
    rewritten(case, 1.5, tmp_path)


STANDARDISED = """
net (float[N,3,4,4] x) => (float[] y)
<float[8,3,3,3] w1, float[6,8,3,3] w2, float[4,6,1,1] w3, float[6] gain, float[6] zeros, float[6] ones,
 int64[3] rows = {1, 6, -1}, int64[4] back = {6, 8, 3, 3}>
{
    a = Conv(x, w1)
    r = Reshape(w2, rows)
    n, mean, var = BatchNormalization<training_mode = 1>(r, gain, zeros, zeros, ones)
    s = Reshape(n, back)
    b = Conv<pads = [3, 3, 3, 3]>(a, s)
    y = Conv(b, w3)
}
"""


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_weights_standardised_by_a_training_batchnorm_stay_what_they_are(
    scale: float, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(golden_text.parsed(STANDARDISED), file)
    model = cg.load(file)
    plan = cg.plan(model, scale=scale, multiple_of=1)
    assert {(g.old_width, g.new_width) for g in plan.groups} >= {(8, int(8 * scale)), (6, int(6 * scale))}
    assert plan.exact
    cg.rewrite(model, plan)
