"""A network drawn as its DAG, channel sizes in colours, as SVG.

The SVG stands on its own (colours are attributes, so any viewer shows it); inside a page the
page's style may override them. Whatever has a size carries it as ``data-size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from conet_graph.analysis.analysis import Analysis, GroupEntry, LayerEntry
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph
from conet_graph.report.layout import Box, Placement, Point, place
from conet_graph.report.markup import MINUS, TIMES, count, kernel, named, safe
from conet_graph.report.network import DrawnNetwork, Part, network_of
from conet_graph.report.palette import Palette

INK, MUTED, GROUND = "#1c2128", "#5b6570", "#ffffff"
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif"
# Beyond this many parts layers are small boxes without their names; beyond the second, no drawing.
MOST_NAMED = 260
MOST_PARTS = 2_000
_MARGIN = 12.0
_NAME_LENGTH = 22
_SYMBOLS = {"Add": "+", "Sum": "+", "Mul": TIMES, "Sub": MINUS, "Div": "÷", "Concat": "concat"}


def draw_graph(graph: Graph, analysis: Analysis, palette: Palette, name: str) -> str | None:
    """The drawing of an analysed graph as one ``<svg>``; None where it is too large to be of use.

    Args:
        graph: it went through all passes.
        analysis: of that graph.
        palette: colours of its sizes.
        name: what the drawing shows, for those who cannot see it.

    """
    if len(analysis.layers) > MOST_PARTS:
        return None
    network = network_of(graph, analysis)
    if len(network.parts) > MOST_PARTS:
        return None
    return _Drawing(network, analysis, palette).svg(name)


@dataclass(frozen=True)
class _Look:
    """How large layers are drawn."""

    width: float
    height: float
    names: bool


_FULL, _SMALL = _Look(170, 40, True), _Look(64, 20, False)


class _Drawing:
    def __init__(self, network: DrawnNetwork, analysis: Analysis, palette: Palette) -> None:
        self.network, self.palette = network, palette
        self.look = _FULL if len(network.parts) <= MOST_NAMED else _SMALL
        self.groups: Mapping[str, GroupEntry] = {group.id: group for group in analysis.groups}
        self.deepest = max((part.depth for part in network.parts), default=0) or 1
        self.boxes = [self._box(part) for part in network.parts]

    def svg(self, name: str) -> str:
        edges = [(link.source, link.target) for link in self.network.links]
        placed = place(self.boxes, edges)
        width, height = placed.width + 2 * _MARGIN, placed.height + 2 * _MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" width="{width:.0f}"'
            f' height="{height:.0f}" viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.1f} {height:.1f}"'
            f' font-family="{FONT}" aria-label="{named(name)}">'
        )
        parts = [
            self._part(part, box, center)
            for part, box, center in zip(self.network.parts, self.boxes, placed.centers, strict=True)
        ]
        return "\n".join([head, *self._links(placed), *parts, "</svg>\n"])

    def _box(self, part: Part) -> Box:
        if part.kind == "layer":
            return Box(self.look.width, self.look.height)
        if part.kind == "join":
            symbol = _symbol(part)
            return Box(22.0 if len(symbol) == 1 else 16 + 6.4 * len(symbol), 22.0)
        return Box(min(self.look.width, 28 + 6.2 * len(_short(part.name, _NAME_LENGTH))), 22.0)

    def _size(self, part: Part) -> int | None:
        """The part's size, where its depth is made of exactly one."""
        found = [self.palette.index.get(size) for size in part.sizes]
        return found[0] if len(found) == 1 else None

    def _links(self, placed: Placement) -> list[str]:
        """One path for each source: its edges share their way as far as it is the same."""
        segments: dict[int, dict[tuple[Point, Point], None]] = {}
        for link, route in zip(self.network.links, placed.routes, strict=True):
            segments.setdefault(link.source, {}).update(dict.fromkeys(pairwise(route)))
        found = []
        for source, pairs in sorted(segments.items()):
            part = self.network.parts[source]
            thick = 1.1 + 2.4 * (part.depth / self.deepest) ** 0.5
            title = f"{part.depth or 'unknown'} channels from {named(part.name)}"
            found.append(
                f'<path class="link"{self._mark(part)} fill="none" stroke="{self._color(part)}"'
                f' stroke-opacity="0.6" stroke-width="{thick:.1f}" stroke-linejoin="round"'
                f' d="{_path(list(pairs))}"><title>{title}</title></path>'
            )
        return found

    def _mark(self, part: Part) -> str:
        size = self._size(part)
        return "" if size is None else f' data-size="{size}"'

    def _color(self, part: Part) -> str:
        return self.palette.color(self._size(part))

    def _part(self, part: Part, box: Box, center: Point) -> str:
        x, y = center[0] - box.width / 2, center[1] - box.height / 2
        frozen = part.kind == "layer" and self._size(part) is None
        radius = 7.0 if part.kind == "layer" and self.look.names else box.height / 2
        frame = f'x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:g}"'
        color = self._color(part)
        shapes = [
            f'<rect class="ground" {frame} fill="{GROUND}"/>',
            f'<rect class="box" {frame} fill="{color}" fill-opacity="0.13" stroke="{color}"'
            f' stroke-width="1.4"{" stroke-dasharray=" + chr(34) + "4 3" + chr(34) if frozen else ""}/>',
        ]
        if part.kind == "layer" and part.layer is not None:
            shapes += self._layer_text(part, part.layer, x, center)
        else:
            label = _symbol(part) if part.kind == "join" else _short(part.name, _NAME_LENGTH)
            size = 15 if len(label) == 1 else 11
            shapes.append(_text(center[0], center[1] + size * 0.35, label, size, middle=True))
            shapes += self._stripes(part, x, y + box.height, box.width)
        title = f"<title>{safe(chr(10)).join(self._facts(part))}</title>"
        kind = f"part {part.kind}{' frozen' if frozen else ''}"
        return f'<g class="{kind}"{self._mark(part)}>{title}{"".join(shapes)}</g>'

    def _layer_text(self, part: Part, layer: LayerEntry, x: float, center: Point) -> list[str]:
        widths = f"{_known(layer.in_channels)} → {_known(layer.out_channels)}"
        if not self.look.names:
            return [_text(center[0], center[1] + 3.5, widths, 9.5, middle=True)]
        detail = f"{widths} · {kernel(layer.kernel) or layer.op}"
        if layer.kind == "non-conv":
            detail += " dw"
        elif layer.conv_groups > 1:
            detail += f" /{layer.conv_groups}"
        if len(detail) > _NAME_LENGTH:
            detail = widths
        size = self._size(part)
        tag = "" if size is None else _short(self.palette.labels[size], 5)
        return [
            _text(x + 10, center[1] - 4, _short(layer_label(layer), _NAME_LENGTH), 11),
            _text(x + 10, center[1] + 11.5, detail, 10, muted=True),
            _text(x + self.look.width - 8, center[1] + 11.5, tag, 10, end=True, color=self._color(part)),
        ]

    def _stripes(self, part: Part, x: float, bottom: float, width: float) -> list[str]:
        """Under a concatenation, the colours of the sizes that it is made of."""
        if len(part.sizes) < 2:
            return []
        step = (width - 12) / len(part.sizes)
        return [
            f'<rect x="{x + 6 + k * step:.1f}" y="{bottom - 4:.1f}" width="{step:.1f}" height="2.5"'
            f' fill="{self.palette.color(self.palette.index.get(size))}"/>'
            for k, size in enumerate(part.sizes)
        ]

    def _facts(self, part: Part) -> list[str]:
        """The lines of a tooltip."""
        if part.layer is not None:
            return self._layer_facts(part.layer)
        depth = f"{part.depth} channels" if part.depth else "no channels that could change"
        sizes = ", ".join(self._label(size) for size in part.sizes[:12])
        more = f" and {len(part.sizes) - 12} more" if len(part.sizes) > 12 else ""
        what = {"input": "input of the network", "output": "output of the network"}.get(part.kind)
        lines = [named(part.name), what or f"{named(part.op)} of feature maps", depth]
        return [*lines, f"sizes: {sizes}{more}"] if sizes else lines

    def _label(self, size: str) -> str:
        index = self.palette.index.get(size)
        return safe("frozen" if index is None else self.palette.labels[index])

    def _layer_facts(self, layer: LayerEntry) -> list[str]:
        shape = f"{kernel(layer.kernel)} {layer.op}".strip()
        lines = [
            named(layer.name),
            safe(f"{shape}, {layer.kind}" + _split(layer)),
            f"{_known(layer.in_channels)} channels in, {_known(layer.out_channels)} out",
            f"{count(layer.parameters)} parameters, {count(layer.macs)} MACs",
        ]
        for title, ids in (("in", layer.in_groups), ("out", layer.out_groups)):
            described = [self._group(self.groups[g]) for g in ids[:6] if g in self.groups]
            if described:
                lines.append(f"{title}: {', '.join(described)}")
        return lines

    def _group(self, group: GroupEntry) -> str:
        if not group.free:
            return f"{safe(group.id)}, frozen ({named(group.reason or 'no reason known')})"
        return f"group {safe(group.id)} of size {self._label(group.size)}"


