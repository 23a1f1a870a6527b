"""Fourier transforms (ONNX operator specs)."""

from __future__ import annotations

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


@handles(CONVERTERS, "STFT")
def short_time(site: Site) -> fx.Node:
    """Of a frame at every step, under a window."""
    step, length = site.numbers(1), site.numbers(3)
    window = site.shape(2) if site.has(2) else None
    size = int(length[0]) if length else window[0] if window else None
    if step is None or not isinstance(size, int):
        raise NotConverted("has frames of unknown length")
    channels = (site.shape(0) or (None,))[-1]
    if channels not in (1, 2):
        raise NotConverted("has an input of which is unknown whether it is complex")
    half = bool(site.attr("onesided", 1)) and channels == 1
    return site.call(frames_transformed, site.x(0), site.x(2), int(step[0]), size, half)


def frames_transformed(
    x: torch.Tensor, window: torch.Tensor | None, step: int, size: int, half: bool
) -> torch.Tensor:
    """STFT: [batch, frames, frequencies, 2], of a signal [batch, length, 1 or 2]."""
    signal = x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    frames = signal.unfold(1, size, step)
    frames = frames if window is None else frames * window
    made = torch.fft.rfft(frames) if half else torch.fft.fft(frames)
    return torch.view_as_real(made)


@handles(CONVERTERS, "DFT")
def transform(site: Site) -> fx.Node:
    """Along one axis, of real or complex numbers (the last axis has one or two)."""
    listed = site.numbers(2)
    axis = int(listed[0]) if listed else int(site.attr("axis", -2 if site.version >= 20 else 1))
    length = site.numbers(1)
    if (site.shape(0) or (None,))[-1] not in (1, 2):
        raise NotConverted("has an input of which is unknown whether it is complex")
    size = int(length[0]) if length else None
    back, half = bool(site.attr("inverse", 0)), bool(site.attr("onesided", 0))
    return site.call(transformed, site.x(0), axis % site.rank() - site.rank() + 1, size, back, half)


def transformed(x: torch.Tensor, axis: int, size: int | None, back: bool, half: bool) -> torch.Tensor:
    """DFT along an axis counted from the end, without that of real and imaginary parts."""
    numbers = x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    if back and half:
        made: torch.Tensor = torch.fft.irfft(numbers, size, axis)
        return made.unsqueeze(-1)
    if half:
        return torch.view_as_real(torch.fft.rfft(numbers, size, axis))
    whole = torch.fft.ifft if back else torch.fft.fft
    return torch.view_as_real(whole(numbers, size, axis))
