"""Serialising a model without a second copy of its weights.

Protobuf builds the whole message in memory, and then once more as bytes. Here the main graph's
weights, nearly all of a model's bytes, are serialised one at a time; the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.tensors import nbytes

# One protobuf message cannot be larger.
LARGEST_MESSAGE = 2**31 - 1
LENGTH_DELIMITED = 2  # wire type; https://protobuf.dev/programming-guides/encoding/#structure


def serialised(proto: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of a model as ``SerializeToString(deterministic=True)`` gives them, in pieces.

    Raises:
        BadUsage: the model is larger than one protobuf message can be.

    """
    if len(UnknownFieldSet(proto)) or len(UnknownFieldSet(proto.graph)):
        yield _whole(proto)  # a newer ONNX's fields, which only protobuf itself can pass on
        return
    before, after = _around(proto, "graph")
    first, last = _around(proto.graph, "initializer")
    tensors = [_Tensor(proto.graph, tensor) for tensor in proto.graph.initializer]
    inside = len(first) + len(last) + sum(tensor.size for tensor in tensors)
    if len(before) + inside + len(after) > LARGEST_MESSAGE - 16:
        raise _too_large()
    yield from (before, _head(proto, "graph", inside) if proto.HasField("graph") else b"", first)
    for tensor in tensors:
        yield from tensor.parts()
    yield from (last, after)


def _whole(message: Message) -> bytes:
    try:
        data: bytes = message.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        raise _too_large() from None
    return data


class _Tensor:
    """An initializer in pieces: protobuf would build its raw data twice more, and once to tell its length."""

    def __init__(self, graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
        self.tensor, self.length = tensor, 0
        self.is_cut = tensor.HasField("raw_data") and not len(UnknownFieldSet(tensor))
        if self.is_cut:
            self.length = nbytes(tensor)
            before, self.after = _around(tensor, "raw_data")
            before += _head(tensor, "raw_data", self.length)
        else:
            before, self.after = _whole(tensor), b""
        own = len(before) + self.length + len(self.after)
        head = _head(graph, "initializer", own)
        self.before, self.size = head + before, len(head) + own

    def parts(self) -> Iterator[bytes]:
        """The bytes, with what stands before a message of the graph."""
        yield self.before
        if self.is_cut:
            data = self.tensor.raw_data
            assert len(data) == self.length, "a tensor has as many bytes as its shape says"
            yield data
        yield self.after


def _too_large() -> BadUsage:
    return BadUsage("The model is larger than one file can be (2 GB): keep its weights beside it.")


def _around(message: Message, name: str) -> tuple[bytes, bytes]:
    """The fields before and after one, serialised: protobuf writes them by number."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    before, after = type(message)(), type(message)()
    for field in message.DESCRIPTOR.fields:  # to list them with their values would copy all of them
        if field.number != number and _is_set(message, field):
            assign(before if field.number < number else after, field.name, getattr(message, field.name))
    return _whole(before), _whole(after)


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    """Whether a message has a field, or entries in a repeated one."""
    return message.HasField(field.name) if field.has_presence else len(getattr(message, field.name)) > 0


def _head(message: Message | type[Message], name: str, size: int) -> bytes:
    """What stands before a message or repeated message of a field: its number and size."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    r"""Seven bits a byte, the lowest first; all but the last byte have the eighth bit set.

    >>> _varint(300)
    b'\xac\x02'
    """
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def assign(message: Message, name: str, value: object) -> None:
    """Set a field of a protobuf message, whatever its kind."""
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
        target.SetInParent()  # an empty message that is there is not one that is absent
    else:
        setattr(message, name, value)


def copy_without(message: Message, into: Message, *left_out: str) -> None:
    """Copy a message's fields, but for some."""
    for descriptor, value in message.ListFields():
        if descriptor.name not in left_out:
            assign(into, descriptor.name, value)


def add_inputs(graph: onnx.GraphProto, values: Iterable[tuple[str, onnx.TypeProto]]) -> None:
    """Add inputs to a graph, each a name and a type: read at once, far faster than made one by one."""
    types: dict[int, bytes] = {}
    parts: list[bytes] = []
    for name, kind in values:
        if id(kind) not in types:
            types[id(kind)] = _field(onnx.ValueInfoProto, "type", _whole(kind))
        value = _field(onnx.ValueInfoProto, "name", name.encode()) + types[id(kind)]
        parts.append(_field(onnx.GraphProto, "input", value))
    graph.MergeFromString(b"".join(parts))


def _field(message: type[Message], name: str, data: bytes) -> bytes:
    """A field of a message, with what stands before it."""
    return _head(message, name, len(data)) + data