def layer_label(layer: LayerEntry) -> str:
    """A layer's name without what the operator says anyway and what its own parts repeat.

    >>> from types import SimpleNamespace
    >>> layer_label(SimpleNamespace(name="/layer1/layer1.0/conv1/Conv", op="Conv"))
    'layer1.0/conv1'
    """
    pieces = [p for p in layer.name.split("/") if p]
    if len(pieces) > 1 and pieces[-1].rstrip("0123456789").rstrip("_") == layer.op:
        pieces.pop()
    kept = [p for p, after in zip(pieces, [*pieces[1:], ""], strict=True) if not after.startswith(p + ".")]
    return "/".join(kept) or layer.name


def _split(layer: LayerEntry) -> str:
    return f" in {layer.conv_groups} groups" if layer.conv_groups > 1 else ""


def _symbol(part: Part) -> str:
    return _SYMBOLS.get(part.op, _short(part.op, 14))


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _short(name: str, limit: int) -> str:
    """The end of a long name: what tells layers apart stands there."""
    printable = shown(name, 4 * limit + len(name))[1:-1] if not name.isprintable() else name
    return printable if len(printable) <= limit else "…" + printable[1 - limit :].lstrip("./")


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    middle: bool = False,
    end: bool = False,
    muted: bool = False,
    color: str | None = None,
) -> str:
    anchor = ' text-anchor="middle"' if middle else ' text-anchor="end"' if end else ""
    tone = "tag" if color else "muted" if muted else "ink"
    fill = color or (MUTED if muted else INK)
    weight = ' font-weight="600"' if color or middle else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"'
    return f'<text class="{tone}" {place}{anchor}{weight} fill="{fill}">{safe(text)}</text>'


def _path(pairs: Sequence[tuple[Point, Point]]) -> str:
    """Lines where a segment is straight, S-curves where it leads down and aside."""
    found: list[str] = []
    pen: Point | None = None
    for (x1, y1), (x2, y2) in pairs:
        if pen != (x1, y1):
            found.append(f"M{x1:.1f} {y1:.1f}")
        if abs(x1 - x2) < 0.05 or abs(y1 - y2) < 0.05:
            found.append(f"L{x2:.1f} {y2:.1f}")
        else:
            mid = (y1 + y2) / 2
            found.append(f"C{x1:.1f} {mid:.1f} {x2:.1f} {mid:.1f} {x2:.1f} {y2:.1f}")
        pen = (x2, y2)
    return "".join(found)
