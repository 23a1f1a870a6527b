"""Random numbers that depend on a key alone: not on what was drawn before, nor on how many workers draw."""

from __future__ import annotations

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """A seed for torch, from whole numbers >= 0 such as (seed, epoch, step); any two keys are unrelated."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int) -> torch.Generator:
    """A generator on the CPU with the seed of a key, so that a GPU's run draws the same numbers."""
    return torch.Generator().manual_seed(seed_of(*key))
