"""Attention (ONNX operator spec, opsets 23 to 25)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


class Settings(NamedTuple):
    """What the attributes say.

    Attributes:
        heads: how many Q has, and K and V, where they are merged with their sizes.
        reach: how many keys behind and ahead of its own place a query sees; all for -1.
        scale: of the scores; one over the root of a head's size for None.
        cap: what no score passes; 0 for none.

    """

    heads: tuple[int, int]
    reach: tuple[int, int]
    scale: float | None
    cap: float


@handles(CONVERTERS, "Attention")
def attention(site: Site) -> fx.Node:
    """Scores, Softmax and the weighted mean of the values, on heads that lie on an axis of theirs."""
    if any(site.has(slot) for slot in (4, 5, 6)) or any(site.uses(number) for number in (1, 2, 3)):
        raise NotConverted("keeps keys and values between runs, or gives its scores")
    behind, ahead = (int(site.attr(f"{side}_window_size", -1)) for side in ("left", "right"))
    settings = Settings(
        heads=(int(site.attr("q_num_heads", 0)), int(site.attr("kv_num_heads", 0))),
        reach=(behind, 0 if site.attr("is_causal", 0) else ahead),
        scale=site.attr("scale"),
        cap=float(site.attr("softcap", 0.0)),
    )
    return site.call(attended, *(site.x(slot) for slot in range(4)), settings)


def attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Settings,
) -> torch.Tensor:
    """Attention of heads of [batch, heads, length, size], or of [batch, length, heads * size].

    PyTorch's own would neither broadcast one batch over another nor cap scores.
    """
    merged = query.dim() == 3
    if merged:
        asking, answering = settings.heads
        query, key, value = (
            x.reshape(*x.shape[:2], count, -1).transpose(1, 2)
            for x, count in ((query, asking), (key, answering), (value, answering))
        )
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scale = query.shape[-1] ** -0.5 if settings.scale is None else settings.scale
    scores = (query * scale) @ key.mT
    if settings.cap:
        scores = settings.cap * torch.tanh(scores / settings.cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if settings.reach != (-1, -1):
        scores = scores.masked_fill(_beyond(settings.reach, scores), -torch.inf)
    # A query that sees nothing gets nothing.
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    out = scores.softmax(-1).masked_fill(blind, 0) @ value
    return out.transpose(1, 2).flatten(2) if merged else out


def _beyond(reach: tuple[int, int], scores: torch.Tensor) -> torch.Tensor:
    """Which keys are out of a query's reach, as [queries, keys]."""
    queries, keys = (torch.arange(length, device=scores.device) for length in scores.shape[-2:])
    further = keys - queries[:, None]
    behind, ahead = (side if side >= 0 else len(keys) + len(queries) for side in reach)
    return (further < -behind) | (further > ahead)
