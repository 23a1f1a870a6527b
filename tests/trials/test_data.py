"""Data sources: what a batch holds, that it follows from seed, epoch and batch alone, and what is refused."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from conet_graph.ir.errors import BadUsage
from conet_graph.models import digits
from conet_graph.trials.augment import Augmentation
from conet_graph.trials.data import Data, open_data

Batch = tuple[Tensor, Tensor]


def pixels(count: int, side: int, channels: int = 3) -> Any:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def write_npz(path: Path, **changes: Any) -> str:
    arrays = {
        "x_train": pixels(23, 12),
        "y_train": np.arange(23) % 5,
        "x_test": pixels(7, 12),
        "y_test": np.arange(7) % 5,
        **changes,
    }
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return f"npz:{path}"


def write_folder(root: Path, side: int, per_class: int = 5, test: str = "test") -> str:
    """Classes 'ant' and 'bee': images of a dark and a bright colour, of differing shapes."""
    for split in ("train", test):
        for label, name in enumerate(("ant", "bee")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(per_class):
                shade = np.full((side + k, side + 2 * k, 3), 60 + 120 * label, np.uint8)
                Image.fromarray(shade).save(folder / f"{k}.png")
    return f"folder:{root}"


def batches(data: Data, batch: int, **options: Any) -> list[Batch]:
    return list(data.train(batch, **{"seed": 3, "epoch": 1, "device": "cpu", **options}))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.fixture(name="source", params=["digits", "npz", "folder"])
def _source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    makers: dict[str, Callable[[], str]] = {
        "digits": lambda: "digits",
        "npz": lambda: write_npz(tmp_path / "data.npz"),
        "folder": lambda: write_folder(tmp_path / "images", side=80, per_class=8),
    }
    return makers[request.param]()


def test_batches_follow_from_seed_epoch_and_number_alone(source: str) -> None:
    data = open_data(source, augment=True)
    whole = batches(data, 5)
    torch.rand(3)  # what else draws from torch's generator changes nothing
    assert same(whole, batches(data, 5))
    assert same(whole[2:], batches(data, 5, first_batch=2))
    assert not same(whole, batches(data, 5, epoch=2))
    assert not same(whole, batches(data, 5, seed=4))


def test_loading_leaves_the_generator_of_torch_alone(source: str) -> None:
    data = open_data(source, augment=True)
    before = torch.get_rng_state()
    batches(data, 8)
    assert torch.equal(before, torch.get_rng_state())


def test_processes_share_out_the_batches_of_one(source: str) -> None:
    data = open_data(source, augment=True)
    one = batches(data, 4)
    two = [batches(data, 2, rank=rank, world=2) for rank in (0, 1)]
    assert len(two[0]) == len(two[1])
    # A last batch of three would leave a single image to the second process.
    for whole, even, odd in zip(one[: len(two[0])], *two, strict=True):
        for part in (0, 1):
            assert torch.equal(whole[part][0::2], even[part])
            assert torch.equal(whole[part][1::2], odd[part])
    tested = [len(y) for rank in range(3) for _, y in data.test(2, device="cpu", rank=rank, world=3)]
    assert sum(tested) == data.test_count


@pytest.mark.parametrize(
    ("batch", "world", "sizes"),
    [
        (5, 1, [5, 5, 5, 5, 3]),
        (11, 1, [11, 11]),
        (1, 1, [1] * 23),
        (100, 1, [23]),
        (5, 2, [5, 5]),
        (5, 4, [5]),
    ],
)
def test_only_a_last_batch_of_one_image_is_left_out(
    tmp_path: Path, batch: int, world: int, sizes: list[int]
) -> None:
    data = open_data(write_npz(tmp_path / "data.npz"))
    seen = batches(data, batch, world=world)
    assert [len(y) for _, y in seen] == sizes
    assert data.train_batches(batch, world) == len(sizes)


def test_every_image_comes_once_with_its_own_label(tmp_path: Path) -> None:
    images = np.repeat(np.arange(23, dtype=np.uint8), 12 * 12 * 3).reshape(23, 12, 12, 3)
    data = open_data(write_npz(tmp_path / "data.npz", x_train=images, y_train=np.arange(23)))
    assert data.classes == 23
    mean, std = images.mean(), images.std()
    found = [
        (float(x[0, 0, 0]) * std + mean, int(y)) for b in batches(data, 6) for x, y in zip(*b, strict=True)
    ]
    assert sorted(y for _, y in found) == list(range(23))
    assert all(abs(value - label) < 1e-3 for value, label in found)


def test_digits_are_those_the_sample_network_learned() -> None:
    data = open_data("digits")
    assert (data.name, data.classes, data.shape) == ("digits", 10, (1, 8, 8))
    assert (data.train_count, data.test_count) == (1437, 360)
    whole = [torch.cat(part) for part in zip(*data.test(100, device="cpu"), strict=True)]
    assert torch.equal(whole[0], torch.from_numpy(digits.load().test_images))
    assert torch.equal(whole[1], torch.from_numpy(digits.load().test_labels))


def test_an_npz_is_normalised_by_its_training_images(tmp_path: Path) -> None:
    data = open_data(write_npz(tmp_path / "data.npz", classes=np.array(list("abcdefg"))))
    assert (data.classes, data.shape) == (7, (3, 12, 12))
    images = torch.cat([x for x, _ in batches(data, 23)])
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_grey_images_and_column_labels_as_keras_writes_them(tmp_path: Path) -> None:
    spec = write_npz(
        tmp_path / "data.npz",
        x_train=pixels(23, 12)[..., 0],
        x_test=pixels(7, 12)[..., 0],
        y_train=(np.arange(23, dtype=np.uint8) % 5)[:, None],
    )
    data = open_data(spec, augment=True)
    assert data.shape == (1, 12, 12)
    assert data.augmentation is not None
    assert not data.augmentation.flip


def test_the_augmentation_is_that_of_torchvision_image_by_image() -> None:
    augmentation = Augmentation.of_side(32, flip=True)
    assert (augmentation.pad, augmentation.cutout) == (4, 16)
    images = torch.from_numpy(pixels(100, 32))
    draw = augmentation.draw(100, 32, 32, torch.Generator().manual_seed(0))
    assert set(draw.flipped.tolist()) == {False, True}
    assert set(draw.top.tolist()) == set(range(9)) == set(draw.left.tolist())
    cropped = draw.crop(images)
    for k in range(100):
        padded = v2.functional.pad(images[k].permute(2, 0, 1), [4])
        wanted = v2.functional.crop(padded, int(draw.top[k]), int(draw.left[k]), 32, 32)
        wanted = v2.functional.horizontal_flip(wanted) if draw.flipped[k] else wanted
        assert torch.equal(cropped[k].permute(2, 0, 1), wanted)
    holes = draw.cut_out(torch.ones(100, 2, 32, 32)) == 0
    for k in range(100):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        row, column = int(draw.hole_row[k]) - 8, int(draw.hole_column[k]) - 8
        inside[max(0, row) : row + 16, max(0, column) : column + 16] = True
        assert torch.equal(holes[k], inside.expand(2, 32, 32))


def test_digits_are_never_mirrored_and_colour_images_are(tmp_path: Path) -> None:
    plain = open_data("digits", augment=True).augmentation
    colour = open_data(write_npz(tmp_path / "data.npz"), augment=True).augmentation
    assert plain == Augmentation(pad=1, flip=False, cutout=4)
    assert colour is not None
    assert colour.flip


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_small_images_keeps_their_side(tmp_path: Path, test: str) -> None:
    data = open_data(write_folder(tmp_path / "images", side=20, test=test), augment=True)
    assert (data.shape, data.classes, data.train_count) == ((3, 20, 20), 2, 10)
    assert data.augmentation == Augmentation.of_side(20, flip=True)
    for images, labels in data.test(3, device="cpu"):
        shade = images[:, 0, 10, 10] * 0.229 + 0.485
        torch.testing.assert_close(shade, (60 + 120 * labels) / 255, atol=1e-4, rtol=0)


def test_photographs_are_cropped_at_random_scales(tmp_path: Path) -> None:
    root = tmp_path / "images"
    spec = write_folder(root, side=90, per_class=2)
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 200, 3))
    for file in root.rglob("*.png"):
        Image.fromarray(ramp).save(file)
    assert open_data(spec).shape == (3, 224, 224)
    plain, varied = (
        torch.cat([x for x, _ in batches(open_data(spec, image=96, augment=augment), 4)])
        for augment in (False, True)
    )
    assert plain.shape == varied.shape == (4, 3, 96, 96)
    assert torch.equal(plain[0], plain[1])
    heights = varied.amax((1, 2, 3)) - varied.amin((1, 2, 3))
    assert len(set(heights.tolist())) == 4


def test_images_are_scaled_when_asked(tmp_path: Path) -> None:
    data = open_data(write_npz(tmp_path / "data.npz"), image=24)
    assert data.shape == (3, 24, 24)
    assert next(data.test(7, device="cpu"))[0].shape == (7, 3, 24, 24)


def cifar_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """CIFAR-10 in its own format, of 20 images a file; its checksums are of the real one, so not checked."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for k, name in enumerate(names):
        content = {"data": np.full((20, 3072), k, np.uint8), "labels": [n % 10 for n in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return f"cifar10:{root}"


def test_cifar_is_read_as_torchvision_unpacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(cifar_folder(tmp_path, monkeypatch), augment=True)
    assert (data.name, data.classes, data.shape) == ("cifar10", 10, (3, 32, 32))
    assert (data.train_count, data.test_count) == (100, 20)
    images, _ = next(data.test(20, device="cpu"))
    torch.testing.assert_close(
        images[0, :, 0, 0] * torch.tensor([0.2470, 0.2435, 0.2616]) * 255
        + torch.tensor([0.4914, 0.4822, 0.4465]) * 255,
        torch.full((3,), 5.0),
    )


def test_imagenet_is_read_as_torchvision_keeps_it(tmp_path: Path) -> None:
    wnids = ["n01440764", "n01443537"]
    torch.save(({w: (w, "fish") for w in wnids}, wnids), tmp_path / "meta.bin")
    for split in ("train", "val"):
        for wnid in wnids:
            (tmp_path / split / wnid).mkdir(parents=True)
            Image.fromarray(pixels(1, 300)[0]).save(tmp_path / split / wnid / f"{wnid}.JPEG")
    data = open_data(f"imagenet:{tmp_path}", augment=True)
    assert (data.name, data.classes, data.shape) == ("imagenet", 2, (3, 224, 224))
    (images, labels), *others = batches(data, 8)
    assert others == []
    assert images.shape == (2, 3, 224, 224)
    assert sorted(labels.tolist()) == [0, 1]


def damaged(path: Path) -> str:
    spec = write_npz(path)
    path.write_bytes(path.read_bytes()[:4000])
    return spec


def of_objects() -> Any:
    return np.array([{"a": 1}] * 23, dtype=object)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: "letters", "There is no data 'letters'"),
        (lambda p: "digits:here", "There is no data"),
        (lambda p: "npz:", "There is no data 'npz:'"),
        (lambda p: f"npz:{p}", "There is no file"),
        (lambda p: f"npz:{p.parent}", "is not a readable npz file"),
        (damaged, "is not a readable npz file"),
        (lambda p: write_npz(p, y_test=None), "has no array y_test"),
        (lambda p: write_npz(p, y_train=of_objects()), "holds Python objects"),
        (lambda p: write_npz(p, x_train=np.zeros((23, 12, 12, 3), np.float32)), "x_train is float32"),
        (lambda p: write_npz(p, x_train=np.zeros((23, 3, 12, 12), np.uint8)), "at most 4 channels"),
        (lambda p: write_npz(p, x_test=np.zeros((7, 10, 12, 3), np.uint8)), "differ in shape"),
        (lambda p: write_npz(p, x_test=np.zeros((0, 12, 12, 3), np.uint8)), "at least one image"),
        (lambda p: write_npz(p, y_train=np.arange(22)), "for each of 23 images"),
        (lambda p: write_npz(p, y_train=np.zeros(23)), "y_train is float64"),
        (lambda p: write_npz(p, y_train=np.arange(23) - 1), "labels from -1 to 21"),
        (lambda p: write_npz(p, y_test=np.full(7, 5)), "labels from 5 to 5, not 0 or more and under 5"),
        (lambda p: write_npz(p, x_train=pixels(1, 12), y_train=np.full(1, 4)), "single training image"),
        (lambda p: f"folder:{p}", "is not a folder with train/ and test/"),
        (lambda p: f"cifar10:{p}", "does not hold cifar10"),
        (lambda p: f"imagenet:{p}", "does not hold ImageNet"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], str], message: str
) -> None:
    with pytest.raises(BadUsage, match=message) as caught:
        open_data(make(tmp_path / "data.npz"))
    assert "\n" not in str(caught.value)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    with pytest.raises(BadUsage, match="holds one array"):
        open_data(f"npz:{tmp_path / 'data.npz'}")


@pytest.mark.parametrize(("image", "download"), [(0, False), (None, True)])
def test_impossible_options_are_refused(tmp_path: Path, image: int | None, download: bool) -> None:
    with pytest.raises(BadUsage):
        open_data(f"imagenet:{tmp_path}", image=image, download=download)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image at all", "is not an image"), (None, "is damaged"), (b"", "is not an")],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    spec = write_folder(tmp_path / "images", side=70)
    bad = tmp_path / "images" / "train" / "ant" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60] if content is None else content)
    with pytest.raises(BadUsage, match=message) as caught:
        batches(open_data(spec, image=32), 4)
    assert "2.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_of_training_and_test_must_agree(tmp_path: Path) -> None:
    spec = write_folder(tmp_path / "images", side=20)
    (tmp_path / "images" / "test" / "bee").rename(tmp_path / "images" / "test" / "cat")
    with pytest.raises(BadUsage, match="'bee' is in one only"):
        open_data(spec)
    (tmp_path / "images" / "test" / "cat" / "0.png").rename(tmp_path / "images" / "0.png")
    for file in (tmp_path / "images" / "train" / "ant").iterdir():
        file.unlink()
    with pytest.raises(BadUsage, match="cannot be used"):
        open_data(spec)
