"""``analyze --html``: the channel structure of one network as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from conet_graph.analysis.analysis import Analysis, GroupEntry, LayerEntry, analysis_of
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.save import atomic_write
from conet_graph.report.document import canvas, card, document, section
from conet_graph.report.graph_drawing import draw_graph
from conet_graph.report.loss_curves import loss_curves
from conet_graph.report.markup import UNKNOWN, count, kernel, named, safe
from conet_graph.report.palette import Palette
from conet_graph.report.tables import swatch, table

# Longer tables would make the page heavy; the whole is in `analyze --json`.
MOST_ROWS = 3_000
MOST_CURVES = 200
_MOST_NAMES = 8


def write_analysis_page(
    graph: Graph,
    path: Path,
    analysis: Analysis | None = None,
    losses: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the drawing of a network, its layers, its groups, and what is frozen and why.

    Args:
        graph: it went through all passes (``conet_graph.passes.analysed``).
        path: the HTML file.
        analysis: of the graph; made here if not given.
        losses: by the id of a free group, what is lost once 0, 1, 2, ... of its steps are gone, to be drawn.

    Raises:
        BadUsage: the file cannot be written.

    """
    atomic_write(path, [analysis_page(graph, analysis or analysis_of(graph), losses).encode()])


def analysis_page(
    graph: Graph, analysis: Analysis, losses: Mapping[str, Sequence[float]] | None = None
) -> str:
    """The page of a network as HTML."""
    palette = Palette.of_analysis(analysis)
    model = analysis.model
    name = PurePath(model.path).name if model.path else "network"
    free = [g for g in analysis.groups if g.free]
    frozen = [g for g in analysis.groups if not g.free]
    parts = [
        f'<header><div class="line"><h1>{named(name)}</h1></div><p class="note">'
        f"{named(model.producer or 'unknown producer')} · opset {model.opset} · {model.nodes} nodes · "
        f"sha256 {safe(model.sha256[:16])}…</p></header>",
        _cards(analysis, palette, len(frozen)),
        _drawing(graph, analysis, palette),
    ]
    if free:
        parts.append(section("Free channel groups", _FREE_NOTE, _free_table(free, palette)))
    if free and losses:
        parts.append(loss_curves(losses, free, palette, MOST_CURVES))
    if frozen or analysis.unsupported:
        parts.append(section("Frozen channels", _FROZEN_NOTE, _frozen_table(frozen), _unsupported(analysis)))
    parts.append(section("Layers", _cut_note(len(analysis.layers)), _layers_table(analysis, palette)))
    return document(f"{shown(name)[1:-1]}: channel structure", parts)


_FREE_NOTE = "Channels that appear or vanish together. Groups of one size make up one layer's output."
_FROZEN_NOTE = "Channel counts that may not change, and why."


