"""Trials that compare widths: what one of them found out serves the next."""

from __future__ import annotations

import numpy as np
import pytest

from conet_graph.calibration import refit
from conet_graph.calibration.learned import Learned
from conet_graph.passes import analysed
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from tests.helpers.small_networks import network


@pytest.mark.parametrize(("large", "told"), [(True, True), (False, True), (True, False)])
def test_the_next_trial_does_not_look_again(large: bool, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes = [(8, 3, 3, 3), (8, 8, 3, 3), (4, 8, 1, 1)]
    weights = {f"w{k}": rng.standard_normal(size) / 5 for k, size in enumerate(sizes)}
    body = """g (float[n,3,6,6] x) => (float[m,k,i,j] y) {
        a = Conv (x, w0)  h = Relu (a)  b = Conv (h, w1)  r = Relu (b)  y = Conv (r, w2) }"""
    graph = analysed(network(body, weights))
    feeds = [{"x": rng.standard_normal((4, 3, 6, 6)).astype(np.float32)} for _ in range(16)]
    monkeypatch.setattr("conet_graph.calibration.learned.LEAST_WORK", 1 if large else 1e12)
    looked: list[str] = []
    for module, name in ((refit, "chosen"), (refit, "covariance")):
        found = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, said=name, made=found: (looked.append(said), made(*given))[1]
        )
    learned, tensors = Learned(strengths={} if told else None), []
    for count in (5, 5, 4):
        copies = choose_copies(graph, WidthRequest(widths={"a": count, "b": count}))
        made, layout = planned(graph, copies, "keep", False, 0)
        narrow = rewritten(graph, made, layout)
        looked.append("|")
        tensors.append(refit.refit(graph, layout, narrow, feeds, quick=True, learned=learned).tensors)
    again = [] if large and told else ["chosen", "chosen"]
    first, second, third = " ".join(looked).split("|")[1:]
    assert sorted(first.split()) == ["chosen", "chosen", "covariance", "covariance"]
    assert second.split() == third.split() == again
    assert tensors[0].keys() == tensors[1].keys() == tensors[2].keys()
    for name, first_fit in tensors[0].items():
        np.testing.assert_array_equal(first_fit, tensors[1][name])
