"""Recurrent layers: RNN, GRU, LSTM (ONNX operator specs), step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Converted, NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


@handles(CONVERTERS, "RNN", "GRU", "LSTM")
def recurrent(site: Site) -> Converted:
    """All steps of all directions."""
    kind = site.op.op_type
    if site.has(4) or int(site.attr("layout", 0)) or site.has(7) or site.attr("clip") is not None:
        raise NotConverted("has lengths of its sequences, another layout, peepholes or a clip")
    direction = str(site.attr("direction", "forward"))
    count = 2 if direction == "bidirectional" else 1
    names = [str(n.decode() if isinstance(n, bytes) else n) for n in site.attr("activations", [])]
    names = names or _DEFAULTS[kind] * count
    if any(n.lower() not in _ACTIVATIONS for n in names) or site.attr("input_forget", 0):
        raise NotConverted(f"uses the activations {', '.join(names)} or input_forget")
    states: tuple[Any, Any] = (site.x(5), site.x(6) if kind == "LSTM" else None)
    before_reset = bool(site.attr("linear_before_reset", 0))
    made = site.call(
        unrolled,
        site.x(0),
        (site.x(1), site.x(2), site.x(3)),
        states,
        kind,
        direction,
        tuple(n.lower() for n in names),
        before_reset,
    )
    return site.parts(made)


def unrolled(
    x: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    states: tuple[torch.Tensor | None, torch.Tensor | None],
    kind: str,
    direction: str,
    activations: tuple[str, ...],
    before_reset: bool,
) -> tuple[torch.Tensor, ...]:
    """Outputs Y [steps, directions, batch, hidden], last hidden state, and last cell state of an LSTM."""
    w, r, b = weights
    directions, hidden = w.shape[0], r.shape[-1]
    each = len(activations) // directions
    sequences, last_states, last_cells = [], [], []
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        bias = x.new_zeros(2 * w.shape[1]) if b is None else b[d]
        h, c = (x.new_zeros(x.shape[1], hidden) if s is None else s[d] for s in states)
        functions = [_ACTIVATIONS[n] for n in activations[d * each : (d + 1) * each]]
        cell = RecurrentCell(w[d], r[d], bias, functions, before_reset)
        steps = []
        for step in x.flip(0) if backwards else x:
            h, c = _STEPS[kind](step, h, c, cell)
            steps.append(h)
        sequences.append(torch.stack(steps[::-1] if backwards else steps))
        last_states.append(h)
        last_cells.append(c)
    return torch.stack(sequences, 1), torch.stack(last_states), torch.stack(last_cells)


Step = tuple[torch.Tensor, torch.Tensor]


class RecurrentCell(NamedTuple):
    """One direction's input and recurrent weights, both biases in a row, and how it computes."""

    w: torch.Tensor
    r: torch.Tensor
    bias: torch.Tensor
    functions: list[Callable[[torch.Tensor], torch.Tensor]]
    before_reset: bool


def _rnn(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, cell: RecurrentCell) -> Step:
    wb, rb = cell.bias.chunk(2)
    return cell.functions[0](x @ cell.w.T + wb + h @ cell.r.T + rb), c


def _gru(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, cell: RecurrentCell) -> Step:
    gate, act = cell.functions
    wz, wr, wh = cell.w.chunk(3)
    rz, rr, rh = cell.r.chunk(3)
    bz, br, bh, cz, cr, ch = cell.bias.chunk(6)
    z = gate(x @ wz.T + bz + h @ rz.T + cz)
    reset = gate(x @ wr.T + br + h @ rr.T + cr)
    past = reset * (h @ rh.T + ch) if cell.before_reset else (reset * h) @ rh.T + ch
    return (1 - z) * act(x @ wh.T + bh + past) + z * h, c


def _lstm(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, cell: RecurrentCell) -> Step:
    gate, act, out = cell.functions
    wb, rb = cell.bias.chunk(2)
    i, o, f, g = (x @ cell.w.T + wb + h @ cell.r.T + rb).chunk(4, dim=-1)
    c = gate(f) * c + gate(i) * act(g)
    return gate(o) * out(c), c


_STEPS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor, RecurrentCell], Step]] = {
    "RNN": _rnn,
    "GRU": _gru,
    "LSTM": _lstm,
}
