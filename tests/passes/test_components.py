"""Connected components: the same as scipy's, numbered alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from conet_graph.passes.channels.components import components

PAIRS = st.integers(1, 40).flatmap(
    lambda count: st.tuples(
        st.just(count), st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)))
    )
)


@given(PAIRS)
def test_components_are_those_of_scipy(given_: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = given_
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    matrix = coo_array((np.ones(len(left)), (left, right)), shape=(count, count))
    wanted, labels = connected_components(matrix, directed=False)
    found, classes = components(left, right, count)
    assert found == wanted
    assert classes.tolist() == labels.tolist()


def test_a_long_shuffled_chain_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    found, classes = components(order[:-1], order[1:], len(order))
    assert found == 1
    assert not classes.any()
