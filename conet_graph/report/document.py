"""The frame of every page: one self-contained HTML file that runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from conet_graph.report.markup import safe


def document(title: str, body: Sequence[str]) -> str:
    """A whole page.

    Its content security policy names the one script by its hash: nothing that a model could smuggle
    into the markup would run, and the page fetches nothing.

    Args:
        title: as plain text.
        body: markup of the parts, in order.

    """
    folder = files("conet_graph.report") / "template"
    frame, style, script = (
        (folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(frame).substitute(
        title=safe(title),
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
        body="\n".join(body),
    )


def section(title: str, note: str, *content: str) -> str:
    """A section with its heading (plain text), a note (markup; '' for none) and markup."""
    said = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{safe(title)}</h2>{said}\n{chr(10).join(content)}\n</section>"


def card(what: str, value: str, more: str = "") -> str:
    """A summary card, of markup."""
    return (
        f'<div class="card"><div class="what">{what}</div><div class="value">{value}</div>'
        f'<div class="more">{more}</div></div>'
    )


def canvas(drawing: str) -> str:
    """A drawing that can be zoomed and scrolled."""
    buttons = "".join(
        f'<button type="button" data-zoom="{key}">{label}</button>'
        for key, label in (("fit", "Fit"), ("full", "100 %"), ("in", "Larger"), ("out", "Smaller"))
    )
    return f'<div class="tools">{buttons}</div>\n<div class="canvas fit" tabindex="0">{drawing}</div>'
