"""Checkpoint files: PyTorch's own (.pt, .pth) and safetensors."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.save import atomic_write
from conet_graph.regular_file import require_regular

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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadUsage(f"{name} is no intact safetensors file ({error}): write it again.") from None


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
    torch.save(checkpoint, buffer)
    atomic_write(path, [buffer.getvalue()])


def _safetensors_bytes(checkpoint: Any, path: Path, metadata: dict[str, str]) -> bytes:
    import torch
    from safetensors.torch import save

    if not isinstance(checkpoint, dict):
        raise BadUsage(f"{shown(str(path))} can hold one state dict only: write a .pt file.")
    tensors: dict[str, torch.Tensor] = {}
    for key, value in checkpoint.items():
        if not isinstance(value, torch.Tensor):
            raise BadUsage(
                f"{shown(str(path))} can hold tensors only, and {shown(str(key))} is none: write a .pt file."
            )
        # Tied weights share memory, which the format forbids: each gets its own copy.
        tensors[str(key)] = value.detach().clone().contiguous()
    return save(tensors, metadata={"format": "pt", **metadata})
