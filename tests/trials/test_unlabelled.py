"""Images without labels: where they come from, and how they fit a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conet_graph.ir.errors import BadUsage
from conet_graph.models import digits
from conet_graph.trials.unlabelled import Images, open_images

CPU = torch.device("cpu")


def write_images(folder: Path, count: int, side: int, suffix: str = "png") -> str:
    for k in range(count):
        place = folder / f"part{k % 3}" / "deep"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side + k, 3), 10 * k, np.uint8)).save(place / f"{k}.{suffix}")
    (folder / "notes.txt").write_text("not an image")
    return str(folder)


def write_npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_a_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    images = open_images(write_images(tmp_path / "images", 12, 20), (3, None, None))
    assert (images.count, images.aside_count) == (11, 1)
    batches = list(images.train(4, seed=0, epoch=0, device=CPU))
    assert [len(b) for b in batches] == [4, 4, 3]
    assert batches[0].shape == (4, 3, 20, 20)
    everything = [*batches, *images.aside(4, device=CPU)]
    shades = sorted(round(float(x[0, 10, 10]) * 0.229 * 255 + 0.485 * 255) for b in everything for x in b)
    assert shades == [10 * k for k in range(12)]


def test_a_network_with_channels_last_gets_them_last(tmp_path: Path) -> None:
    spec = write_images(tmp_path / "images", 8, 20)
    first = next(open_images(spec, (3, 16, 24)).aside(4, device=CPU))
    last = next(open_images(spec, (16, 24, 3)).aside(4, device=CPU))
    assert last.shape == (1, 16, 24, 3)
    assert torch.equal(first.permute(0, 2, 3, 1), last)


def test_a_grey_network_gets_grey_images_and_asked_colours(tmp_path: Path) -> None:
    spec = write_images(tmp_path / "images", 4, 20)
    plain = next(open_images(spec, (1, 8, 8)).aside(1, device=CPU))
    shifted = next(open_images(spec, (1, 8, 8), colours=((0.5,), (2.0,))).aside(1, device=CPU))
    assert 0 <= float(plain.min()) <= float(plain.max()) <= 1
    torch.testing.assert_close(shifted, (plain - 0.5) / 2)


def test_photographs_are_scaled_to_the_network(tmp_path: Path) -> None:
    images = open_images(write_images(tmp_path / "images", 6, 100, "jpg"), (3, None, None), image=80)
    (batch,) = images.train(8, seed=0, epoch=0, device=CPU)
    assert batch.shape == (5, 3, 80, 80)


def test_float_images_are_taken_as_they_are(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((5, 3, 6, 7)).astype(np.float32)
    spec = write_npz(tmp_path / "calibration.npz", images=array)
    (aside,) = open_images(spec, (3, 6, 7)).aside(8, device=CPU)
    assert any(np.array_equal(aside[0], image) for image in array)
    with pytest.raises(BadUsage, match="taken as they are"):
        open_images(spec, (3, 6, 7), colours=((0.5,), (0.5,)))


def test_a_source_gives_its_training_images_in_its_own_colours() -> None:
    images = open_images("digits", (1, 8, 8))
    assert images.count + images.aside_count == 1437
    known = {image.tobytes() for image in digits.load().train_images}
    seen = {image.numpy().tobytes() for batch in images.aside(50, device=CPU) for image in batch}
    assert seen <= known


def test_batches_follow_from_seed_and_epoch_and_leave_out_what_is_aside() -> None:
    images = open_images("digits", (1, 8, 8), augment=("crop",))
    first, again, other = (
        torch.cat(list(images.train(64, seed=seed, epoch=3, device=CPU))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert images.data.augmentation is not None
    assert images.data.augmentation.cutout == 0


def _every(images: Images) -> list[bytes]:
    """All images as they are."""
    parts = [*images.aside(4, device=CPU), *images.train(4, seed=0, epoch=0, device=CPU)]
    return [image.numpy().tobytes() for batch in parts for image in batch]


def test_nothing_is_varied_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Text that is mirrored or cut is other text."""
    array = np.random.default_rng(0).integers(0, 255, (9, 6, 18, 3), np.uint8)
    spec = write_npz(tmp_path / "lines.npz", images=array)
    turned = write_npz(tmp_path / "mirrored.npz", images=np.ascontiguousarray(array[:, :, ::-1]))
    shape = (3, 6, 18)
    plain, mirrored = set(_every(open_images(spec, shape))), set(_every(open_images(turned, shape)))
    assert len(plain) == 9
    flipped = set(_every(open_images(spec, shape, augment=("flip",))))
    assert flipped <= plain | mirrored
    assert flipped & mirrored
    assert not set(_every(open_images(spec, shape, augment=("crop",)))) <= plain | mirrored


