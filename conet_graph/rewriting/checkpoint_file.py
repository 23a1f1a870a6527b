"""Checkpoint files: PyTorch's own (.pt, .pth) and safetensors."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.save import atomic_write
from conet_graph.regular_file import require_regular
from conet_graph.rewriting.checkpoint_arrays import is_tensor

TORCH_SUFFIXES = (".pt", ".pth")
SAFE_SUFFIX = ".safetensors"


def check_suffix(path: Path) -> None:
    """Raise BadUsage unless the file's name says which format it has."""
    if path.suffix not in (*TORCH_SUFFIXES, SAFE_SUFFIX):
        raise BadUsage(f"{shown(str(path))} must end in .pt, .pth or .safetensors.")


def read_checkpoint(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a checkpoint to the CPU; returns what it holds and a safetensors file's metadata.

    Raises:
        BadUsage: the file cannot be read, is damaged, or holds other objects than tensors and plain data.

    """
    check_suffix(path)
    name = shown(str(path))
    require_regular(path, "checkpoint")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadUsage(f"The checkpoint {name} cannot be read: {error.strerror}.") from None
    return _read_safetensors(path, name) if path.suffix == SAFE_SUFFIX else (_read_torch(path, name), {})


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """All tensors of the file as numpy's, in the file's order."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # checks the file's head
            metadata = file.metadata() or {}
        data = path.read_bytes()
    except (SafetensorError, OSError) as error:
        raise BadUsage(f"{name} is no intact safetensors file ({error}): write it again.") from None
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    found: dict[str, Any] = {}
    for key, entry in entries.items():
        kind = _safe_types().get(entry["dtype"])
        if kind is None:
            raise BadUsage(f"{name} holds numbers of type {shown(entry['dtype'])}, which are not known here.")
        begin, end = (8 + length + at for at in entry["data_offsets"])
        found[key] = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
    return found, metadata


def _safe_types() -> dict[str, np.dtype[Any]]:
    """Element types by their name in safetensors files (safetensors' Dtype)."""
    import ml_dtypes

    kinds: dict[str, Any] = {
        **{f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
        **{f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
        **{f"F{8 * n}": f"<f{n}" for n in (2, 4, 8)},
        "BOOL": "?",
        "C64": "<c8",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }
    return {name: np.dtype(kind) for name, kind in kinds.items()}


def _read_torch(path: Path, name: str) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" not in str(error).lower():
            raise BadUsage(f"{name} is no intact PyTorch checkpoint: save it again.") from None
        raise BadUsage(
            f"{name} holds Python objects that could run code when read, and is not opened:"
            " save model.state_dict() instead."
        ) from None
    except Exception:
        # A damaged archive raises whatever its reader happens to meet (RuntimeError, EOFError, KeyError...).
        raise BadUsage(f"{name} is no intact PyTorch checkpoint: save it again.") from None


def write_checkpoint(checkpoint: Any, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a checkpoint beside its target and rename it; the suffix says in which format.

    Raises:
        BadUsage: the folder cannot be written, or safetensors cannot hold this.

    """
    check_suffix(path)
    if path.suffix == SAFE_SUFFIX:
        atomic_write(path, [_safetensors_bytes(checkpoint, path, metadata or {})])
        return
    import torch

    buffer = io.BytesIO()
    torch.save(as_torch(checkpoint), buffer)
    atomic_write(path, [buffer.getvalue()])


def as_torch(checkpoint: Any) -> Any:
    """What a safetensors file held, as PyTorch's tensors."""
    from safetensors.torch import load

    if not isinstance(checkpoint, dict) or not any(isinstance(v, np.ndarray) for v in checkpoint.values()):
        return checkpoint
    return load(_safe_bytes(checkpoint, {}))


def _safetensors_bytes(checkpoint: Any, path: Path, metadata: dict[str, str]) -> bytes:
    if not isinstance(checkpoint, dict):
        raise BadUsage(f"{shown(str(path))} can hold one state dict only: write a .pt file.")
    for key, value in checkpoint.items():
        if not is_tensor(value):
            raise BadUsage(
                f"{shown(str(path))} can hold tensors only, and {shown(str(key))} is none: write a .pt file."
            )
    metadata = {"format": "pt", **metadata}
    if all(isinstance(value, np.ndarray) for value in checkpoint.values()):
        return _safe_bytes(checkpoint, metadata)
    from safetensors.torch import save

    # Tied weights share memory, which the format forbids: each gets its own copy.
    return save({str(k): v.detach().clone().contiguous() for k, v in checkpoint.items()}, metadata=metadata)


def _safe_bytes(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """A safetensors file: the head's length, the head as JSON, the data (safetensors' format)."""
    names = {kind: name for name, kind in _safe_types().items()}
    # Larger elements first, so that all are aligned.
    order = sorted(arrays, key=lambda key: (-arrays[key].dtype.itemsize, key))
    head: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for key in order:
        array = arrays[key]
        begin, end = end, end + array.nbytes
        head[key] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(arrays[key].tobytes() for key in order)])
