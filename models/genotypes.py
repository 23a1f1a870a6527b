"""The cells of DARTS and DARTS+ as data: operations, the channel sizes they tie, and their widths.

Genotypes: DARTS_V2 of Liu et al. 2019 (second order, CIFAR-10) and the one that DARTS+
(Liang et al. 2019) found on CIFAR-100, both as the CONet paper searches them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellSpec:
    """One kind of cell: eight operations, two for each of the nodes 2 to 5.

    ``ops`` are (operation, state it reads) in building order; states 0 and 1 are the two
    preprocessed inputs. ``states`` names the channel size of each of the six states: states that a
    skip connection or a pooling joins bear one name.
    """

    ops: tuple[tuple[str, int], ...]
    states: tuple[str, ...]

    def sizes(self) -> tuple[str, ...]:
        """Name this cell's free sizes: its states', then one for each separable conv."""
        mids = sum(op.startswith("sep_conv") for op, _ in self.ops)
        return (*dict.fromkeys(self.states), *(f"mid{i + 1}" for i in range(mids)))


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: CellSpec
    reduction: CellSpec


DARTS = Genotype(
    normal=CellSpec(
        ops=(
            ("sep_conv_3x3", 0),
            ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0),
            ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1),
            ("skip_connect", 0),
            ("skip_connect", 0),
            ("dil_conv_3x3", 2),
        ),
        states=("C0", "C1", "C2", "C3", "C0", "C0"),
    ),
    # Its skips read node 2, which has the reduced resolution already: the identity, no convolution.
    reduction=CellSpec(
        ops=(
            ("max_pool_3x3", 0),
            ("max_pool_3x3", 1),
            ("skip_connect", 2),
            ("max_pool_3x3", 1),
            ("max_pool_3x3", 0),
            ("skip_connect", 2),
            ("skip_connect", 2),
            ("max_pool_3x3", 1),
        ),
        states=("C0", "C0", "C0", "C0", "C0", "C0"),
    ),
)

DARTS_PLUS = Genotype(
    normal=CellSpec(
        ops=(
            ("skip_connect", 0),
            ("sep_conv_3x3", 1),
            ("skip_connect", 0),
            ("sep_conv_5x5", 2),
            ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 3),
            ("sep_conv_3x3", 2),
            ("sep_conv_3x3", 4),
        ),
        states=("C0", "C1", "C0", "C0", "C2", "C3"),
    ),
    # The skip of state 1 has stride 2: a FactorizedReduce, which frees state 1 from the rest.
    reduction=CellSpec(
        ops=(
            ("max_pool_3x3", 0),
            ("skip_connect", 1),
            ("max_pool_3x3", 0),
            ("dil_conv_5x5", 2),
            ("max_pool_3x3", 0),
            ("dil_conv_5x5", 3),
            ("max_pool_3x3", 0),
            ("skip_connect", 2),
        ),
        states=("C0", "C1", "C0", "C0", "C0", "C0"),
    ),
)

GENOTYPES = {"darts": DARTS, "dartsplus": DARTS_PLUS}


def is_reduction(cell: int, cells: int) -> bool:
    """Whether the cell, counted from 0, is one of the two reduction cells of the network."""
    return cell in (cells // 3, 2 * cells // 3)


def stem_sizes(imagenet: bool) -> tuple[str, ...]:
    """Name the stem's free sizes, in building order."""
    return ("stem0", "stem1", "stem2") if imagenet else ("stem",)


def cell_network_sizes(family: str, cells: int, width: int, imagenet: bool) -> dict[str, int]:
    """List every free size of a network of cells: names as `cells.3.mid1`, widths doubled twice.

    The CIFAR stem is three times as wide as the first cells, as in DARTS.
    """
    sizes = dict.fromkeys(stem_sizes(imagenet), width)
    if imagenet:
        sizes["stem0"] = max(1, width // 2)
    else:
        sizes["stem"] = 3 * width
    genotype = GENOTYPES[family]
    for cell in range(cells):
        reduction = is_reduction(cell, cells)
        width *= 2 if reduction else 1
        spec = genotype.reduction if reduction else genotype.normal
        sizes.update({f"cells.{cell}.{size}": width for size in spec.sizes()})
    return sizes
