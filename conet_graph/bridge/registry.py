"""How a family file of converters declares what it converts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from conet_graph.bridge.site import Converted, Site

Converter = Callable[[Site], Converted]
AnyConverter = TypeVar("AnyConverter", bound=Converter)
CONVERTERS: dict[tuple[str, str], Converter] = {}


def converter(*op_types: str, domain: str = "") -> Callable[[AnyConverter], AnyConverter]:
    """Enter a converter for operators; a second one for the same operator is an error."""

    def enter(function: AnyConverter) -> AnyConverter:
        for op_type in op_types:
            if (domain, op_type) in CONVERTERS:
                raise ValueError(f"two converters for {op_type}")
            CONVERTERS[domain, op_type] = function
        return function

    return enter
