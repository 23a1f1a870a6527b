"""Random networks for one image on three: each image as ONNX Runtime gives it alone."""

from __future__ import annotations

import os

import onnx
from hypothesis import HealthCheck, given, note, settings

from conet_graph.bridge import batches, to_torch
from conet_graph.bridge.batch.inputs import for_one_image
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from tests.strategies import describe, models

EXAMPLES = int(os.environ.get("CONET_GRAPH_BRIDGE_EXAMPLES", "60"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(model=models())
def test_each_image_as_alone(model: onnx.ModelProto) -> None:
    note(describe(model))
    try:
        taken = batches(to_torch(for_one_image(LoadedModel(model))))
    except Refused:
        return
    assert taken.only is None
    told = (
        "equal to ONNX Runtime",
        "not checked: its outputs are the same",
        "not checked: ONNX Runtime does not",
    )
    assert taken.checked.startswith(told), taken.checked
