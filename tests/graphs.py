"""A small builder of ONNX networks: each value's shape is known as soon as it is made.

Operators whose form changed between opsets (Split, Slice, Pad, Clip, reductions, ...) are written in the
form of the builder's opset. Weights are random, seeded by their name and scaled so that activations
stay near 1.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper, numpy_helper

Array = NDArray[Any]
# While building, free dimensions stand as large primes: inference then carries them through every operator.
STAND_INS = (7919, 7907, 7901, 7883)
LARGEST_FIXED = 5000


class GraphBuilder:
    """A network in the making; values are their names."""

    def __init__(self, opset: int = 17, seed: int = 0, name: str = "graph") -> None:
        self.opset = opset
        self.seed = seed
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.types: dict[str, TypeProto] = {}
        self.known: dict[str, TensorProto] = {}
        self.free: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    # Names, values, shapes.

    def fresh(self, stem: str) -> str:
        """A name that was not given out before."""
        self.counts[stem] += 1
        name = f"{stem}_{self.counts[stem]}"
        return self.fresh(stem) if name in self.types else name

    def shape(self, value: str) -> tuple[int | str, ...]:
        """The shape of a value; free dimensions are names."""
        names = {stand_in: name for name, stand_in in self.free.items()}
        return tuple(names.get(d, d) for d in self._dims(value))

    def channels(self, x: str) -> int:
        return self._dims(x)[1]

    def spatial(self, x: str) -> tuple[int, ...]:
        return self._dims(x)[2:]

    def _dims(self, value: str) -> tuple[int, ...]:
        return tuple(d.dim_value for d in self.types[value].tensor_type.shape.dim)

    def _tensor(self, value: str, elem_type: int, shape: Sequence[int]) -> str:
        if value in self.types:
            raise ValueError(f"the name '{value}' is taken: choose another")
        self.types[value] = helper.make_tensor_type_proto(elem_type, list(shape))
        return value

    def input(self, name: str, shape: Sequence[int | str], elem_type: int = TensorProto.FLOAT) -> str:
        """A graph input; dimensions given as text are free."""
        for dim in shape:
            if isinstance(dim, str):
                self.free.setdefault(dim, STAND_INS[len(self.free)])
        self.inputs.append(name)
        return self._tensor(name, elem_type, [self.free[d] if isinstance(d, str) else d for d in shape])

    def output(self, value: str) -> str:
        """Make a value a graph output."""
        self.outputs.append(value)
        return value

    def const(self, array: Array, name: str | None = None, as_node: bool = False) -> str:
        """An initializer, or a Constant node."""
        name = name or self.fresh("const")
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if as_node:
            self.nodes.append(helper.make_node("Constant", [], [name], f"{name}.node", value=tensor))
        else:
            self.initializers.append(tensor)
        self.known[name] = tensor
        return self._tensor(name, tensor.data_type, tensor.dims)

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64), self.fresh("ints"))

    def scalar(self, value: float) -> str:
        return self.const(np.array(value, np.float32), self.fresh("scalar"))

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def weight(
        self, *shape: int, fan_in: int | None = None, name: str | None = None, as_node: bool = False
    ) -> str:
        """A random weight; ``fan_in`` is the number of terms it is summed over (all but the first axis)."""
        name = name or self.fresh("weight")
        fan_in = fan_in or math.prod(shape[1:])
        array = self.rng(name).standard_normal(shape) / math.sqrt(fan_in)
        return self.const(array.astype(np.float32), name, as_node)

    def vector(self, *shape: int, low: float = -0.2, high: float = 0.2, name: str | None = None) -> str:
        """Random numbers in a range: biases, gains, slopes."""
        name = name or self.fresh("vector")
        return self.const(self.rng(name).uniform(low, high, shape).astype(np.float32), name)

    # Operators.

    def node(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node whose output shapes onnx infers; an empty name leaves an input or output out."""
        node = helper.make_node(op_type, inputs, outputs, next(o for o in outputs if o), **attributes)
        schema = onnx.defs.get_schema(op_type, self.opset)
        types = {i: self.types[i] for i in inputs if i}
        data = {i: self.known[i] for i in inputs if i in self.known}
        imports = [helper.make_opsetid("", self.opset)]
        inferred = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
        self.nodes.append(node)
        for value in filter(None, outputs):
            kind = inferred[value].tensor_type if value in inferred else TypeProto.Tensor()
            self._tensor(value, kind.elem_type, [d.dim_value for d in kind.shape.dim])
            self.types[value].tensor_type.CopyFrom(kind)

    def op(
        self,
        op_type: str,
        *inputs: str,
        name: str | None = None,
        shape: Sequence[int | str] | None = None,
        **attributes: Any,
    ) -> str:
        """One operator with one output; ``shape`` where it depends on numbers computed in the graph."""
        name = name or self.fresh(op_type)
        self.node(op_type, inputs, [name], **attributes)
        kind = self.types[name].tensor_type
        if shape is not None:
            dims = [self.free[d] if isinstance(d, str) else d for d in shape]
            # Nothing at all is inferred of an operator that is defined by a function.
            elem_type = kind.elem_type or self.types[inputs[0]].tensor_type.elem_type
            self.types[name] = helper.make_tensor_type_proto(elem_type, dims)
        elif not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
            raise ValueError(f"the shape of '{name}' ({op_type}) cannot be inferred: pass shape=")
        return name

    def conv(
        self,
        x: str,
        out: int,
        k: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
        bias: bool | str = True,
        weight: str | None = None,
        name: str | None = None,
    ) -> str:
        """Conv of any rank that keeps the size at stride 1; ``bias`` and ``weight`` may be values."""
        name, rank = name or self.fresh("conv"), len(self.spatial(x))
        inside = self.channels(x) // group
        inputs = [x, weight or self.weight(out, inside, *[k] * rank, name=f"{name}.weight")]
        if bias:
            inputs.append(bias if isinstance(bias, str) else self.vector(out, name=f"{name}.bias"))
        more: dict[str, Any] = {"strides": [stride] * rank, "dilations": [dilation] * rank, "group": group}
        return self.op("Conv", *inputs, name=name, pads=[dilation * (k // 2)] * (2 * rank), **more)

    def conv_transpose(
        self, x: str, out: int, k: int = 3, *, stride: int = 1, group: int = 1, name: str | None = None
    ) -> str:
        """ConvTranspose whose output is ``stride`` times as large, for k = stride + 2."""
        name, rank, inside = name or self.fresh("deconv"), len(self.spatial(x)), self.channels(x)
        fan_in = max(1, inside // group * (k // stride) ** rank)
        shape = (inside, out // group, *[k] * rank)
        weight = self.weight(*shape, fan_in=fan_in, name=f"{name}.weight")
        bias = self.vector(out, name=f"{name}.bias")
        more: dict[str, Any] = {"strides": [stride] * rank, "pads": [1] * (2 * rank), "group": group}
        return self.op("ConvTranspose", x, weight, bias, name=name, **more)

    def bn(self, x: str, name: str | None = None) -> str:
        name, c = name or self.fresh("bn"), self.channels(x)
        ranges = {"scale": (0.5, 1.5), "bias": (-0.2, 0.2), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}
        vectors = [self.vector(c, low=a, high=b, name=f"{name}.{part}") for part, (a, b) in ranges.items()]
        return self.op("BatchNormalization", x, *vectors, name=name)

    def gemm(
        self, x: str, out: int, *, trans_b: bool = True, bias: bool = True, name: str | None = None
    ) -> str:
        name, inside = name or self.fresh("fc"), self._dims(x)[1]
        shape = (out, inside) if trans_b else (inside, out)
        weight = self.weight(*shape, fan_in=inside, name=f"{name}.weight")
        # C became optional with opset 11.
        more = [self.vector(out, name=f"{name}.bias")] if bias or self.opset < 11 else []
        return self.op("Gemm", x, weight, *more, name=name, transB=int(trans_b))

    def relu(self, x: str, name: str | None = None) -> str:
        return self.op("Relu", x, name=name)

    def sigmoid(self, x: str, name: str | None = None) -> str:
        return self.op("Sigmoid", x, name=name)

    def add(self, a: str, b: str, name: str | None = None) -> str:
        return self.op("Add", a, b, name=name)

    def mul(self, a: str, b: str, name: str | None = None) -> str:
        return self.op("Mul", a, b, name=name)

    def matmul(self, a: str, b: str, name: str | None = None) -> str:
        return self.op("MatMul", a, b, name=name)

    def concat(self, *parts: str, axis: int = 1, name: str | None = None) -> str:
        return self.op("Concat", *parts, axis=axis, name=name)

    def gap(self, x: str, name: str | None = None) -> str:
        return self.op("GlobalAveragePool", x, name=name)

    def flatten(self, x: str, name: str | None = None) -> str:
        return self.op("Flatten", x, name=name)

    def reshape(self, x: str, *target: int, name: str | None = None) -> str:
        return self.op("Reshape", x, self.ints(*target), name=name)

    def transpose(self, x: str, *perm: int, name: str | None = None) -> str:
        return self.op("Transpose", x, perm=list(perm), name=name)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1, *, implicit: bool = False) -> list[str]:
        """The parts of x; ``implicit`` leaves the (equal) sizes out of the file where the opset allows it."""
        outputs = [self.fresh("split") for _ in sizes]
        if implicit and len(set(sizes)) == 1:
            more = {"num_outputs": len(sizes)} if self.opset >= 18 else {}
            self.node("Split", [x], outputs, axis=axis, **more)
        elif self.opset < 13:
            self.node("Split", [x], outputs, axis=axis, split=list(sizes))
        else:
            self.node("Split", [x, self.ints(*sizes)], outputs, axis=axis)
        return outputs

    def slice(self, x: str, start: int, end: int, axis: int = 1, step: int = 1) -> str:
        if self.opset >= 10:
            return self.op("Slice", x, *(self.ints(v) for v in (start, end, axis, step)))
        if step != 1:
            raise ValueError("Slice has no steps before opset 10: use a newer opset")
        return self.op("Slice", x, starts=[start], ends=[end], axes=[axis])

    def gather(self, x: str, indices: Sequence[int], axis: int = 1, name: str | None = None) -> str:
        return self.op("Gather", x, self.ints(*indices), axis=axis, name=name)

    def reduce(self, kind: str, x: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """``ReduceMean``, ``ReduceMax``, ..."""
        if self.opset >= 18:
            return self.op(kind, x, self.ints(*axes), keepdims=int(keep))
        return self.op(kind, x, axes=list(axes), keepdims=int(keep))

    def squeeze(self, x: str, *axes: int) -> str:
        return self._squeezed("Squeeze", x, axes)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._squeezed("Unsqueeze", x, axes)

    def _squeezed(self, kind: str, x: str, axes: Sequence[int]) -> str:
        if self.opset >= 13:
            return self.op(kind, x, self.ints(*axes))
        return self.op(kind, x, axes=list(axes))

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset >= 11:
            return self.op("Clip", x, self.scalar(low), self.scalar(high))
        return self.op("Clip", x, min=float(low), max=float(high))

    def pad(self, x: str, pads: Sequence[int], mode: str = "constant") -> str:
        if self.opset >= 11:
            return self.op("Pad", x, self.ints(*pads), mode=mode)
        return self.op("Pad", x, pads=list(pads), mode=mode)

    def pool(self, kind: str, x: str, k: int = 2, stride: int = 2) -> str:
        """``MaxPool``, ``AveragePool`` or ``LpPool``; axes shorter than the kernel are left alone."""
        kernel = [k if d >= k else 1 for d in self.spatial(x)]
        strides = [stride if size > 1 else 1 for size in kernel]
        return self.op(kind, x, kernel_shape=kernel, strides=strides)

    def upsample(self, x: str, factor: int = 2, mode: str = "nearest") -> str:
        """Resize by scales (Upsample before opset 10)."""
        rank = len(self.spatial(x))
        scales = self.const(np.array([1, 1, *[factor] * rank], np.float32), self.fresh("scales"))
        if self.opset < 11:
            return self.op("Upsample" if self.opset < 10 else "Resize", x, scales, mode=mode)
        return self.op("Resize", x, self._no_roi(), scales, mode=mode)

    def resize(self, x: str, size: Sequence[int], mode: str = "nearest") -> str:
        """Resize to a size, opset 11 and later: with axes from opset 18, before that as torch writes it."""
        rank = len(size)
        if self.opset >= 18:
            axes = list(range(2, 2 + rank))
            return self.op("Resize", x, "", "", self.ints(*size), mode=mode, axes=axes)
        start = self.slice(self.op("Shape", x), 0, 2, axis=0)
        target = self.concat(start, self.ints(*size), axis=0)
        shape = (*self.shape(x)[:2], *size)
        no_scales = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32), self.fresh("none"))
        return self.op("Resize", x, self._no_roi(), no_scales, target, mode=mode, shape=shape)

    def _no_roi(self) -> str:
        return "" if self.opset >= 13 else self.const(np.zeros(0, np.float32), self.fresh("roi"))

    # The model.

    def build(self, batch: int | None = None, doc: str = "") -> onnx.ModelProto:
        """The model; ``batch`` fixes every free dimension."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [self._info(name, batch) for name in self.inputs],
            [self._info(name, batch) for name in self.outputs],
            self.initializers,
            doc_string=doc,
        )
        imports = [helper.make_opsetid("", self.opset)]
        # Before IR version 4 every initializer had to be an input too.
        version = max(4, helper.find_min_ir_version_for(imports))
        return helper.make_model(graph, opset_imports=imports, ir_version=version)

    def _info(self, value: str, batch: int | None) -> onnx.ValueInfoProto:
        dims: list[int | str] = []
        for axis, dim in enumerate(self.shape(value)):
            if isinstance(dim, str):
                dims.append(batch or dim)
            else:  # a number computed from a stand-in is free as well
                dims.append(dim if dim < LARGEST_FIXED else f"{value}.{axis}")
        return helper.make_tensor_value_info(value, self.types[value].tensor_type.elem_type, dims)
