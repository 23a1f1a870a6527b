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
    plan = cg.plan(model, scale=scale)
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
