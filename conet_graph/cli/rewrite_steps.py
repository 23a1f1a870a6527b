"""The steps of ``rewrite``: choosing widths in one of three ways, proving the result, writing it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from conet_graph.cli.apart import report_of
from conet_graph.cli.calibrating import choice_apart, refit_apart
from conet_graph.cli.common import note
from conet_graph.cli.files import PIPE, write_to_pipe
from conet_graph.cli.latency import Timing, met_apart, speed_apart
from conet_graph.cli.rewrite_outcome import Rewritten
from conet_graph.cli.steps import step
from conet_graph.cli.uneven import uneven_groups
from conet_graph.costs.cost import cost
from conet_graph.costs.input_shapes import Counting, InputShapes
from conet_graph.ir.errors import of_our_making
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.overridable import constant_weights
from conet_graph.ir.save import one_file
from conet_graph.passes import structured
from conet_graph.passes.widths.rewidth import Layout
from conet_graph.rewriting.alignment import Alignment
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.ranking import lacks_norms
from conet_graph.rewriting.refits import write_plan
from conet_graph.rewriting.rewriting import in_place_of, plan_for, rewritten, save
from conet_graph.rewriting.targets import WidthRequest, choose_copies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from conet_graph.calibration.inputs import Calibration
    from conet_graph.calibration.narrowing import Choice
    from conet_graph.verification.report import Report


@dataclass
class Choosing:
    """Chooses widths: by a time that is asked for, by calibration inputs, or by the weights alone.

    ``times`` are those of the networks that were timed, ``choice`` what was chosen by inputs.
    """

    graph: Graph
    latency: str | None
    alignment: Alignment
    timing: Timing
    data: Calibration | None
    times: dict[str, Any] | None = field(default=None, init=False)
    choice: Choice | None = field(default=None, init=False)

    def planned(self, request: WidthRequest, init: str, noise: bool) -> tuple[Plan, Layout]:
        """Choose widths, and lay the network out for them."""
        if request.importance == "bn" and lacks_norms(self.graph):
            note("There is no BatchNorm in this network to read: --importance bn ranks as l2 does.")
        step("choosing widths")
        return plan_for(self.graph, request, init, noise, self._copies)

    def _copies(self, asked: WidthRequest) -> NDArray[np.int64]:
        """Copies of each class of channels."""
        if self.latency is not None:
            copies, self.times, self.choice = met_apart(
                self.graph, asked, self.latency, self.alignment, self.timing, self.data
            )
            return copies
        if self.data is not None:
            self.choice = choice_apart(self.graph, lambda: asked, self.data)
            return self.choice.copies
        return choose_copies(self.graph, asked)


@dataclass
class Writing:
    """A planned network on its way to a file; without an ``output`` nothing is written.

    ``as_timed``: its weights cannot be overridden, as in the networks whose time was measured.
    """

    graph: Graph
    made: Plan
    layout: Layout
    output: Path | None
    plan: Path | None
    as_timed: bool

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The rewritten network."""
        step("rewriting")
        proto = rewritten(self.graph, self.made, self.layout)
        if self.as_timed:
            constant_weights(proto)
        return proto

    @cached_property
    def structure(self) -> Graph:
        """Its layers and shapes.

        Raises:
            OwnFault: it is not valid.

        """
        with of_our_making("the rewritten network is not valid"):
            return structured(LoadedModel(self.proto, self.graph.loaded.path))

    @property
    def drops(self) -> bool:
        """Whether any channel goes."""
        return bool((self.layout.labels.copies == 0).any())

    def proven(self, shapes: InputShapes, with_error: bool) -> Report:
        """The verification of the network, done apart.

        Args:
            shapes: of the inputs that are fed.
            with_error: say, too, how far the outputs of a narrower network are from the original's.

        Raises:
            VerificationFailed: the network is not what it should be.

        """
        from conet_graph.verification.report import require
        from conet_graph.verification.verification import verify

        _ = self.structure  # our own checks, which the verification then need not make again
        graph = self.graph
        told = with_error and self.made.init == "keep" and self.drops

        def work() -> Report:
            return verify(graph, self.proto, self.made, graph.folder, shapes, with_error=told, sound=True)

        step("verifying")
        report = report_of(work, self.made)
        require(report)
        return report

    def written(self, data: Calibration | None) -> Plan:
        """Refit the network on calibration inputs, where there are any, and write it; its plan."""
        assert self.output is not None, "a dry run writes nothing"
        made, proto = self.made, self.proto
        if data is not None and self.drops:
            step("refitting")
            fit = refit_apart(self.graph, self.layout, proto, data)
            made, self.proto = replace(made, refit=fit), fit.applied(proto)
        step("writing")
        if self.plan is not None:
            _ = made.sha256  # now: the output may take the model's place
        if self.output == PIPE:
            write_to_pipe(one_file(self.proto, self.graph.folder))
        else:
            save(in_place_of(self.graph.loaded, self.proto), self.output)
        if self.plan is not None:
            write_plan(made, self.plan)
        return made

    def speed(self, timing: Timing) -> dict[str, Any]:
        """The network's time beside the original's."""
        return speed_apart(self.graph, self.proto, timing)


def outcome_of(
    writing: Writing, sizes: Counting, choose: Choosing, request: WidthRequest, named: Path | None
) -> Rewritten:
    """What is known of a rewritten network before it is verified: what it costs, and at which widths."""
    graph, made = writing.graph, writing.made
    with of_our_making("the rewritten network is not valid"):
        before, after = cost(sizes.of(graph)), cost(sizes.of(writing.structure))
    targets = (request.params, request.macs, choose.latency, request.scale)
    by_target = any(target is not None for target in targets)
    return Rewritten(
        made,
        before,
        after,
        sizes,
        writing.output,
        named,
        request.importance,
        data=choose.data,
        choice=choose.choice,
        times=choose.times,
        uneven=uneven_groups(graph, made, choose.alignment) if by_target else [],
    )
