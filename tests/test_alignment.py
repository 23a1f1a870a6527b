"""Widths that are multiples of what runtimes compute at once, and where smaller steps are taken."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rewidth_case import graph_of

from conet_graph.cli import run
from conet_graph.cli.common import RUNTIMES
from conet_graph.costs.cost import cost
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from conet_graph.rewriting.alignment import (
    PRESETS,
    Alignment,
    alignment_of,
    block_steps,
    breaking,
    step_ladder,
)
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from tests.graphs import GraphBuilder

SAMPLE = Path(__file__).parents[1] / "models" / "samples" / "digits.onnx"


def chain(*widths: int) -> Graph:
    """1x1 convolutions of the given widths, then one of ten, which is frozen."""
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 8, 8])
    for k, width in enumerate(widths):
        x = b.conv(x, width, name="abcdefgh"[k])
    b.output(b.conv(x, 10, name="last"))
    return graph_of(b.build())


def grouped(groups: int, width: int) -> Graph:
    """A convolution in groups: the channels before and behind it move as many at once."""
    b = GraphBuilder()
    x = b.conv(b.conv(b.input("x", ["N", 3, 8, 8]), width, name="a"), width, 3, group=groups, name="g")
    b.output(b.conv(x, 10))
    return graph_of(b.build())


def widths(graph: Graph, **request: Any) -> list[int]:
    copies = choose_copies(graph, WidthRequest(**request))
    channels = graph.result(CHANNELS)
    return [int(copies[g.classes].sum()) * g.multiple for g in channels.groups if g.free]


def first_ladder(graph: Graph, alignment: Alignment) -> list[int]:
    """The steps of the first group, in channels."""
    channels = graph.result(CHANNELS)
    return [int(steps[0]) * channels.groups[0].multiple for steps in step_ladder(graph, alignment)]


@pytest.mark.parametrize(
    ("width", "steps"), [(64, [8, 4, 2, 1]), (16, [8, 4, 2, 1]), (15, [4, 2, 1]), (7, [2, 1]), (3, [1])]
)
def test_narrow_groups_go_by_smaller_steps(width: int, steps: list[int]) -> None:
    assert first_ladder(chain(width), Alignment()) == steps


@pytest.mark.parametrize(("width", "first"), [(256, 16), (48, 16), (47, 8), (32, 8), (15, 4)])
def test_wide_groups_go_by_larger_steps(width: int, first: int) -> None:
    assert first_ladder(chain(width), alignment_of(None, None))[0] == first
    assert first_ladder(chain(width), alignment_of(None, "tensorrt"))[0] == min(first, 8)


def test_work_is_halved_in_larger_steps_and_a_scale_is_taken_as_it_is() -> None:
    assert [w % 16 for w in widths(chain(64, 96, 128, 64), macs=0.5)] == [0, 0, 0, 0]
    assert [w % 16 for w in widths(chain(64, 96, 128, 64), params=0.5)] == [0, 0, 0, 0]
    assert widths(chain(48, 112), scale=0.5) == [24, 56]
    # 16 of the only 48 channels are too far below the half.
    assert widths(chain(48), macs=0.5) == [24]


def separable(*widths: int) -> Graph:
    """A depthwise 3x3 and a 1x1 convolution to each of the widths, after a 3x3 one to the first."""
    b = GraphBuilder()
    x = b.conv(b.input("x", ["N", 3, 8, 8]), widths[0], 3)
    for before, width in pairwise(widths):
        x = b.conv(b.conv(x, before, 3, group=before), width)
    b.output(b.conv(x, 10))
    return graph_of(b.build())


def plain(*widths: int) -> Graph:
    """3x3 convolutions."""
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 8, 8])
    for width in [*widths, 10]:
        x = b.conv(x, width, 3)
    b.output(x)
    return graph_of(b.build())


def test_work_goes_in_whole_blocks() -> None:
    """Half a block of 16 channels saves time only in windows that read it."""
    found = widths(separable(16, 64, 16, 96, 64), macs=0.5)
    assert found[0] == found[2] == 16
    assert [w % 16 for w in found] == [0, 0, 0, 0, 0]
    assert widths(plain(16, 64, 16), macs=0.5)[0] == 8


def test_whole_blocks_are_given_up_for_a_target_or_a_balance() -> None:
    # Nothing but narrow groups; a quarter of the wide one is the least that goes for the sake of others.
    assert min(widths(separable(16, 16, 16, 16), macs=0.5)) < 16
    assert min(widths(separable(16, 16, 64, 16, 16, 16), macs=0.4)) < 16


@pytest.mark.parametrize(
    ("groups", "width", "step"),
    [(4, 64, 64), (2, 64, 32), (8, 64, 8), (6, 48, 24)],  # 16, 32, 8 and 8 channels in each group
)
def test_grouped_convolutions_keep_the_blocks_that_they_have(groups: int, width: int, step: int) -> None:
    graph = grouped(groups, width)
    moving = [g.multiple for g in graph.result(CHANNELS).groups if g.free]
    for steps in block_steps(graph):
        assert [int(s) * each for s, each in zip(steps, moving, strict=False)] == [step] * len(moving)


def test_a_multiple_that_is_asked_for_is_kept() -> None:
    assert first_ladder(chain(12), alignment_of(8, None)) == [8]
    assert first_ladder(chain(64), alignment_of(None, "tensorrt-int8")) == [32, 16, 8, 4, 2, 1]


def test_channels_that_move_together_stay_together() -> None:
    # 3 channels move at once: multiples of 24, then of 12, 6 and 3.
    assert first_ladder(grouped(3, 96), Alignment()) == [24, 12, 6, 3]
    # 8 groups of 32: for ncnn each keeps a multiple of 4 channels.
    assert first_ladder(grouped(8, 256), alignment_of(None, "ncnn")) == [32, 16, 8]


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.25}, {"macs": 0.6}])
@pytest.mark.parametrize("uniform", [False, True])
def test_targets_give_multiples_of_eight(target: dict[str, float], uniform: bool) -> None:
    found = widths(chain(64, 96, 128, 64), **target, uniform=uniform)
    assert [w % 8 for w in found] == [0, 0, 0, 0]


def test_a_preset_gives_its_multiples() -> None:
    assert [w % 16 for w in widths(chain(96, 128, 256), macs=0.5, runtime="rknn")] == [0, 0, 0]
    assert [w % 8 for w in widths(chain(96, 128), scale=0.3, runtime="tensorrt")] == [0, 0]


def test_what_is_named_is_taken_as_it_is() -> None:
    assert widths(chain(64, 96), widths={"a": 37}) == [37, 96]
    named, *others = widths(chain(64, 96, 128, 96), widths={"a": 37}, macs=0.3)
    assert named == 37
    assert [w % 8 for w in others] == [0, 0, 0]


def test_a_target_that_large_steps_miss_is_met_by_smaller_ones() -> None:
    """Multiplications are 13 a pixel for each channel: 40 % of 24 channels are 9.6."""
    assert widths(chain(24), macs=0.4) == [9]
    assert widths(chain(24), macs=0.4, multiple_of=8) == [8]
    assert widths(chain(240), macs=0.4) == [96]


def test_a_target_below_the_narrowest_large_steps_is_reached() -> None:
    assert widths(chain(64), macs=0.04) == [2]
    with pytest.raises(Refused, match="cannot be reached"):
        widths(chain(64), macs=0.04, multiple_of=8)


def test_no_rounding_where_nothing_is_to_change() -> None:
    assert widths(chain(20, 33), scale=1.0) == [20, 33]


def test_widths_that_break_a_preset() -> None:
    assert breaking(chain(64, 20, 40), "tensorrt") == [
        "group g1 is 20 wide, tensorrt computes multiples of 8"
    ]
    assert [w.split()[3] for w in breaking(chain(64, 24, 48), "rknn")] == ["24"]
    assert [w.split()[-1] for w in breaking(grouped(8, 48), "ncnn")] == ["32", "32"]
    assert breaking(chain(64, 96), "rknn") == []


def test_the_command_line_names_all_presets() -> None:
    assert RUNTIMES.replace(" or ", ", ").split(", ") == list(PRESETS)


def test_commands_say_what_is_not_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample's widths are 24, 32, 24, 40, 48, 16 and 64."""
    slim, plan = str(tmp_path / "slim.onnx"), str(tmp_path / "plan.json")
    assert run(["analyze", str(SAMPLE), "--for", "tensorrt-int8"]) == 0
    assert "group g0 is 24 wide, tensorrt-int8 computes multiples of 32" in capsys.readouterr().err
    assert run(["analyze", str(SAMPLE), "--for", "ncnn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
    assert run(["rewrite", str(SAMPLE), "-o", slim, "--set", "g0=20", "--plan", plan]) == 0
    assert "not multiples" not in capsys.readouterr().out
    assert run(["verify", str(SAMPLE), slim, "--plan", plan, "--for", "ncnn"]) == 0
    assert "Warning: group g0 is 20 wide" in capsys.readouterr().err
    assert run(["verify", str(SAMPLE), slim, "--plan", plan, "--for", "abacus"]) == 2
    assert run(["rewrite", str(SAMPLE), "-o", slim, "--macs", "0.01"]) == 0
    assert "not multiples of 8, since narrow or the target would be missed: g0" in capsys.readouterr().out


def test_a_runtime_that_is_not_known() -> None:
    with pytest.raises(BadUsage, match=r"choose one of onnxruntime-cpu, .*ncnn, rknn"):
        widths(chain(16), scale=0.5, runtime="tpu")
    with pytest.raises(BadUsage, match="give one"):
        widths(chain(16), scale=0.5, runtime="ncnn", multiple_of=4)
    with pytest.raises(BadUsage, match="1 or more"):
        widths(chain(16), scale=0.5, multiple_of=0)


def test_the_cost_that_is_met_is_the_rewritten_network_s() -> None:
    graph = chain(64, 96, 128, 64)
    made = rewrite_model(graph, lay_out(graph, choose_copies(graph, WidthRequest(macs=0.5))))
    share = cost(graph_of(made)).known_macs / cost(graph).known_macs
    assert 0.475 <= share <= 0.5
