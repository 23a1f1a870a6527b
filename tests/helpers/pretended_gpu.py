"""A GPU that is only pretended: tensors stay where they are, and carry a mark that says they are on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda")
_DEVICE_OF = torch.Tensor.device.__get__  # type: ignore[attr-defined]
_WAITING = (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__int__, torch.Tensor.__bool__)
# The second tensor may be anywhere where it is one number; these alone want their tensors together always.
_STRICT = (torch.cat, torch.stack)


def on_pretended_gpu(module: nn.Module, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs, after the module and its arguments were moved to the GPU.

    Raises:
        AssertionError: an operation has tensors in both places, a number was read from the GPU (which makes
            the processor wait for it), or an output of numbers with a point is not on it.

    """
    moved = copy.deepcopy(module).eval()
    for tensor in (*moved.parameters(), *moved.buffers()):
        _mark(tensor)
    with torch.no_grad(), PretendedGpu():
        made = moved(*[_mark(a.clone()) for a in arguments])
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    assert all(_is_there(o) for o in outputs if o.is_floating_point())
    return outputs


class PretendedGpu(TorchFunctionMode):
    """Follows the marks through every function of PyTorch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        tensors = list(_tensors((args, named)))
        there = [t for t in tensors if _is_there(t)]
        if func == _DEVICE_OF:  # another object each time it is looked up
            return GPU if there else func(*args)
        wanted = [d for d in (*args, named.get("device")) if isinstance(d, torch.device)]
        if wanted and func is torch.Tensor.to:
            made = args[0].clone() if wanted[0] != GPU or not there else args[0]
            rest = [a for a in args[1:] if not isinstance(a, torch.device)]
            made = made.to(*rest) if rest else made
            return _mark(made) if wanted[0] == GPU else made
        if "device" in named:
            made = func(*args, **{**named, "device": None})
            return _mark(made) if wanted and wanted[0] == GPU else made
        pooled = there and func.__name__.startswith("max_pool")
        assert not pooled or there[0].is_floating_point(), (
            f"{func.__name__} knows no whole numbers on the GPU"
        )
        assert not there or func not in _WAITING, f"{func.__name__} waits for the GPU"
        far = [t for t in tensors if not _is_there(t) and (t.dim() or func in _STRICT)]
        assert not (there and far), f"{func.__name__} of tensors in two places"
        made = func(*args, **named)
        if there:
            for tensor in _tensors(made):
                _mark(tensor)
        return made


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _mark(tensor: torch.Tensor) -> torch.Tensor:
    tensor.pretended = True  # type: ignore[attr-defined]
    return tensor


def _is_there(tensor: torch.Tensor) -> bool:
    return "pretended" in tensor.__dict__
