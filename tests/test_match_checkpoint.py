"""``apply --match auto``: what an exporter folded and renamed is found by its values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import conet_graph as cg
from conet_graph.cli import run


class Residual(nn.Module):
    """Convolutions with BatchNorm, one with a bias too, a depthwise one, a sum, a plain one, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12, eps=1e-3)
        self.depthwise, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.plain = nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.bn2(self.depthwise(torch.relu(self.bn1(self.conv1(x))))))
        x = torch.relu(self.plain(torch.relu(x + self.bn3(self.conv3(y)))))
        return self.fc(x.mean((2, 3)))


class Numbered(nn.Sequential):
    """Layers whose names are numbers, as in ``nn.Sequential``."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 1)),
            *(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1)),
        )


class Upsampling(nn.Module):
    """A transposed convolution with BatchNorm, and a Linear on maps, which becomes a transposed MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm1 = nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)
        self.up, self.norm2 = nn.ConvTranspose2d(10, 6, 2, stride=2, bias=False), nn.BatchNorm2d(6)
        self.mix = nn.Linear(6, 6)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.down(x)))
        x = torch.relu(self.norm2(self.up(x))).permute(0, 2, 3, 1)
        return self.last(torch.relu(self.mix(x)).permute(0, 3, 1, 2))


def trained(module: nn.Module) -> nn.Module:
    """The module with BatchNorms as after training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module


def exported(module: nn.Module, path: Path) -> nn.Module:
    """Write it as PyTorch's exporter does by default: BatchNorm folded, names lost."""
    torch.onnx.export(module.eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=False)
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert any(name.startswith("onnx::") for name in names)
    return module


def with_state(module: nn.Module, state: dict[str, Any]) -> nn.Module:
    """A copy of the module with tensors of other sizes."""
    made = copy.deepcopy(module)
    for key, value in state.items():
        place, _, last = key.rpartition(".")
        part = made.get_submodule(place)
        if last in part._parameters:
            part._parameters[last] = nn.Parameter(value)
        else:
            part._buffers[last] = value
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            part.groups = len(value)
    return made.eval()


def difference(module: nn.Module, path: Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        return float(np.abs(module(torch.from_numpy(x)).numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("scale", ["0.5", "1.5"])
@pytest.mark.parametrize("prepare", [trained, lambda module: module], ids=["trained", "fresh"])
@pytest.mark.parametrize("network", [Residual, Upsampling, Numbered])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_checkpoint_follows(
    network: Callable[[], nn.Module],
    prepare: Callable[[nn.Module], nn.Module],
    scale: str,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = exported(prepare(network()), Path("m.onnx"))
    assert (
        run(["rewrite", "m.onnx", "-o", "s.onnx", "--scale", scale, "--multiple-of", "1", "--plan", "p.json"])
        == 0
    )
    state = {k: v.clone() for k, v in module.state_dict().items()}
    if suffix == "pt":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "w.pt")
    else:
        save_file(state, "w.safetensors")
    asked = ["apply", "p.json", f"w.{suffix}", "-o", f"s.{suffix}"]
    assert run(asked) == 2
    # A safetensors file is sorted by names: which fresh BatchNorm is whose, only names can tell.
    told = suffix == "pt" or prepare is trained or network is Numbered
    assert run([*asked, "--match", "auto", "--model", "m.onnx"]) == (0 if told else 2)
    assert Path(f"s.{suffix}").exists() == told
    if not told:
        return
    slim = torch.load("s.pt")["state_dict"] if suffix == "pt" else load_file("s.safetensors")
    slim = {key.removeprefix("module."): value for key, value in slim.items()}
    assert difference(with_state(module, slim), Path("s.onnx")) < 1e-5
    assert difference(with_state(module, state), Path("s.onnx")) > 1e-5 or scale == "1.5"


def prepared(module: nn.Module, state: dict[str, Any]) -> list[str]:
    exported(module, Path("m.onnx"))
    assert (
        run(["rewrite", "m.onnx", "-o", "s.onnx", "--scale", "0.5", "--multiple-of", "1", "--plan", "p.json"])
        == 0
    )
    torch.save(state, "w.pt")
    return ["apply", "p.json", "w.pt", "-o", "o.pt", "--match", "auto", "--model", "m.onnx"]


def test_another_networks_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    asked = prepared(trained(Residual()), trained(Residual()).state_dict())
    assert run(asked) == 2
    assert "No entry of the checkpoint has the values of tensor 'onnx::Conv_" in capsys.readouterr().err
    assert not Path("o.pt").exists()


def test_equal_entries_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = Residual()
    state = dict(module.state_dict())
    state["spare.weight"] = state["conv1.weight"].clone()
    state["spare.bias"] = state["conv1.bias"].clone()
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"spare_norm.{part}"] = state[f"bn1.{part}"].clone()
    asked = prepared(module, state)
    capsys.readouterr()
    assert run(asked) == 0
    assert "Several entries of the checkpoint have equal values for 'onnx::Conv_" in capsys.readouterr().err
    slim = torch.load("o.pt")
    assert slim["conv1.weight"].shape[0] == 6
    assert slim["spare.weight"].shape[0] == 12


def test_a_mapping_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = trained(Residual())
    asked = prepared(module, module.state_dict())
    plan = json.loads(Path("p.json").read_text())
    name = next(n for n, t in plan["tensors"].items() if n.startswith("onnx::Conv") and len(t["axes"]) == 2)
    Path("map.json").write_text(json.dumps({name: None}))
    before = module.state_dict()
    assert run([*asked, "--mapping", "map.json"]) == 0
    changed = [k for k, v in torch.load("o.pt").items() if v.ndim > 1 and v.shape != before[k].shape]
    assert len(changed) == 5  # of six weights


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--match", "auto"], "--match is 'auto' and needs --model"),
        (["--model", "m.onnx"], "--match is 'auto' and needs --model"),
        (["--match", "names", "--model", "m.onnx"], "--match is 'auto' and needs --model"),
        (["--match", "auto", "--model", "s.onnx"], "The plan was made for another model than 's.onnx'"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    module = Residual()
    asked = prepared(module, module.state_dict())[:5]
    assert run([*asked, *options]) == 2
    assert sentence in capsys.readouterr().err


def test_numpy_tensors_need_no_model_of_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = exported(trained(Residual()), tmp_path / "m.onnx")
    from conet_graph.passes import analysed
    from conet_graph.rewriting.match_checkpoint import match_checkpoint

    model = cg.load(tmp_path / "m.onnx")
    plan = cg.plan(model, scale=0.5)
    arrays = {key: value.numpy() for key, value in module.state_dict().items()}
    found = match_checkpoint(plan, analysed(model), arrays)
    assert found.mapping == match_checkpoint(plan, analysed(model), module.state_dict()).mapping
    assert not found.by_order
