"""Networks before and after batch normalisation is put in or taken out: valid, and equal in ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.ir.check import check_model
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.ir.save import save_model
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import open_session


def counted(model: LoadedModel, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.proto.graph.node)


def weights(model: LoadedModel) -> dict[str, NDArray[Any]]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.proto.graph.initializer}


def node(model: LoadedModel, op_type: str) -> onnx.NodeProto:
    """The first node of a type."""
    return next(n for n in model.proto.graph.node if n.op_type == op_type)


def independent_sizes(model: LoadedModel) -> int:
    channels = analysed(model).result(CHANNELS)
    return len({group.size for group in channels.groups if group.free})


def assert_same(before: LoadedModel, *after: LoadedModel, tolerance: float = 1e-5) -> None:
    """Each is a valid file and gives the outputs of the first, to a share of their largest magnitude."""
    with tempfile.TemporaryDirectory() as folder:
        feeds, want = _run(before, Path(folder) / "before.onnx", None)
        for model in after:
            check_model(model)
            _, have = _run(model, Path(folder) / "after.onnx", feeds)
            for one, other in zip(want, have, strict=True):
                assert one.shape == other.shape
                if np.issubdtype(one.dtype, np.floating):
                    # Outputs so near zero that sums of ones leave them by chance count as zero.
                    scale = max(float(np.abs(one).max(initial=0)), 1e-2)
                    np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * scale)
                else:
                    np.testing.assert_array_equal(other, one)


def _run(
    model: LoadedModel, path: Path, feeds: dict[str, NDArray[Any]] | None
) -> tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]:
    save_model(model.proto, path, model.folder)
    onnx.checker.check_model(str(path), full_check=True)
    load_model(path)
    session = open_session(path, "CPUExecutionProvider", fused=False)
    given = random_inputs(session, 2, 64) if feeds is None else feeds
    outputs: list[NDArray[Any]] = session.run(None, given)
    return given, outputs
