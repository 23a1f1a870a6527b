"""A sum times the literal 1/N of what it sums over is a mean: then the number follows the width."""

from __future__ import annotations

import math

from onnx import helper

from conet_graph.ir.dead_code import keep_live
from conet_graph.ir.graph import Graph, Operator

# Rounding of 1/N to a float.
CLOSE = 1e-6


def write_means(graph: Graph) -> bool:
    """Write each ReduceSum that is divided by the number of its terms as ReduceMean; whether any was.

    Exporters from TensorFlow and JAX spell the mean and the variance of a norm so.
    """
    changed = False
    for op in graph.operators:
        summed = _sum_behind(graph, op)
        if summed is None:
            continue
        mean = helper.make_node("ReduceMean", summed.inputs[:1], op.outputs, name=summed.proto.name)
        axes = _axes(graph, summed)
        if graph.opset >= 18:
            mean.input.extend(summed.inputs[1:2])
            kept = [a for a in summed.proto.attribute if a.name != "axes"]
        else:
            kept = [a for a in summed.proto.attribute if a.name == "keepdims"]
            mean.attribute.append(helper.make_attribute("axes", axes))
        mean.attribute.extend(kept)
        op.become(mean)
        changed = True
    if changed:
        keep_live(graph, [op.proto for op in graph.operators])
    return changed


def _sum_behind(graph: Graph, op: Operator) -> Operator | None:
    """The ReduceSum whose result this operator divides by its number of terms, read by nobody else."""
    if op.domain or op.op_type not in ("Mul", "Div"):
        return None
    slots = (0, 1) if op.op_type == "Mul" else (0,)
    for slot in slots:
        summed, factor = graph.producers.get(op.input(slot)), graph.constants.get(op.input(1 - slot))
        if summed is None or summed.op_type != "ReduceSum" or summed.domain:
            continue
        if factor is None or factor.size != 1 or not factor.is_float or not _only_read_here(graph, op, slot):
            continue
        value = float(graph.array(op.input(1 - slot)).reshape(-1)[0])
        terms = _terms(graph, summed)
        rank = len(graph.shape(op.outputs[0]) or ())
        if terms is None or terms < 2 or len(factor.dims) > rank:
            continue
        wanted = 1 / terms if op.op_type == "Mul" else float(terms)
        if math.isclose(value, wanted, rel_tol=CLOSE):
            return summed
    return None


def _only_read_here(graph: Graph, op: Operator, slot: int) -> bool:
    name = op.input(slot)
    uses = graph.consumers.get(name, [])
    return len(uses) == 1 and name not in graph.outputs and name not in graph.captured


def _terms(graph: Graph, op: Operator) -> int | None:
    """How many numbers each sum has; None where that is not known."""
    shape = graph.shape(op.input(0))
    if shape is None:
        return None
    axes = _axes(graph, op)
    if not axes or not all(-len(shape) <= a < len(shape) for a in axes):
        return None
    sizes = [shape[a] for a in axes]
    return (
        math.prod(d for d in sizes if isinstance(d, int)) if all(isinstance(d, int) for d in sizes) else None
    )


def _axes(graph: Graph, op: Operator) -> list[int]:
    """The axes that a ReduceSum names; none where it names none, or not in the file."""
    if op.attr("axes") is not None:
        return list(op.attr("axes"))
    if op.input(1) not in graph.constants:
        return []
    return [int(a) for a in graph.array(op.input(1)).reshape(-1).tolist()]
