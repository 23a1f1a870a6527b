"""The free channel sizes of the plain families, by name, with their usual widths."""

from __future__ import annotations

# Inverted residual stages of MobileNetV2: expansion, channels, blocks, stride. In the form for
# small images the stem and the second stage keep the resolution: three halvings in all.
MOBILENETV2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILENETV2_WIDTH = 32
MOBILENETV2_HEAD = 1280

# VGG-11: multiples of the base width; "M" halves the resolution.
VGG11_LAYOUT = (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M")


def resnet_sizes(blocks: tuple[int, ...], width: int) -> dict[str, int]:
    """One size for each stage (the stem belongs to the first), one inside each basic block."""
    sizes: dict[str, int] = {}
    for stage, count in enumerate(blocks):
        name = f"layer{stage + 1}"
        sizes[name] = width << stage
        sizes.update({f"{name}.{block}": width << stage for block in range(count)})
    return sizes


def vgg11_sizes(width: int) -> dict[str, int]:
    """One size for each of the eight convolutions."""
    factors = [factor for factor in VGG11_LAYOUT if isinstance(factor, int)]
    return {f"convs.{i}": factor * width for i, factor in enumerate(factors)}


def mobilenetv2_sizes(width: int) -> dict[str, int]:
    """List the stem's, each stage's output, each expansion, and the last convolution's."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * width / MOBILENETV2_WIDTH))

    sizes = {"stem": width}
    block, inputs = 0, width
    for stage, (expansion, channels, count, _) in enumerate(MOBILENETV2_STAGES):
        sizes[f"stage{stage}"] = scaled(channels)
        for _ in range(count):
            if expansion > 1:
                sizes[f"blocks.{block}"] = inputs * expansion
            block, inputs = block + 1, scaled(channels)
    sizes["head"] = scaled(MOBILENETV2_HEAD)
    return sizes
