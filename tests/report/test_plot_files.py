"""Plots as files: complete, readable, the same from run to run."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_run import make_run
from PIL import Image

from conet_graph.ir.errors import BadUsage
from conet_graph.report.plot_files import write_plots
from conet_graph.report.plots import rank_top
from conet_graph.search.read_run import read_run


def test_five_plots_in_two_forms_with_a_curve_for_each_size(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", sizes=4, trials=3))
    files = write_plots(run, tmp_path / "out" / "deep")
    assert sorted({f.stem for f in files}) == ["final_widths", "progress", "ranks", "slopes", "widths"]
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert min(image.size) > 250
                # Not an empty sheet.
                assert len(image.convert("L").getcolors() or ()) > 20
        else:
            ElementTree.parse(file)
    ids = [e.get("id") for e in ElementTree.parse(tmp_path / "out/deep/widths.svg").iter()]
    assert {f"size-{k}" for k in range(4)} <= set(ids)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", sizes=2, trials=2))
    first, second = write_plots(run, tmp_path / "one"), write_plots(run, tmp_path / "two")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_the_network_is_drawn_where_its_file_is_there(tmp_path: Path) -> None:
    digits = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
    run = read_run(make_run(tmp_path / "a", sizes=2, trials=1, model=digits))
    files = write_plots(run, tmp_path / "out")
    assert files[-1] == tmp_path / "out" / "network.svg"
    text = files[-1].read_text("utf-8")
    ElementTree.fromstring(text)
    assert "with the widths of the file that was searched" in text
    assert "res1.0" in text


def test_rank_axes_end_at_the_next_fifth(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", sizes=2, trials=1))
    highest = max(y for t in run.trials for curve in t.ranks.values() for _, y in curve)
    assert rank_top(run) - 0.2 < highest <= rank_top(run)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", sizes=1, trials=1))
    (tmp_path / "file").touch()
    with pytest.raises(BadUsage, match="cannot be made"):
        write_plots(run, tmp_path / "file" / "plots")
