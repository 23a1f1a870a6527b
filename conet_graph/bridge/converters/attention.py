"""Attention (ONNX operator spec, opsets 23 to 25) and ONNX Runtime's MultiHeadAttention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT

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


@handles(CONVERTERS, "MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(site: Site) -> fx.Node:
    """The same on heads that are merged with their sizes, behind a bias of Q, K and V."""
    if any(site.has(slot) for slot in range(6, len(site.op.inputs))) or any(map(site.uses, (1, 2, 3))):
        raise NotConverted("keeps keys and values between runs, or gives its scores")
    if not site.has(2) or any(site.rank(slot) != 3 for slot in range(3)):
        raise NotConverted("holds several of queries, keys and values in one input, or heads apart")
    query, key = (site.shape(slot) or () for slot in (0, 1))
    causal, heads = bool(site.attr("unidirectional", 0)), int(site.attr("num_heads", 0))
    if causal and (query[1] is None or query[1] != key[1]):
        raise NotConverted("hides later keys where there may be more of them than queries")
    if site.has(4) and site.rank(4) == 1 and (site.shape(4) or ())[0] != query[0]:
        raise NotConverted("has more numbers of keys than images")
    settings = Settings((heads, heads), (-1, 0 if causal else -1), site.attr("scale", 0.0) or None, 0.0)
    hidden = float(site.attr("mask_filter_value", -10000.0))
    return site.call(attended_with_bias, *(site.x(slot) for slot in range(6)), hidden, settings)


def attended_with_bias(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    padding: torch.Tensor | None,
    mask: torch.Tensor | None,
    hidden: float,
    settings: Settings,
) -> torch.Tensor:
    """MultiHeadAttention: ``hidden`` is added to the scores of keys that ``padding`` leaves out.

    That is a number for each key, [batch, keys] or [batch, queries, keys], or how many keys count, [batch].
    """
    if bias is not None:
        parts = torch.split(bias, [query.shape[-1], key.shape[-1], value.shape[-1]])
        query, key, value = (x + part for x, part in zip((query, key, value), parts, strict=True))
    if padding is not None:
        if padding.dim() == 1:
            padding = torch.arange(key.shape[1], device=key.device) < padding[:, None]
        left_out = (padding == 0)[:, None] if padding.dim() == 3 else (padding == 0)[:, None, None]
        mask = left_out * hidden + (0.0 if mask is None else mask)
    return attended(query, key, value, mask, settings)


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
