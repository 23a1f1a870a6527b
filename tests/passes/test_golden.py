from __future__ import annotations

import golden_text
import pytest

from conet_graph.passes import PIPELINE

CASES = [
    (path.stem, case)
    for path in sorted(golden_text.FOLDER.glob("*.txt"))
    for case in golden_text.read_cases(path)
]
# Passes that only look (check_shapes) leave nothing to print.
CHANGING = [step.name for step in PIPELINE if not step.name.startswith("check")]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c.title}" for n, c in CASES])
def test_case(name: str, case: golden_text.Case) -> None:
    golden_text.check_case(case, name)


@pytest.mark.parametrize("name", CHANGING)
def test_every_pass_has_cases(name: str) -> None:
    assert any(name == stem for stem, _ in CASES), f"tests/golden/passes/{name}.txt is missing"


def test_titles_are_unique() -> None:
    titles = [(name, case.title) for name, case in CASES]
    assert len(titles) == len(set(titles))
