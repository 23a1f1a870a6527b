"""A model that names no opset: old exporters left it out; ONNX and runtimes ask for it today."""

from __future__ import annotations

import onnx
from onnx import helper

from conet_graph.ir.check_nodes import check_nodes
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.scopes import opset_of

# Before this IR version a model had no field for the opset: it was the first (onnx/docs/Versioning.md).
_FIRST_IR_WITH_OPSETS = 3
# From this one on (2021) no exporter was without it: where it is missing, the file is damaged.
_FIRST_IR_OF_TODAY = 8


def assume_opset(loaded: LoadedModel) -> None:
    """Give a model that names no opset the one it was most probably written for; ``loaded.assumed`` says so.

    That is the newest of the time of its IR version in which all its operators exist with these attributes.
    """
    proto = loaded.proto
    if opset_of(proto.opset_import) or any(opset_of(f.opset_import) for f in proto.functions):
        return
    if proto.ir_version >= _FIRST_IR_OF_TODAY:
        return
    if not any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        return
    if proto.ir_version < _FIRST_IR_WITH_OPSETS:
        candidates = [1]
    else:
        # Rows of the table: release, IR version, opset of ONNX's own operators, ...
        candidates = sorted({row[2] for row in helper.VERSION_TABLE if row[1] == proto.ir_version})[::-1]
    for opset in candidates:
        entry = proto.opset_import.add(version=opset)
        if _operators_exist(proto):
            loaded.assumed = (
                f"The model names no opset: {opset} is assumed, from its IR version {proto.ir_version}"
                " and its operators."
            )
            return
        proto.opset_import.remove(entry)


def _operators_exist(proto: onnx.ModelProto) -> bool:
    try:
        check_nodes(proto)
    except InvalidModel:
        return False
    return True
