"""The zoo: every network builds, has the sizes it states, and exports to the same function."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from darts_tables import conv_names
from torch import nn

from conet_graph.models import (
    ZOO,
    build,
    digits,
    export_module,
    export_onnx,
    names,
    sizes,
    train_sample,
)

ROOT = Path(__file__).resolve().parents[2]
# The published tables' convolutions in each kind of cell, preprocessing counted.
CONVS = {
    "darts": {"normal": 24, "reduction": 2, "normal_after_reduction": 25},
    "dartsplus": {"normal": 26, "reduction": 8, "normal_after_reduction": 27},
}
# Cells 4 and 9 of 14 reduce: n//3 and 2n//3.
REDUCTIONS = {7: (2, 4), 14: (4, 9), 20: (6, 13)}
# What each size's convolutions must be as wide as: number in the cell, and axis (0 out, 1 in).
# FactorizedReduce halves are left out: they are half as wide.
OUT, IN = 0, 1
DARTS_NORMAL = {
    "C0": [(0, OUT), (3, IN), (11, IN), (21, OUT), (23, OUT)],
    "C1": [(1, OUT), (7, IN), (15, IN), (19, IN)],
    "C2": [(5, OUT), (9, OUT), (23, IN)],
    "C3": [(17, OUT), (13, OUT)],
    "mid1": [(3, OUT), (5, IN)],
    "mid2": [(7, OUT), (9, IN)],
    "mid3": [(11, OUT), (13, IN)],
    "mid4": [(15, OUT), (17, IN)],
    "mid5": [(19, OUT), (21, IN)],
}
DARTSPLUS_NORMAL = {
    "C0": [(0, OUT), (5, OUT), (7, IN), (9, OUT), (15, IN), (19, IN)],
    "C1": [(1, OUT), (3, IN), (11, IN)],
    "C2": [(13, OUT), (17, OUT), (23, IN)],
    "C3": [(21, OUT), (25, OUT)],
    "mid1": [(3, OUT), (5, IN)],
    "mid2": [(7, OUT), (9, IN)],
    "mid3": [(11, OUT), (13, IN)],
    "mid4": [(15, OUT), (17, IN)],
    "mid5": [(19, OUT), (21, IN)],
    "mid6": [(23, OUT), (25, IN)],
}
DARTS_REDUCTION = {"C0": [(0, OUT), (1, OUT)]}
DARTSPLUS_REDUCTION = {
    "C0": [(0, OUT), (5, IN), (5, OUT), (7, IN), (7, OUT)],
    "C1": [(1, OUT), (2, IN), (3, IN)],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small networks are slower on several threads, far slower where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"input": images})[0]
    return logits


def settled(name: str, image: int = 32) -> nn.Module:
    """A narrow network whose BatchNorm has seen data: only then does every layer matter."""
    torch.manual_seed(1)
    module = build(name, width=4, image=image)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        module(torch.randn(8, 3, image, image))
    return module.eval()


@pytest.mark.parametrize("name", names())
def test_the_export_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    module = settled(name)
    export_module(module, tmp_path / "net.onnx", (3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = module(images).numpy()
    assert wanted.shape == (2, 10)
    assert wanted.std(axis=0).max() > 1e-2  # the images matter, so the comparison means something
    found = run_onnx(tmp_path / "net.onnx", images.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    state = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    assert {tensor.name for tensor in model.graph.initializer} == state


@pytest.mark.parametrize("name", names())
def test_a_network_states_as_many_sizes_as_it_has_names(name: str) -> None:
    assert len(sizes(name)) == ZOO[name].independent_sizes


def test_the_paper_s_numbers_of_sizes() -> None:
    wanted = {"resnet18": 12, "resnet34": 20, "darts7": 48, "dartsplus7": 55}
    assert {name: ZOO[name].independent_sizes for name in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "millions"), [("darts7", 0.25), ("darts14", 4.00), ("dartsplus7", 0.28), ("dartsplus14", 3.40)]
)
def test_the_paper_s_parameters_at_the_paper_s_base_widths(name: str, millions: float) -> None:
    with torch.device("meta"):
        module = build(name, classes=100)
    count = sum(weight.numel() for weight in module.parameters())
    # Published to two digits after the point; ours are up to 0.018 M larger or 0.004 M smaller.
    assert count == pytest.approx(millions * 1e6, abs=0.02e6)


@pytest.mark.parametrize("name", ["darts7", "darts14", "darts20", "dartsplus7", "dartsplus14"])
def test_cells_have_the_convolutions_of_the_published_tables(name: str) -> None:
    family, cells = ZOO[name].family, ZOO[name].layout[0]
    wanted = []
    for cell in range(cells):
        after = "normal_after_reduction" if cell - 1 in REDUCTIONS[cells] else "normal"
        wanted.append(CONVS[family]["reduction" if cell in REDUCTIONS[cells] else after])
    assert [len(convs) for convs in conv_names(build(name, width=4))] == wanted


@pytest.mark.parametrize(
    ("name", "cell", "table"),
    [
        ("darts7", 0, DARTS_NORMAL),
        ("darts7", 2, DARTS_REDUCTION),
        ("darts7", 6, DARTS_NORMAL),
        ("dartsplus7", 1, DARTSPLUS_NORMAL),
        ("dartsplus7", 4, DARTSPLUS_REDUCTION),
    ],
)
def test_each_size_is_free_and_sets_the_axes_of_the_published_tables(
    name: str, cell: int, table: dict[str, list[tuple[int, int]]]
) -> None:
    """All sizes differ, so that a layer of a wrong size would not even run."""
    widths = {size: 6 + index for index, size in enumerate(sizes(name))}
    module = build(name, widths=widths).eval()
    with torch.no_grad():
        assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    convs = [module.get_parameter(conv) for conv in conv_names(module)[cell]]
    for size, places in table.items():
        found = [convs[index].shape[axis] for index, axis in places]
        assert found == [widths[f"cells.{cell}.{size}"]] * len(places), size


@pytest.mark.parametrize("name", [name for name in names() if ZOO[name].family[:5] != "darts"])
def test_every_size_of_a_plain_network_is_free(name: str) -> None:
    widths = {size: 5 + index for index, size in enumerate(sizes(name))}
    module = build(name, widths=widths).eval()
    used = {p.shape[0] for p in module.parameters() if p.ndim == 4}
    assert used == set(widths.values())
    with torch.no_grad():
        assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_imagenet_stem_of_cells_comes_with_large_images(tmp_path: Path) -> None:
    module = settled("darts7", image=64)
    assert set(sizes("darts7", image=64)) - set(sizes("darts7")) == {"stem0", "stem1", "stem2"}
    assert len(conv_names(module)[0]) == CONVS["darts"]["normal_after_reduction"]
    images = torch.randn(2, 3, 64, 64)
    export_module(module, tmp_path / "net.onnx", (3, 64, 64))
    with torch.no_grad():
        wanted = module(images).numpy()
    found = run_onnx(tmp_path / "net.onnx", images.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_auxiliary_head_and_drop_path_act_in_training_only() -> None:
    module = build("darts7", width=4, auxiliary=True, drop_path=0.5)
    images = torch.randn(2, 3, 32, 32)
    logits, extra = module(images)
    assert logits.shape == extra.shape == (2, 10)
    with torch.no_grad():
        first, second = (module(images)[0] for _ in range(2))
        assert not torch.equal(first, second)
        module.eval()
        assert torch.equal(module(images), module(images))


def test_the_auxiliary_head_is_not_exported(tmp_path: Path) -> None:
    module = build("darts7", width=4, auxiliary=True, drop_path=0.5)
    module.cells[0].eval()
    export_module(module, tmp_path / "net.onnx", (3, 32, 32))
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [output.name for output in graph.output] == ["logits"]
    assert not any("auxiliary" in tensor.name for tensor in graph.initializer)
    assert module.training
    assert not module.cells[0].training


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_same_seed_gives_the_same_bytes(exporter: str, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    written = []
    for number, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{number}.onnx"
        module = export_onnx("resnet8", path, width=4, seed=seed, exporter=exporter)
        written.append(path.read_bytes())
    assert written[0] == written[1] != written[2]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "1.onnx", "2.onnx"]
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        wanted = module(images).numpy()
    np.testing.assert_allclose(run_onnx(path, images.numpy()), wanted, atol=1e-4)
    assert str(ROOT).encode() not in written[0]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("keep", "norms"), [(True, 9), (False, 0)])
def test_batchnorm_is_kept_or_folded(exporter: str, keep: bool, norms: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx("resnet8", path, width=4, batch=5, keep_batchnorm=keep, exporter=exporter)
    graph = onnx.load(path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("BatchNormalization") == norms
    assert "CastLike" not in operators
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5


@pytest.mark.parametrize("name", ["resnet18", "lraspp_mobilenet_v3_large"])
def test_torchvision_networks_export(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    module = export_onnx(f"torchvision:{name}", path, classes=3, image=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = module(images)
    wanted = wanted["out"] if isinstance(wanted, dict) else wanted
    np.testing.assert_allclose(run_onnx(path, images.numpy()), wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet9", {}, "no network 'resnet9'"),
        ("torchvision:nothing", {}, "no classification or segmentation network 'nothing'"),
        ("torchvision:resnet18", {"width": 8}, "no free widths"),
        ("resnet8", {"widths": {"layer9": 4}}, "no channel size 'layer9'"),
        ("resnet8", {"widths": {"layer1": 0}}, "'layer1' of resnet8 is 0"),
        ("resnet8", {"width": 0}, "base width of resnet8 is 0"),
        ("resnet8", {"image": 30}, "multiples of 4, not 30"),
        ("darts7", {"image": 68}, "multiples of 32, not 68"),
        ("resnet8", {"classes": 0}, "0 classes"),
        ("resnet8", {"batch": 0}, "batch of 0"),
        ("resnet8", {"exporter": "other"}, "no exporter 'other'"),
    ],
)
def test_a_wrong_wish_is_refused_and_leaves_no_file(
    name: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(name, tmp_path / "net.onnx", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_importing_the_zoo_loads_no_torch() -> None:
    code = "import sys, conet_graph.models as m; m.sizes('darts7'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_sample_reaches_its_stated_accuracy() -> None:
    assert train_sample.SAMPLE.stat().st_size < 300_000
    data = digits.load()
    right = run_onnx(train_sample.SAMPLE, data.test_images).argmax(1) == data.test_labels
    assert right.sum() == 355
    assert "355 of them" in (train_sample.SAMPLE.parent / "README.md").read_text("utf-8")


def test_training_the_sample_learns() -> None:
    """Two epochs are far from the sample's accuracy and far above chance."""
    with torch.random.fork_rng(devices=[]):
        assert train_sample.accuracy(train_sample.train(epochs=2)) > 0.7
