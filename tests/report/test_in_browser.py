"""The pages in a real browser, where one is installed: no complaint on the console, everything there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_run import make_run
from parsed_page import Page

from conet_graph.ir.load import load_model
from conet_graph.models.export import export_onnx
from conet_graph.passes import analysed
from conet_graph.report.analysis_page import write_analysis_page
from conet_graph.report.page import write_page
from conet_graph.search.read_run import read_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"),
    # Nothing but the page: a fresh profile would first look for updates.
    *("--no-first-run", "--disable-extensions", "--disable-component-update", "--disable-sync"),
    "--disable-background-networking",
)


def in_browser(path: Path) -> tuple[Page, list[str]]:
    """The page as it is after its script has run, and what the browser's console says."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={path.parent / 'profile'}"
    command = [CHROMIUM, *OPTIONS, profile, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout), re.findall(r"CONSOLE[^\n]*", done.stderr)


def test_a_fault_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<script>document.title = 'ran'; throw new Error('planted')</script>", "utf-8")
    page, console = in_browser(path)
    assert page.text("title") == "ran"
    assert any("planted" in line for line in console)


def test_the_report_runs_without_a_complaint(tmp_path: Path) -> None:
    model = tmp_path / "resnet8.onnx"
    export_onnx("resnet8", model, width=8)
    path = tmp_path / "page.html"
    write_page(read_run(make_run(tmp_path / "run", trials=4, epochs=3, model=model)), path)
    page, console = in_browser(path)
    assert console == []
    plots = [a for t, a in page.elements if t == "svg"]
    # Widths, three of progress, six panels of ranks, slopes, and the drawing.
    assert len(plots) == 12
    assert len(page.of_class("part")) == 15
    # The script ran: titles became the page's own tooltips.
    assert page.of_class("dot")[0]["data-tip"].startswith("s0, trial 0: 32 channels")


def test_the_analysis_page_runs_without_a_complaint(tmp_path: Path) -> None:
    model, path = tmp_path / "resnet8.onnx", tmp_path / "page.html"
    export_onnx("resnet8", model, width=8)
    write_analysis_page(analysed(load_model(model)), path)
    page, console = in_browser(path)
    assert console == []
    assert len(page.of_class("layer")) == 10
    assert "graph output 'logits'" in page.text("td")
