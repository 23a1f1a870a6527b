"""The zoo: networks with free widths, and their ONNX export. Importing it loads no torch."""

from conet_graph.models.export import export_module, export_onnx
from conet_graph.models.zoo import (
    ZOO,
    Entry,
    build,
    default_image,
    entry,
    names,
    sizes,
)

__all__ = [
    "ZOO",
    "Entry",
    "build",
    "default_image",
    "entry",
    "export_module",
    "export_onnx",
    "names",
    "sizes",
]