def write_lines(folder: Path, count: int = 6, height: int = 48, width: int = 192) -> str:
    folder.mkdir()
    for k in range(count):
        Image.fromarray(np.full((height, width, 3), (200, 10 * k, 0), np.uint8)).save(folder / f"{k}.png")
    return str(folder)


def test_images_of_one_size_keep_it_where_the_network_takes_any(tmp_path: Path) -> None:
    spec = write_lines(tmp_path / "lines")
    assert open_images(spec, (3, None, None)).size == (48, 192)
    assert open_images(spec, (3, 32, None)).size == (32, 128)
    assert open_images(spec, (3, None, None), image=(24, 96)).size == (24, 96)
    large = write_lines(tmp_path / "photographs", 4, 448, 896)
    assert open_images(large, (3, None, None)).size == (224, 448)


def test_images_of_many_sizes_need_a_size_where_one_side_is_free(tmp_path: Path) -> None:
    spec = write_images(tmp_path / "images", 6, 20)
    with pytest.raises(BadUsage, match="differ in size, and the network takes any width: say --size"):
        open_images(spec, (3, 16, None))
    assert open_images(spec, (3, 16, None), image=(16, 40)).size == (16, 40)


def test_blue_comes_first_where_it_is_asked_for(tmp_path: Path) -> None:
    spec = write_lines(tmp_path / "lines", 4)
    colours = ((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    plain = next(open_images(spec, (3, 48, 192), colours=colours).aside(1, device=CPU))
    turned = next(open_images(spec, (3, 48, 192), colours=colours, bgr=True).aside(1, device=CPU))
    assert torch.equal(plain.flip(1), turned)
    assert float(plain[0, 0, 0, 0]) == pytest.approx(200 / 255 - 0.1)


def test_labels_are_not_asked_for(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 6, 3), np.uint8)
    spec = write_npz(tmp_path / "some.npz", images=pixels)
    assert open_images(f"npz:{spec}", (3, 6, 6)).count == 7


Maker = Callable[[Path], tuple[str, tuple[int | None, ...]]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (str(p), (3, 8, 8)), "no image file"),
        (lambda p: (str(p / "none"), (3, 8, 8)), "There is no data"),
        (lambda p: ("digits", (3, 8, 8)), "are 8 x 8 x 1 .*the network takes 8 x 8 x 3"),
        (lambda p: ("digits", (10,)), "has 2 axes"),
        (lambda p: ("digits", (5, 8, 8)), "takes 5 channels"),
        (lambda p: ("digits", (None, None, None)), "any number of channels"),
        (lambda p: (write_npz(p / "a.npz", other=np.zeros(3)), (3, 8, 8)), "has no array images"),
        (
            lambda p: (write_npz(p / "a.npz", images=np.zeros((9, 3), np.float32)), (3, 8, 8)),
            "finite numbers",
        ),
        (lambda p: (write_npz(p / "a.npz", images=np.zeros((9, 8, 8, 3))), (3, 8, 8)), "not uint8 images"),
        (lambda p: (write_npz(p / "a.npz", images=np.zeros((9, 8, 8, 3), np.uint8)), (1, 8, 8)), "takes 8"),
        (
            lambda p: (write_npz(p / "a.npz", images=np.zeros((3, 8, 8, 3), np.uint8)), (3, 8, 8)),
            "has 3 images",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, make: Maker, message: str) -> None:
    spec, shape = make(tmp_path)
    with pytest.raises(BadUsage, match=message) as caught:
        open_images(spec, shape)
    assert "\n" not in str(caught.value)


def test_a_side_that_the_network_does_not_take_is_refused() -> None:
    with pytest.raises(BadUsage, match="not of side 16"):
        open_images("digits", (1, 8, 8), image=16)


@pytest.mark.parametrize("colours", [((0.5, 0.5), (1.0,)), ((0.5,), (0.0,))])
def test_impossible_colours_are_refused(colours: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(BadUsage, match="Mean and std"):
        open_images("digits", (1, 8, 8), colours=colours)
