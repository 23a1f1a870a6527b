"""What a family file's table of converters holds."""

from __future__ import annotations

from collections.abc import Callable

from conet_graph.bridge.site import Converted, Site

Converter = Callable[[Site], Converted]
Table = dict[tuple[str, str], Converter]
