"""``conet-graph apply``: the surgery of a plan on PyTorch checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import conet_graph as cg
from conet_graph.cli import run
from conet_graph.ir.errors import BadUsage
from conet_graph.models.export import export_module
from conet_graph.rewriting.checkpoint import apply_plan_to_checkpoint, apply_plan_to_state_dict
from conet_graph.rewriting.plans import Plan


class Net(nn.Module):
    """Residual, depthwise, flattened into a classifier; its sizes are arguments."""

    def __init__(self, trunk: int = 8, inner: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, trunk, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(trunk)
        self.up = nn.Conv2d(trunk, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.down = nn.Conv2d(inner, trunk, 1)
        self.fc = nn.Linear(trunk * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = x + self.down(torch.relu(self.depthwise(torch.relu(self.up(x)))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    made = Net()
    nn.init.uniform_(made.bn.weight, 0.5, 1.5)
    nn.init.normal_(made.bn.bias)
    nn.init.normal_(made.bn.running_mean)
    nn.init.uniform_(made.bn.running_var, 0.5, 1.5)
    return made.eval()


def state_of(module: nn.Module) -> dict[str, Any]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    export_module(net(), path, (3, 8, 8))
    return path


@pytest.fixture
def plan(original: Path) -> Plan:
    return cg.plan(cg.load(original), scale=0.5, multiple_of=1)


def plan_file(plan: Plan, folder: Path) -> str:
    (folder / "plan.json").write_text(plan.dumps())
    return str(folder / "plan.json")


def assert_same_function(module: nn.Module, model: Path) -> None:
    """The module in PyTorch gives what the model gives in ONNX Runtime."""
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    (wanted,) = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"input": x})
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "trunk", "inner"), [(0.5, 4, 6), (1.5, 12, 18)])
def test_the_checkpoint_follows_the_rewrite(
    original: Path, tmp_path: Path, scale: float, trunk: int, inner: int
) -> None:
    slim = tmp_path / "slim.onnx"
    arguments = ["rewrite", str(original), "-o", str(slim), "--scale", str(scale), "--multiple-of", "1"]
    assert run([*arguments, "--plan", str(tmp_path / "plan.json")]) == 0
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    arguments = [str(tmp_path / "plan.json"), str(tmp_path / "weights.pt"), "-o", str(tmp_path / "slim.pth")]
    assert run(["apply", *arguments]) == 0
    module = Net(trunk, inner)
    module.load_state_dict(torch.load(tmp_path / "slim.pth", weights_only=True))
    assert_same_function(module, slim)


def test_the_comparison_sees_other_channels(original: Path, tmp_path: Path) -> None:
    model = cg.load(original)
    cg.save(cg.rewrite(model, cg.plan(model, scale=0.5, multiple_of=1)), tmp_path / "slim.onnx")
    other = cg.plan(model, scale=0.5, multiple_of=1, importance="first")
    module = Net(4, 6)
    module.load_state_dict(apply_plan_to_state_dict(other, net().state_dict()))
    with pytest.raises(AssertionError):
        assert_same_function(module, tmp_path / "slim.onnx")


def test_the_state_dict_given_stays_as_it_was(plan: Plan) -> None:
    state = state_of(net())
    made = apply_plan_to_state_dict(plan, state)
    assert all(torch.equal(value, state[key]) for key, value in net().state_dict().items())
    assert made["fc.bias"] is state["fc.bias"]
    assert made["bn.num_batches_tracked"] is state["bn.num_batches_tracked"]
    assert made["fc.weight"].shape == (5, 16)


def test_prefixes_are_looked_through(plan: Plan) -> None:
    state = {f"module.model.{key}": value for key, value in net().state_dict().items()}
    made = apply_plan_to_state_dict(plan, state)
    assert list(made) == list(state)
    assert made["module.model.stem.weight"].shape == (4, 3, 3, 3)


def test_tied_entries_change_together(plan: Plan) -> None:
    state = state_of(net())
    state["tied.weight"] = state["stem.weight"]
    made = apply_plan_to_state_dict(plan, state)
    assert made["tied.weight"] is made["stem.weight"]


def trained() -> tuple[Net, torch.optim.Optimizer]:
    module = net().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return module, optimizer


def test_adam_goes_on_from_the_gathered_moments(plan: Plan) -> None:
    module, optimizer = trained()
    old = {
        "epoch": 3,
        "state_dict": module.state_dict(),
        "ema": [state_of(module)],
        "optimizer": optimizer.state_dict(),
    }
    new = apply_plan_to_checkpoint(plan, old)
    assert new["epoch"] == 3
    assert new["ema"][0]["stem.weight"].shape == (4, 3, 3, 3)
    slim = Net(4, 6)
    slim.load_state_dict(new["state_dict"])
    again = torch.optim.Adam(slim.parameters(), lr=1e-3)
    again.load_state_dict(new["optimizer"])
    kept = plan.tensors["stem.weight"].axes[0]
    for name in ("exp_avg", "exp_avg_sq"):
        wanted = optimizer.state[module.stem.weight][name][torch.from_numpy(kept)]
        assert torch.equal(again.state[slim.stem.weight][name], wanted)
    assert again.state[slim.stem.weight]["step"] == 1
    slim(torch.randn(2, 3, 8, 8)).sum().backward()
    again.step()


def test_moments_are_gathered_but_not_scaled(original: Path) -> None:
    wide = cg.plan(cg.load(original), scale=2.0, multiple_of=1)
    module, optimizer = trained()
    old = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    new = apply_plan_to_checkpoint(wide, old)
    step = wide.tensors["fc.weight"]
    assert step.scale
    columns = torch.from_numpy(step.axes[1])
    number = [name for name, _ in module.named_parameters()].index("fc.weight")
    moments = new["optimizer"]["state"][number]["exp_avg"]
    assert torch.equal(moments, optimizer.state[module.fc.weight]["exp_avg"][:, columns])
    assert torch.allclose(new["model"]["fc.weight"], module.fc.weight.detach()[:, columns] / 2)


@pytest.mark.parametrize("fault", ["count", "order", "stray", "state"])
def test_an_optimizer_of_other_parameters_is_refused(plan: Plan, fault: str) -> None:
    module, optimizer = trained()
    state = optimizer.state_dict()
    if fault == "count":
        state["param_groups"][0]["params"].pop()
    elif fault == "order":
        state["param_groups"][0]["params"].reverse()
    elif fault == "stray":
        state["state"][99] = {}
    else:
        state["state"][0] = 3
    sentence = "none of its groups" if fault == "stray" else "take (the optimizer|it) out"
    with pytest.raises(BadUsage, match=sentence):
        apply_plan_to_checkpoint(plan, {"model": module.state_dict(), "optimizer": state})


def test_safetensors_both_ways(plan: Plan, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_file(net().state_dict(), tmp_path / "w.safetensors", metadata={"format": "pt", "author": "me"})
    arguments = [plan_file(plan, tmp_path), str(tmp_path / "w.safetensors"), "-o"]
    assert run(["apply", *arguments, str(tmp_path / "slim.safetensors")]) == 0
    assert run(["apply", *arguments, str(tmp_path / "slim.pt")]) == 0
    wanted = apply_plan_to_state_dict(plan, net().state_dict())
    safe = load_file(tmp_path / "slim.safetensors")
    pickled = torch.load(tmp_path / "slim.pt", weights_only=True)
    assert safe.keys() == pickled.keys() == wanted.keys()
    assert all(torch.equal(safe[k], wanted[k]) and torch.equal(pickled[k], wanted[k]) for k in wanted)
    with safe_open(tmp_path / "slim.safetensors", framework="pt") as file:
        assert file.metadata()["author"] == "me"


def test_a_mapping_gives_other_names(plan: Plan, tmp_path: Path) -> None:
    state = state_of(net())
    state["head.kernel"] = state.pop("fc.weight").T.contiguous()
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    mapping = {"fc.weight": {"key": "head.kernel", "transpose": True}}
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    files = [plan_file(plan, tmp_path), str(tmp_path / "w.pt"), "-o", str(tmp_path / "out.pt")]
    assert run(["apply", *files, "--mapping", str(tmp_path / "map.json")]) == 0
    made = torch.load(tmp_path / "out.pt", weights_only=True)["state_dict"]
    wanted = apply_plan_to_state_dict(plan, net().state_dict())["fc.weight"]
    assert torch.equal(made["head.kernel"].T, wanted)
    left = apply_plan_to_state_dict(plan, state, {"fc.weight": None})
    assert left["head.kernel"] is state["head.kernel"]


def two_norms(width: int) -> nn.Sequential:
    """Two BatchNorms as they begin, all of whose vectors are equal: an exporter stores them once."""
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)]
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 16, 2)).eval()


@pytest.mark.parametrize("folded", [False, True])
def test_every_vector_of_a_batchnorm_follows(tmp_path: Path, folded: bool) -> None:
    old = two_norms(8)
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    example, path = (torch.zeros(1, 3, 8, 8),), tmp_path / "net.onnx"
    torch.onnx.export(old, example, path, dynamo=False, training=mode, do_constant_folding=folded)
    model = cg.load(path)
    plan = cg.plan(model, scale=0.5, multiple_of=1)
    cg.save(cg.rewrite(model, plan), tmp_path / "slim.onnx")
    mapping = {}
    if folded:
        nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
        for node, conv, norm in zip(nodes, ("0", "3"), ("1", "4"), strict=True):
            vectors = ("weight", "bias", "running_mean", "running_var")
            mapping[node.input[1]] = f"{conv}.weight"
            mapping[node.input[2]] = [f"{conv}.bias", *(f"{norm}.{vector}" for vector in vectors)]
    new = two_norms(4)
    new.load_state_dict(apply_plan_to_state_dict(plan, old.state_dict(), mapping))
    x = torch.randn(1, 3, 8, 8)
    session = ort.InferenceSession(str(tmp_path / "slim.onnx"), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(new(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in net().state_dict().items() if k != key}


def test_a_missing_key_names_the_closest(plan: Plan) -> None:
    with pytest.raises(BadUsage, match=r"'stem\.weight': the closest are '[^']+', '[^']+', '[^']+';"):
        apply_plan_to_state_dict(plan, without("stem.weight"))


def test_what_does_not_fit_is_refused(plan: Plan) -> None:
    transposed = {**net().state_dict(), "fc.weight": torch.zeros(32, 5)}
    with pytest.raises(BadUsage, match=r"'fc\.weight' with shape \[32, 5\]"):
        apply_plan_to_state_dict(plan, transposed)
    with pytest.raises(BadUsage, match="changes axis 0"):
        apply_plan_to_state_dict(plan, {**net().state_dict(), "bn.bias": torch.zeros(())})
    with pytest.raises(BadUsage, match="and differently"):
        apply_plan_to_state_dict(plan, net().state_dict(), {"down.bias": "up.bias"})
    with pytest.raises(BadUsage, match="neither a key"):
        apply_plan_to_state_dict(plan, net().state_dict(), {"up.bias": 3})


def test_integers_are_not_shared_out(original: Path) -> None:
    wide = cg.plan(cg.load(original), scale=2.0, multiple_of=1)
    state = {**net().state_dict(), "fc.weight": torch.zeros(5, 32, dtype=torch.int8)}
    with pytest.raises(BadUsage, match="holds integers"):
        apply_plan_to_state_dict(wide, state)


def test_a_plan_of_fresh_weights_is_refused(original: Path) -> None:
    fresh = cg.plan(cg.load(original), scale=0.5, multiple_of=1, init="fresh")
    with pytest.raises(BadUsage, match="--init keep"):
        apply_plan_to_state_dict(fresh, net().state_dict())


class Unsafe:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a checkpoint", "no intact PyTorch checkpoint"),
        (b"", "no intact PyTorch checkpoint"),
        (Unsafe(), "could run code"),
        ([1, 2], "holds no state dict"),
        ({"weight": 3}, "holds no state dict"),
    ],
)
def test_bad_files_get_one_sentence(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, sentence: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "w.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "w.pt")
    assert refusal(plan, tmp_path, capsys, "w.pt", "out.pt").count(sentence) == 1
    assert not (tmp_path / "out.pt").exists()


def refusal(plan: Plan, folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str) -> str:
    """What `apply` says on stderr: one line, with exit code 2."""
    capsys.readouterr()
    assert run(["apply", plan_file(plan, folder), str(folder / old), "-o", str(folder / new)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_damaged_and_unknown_files(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(net().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:3000])
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    torch.save({"model": net().state_dict(), "epoch": 1}, tmp_path / "nested.pt")
    assert "no intact PyTorch" in refusal(plan, tmp_path, capsys, "half.pt", "out.pt")
    assert "no intact safetensors" in refusal(plan, tmp_path, capsys, "bad.safetensors", "out.pt")
    assert "cannot be read" in refusal(plan, tmp_path, capsys, "none.pt", "out.pt")
    assert "must end in" in refusal(plan, tmp_path, capsys, "whole.pt", "out.bin")
    assert "tensors only" in refusal(plan, tmp_path, capsys, "nested.pt", "out.safetensors")
    assert "cannot be written" in refusal(plan, tmp_path, capsys, "whole.pt", "missing/out.pt")


def test_a_file_that_is_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(net().state_dict(), tmp_path / "w.pt")
    (tmp_path / "p.json").write_text('{"format": "conet-graph.analysis/1"}')
    assert run(["apply", str(tmp_path / "p.json"), str(tmp_path / "w.pt"), "-o", str(tmp_path / "o.pt")]) == 2
    assert "not 'conet-graph.plan/1'" in capsys.readouterr().err


def test_a_checkpoint_without_its_dead_channels_gives_the_same(tmp_path: Path) -> None:
    """A zero filter with a bias goes into the next bias, its multiple into the other's weights."""
    module = net()
    with torch.no_grad():
        module.up.weight[3] = 0
        module.up.bias[3] = 2.0
        module.depthwise.weight[3] = 0
        module.depthwise.bias[3] = 1.5
        for layer in (module.up, module.depthwise):
            layer.weight[5] = layer.weight[4]
        module.up.bias[5], module.up.weight[5] = 2 * module.up.bias[4], 2 * module.up.weight[4]
        module.depthwise.bias[5] = 2 * module.depthwise.bias[4]
    path = tmp_path / "net.onnx"
    export_module(module, path, (3, 8, 8))
    plan = cg.plan(cg.load(path), lossless=True)
    made = apply_plan_to_state_dict(plan, state_of(module))
    small = Net(8, 10)
    small.load_state_dict(made)
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(small.eval()(x), module(x), atol=1e-5)
