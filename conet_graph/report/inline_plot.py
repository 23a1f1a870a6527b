"""A matplotlib figure as an ``<svg>`` inside a page: the page's colours and fonts, points with tooltips."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conet_graph.report.markup import safe
from conet_graph.report.plots import Dot, Theme

# Stand-ins that become variables of the page's style: light or dark is the reader's choice.
ON_PAGE = Theme("#010203", "#010204", "#010205", None)
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--muted)", "#010205": "var(--line)"}
# More points than this have no tooltips of their own: they would weigh more than all the rest.
MOST_DOTS = 3_000
_DOT_RADIUS = 6


def inline_svg(figure: Figure, label: str, axes: Axes | None = None, dots: Sequence[Dot] = ()) -> str:
    """The figure as SVG markup.

    Args:
        figure: drawn within ``themed(ON_PAGE)``.
        label: what it shows, for those who cannot see it.
        axes: that the dots are in.
        dots: points of curves; each gets a tooltip.

    """
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    text = data.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    head = f'<svg role="img" aria-label="{safe(label)}" viewBox="0 0 {width:g} {height:g}">'
    text = head + text[text.index(">") + 1 :]
    # Matplotlib repeats its ids from figure to figure; only those of sizes mean something here.
    text = re.sub(r'<g id="size-(\d+)"', r'<g class="curve" data-size="\1"', text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"#01020[345]", lambda found: _VARIABLES[found[0]], text)
    text = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]*", r"\1 sans-serif", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*", "\n", text)
    marks = "" if axes is None or len(dots) > MOST_DOTS else _marks(axes, dots, height)
    end = text.rindex("</svg>")
    return f"{text[:end]}{marks}</svg>"


def _marks(axes: Axes, dots: Sequence[Dot], height: float) -> str:
    """Invisible circles over the points, in the units of the view box."""
    # The transform knows pixels, and the layout's pixels are points: figures have 72 dpi.
    places = axes.transData.transform([(dot.x, dot.y) for dot in dots]).tolist() if dots else []
    return "".join(
        f'<circle class="dot"{"" if dot.size is None else f" data-size={chr(34)}{dot.size}{chr(34)}"}'
        f' cx="{x:.1f}" cy="{height - y:.1f}" r="{_DOT_RADIUS}"><title>{safe(dot.text)}</title></circle>'
        for dot, (x, y) in zip(dots, places, strict=True)
    )
