"""How long the weights of a serialised model are, told without reading them.

Protobuf copies a field of bytes whenever it is asked for it, also for its length.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from conet_graph.ir.wire import LENGTH_DELIMITED

# https://protobuf.dev/programming-guides/encoding/#structure
_VARINT, _EIGHT_BYTES, _FOUR_BYTES = 0, 1, 5

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
# Fields of a tensor that say nothing of its numbers but their type and shape.
_BESIDE = {
    onnx.TensorProto.DIMS_FIELD_NUMBER,
    onnx.TensorProto.DATA_TYPE_FIELD_NUMBER,
    onnx.TensorProto.NAME_FIELD_NUMBER,
    onnx.TensorProto.DOC_STRING_FIELD_NUMBER,
}


def raw_lengths(data: bytes | memoryview) -> list[int | None]:
    """The bytes of raw data of each initializer of the main graph.

    Args:
        data: a serialised ``ModelProto``, which protobuf has read.

    Returns:
        None for a tensor that holds its numbers otherwise, or has fields besides; an empty list where the
        model holds what only old versions of protobuf write (groups).

    """
    found: list[int | None] = []
    try:
        for number, start, stop in _fields(data, 0, len(data)):
            if number == _GRAPH:
                for inner, begin, end in _fields(data, start, stop):
                    if inner == _INITIALIZER:
                        found.append(_raw_length(data, begin, end))
    except ValueError:
        return []
    return found


def _raw_length(data: bytes | memoryview, start: int, stop: int) -> int | None:
    length = None
    for number, begin, end in _fields(data, start, stop):
        if number == _RAW_DATA:
            length = end - begin  # of several the last one counts
        elif number not in _BESIDE:
            return None
    return length


def _fields(data: bytes | memoryview, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: the number of each, and where its value begins and ends.

    Raises:
        ValueError: it holds a group.

    """
    while at < stop:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            length, at = _varint(data, at)
            end = at + length
        elif kind == _VARINT:
            _, end = _varint(data, at)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            end = at + (4 if kind == _FOUR_BYTES else 8)
        else:
            raise ValueError("a group")
        yield tag >> 3, at, end
        at = end


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where what follows it begins."""
    number = shift = 0
    while (byte := data[at]) > 0x7F:
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | byte << shift, at + 1
