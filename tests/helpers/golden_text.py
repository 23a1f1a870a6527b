"""Golden tests of passes: ONNX text in, the printed graph out, and the meaning unchanged.

A file holds the cases of one pass: a title after ``===``, the network as ONNX text, ``--->``, and
what the graph looks like after that pass. Weights that are declared without data get random ones,
seeded by their name. A header with opset 17 is put before a text that has none.
"""

from __future__ import annotations

import difflib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnxruntime
from onnx import helper, numpy_helper

from conet_graph.ir.check import check_model
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.text import to_text
from conet_graph.passes import PIPELINE, PassManager

FOLDER = Path(__file__).parent.parent / "golden" / "passes"
HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'
# A title that ends so belongs to a network with operators that no runtime has.
NO_RUNTIME = "(no runtime)"


@dataclass(frozen=True)
class Case:
    """One network and what it should look like; ``expected`` is None where that is missing."""

    title: str
    source: str
    expected: str | None


def read_cases(path: Path) -> list[Case]:
    cases: list[Case] = []
    for block in path.read_text(encoding="utf-8").split("=== ")[1:]:
        title, _, body = block.partition("\n")
        source, arrow, expected = body.partition("\n--->\n")
        cases.append(Case(title.strip(), source.strip(), expected.strip() if arrow else None))
    return cases


def write_cases(path: Path, cases: list[Case]) -> None:
    blocks = [f"=== {c.title}\n{c.source}\n--->\n{c.expected}\n" for c in cases]
    path.write_text("\n".join(blocks), encoding="utf-8")


def parsed(source: str) -> onnx.ModelProto:
    """The valid model of a text: see ``filled``. The shapes of its outputs are inferred."""
    model = filled(source)
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
    return model


def filled(source: str) -> onnx.ModelProto:
    """The model of a text, its declared weights filled with numbers that depend on their names."""
    model = onnx.parser.parse_model(source if source.startswith("<") else HEADER + source)
    made = {name for node in model.graph.node for name in node.output}
    declared = [v for v in model.graph.value_info if v.name not in made]
    for value in declared:
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        array = _numbers(value.name, dims, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.value_info.remove(value)
    return model


def _numbers(name: str, dims: list[int], dtype: np.dtype) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 8, dims).astype(dtype)
    return rng.uniform(0.1, 1.0, dims).astype(dtype)


def after_pass(model: onnx.ModelProto, name: str) -> Graph:
    """The graph of a model after all passes up to the one named."""
    names = [step.name for step in PIPELINE]
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    return PassManager(PIPELINE[: names.index(name) + 1]).run(Graph.of(LoadedModel(copy)))


def as_model(graph: Graph) -> onnx.ModelProto:
    """A graph as a model that a runtime can load."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.skeleton)
    for name, constant in graph.constants.items():
        tensor = numpy_helper.from_array(np.array(graph.array(name)), name)
        tensor.data_type = constant.tensor.data_type
        model.graph.initializer.append(tensor)
    return model


def run(model: onnx.ModelProto, seed: int = 0) -> list[np.ndarray]:
    """The outputs of a model for random inputs; free dimensions are 2."""
    rng = np.random.default_rng(seed)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), quiet, providers=["CPUExecutionProvider"]
    )
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}
    feeds = {
        value.name: np.asarray(
            4 * rng.random([d if isinstance(d, int) else 2 for d in value.shape]), types[value.type]
        )
        for value in session.get_inputs()
    }
    return session.run(None, feeds)


def assert_same_meaning(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Both are valid, by ONNX's rules and by ours, and give the same numbers."""
    onnx.checker.check_model(after)
    check_model(LoadedModel(after))
    for want, have in zip(run(before), run(after), strict=True):
        assert want.shape == have.shape
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def check_case(case: Case, name: str) -> None:
    """The graph is sound, prints as expected, and still computes the same."""
    model = parsed(case.source)
    graph = after_pass(model, name)
    assert_text(case, to_text(graph))
    if not case.title.endswith(NO_RUNTIME):
        assert_same_meaning(model, as_model(graph))


def assert_text(case: Case, text: str) -> None:
    """The text is the expected one; a case without expectation fails."""
    assert case.expected, f"'{case.title}' has no expectation: run pytest --update-golden"
    want, have = case.expected.splitlines(), text.strip().splitlines()
    if want != have:
        diff = difflib.unified_diff(want, have, "expected", "printed", lineterm="")
        raise AssertionError(f"'{case.title}' prints differently\n" + "\n".join(diff))


def update(path: Path) -> None:
    """Write what is printed now as what is expected."""
    written = [
        Case(c.title, c.source, to_text(after_pass(parsed(c.source), path.stem)).strip())
        for c in read_cases(path)
    ]
    write_cases(path, written)
