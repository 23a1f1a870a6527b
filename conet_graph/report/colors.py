"""One colour for each channel size, the same in every plot, table and drawing."""

from __future__ import annotations

import math

# Told apart also by those who see no red or no green, and at 3:1 or better on white and on near-black.
FEW = ("#2f7ed8", "#d9730d", "#1a9a6c", "#c2508f", "#8464d6", "#a87900", "#0d93ab", "#d2504c")
FROZEN = "#8a8f98"
# From the first size to the last the hue runs from blue over green to red.
_FIRST_HUE, _LAST_HUE = 265.0, 15.0


def size_color(index: int, count: int) -> str:
    """The colour of one of ``count`` sizes, by its place in the network, as #rrggbb.

    Up to eight sizes have colours of their own; of more, the hue tells the place in the network and
    neighbours differ in lightness.

    >>> size_color(0, 3)
    '#2f7ed8'
    """
    if count <= len(FEW):
        return FEW[index]
    hue = _FIRST_HUE + (_LAST_HUE - _FIRST_HUE) * index / (count - 1)
    return _oklch(0.65 if index % 2 else 0.55, 0.14, hue)


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """An OKLCH colour as sRGB, with as much of its chroma as sRGB can show (Ottosson 2020)."""
    while True:
        rgb = _linear_rgb(lightness, chroma, math.radians(hue))
        if chroma < 0.01 or all(-0.001 <= c <= 1.001 for c in rgb):
            return "#" + "".join(f"{round(255 * _gamma(c)):02x}" for c in rgb)
        chroma -= 0.005


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(channel: float) -> float:
    channel = min(max(channel, 0.0), 1.0)
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055
