"""Operators that are left to the converters of onnx2torch."""

from __future__ import annotations

import onnx
from onnx import numpy_helper
from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph

from conet_graph.bridge.site import Converted, NotConverted, Site


def convert_upstream(site: Site) -> Converted:
    """Convert by onnx2torch, which sees a graph of this one operator.

    Raises:
        NotConverted: it has no converter either, or that one fails.

    """
    try:
        convert = get_converter(site.op.op_type, site.version, site.op.domain)
    except NotImplementedError:
        raise NotConverted("has no converter") from None
    proto = onnx.NodeProto()
    proto.CopyFrom(site.op.proto)
    body = onnx.GraphProto(node=[proto], name="one operator")
    for name in dict.fromkeys(n for n in site.op.inputs if n):
        if name in site.builder.graph.constants:
            body.initializer.append(numpy_helper.from_array(site.builder.graph.array(name), name))
        else:
            body.input.append(_declared(site, name))
    body.output.extend(_declared(site, name) for name in site.op.outputs if name)
    graph = OnnxGraph(body)
    try:
        (node,) = graph.nodes.values()
        module, mapping = convert(node, graph)
    except Exception as error:  # any: what another library raises on a form it does not know
        raise NotConverted(f"is refused by its converter: {error}") from error
    made = site.module(module, *(site.builder.value(name) if name else None for name in mapping.inputs))
    return made if len(site.op.outputs) == 1 else site.parts(made)


def _declared(site: Site, name: str) -> onnx.ValueInfoProto:
    graph = site.builder.graph
    kind = graph.dtypes.get(name, onnx.TensorProto.FLOAT)
    return onnx.helper.make_tensor_value_info(name, kind, graph.shape(name))
