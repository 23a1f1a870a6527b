"""The models that the fuzzer mutates: small files of the corpus, the sample network, random networks."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from tests.helpers.corpus import CORPUS
from tests.strategies import BLOCKS, HEADS, OPSETS, Network, build

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"
# What is mutated often, and what now and then: a case on a larger file takes longer.
SMALL, LARGE = 60_000, 350_000
# Files of the corpus of hostile ones that are hardly wrong, or odd in a way that others are not.
ODD = (
    *("00_control_valid", "function_ok", "nested_if_20", "sparse_initializer", "init_also_input"),
    *("weight_is_input", "weight_is_output", "name_injection", "ext_ok", "custom_domain_conv"),
    *("raw_and_float_data", "recursive_function", "huge_input_shape", "weight_nan_inf"),
)


@cache
def corpus_files() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Small files and larger ones, in a stable order; without the corpus the sample network alone."""
    found = [CORPUS / "hostile" / f"{name}.onnx" for name in ODD]
    found += [p for folder in ("exports", "open") for p in sorted((CORPUS / folder).glob("*.onnx"))]
    sized = [(p, p.stat().st_size) for p in found if p.is_file()]
    small = tuple(p for p, size in sized if size <= SMALL)
    return small or (SAMPLE,), (SAMPLE, *(p for p, size in sized if SMALL < size <= LARGE))


def draw_source(rng: random.Random) -> bytes:
    """One model as bytes: a small file, a larger one, or a network made up on the spot."""
    small, large = corpus_files()
    where = rng.random()
    if where < 0.45:
        return rng.choice(small).read_bytes()
    if where < 0.5:
        return rng.choice(large).read_bytes()
    return random_network(rng)


def random_network(rng: random.Random) -> bytes:
    """A network of a few blocks, as the property-based tests draw them."""
    opset, rank = rng.choice(OPSETS), rng.choice((2, 2, 2, 1, 3))
    usable = sorted(k for k, b in BLOCKS.items() if b.opset <= opset and rank in b.ranks)
    blocks = tuple((rng.choice(usable), rng.randrange(100_000)) for _ in range(rng.randint(1, 5)))
    network = Network(
        opset=opset,
        rank=rank,
        side=4 if rank == 3 else rng.randint(4, 8),
        blocks=blocks,
        head=(rng.choice(sorted(HEADS)), rng.randrange(100_000)),
        tap=rng.choice((None, None, 0)),
        batch=rng.choice((None, None, 2)),
    )
    data: bytes = build(network).SerializeToString(deterministic=True)
    return data
