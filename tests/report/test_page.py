"""The page of a run: what it says, for runs in every state, and that nothing in it comes from outside."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from made_run import make_run
from parsed_page import Page

from conet_graph.models.export import export_onnx
from conet_graph.report.page import page
from conet_graph.search.read_run import read_run


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "resnet8.onnx"
    export_onnx("resnet8", path, width=8)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, resnet8: Path) -> tuple[Path, str]:
    folder = make_run(tmp_path_factory.mktemp("run") / "a", trials=5, epochs=6, model=resnet8)
    return folder, page(read_run(folder))


def test_the_page_is_well_formed_and_fetches_nothing(whole: tuple[Path, str]) -> None:
    parsed = Page(whole[1])
    assert parsed.wrong == []
    assert len(whole[1]) < 2_000_000
    for tag, attrs in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img")
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#"), (tag, attrs)
    assert "@import" not in whole[1]
    assert "url(http" not in whole[1]


def test_only_the_pages_own_script_may_run(whole: tuple[Path, str]) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", whole[1], re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for t, a in Page(whole[1]).elements if "http-equiv" in a)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_summary_says_what_the_run_holds(whole: tuple[Path, str]) -> None:
    folder, source = whole
    run, parsed = read_run(folder), Page(source)
    text = parsed.text()
    assert parsed.text("h1") == "resnet8.onnx"
    assert "finished" in text
    best = run.best
    assert best is not None
    assert best.accuracy is not None
    assert f"{100 * best.accuracy:.1f} %" in text
    assert "of at most 5, 30 epochs" in text
    assert f"{100 * run.overhead_seconds / run.seconds:.1f} %" in text


def test_every_size_has_its_curves_row_panel_and_layers(whole: tuple[Path, str]) -> None:
    folder, source = whole
    run, parsed = read_run(folder), Page(source)
    assert len(run.sizes) == 6
    for k in range(len(run.sizes)):
        of_size = [(tag, a.get("class", "")) for tag, a in parsed.elements if a.get("data-size") == str(k)]
        kinds = [name for _, name in of_size]
        # Widths and slopes; alone at its end, a curve is named there too.
        assert 2 <= kinds.count("curve") <= 4
        assert kinds.count("panel") == kinds.count("chip") == 1
        assert [tag for tag, _ in of_size].count("tr") == 2
        assert kinds.count("dot") == 10
        assert kinds.count("part layer") >= 1


def test_widths_in_the_tables_are_the_runs(whole: tuple[Path, str]) -> None:
    folder, source = whole
    run = read_run(folder)
    table = re.search(r'<table class="course">(.*?)</table>', source, re.DOTALL)
    assert table is not None
    rows = re.findall(r'<tr data-size="(\d+)">(.*?)</tr>', table[1], re.DOTALL)
    shown = [[int(n) for n in re.findall(r">(\d+)<", cells)] for _, cells in rows]
    assert shown == [[width for _, width in run.course(size)] for size in run.sizes]


def test_a_run_under_way_is_shown_as_it_stands(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", trials=3, epochs=4, status="running", compared=False))
    parsed = Page(page(run))
    assert parsed.wrong == []
    assert "No ONNX file of this run could be read" in parsed.text()
    assert "Comparison" not in parsed.text("h2")


@pytest.mark.parametrize(("sizes", "trials"), [(1, 1), (5, 1), (30, 2)])
def test_few_and_many_sizes_and_trials(tmp_path: Path, sizes: int, trials: int) -> None:
    parsed = Page(page(read_run(make_run(tmp_path / "a", sizes=sizes, trials=trials, epochs=1))))
    assert parsed.wrong == []
    assert len(parsed.of_class("panel")) == sizes


def test_a_run_without_trials_has_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", trials=1, compared=False)
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for table in ("trials", "widths", "epochs", "ranks", "outcomes"):
            database.execute(f"DELETE FROM {table}")
    parsed = Page(page(read_run(folder)))
    assert parsed.wrong == []
    assert "No trial has been measured yet" in parsed.text()


def test_numbers_that_overflowed_count_as_not_measured(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", sizes=2, trials=2)
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for column in ("trials SET test_accuracy", "outcomes SET slope", "outcomes SET condition"):
            database.execute(f"UPDATE {column}=9e999")
        database.execute("UPDATE ranks SET rank=-9e999 WHERE epoch=2")
        database.execute("UPDATE epochs SET metrics='{\"test_accuracy\": NaN}'")
    run = read_run(folder)
    assert run.best is None
    assert [epoch for epoch, _ in run.trials[0].ranks["s0"]] == [1, 3, 4, 5]
    parsed = Page(page(run))
    assert parsed.wrong == []
    assert "inf" not in parsed.text("td")


def test_the_comparison_gives_mean_and_spread(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", trials=1, compared=False)
    rows = [("uniform", s, "{}", 1000 + s, 5000, 20, "step", a, 60.0) for s, a in enumerate((0.5, 0.6, 0.7))]
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        database.execute("INSERT INTO comparison VALUES('conet', 1, '{}', 900, 1, 9, 'step', 0.9, 1.0)")
        database.executemany("INSERT INTO comparison VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("INSERT INTO comparison VALUES('conet', 0, '{}', 900, NULL, 20, 'step', NULL, NULL)")
    source = page(read_run(folder))
    assert "60.0 ± 10.0 %" in source
    assert "90.0 %" not in source  # trained otherwise than the last one: not mixed in
    assert source.index("found by the search") < source.index("uniform scaling")
