"""A teacher that runs in ONNX Runtime: any network will do, also one that has no form in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.verification.runtime import first_line, open_session

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OnnxTeacher:
    """Gives the outputs of an ONNX file for a batch of images; its batch size may be fixed."""

    def __init__(self, path: Path, outputs: Sequence[str], device: torch.device) -> None:
        """Open the file.

        Args:
            path: the file.
            outputs: names of the outputs wanted, in their order.
            device: where the images lie; ONNX Runtime uses a GPU too if it can.

        Raises:
            BadUsage: ONNX Runtime does not load the file.

        """
        import onnxruntime as ort

        gpu = device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers()
        provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
        try:
            self.session: Any = open_session(path, provider, fused=True)
        except Exception as error:
            raise BadUsage(f"ONNX Runtime does not load {shown(str(path))}: {first_line(error)}") from None
        entry = self.session.get_inputs()[0]
        self.input, self.type = entry.name, _TYPES.get(entry.type, np.float32)
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        self.path, self.outputs = path, list(outputs)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The outputs for images as the network takes them, on the images' device.

        Raises:
            BadUsage: ONNX Runtime does not run the network on them.

        """
        feed = images.cpu().numpy().astype(self.type)
        size = self.batch or len(feed)
        parts = [self._run(feed[at : at + size], size) for at in range(0, len(feed), size)]
        joined = [
            np.concatenate(pieces) if len(pieces) > 1 else pieces[0] for pieces in zip(*parts, strict=True)
        ]
        return [torch.from_numpy(np.array(array)).to(images.device) for array in joined]

    def _run(self, images: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
        """One run; a last batch that is too short is filled up with its last image."""
        count = len(images)
        if count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        try:
            outputs = self.session.run(self.outputs, {self.input: images})
        except Exception as error:
            raise BadUsage(
                f"ONNX Runtime does not run {shown(str(self.path))}: {first_line(error)}"
            ) from None
        return [output[:count] if count < size and output.ndim else output for output in outputs]
