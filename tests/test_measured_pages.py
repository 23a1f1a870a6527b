"""The pages of measurements say what their rows say, and a measurement that was stopped goes on."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> Any:
    """A module of the benchmarks, under a name of its own: there is a package ``coverage``."""
    spec = importlib.util.spec_from_file_location(f"measured_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("script", ["coverage", "rewrite_coverage", "bridge_coverage", "outside"])
def test_the_summary_on_a_page_is_that_of_its_rows(script: str, tmp_path: Path) -> None:
    measured = module(script)
    rows = module("rows")
    page = tmp_path / "page.md"
    before = measured.PAGE.read_text("utf-8")
    page.write_text(before, "utf-8")
    rows.put_summary(page, f"{script}.py", measured.summary(rows.Rows(measured.FILE, (), measured.KEY).rows))
    assert page.read_text("utf-8") == before, f"run: python benchmarks/{script}.py --summary"


@pytest.mark.usefixtures("benchmarks")
def test_rows_are_kept_as_they_come_and_measured_once(tmp_path: Path) -> None:
    rows = module("rows")
    path = tmp_path / "rows.csv"
    first = rows.Rows(path, ("network", "rewrite", "seconds"), ("network",))
    first.put([{"network": "a", "rewrite": r, "seconds": 0.12345} for r in ("0.5", "2")])
    first.put([{"network": "b", "rewrite": "all", "why": "no column"}])
    again = rows.Rows(path, ("network", "rewrite", "seconds"), ("network",))
    assert [(r["network"], r["rewrite"], r["seconds"]) for r in again.rows] == [
        ("a", "0.5", "0.123"),
        ("a", "2", "0.123"),
        ("b", "all", ""),
    ]
    assert again.has(["a"])
    assert not again.has(["c"])
    assert again.has(["a"], before="2020-01-01")
    assert not again.has(["a"], before="2999-01-01")


@pytest.mark.usefixtures("benchmarks")
def test_what_is_measured_again_takes_the_place_of_all_its_rows(tmp_path: Path) -> None:
    rows = module("rows")
    path = tmp_path / "rows.csv"
    made = rows.Rows(path, ("network", "rewrite"), ("network",))
    for name in ("a", "b"):
        made.put([{"network": name, "rewrite": r} for r in ("0.5", "2")])
    made.put([{"network": "a", "rewrite": "refused,\nwith a line break"}])
    with path.open(encoding="utf-8", newline="") as file:
        found = [(r["network"], r["rewrite"]) for r in csv.DictReader(file)]
    assert found == [("a", "refused, with a line break"), ("b", "0.5"), ("b", "2")]
