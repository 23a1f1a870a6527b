"""Which convolutions lost their batch normalisation when the file was exported."""

from __future__ import annotations

import numpy as np

from conet_graph.ir.graph import Graph, Operator
from conet_graph.ir.operators import CONVOLUTIONS
from conet_graph.passes.edits.file_edit import EditedNode, FileEdit
from conet_graph.passes.fold_batchnorm import PLAIN_FLOATS

# Those whose bias, the third input, a normalisation leaves when it is folded.
PLAIN_CONVOLUTIONS = frozenset(
    name for name, record in CONVOLUTIONS.items() if record.plain == name and record.bias == 2
)
NORMALISATIONS = frozenset(
    (
        *("BatchNormalization", "GroupNorm", "GroupNormalization", "InstanceNormalization"),
        *("LayerNormalization", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization"),
        *("SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    )
)
LAYOUT = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
ACTIVATIONS = frozenset(
    (
        *("Celu", "Clip", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish"),
        *("PRelu", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh"),
    )
)
POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "ReduceMean"))
# What a prediction goes through on its way out: it is laid out, resized, squashed, scaled and picked.
READOUT = (
    LAYOUT
    | POOLS
    | frozenset(
        (
            *("ArgMax", "Concat", "Crop", "DepthToSpace", "Exp", "Gather", "LogSoftmax", "NonMaxSuppression"),
            *("Pad", "ReduceMax", "ReduceSum", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Tanh"),
            *("TopK", "Upsample"),
        )
    )
)
# Of these, one side of which is a constant.
ARITHMETIC = frozenset(("Add", "Div", "Mul", "Pow", "Sub"))


def lost_batchnorm(edit: FileEdit) -> list[EditedNode]:
    """The convolutions that have no normalisation, and make sense with one, in order.

    A Conv or ConvTranspose of the main graph, but for one

    * whose output nothing but normalisations read, of whatever kind (batch, layer, group, instance; also
      written out), directly or behind activations, pools and changes of layout;
    * that predicts: its output reaches one of the graph through nothing but layout, resizing, pooling and
      squashing (a detector's or segmenter's heads, a super-resolution network's last layer);
    * whose output has one pixel (squeeze-and-excitation): a batch has too few values to normalise by;
    * that is a fixed filter: all channels of a depthwise one have the same kernel (blur pooling, bilinear
      upsampling), or it leads from one channel to one (efficient channel attention);
    * whose weight is computed, quantised, or shared with another operator: a normalisation could not be
      folded into it again;
    * that never had one. Folding leaves a bias. So where other convolutions still have their batch
      normalisation, one without a bias has lost nothing; nor has it where batch normalisations stand
      elsewhere (before convolutions, as in DenseNet, they cannot be folded) and others have a bias.
    """
    graph = edit.graph
    predicted = _predicted(graph)
    convolutions = [
        made
        for node in edit.nodes
        if node.op_type in PLAIN_CONVOLUTIONS and node.domain in ("", "ai.onnx")
        if (made := edit.made(node.output[0])) is not None
    ]
    bare = [
        made
        for made in convolutions
        if made.op.outputs[0] not in predicted
        and _takes_norm(edit, made)
        and not _is_normalised(graph, made.op.outputs[0])
    ]
    if any(_keeps_norm(graph, made.op) for made in convolutions):
        # The newer exporter of torch writes zeros where there is no bias.
        return [made for made in bare if _has_bias(edit, made, zeros_count=False)]
    if any(op.op_type == "BatchNormalization" for op in graph.operators):
        return [made for made in bare if _has_bias(edit, made)] or bare
    return bare


def _takes_norm(edit: FileEdit, made: EditedNode) -> bool:
    """Whether a convolution's own weight and output are such that a normalisation has work to do."""
    weight = edit.constant(made, 1)
    if weight is None or weight.tensor.data_type not in PLAIN_FLOATS or len(weight.dims) < 3:
        return False
    if edit.reads[made.node.input[1]] != 1 or weight.dims[:2] == (1, 1):
        return False
    shape = edit.graph.shape(made.node.output[0])
    if shape is not None and all(d == 1 for d in shape[2:]):
        return False
    if weight.dims[1] > 1 or weight.dims[0] == 1 or made.op.attr("group", 1) == 1:
        return True
    kernels = edit.array(made, 1)
    return not np.array_equal(kernels, np.broadcast_to(kernels[:1], kernels.shape))


def _predicted(graph: Graph) -> set[str]:
    """Values that reach an output of the graph with no more to learn on the way."""
    found = set(graph.outputs)
    for op in reversed(graph.operators):
        if not any(o in found for o in op.outputs):
            continue
        fixed = sum(name in graph.derived for name in op.inputs)
        if op.op_type in READOUT or (op.op_type in ARITHMETIC and fixed == 1):
            found.update(op.inputs)
    return found


def _keeps_norm(graph: Graph, op: Operator) -> bool:
    """Whether a batch normalisation stands right behind a convolution."""
    return any(use.op_type == "BatchNormalization" for use, _ in graph.consumers.get(op.outputs[0], []))


def _has_bias(edit: FileEdit, made: EditedNode, zeros_count: bool = True) -> bool:
    """Whether something is added to a convolution's output: its own bias, or an Add of a constant."""
    op = made.op
    if op.input(2):
        return zeros_count or edit.constant(made, 2) is None or bool(edit.array(made, 2).any())
    uses = edit.graph.consumers.get(op.outputs[0], [])
    if len(uses) != 1 or uses[0][0].op_type != "Add":
        return False
    return any(name in edit.graph.derived for name in uses[0][0].inputs)


def _is_normalised(graph: Graph, value: str) -> bool:
    """Whether nothing but normalisations read a value, be it through activations and pools."""
    pending, seen = [value], {value}
    while pending:
        name = pending.pop()
        uses = graph.consumers.get(name, [])
        if not uses or name in graph.captured or name in graph.outputs:
            return False
        if _is_centred(uses):
            continue
        for op, _ in uses:
            if op.op_type in NORMALISATIONS:
                continue
            if op.op_type not in LAYOUT | ACTIVATIONS | POOLS:
                return False
            pending.extend(o for o in op.outputs[:1] if o not in seen)
            seen.update(op.outputs)
    return True


def _is_centred(uses: list[tuple[Operator, int]]) -> bool:
    """Whether a value is read for its mean and to take that off: a normalisation, written out."""
    kinds = {op.op_type for op, _ in uses}
    return kinds == {"ReduceMean", "Sub"}