def _cards(analysis: Analysis, palette: Palette, frozen: int) -> str:
    model = analysis.model
    free = sum(g.free for g in analysis.groups)
    fixed = {g.id for g in analysis.groups if not g.free}
    convs = [layer for layer in analysis.layers if layer.kind == "conv"]
    may = sum(not set(layer.out_groups) <= fixed for layer in convs)
    cards = [
        card("Parameters", count(model.parameters)),
        card("MACs", count(model.macs), "an image" if model.macs is not None else "a size is not known"),
        card("Layers", str(len(analysis.layers)), f"{may} of {len(convs)} conv layers are free"),
        card("Independent sizes", str(len(palette.labels)), f"in {free} free groups"),
        card("Frozen groups", str(frozen)),
        card(
            "Edges", str(analysis.edges.conv + analysis.edges.non_conv), f"{analysis.edges.conv} of them conv"
        ),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _drawing(graph: Graph, analysis: Analysis, palette: Palette) -> str:
    drawing = draw_graph(graph, analysis, palette, "The network as a graph of its layers")
    if drawing is None:
        return section("The network", f"{len(analysis.layers)} layers are more than a drawing can show.")
    note = (
        "Layers and the places where feature maps meet. Colours are channel sizes, dashed layers are frozen, "
        "lines are as thick as they have channels. Point at a size to see all that changes with it."
    )
    return section("The network", note, canvas(drawing))


def _size(group: GroupEntry, palette: Palette) -> str:
    color = palette.color(palette.index.get(group.size))
    return f'<span class="size">{swatch(color)}{safe(group.size)}</span>'


def _free_table(groups: list[GroupEntry], palette: Palette) -> str:
    rows = [
        f'<tr data-size="{palette.index[g.size]}"><td>{_size(g, palette)}</td><td>{safe(g.id)}</td>'
        f'<td class="n">{g.width}</td><td class="n">{g.multiple}</td>'
        f'<td class="wrap">{_names(g.producers)}</td><td class="wrap">{_names(g.consumers)}</td></tr>'
        for g in groups[:MOST_ROWS]
    ]
    return table(("size", "group", "#width", "#moves by", "producers", "consumers"), rows)


def _frozen_table(groups: list[GroupEntry]) -> str:
    rows = [
        f'<tr><td>{safe(g.id)}</td><td class="n">{g.width}</td>'
        f'<td class="wrap">{named(g.reason or "", 300)}</td>'
        f'<td class="wrap">{_names(tuple(dict.fromkeys((*g.producers, *g.consumers))))}</td></tr>'
        for g in groups[:MOST_ROWS]
    ]
    return table(("group", "#width", "why", "layers"), rows) if groups else ""


def _unsupported(analysis: Analysis) -> str:
    return "".join(
        f'<p class="note">No channel rule fits {named(u.op)} {named(u.node)}: it freezes '
        f"{safe(', '.join(u.freezes[:_MOST_NAMES])) or 'no channels of a layer'}.</p>"
        for u in analysis.unsupported[:MOST_ROWS]
    )


def _names(names: tuple[str, ...]) -> str:
    more = (
        f' <span class="muted">and {len(names) - _MOST_NAMES} more</span>' if len(names) > _MOST_NAMES else ""
    )
    return (", ".join(named(n) for n in names[:_MOST_NAMES]) or UNKNOWN) + more


def _cut_note(rows: int) -> str:
    return f"The first {MOST_ROWS} of {rows}." if rows > MOST_ROWS else ""


def _layers_table(analysis: Analysis, palette: Palette) -> str:
    by_id = {g.id: g for g in analysis.groups}
    rows = [_layer_row(layer, by_id, palette) for layer in analysis.layers[:MOST_ROWS]]
    heads = (
        "size",
        "layer",
        "operator",
        "kernel",
        "#in",
        "#out",
        "groups in",
        "groups out",
        "#parameters",
        "#MACs",
    )
    return table(heads, rows)


def _layer_row(layer: LayerEntry, groups: dict[str, GroupEntry], palette: Palette) -> str:
    out = groups[layer.out_groups[0]] if layer.out_groups and layer.out_groups[0] in groups else None
    index = None if out is None or not out.free else palette.index.get(out.size)
    mark = "" if index is None else f' data-size="{index}"'
    size = '<span class="muted">frozen</span>' if out is None or not out.free else _size(out, palette)
    shape = kernel(layer.kernel) or UNKNOWN
    if layer.conv_groups > 1:
        shape += f" /{layer.conv_groups}"
    ids = [
        safe(" ".join(g[:_MOST_NAMES])) + (" …" if len(g) > _MOST_NAMES else "")
        for g in (layer.in_groups, layer.out_groups)
    ]
    numbers = ["?" if n is None else str(n) for n in (layer.in_channels, layer.out_channels)]
    return (
        f'<tr{mark}><td>{size}</td><td class="name" title="{named(layer.name, 300)}">{named(layer.name)}</td>'
        f"<td>{named(layer.op, 40)}</td><td>{shape}</td>"
        f'<td class="n">{numbers[0]}</td><td class="n">{numbers[1]}</td>'
        f"<td>{ids[0] or UNKNOWN}</td><td>{ids[1] or UNKNOWN}</td>"
        f'<td class="n">{count(layer.parameters)}</td><td class="n">{count(layer.macs)}</td></tr>'
    )
