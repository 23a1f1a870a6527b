"""Graph inputs that have a default value: what a caller may give in place of an initializer."""

from __future__ import annotations

from collections.abc import Collection

import onnx

# Before this IR version every initializer had to be an input, too.
FIRST_FREE_IR = 4


def drop_inputs(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Take inputs out: a weight that was changed or removed cannot stay one that callers may override.

    The model's IR version is raised where initializers are no inputs then.
    """
    body = model.graph
    kept = [value for value in body.input if value.name not in names]
    if len(kept) != len(body.input):
        del body.input[:]
        body.input.extend(kept)
    if {tensor.name for tensor in body.initializer} - {value.name for value in body.input}:
        model.ir_version = max(model.ir_version, FIRST_FREE_IR)


def constant_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose weights callers cannot override; ``proto`` itself is changed.

    No runtime folds what may be overridden, nor lays it out for its kernels.
    """
    drop_inputs(proto, {tensor.name for tensor in proto.graph.initializer})
    return proto
