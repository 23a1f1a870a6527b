"""The passes, and the order in which they run."""

from __future__ import annotations

from conet_graph.ir.check import check_model
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.assign_channels import AssignChannels
from conet_graph.passes.base import Hook, Pass, PassManager, UntilSettled
from conet_graph.passes.canonicalize import Canonicalize
from conet_graph.passes.check_shapes import CheckShapes
from conet_graph.passes.classify_edges import ClassifyEdges
from conet_graph.passes.fold_shapes import FoldShapes
from conet_graph.passes.fold_weight_sums import FoldWeightSums
from conet_graph.passes.infer_shapes import InferShapes
from conet_graph.passes.own_shapes import OwnShapes
from conet_graph.passes.tie_channels import TieChannels
from conet_graph.passes.unshare import Unshare

# What a network is, before its channels are solved: enough to count its cost.
STRUCTURE: tuple[Pass, ...] = (
    Canonicalize(),
    UntilSettled((InferShapes(), FoldShapes())),
    FoldWeightSums(),
    CheckShapes(),
    OwnShapes(),
    Unshare(),
    ClassifyEdges(),
)
PIPELINE: tuple[Pass, ...] = (
    *STRUCTURE,
    TieChannels(),
    AssignChannels(),
)


def structured(loaded: LoadedModel) -> Graph:
    """The graph of a model with its layers known, its channels not solved.

    Raises:
        InvalidModel: the model breaks an invariant; the message says which, and where.

    """
    return PassManager(STRUCTURE).run(Graph.of(check_model(loaded)))


def analysed(loaded: LoadedModel, after: Hook | None = None, *, free_kept: bool = False) -> Graph:
    """The graph of a model with its channels solved.

    Args:
        loaded: the model.
        after: called after each pass.
        free_kept: free what is kept by default (see ``TieChannels``).

    Raises:
        InvalidModel: the model breaks an invariant; the message says which, and where.

    """
    passes = [TieChannels(free_kept) if isinstance(step, TieChannels) else step for step in PIPELINE]
    return PassManager(passes, after).run(Graph.of(check_model(loaded)))
