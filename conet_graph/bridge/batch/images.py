"""Rules of operators that take their first axis as the batch (recurrent ones: the second); ONNX specs."""

from __future__ import annotations

from conet_graph.bridge.batch.held import Held
from conet_graph.bridge.batch.seen import Direct, Rules, Seen
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT

RULES: Rules = {}

_OF_IMAGES = (
    *("AveragePool", "BatchNormalization", "Col2Im", "Conv", "ConvTranspose", "Crop", "DepthToSpace"),
    *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "ImageScaler"),
    *("InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth", "STFT"),
)
# Slots that hold a map for each image, beside the first.
_MORE_MAPS: dict[str, tuple[int, ...]] = {
    "DeformConv": (2, 4),
    "FusedConv": (3,),
    "GridSample": (1,),
}


@handles(RULES, *_OF_IMAGES)
@handles(RULES, *(name for name in _MORE_MAPS if name != "FusedConv"))
@handles(RULES, "FusedConv", domain=MICROSOFT)
def of_images(seen: Seen) -> Direct | None:
    """All images along the first axis; weights are shared by all."""
    if seen.op.op_type == "MaxPool" and seen.read(1):
        return None  # the places of maxima are counted through all channels of one image
    maps = {0, *_MORE_MAPS.get(seen.op.op_type, ())} & set(seen.slots())
    length = seen.length(0, 0)
    if length is None or not maps.issuperset(seen.batched()):
        return None
    if any(seen.length(slot, 0) != length for slot in maps):
        return None
    return Direct(dict.fromkeys(maps, Held(0, length)), Held(0, length))


@handles(RULES, "Resize", "Upsample")
def resize(seen: Seen) -> Direct | None:
    """All images along the first axis, if its length stays."""
    length, after = seen.length(0, 0), seen.graph.shape(seen.op.outputs[0])
    if length is None or seen.batched() != [0] or not after or after[0] != length:
        return None
    return Direct({0: Held(0, length)}, Held(0, length))


@handles(RULES, "GRU", "LSTM", "RNN")
def recurrent(seen: Seen) -> Direct | None:
    """Steps come first, then the batch; behind the directions in the states."""
    length = seen.length(0, 1)
    states = [slot for slot in (5, 6) if slot in seen.slots()]
    if length is None or not {0, *states}.issuperset(seen.batched()) or seen.attr("layout", 0):
        return None
    if any(seen.length(slot, 1) != length for slot in states):
        return None
    inputs = dict.fromkeys((0, *states), Held(1, length))
    return Direct(inputs, (Held(2, length), Held(1, length), Held(1, length)))
