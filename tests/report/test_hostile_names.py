"""Names that a stranger's file may bear never become markup."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import onnx
import pytest
from made_run import make_run
from onnx import TensorProto, helper
from parsed_page import Page

from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from conet_graph.report.analysis_page import write_analysis_page
from conet_graph.report.page import page
from conet_graph.report.plot_files import write_plots
from conet_graph.search.read_run import read_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)//",
    "\"'><img src=x onerror=alert(3)>",
    "</style></title></svg><!-- ]]> & &lt;",
    "$style $body ${title} $\\frac{x}$",
    "\x00\x1b[31m\u202etxt\n\ud7ff",
)


def hostile_model(path: Path) -> Path:
    nodes, inits, last = [], [], HOSTILE[2] + "in"
    graph_in = helper.make_tensor_value_info(last, TensorProto.FLOAT, [HOSTILE[0], 4, 8, 8])
    for k, name in enumerate(HOSTILE):
        weight, out = f"w{name}", f"v{k}{name}"
        inits.append(helper.make_tensor(weight, TensorProto.FLOAT, (4, 4, 1, 1), [0.1] * 16))
        nodes.append(helper.make_node("Conv", [last, weight], [f"c{out}"], name=name))
        nodes.append(helper.make_node("Add", [f"c{out}", last], [out], name=f"sum{name}"))
        last = out
    nodes.append(helper.make_node(HOSTILE[0], [last], ["y" + HOSTILE[1]], domain="<blink>", name=HOSTILE[1]))
    graph_out = helper.make_tensor_value_info("y" + HOSTILE[1], TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, HOSTILE[0], [graph_in], [graph_out], inits)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("<blink>", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9, producer_name=HOSTILE[0])
    onnx.save(model, path)
    return path


def assert_harmless(source: str) -> Page:
    parsed = Page(source)
    assert parsed.wrong == []
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not {"img", "iframe", "blink"} & {tag for tag, _ in parsed.elements}
    assert not [a for _, a in parsed.elements if any(name.startswith("on") for name in a)]
    assert "<script>alert" not in source
    assert "\x1b" not in source
    assert "\x00" not in source
    assert "\u202e" not in source
    return parsed


def test_markup_from_names_is_seen() -> None:
    with pytest.raises(AssertionError):
        assert_harmless(f"<p>{HOSTILE[0]}</p>")
    with pytest.raises(AssertionError):
        assert_harmless(f'<p title="{HOSTILE[2]}"></p><script></script>')


def test_an_analysis_page_of_a_hostile_model(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(4)>"
    folder.mkdir()
    model = hostile_model(folder / "<script>5<script>.onnx")
    out = tmp_path / "page.html"
    write_analysis_page(analysed(load_model(model)), out)
    parsed = assert_harmless(out.read_text("utf-8"))
    assert "<script>alert(1)</script>" in parsed.text("td")
    assert parsed.text("h1") == "<script>5<script>.onnx"


def test_a_report_of_a_hostile_run(tmp_path: Path) -> None:
    about = dict.fromkeys(("data", "command", "version", "started", "sha256"), HOSTILE[0])
    about |= {"status": '"><script>alert(6)</script>', "model": "a/</script>.onnx"}
    folder = make_run(tmp_path / "run", sizes=len(HOSTILE), trials=2, epochs=2, about=about)
    (folder / "original.onnx").write_bytes(hostile_model(tmp_path / "m.onnx").read_bytes())
    settings = json.dumps({HOSTILE[2]: HOSTILE[0], "trials": HOSTILE[1], "delta": HOSTILE[0]})
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        database.execute("UPDATE about SET value=? WHERE key='settings'", (settings,))
        database.execute("UPDATE trials SET status=?", (HOSTILE[2],))
        database.execute("UPDATE comparison SET kind=? WHERE kind='random'", (HOSTILE[0],))
        for k, name in enumerate(HOSTILE):
            for table in ("sizes", "widths", "ranks", "outcomes"):
                database.execute(f"UPDATE {table} SET size=? WHERE size=?", (name, f"s{k}"))
            database.execute("UPDATE sizes SET layers=? WHERE size=?", (json.dumps([name]), name))
    run = read_run(folder)
    source = page(run)
    parsed = assert_harmless(source)
    assert "<script>alert(1)</script>" in parsed.text("td")
    for file in write_plots(run, tmp_path / "plots"):
        if file.suffix == ".svg":
            assert "<script" not in file.read_text("utf-8")
