"""Malformed and malicious files: a clear error or a right answer, quickly, whatever the file claims."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import time
from pathlib import Path

import pytest

from conet_graph.ir.check import check_model
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import load_model
from conet_graph.passes import analysed
from tests.helpers.corpus import CORPUS, needs_corpus

LINKS = {
    "ext_symlink.onnx": ("ext_symlink.bin", "/etc/passwd"),
    "ext_devzero.onnx": ("ext_devzero.bin", "/dev/zero"),
}


def cases() -> list[tuple[str, str]]:
    table = CORPUS / "hostile.tsv"
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(r["file"], r["expected"]) for r in rows if (CORPUS / "hostile" / r["file"]).is_file()]


def placed(name: str, folder: Path) -> Path:
    """The file; a copy beside its link where it wants one."""
    path = CORPUS / "hostile" / name
    if name in LINKS:
        shutil.copy(path, folder)
        path = folder / name
        os.symlink(LINKS[name][1], folder / LINKS[name][0])
    return path


@needs_corpus
@pytest.mark.parametrize(("name", "expected"), cases())
def test_hostile_file(name: str, expected: str, tmp_path: Path) -> None:
    path = placed(name, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()  # a busy machine is not the file's fault
    outcome, told = "ok", ""
    try:
        analysed(load_model(path))
    except InvalidModel as error:
        outcome, told = "error", str(error)
    assert "\n" not in told
    assert len(told) < 600
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024
    assert outcome in expected.split("-or-")


@needs_corpus
@pytest.mark.parametrize(("name", "expected"), cases())
def test_hostile_file_is_judged_by_the_checks_alone(name: str, expected: str, tmp_path: Path) -> None:
    path = placed(name, tmp_path)
    start = time.process_time()
    try:
        check_model(load_model(path))
        outcome = "ok"
    except InvalidModel:
        outcome = "error"
    assert time.process_time() - start < 2
    assert outcome in expected.split("-or-")


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4, 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 4, 4])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InvalidModel, match="link"):
        analysed(load_model(folder / "m.onnx"))
    (folder / "w.bin").unlink()
    (folder / "w.bin").write_bytes(bytes(24))
    analysed(load_model(folder / "m.onnx"))
