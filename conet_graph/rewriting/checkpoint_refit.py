"""The refitted tensors of a plan, put into a checkpoint whose tensors were what the file's were."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.rewriting.refits import Refit


def checksum(array: np.ndarray[Any, Any]) -> int:
    """A checksum of the numbers of a tensor, as float32."""
    return zlib.crc32(np.ascontiguousarray(array, np.float32).tobytes())


def put(refit: Refit, state: dict[str, Any], keys: Mapping[str, list[tuple[str, bool]]]) -> list[str]:
    """Put refitted tensors in the place of entries that hold what the file held; changes ``state``.

    Args:
        refit: with its tensors.
        state: name to tensor, the plan applied already.
        keys: by the name of a tensor the keys that hold it, and whether each is stored transposed.

    Returns:
        Sentences about the tensors that were not put anywhere.

    Raises:
        BadUsage: the refitted tensors are not there.

    """
    if len(refit.tensors) != len(refit.names):
        raise BadUsage("The plan's refitted tensors are missing: keep its .safetensors file beside it.")
    left: list[str] = []
    for name, array in refit.tensors.items():
        before = refit.before.get(name)
        found = keys.get(name, [])
        if before is None:
            left.append(f"{shown(name)} is a bias that its layer did not have")
        elif len(found) != 1:
            left.append(f"{shown(name)} has no single entry of its own")
        elif not _replaced(state, *found[0], array, before):
            left.append(
                f"{shown(name)} was not what entry {shown(found[0][0])} is (BatchNorm folded into it?)"
            )
    return left


def _replaced(
    state: dict[str, Any], key: str, transpose: bool, array: np.ndarray[Any, Any], before: int
) -> bool:
    """Put an array in the place of an entry, if it was what the file's tensor was."""
    tensor = state[key]
    held = tensor if isinstance(tensor, np.ndarray) else tensor.detach().float().cpu().numpy()
    turned = held.T if transpose else held
    if held.dtype.kind != "f" or held.size != array.size or checksum(turned) != before:
        return False
    whole = array.reshape(turned.shape)
    made = np.ascontiguousarray(whole.T if transpose else whole)
    if isinstance(tensor, np.ndarray):
        state[key] = made.astype(tensor.dtype)
        return True
    import torch

    new = torch.from_numpy(made).to(tensor.dtype).to(tensor.device)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    state[key] = torch.nn.Parameter(new, tensor.requires_grad) if is_parameter else new
    return True
