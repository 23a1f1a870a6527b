"""The handwritten digits that come with scikit-learn, as the sample network sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEST_IMAGES = 360


class Digits(NamedTuple):
    """Images [N, 1, 8, 8] in 0 to 1, float32, and labels [N], int64."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load() -> Digits:
    """1,437 images to train on and 360 to test on, every digit in its share; always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=TEST_IMAGES, random_state=0, stratify=labels
    )
    return Digits(train_x, train_y, test_x, test_y)
