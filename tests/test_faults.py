"""Faults of files and streams: one sentence, the exit code, and what was there before is still there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import conet_graph as cg
from conet_graph.cli import run

SAMPLE = Path(__file__).parents[1] / "models" / "samples" / "digits.onnx"
REWRITE = ["rewrite", str(SAMPLE), "--scale", "0.5", "--no-verify", "-o"]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command said on stderr: one line."""
    text = capsys.readouterr().err
    assert text.startswith("conet-graph: ")
    assert text.count("\n") == 1
    assert "bug" not in text
    return text


def process(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conet_graph", *map(str, arguments)]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_file(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = small_disk / "slim.onnx"
    assert run(["rewrite", str(SAMPLE), "--params", "0.1", "-o", str(target)]) == 0
    before = target.read_bytes()
    capsys.readouterr()
    assert run(["rewrite", str(SAMPLE), "--params", "0.9", "-o", str(target)]) == 2
    assert "cannot be written: No space left on device" in told(capsys)
    assert target.read_bytes() == before
    assert list(small_disk.iterdir()) == [target]


def test_a_read_only_file_system(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run([*REWRITE, str(small_disk / "x.onnx")]) == 2
    assert "cannot be written: Read-only file system" in told(capsys)


def test_a_limit_on_the_size_of_files_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "slim.onnx"
    target.write_bytes(b"old")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = process(*REWRITE, target, preexec_fn=limited)
    assert done.returncode == 2
    assert done.stderr.startswith("conet-graph: '")
    assert done.stderr.endswith("' cannot be written: File too large.\n")
    assert len(done.stderr.splitlines()) == 1
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("a file/x.onnx", "Not a directory"),
        ("/proc/x.onnx", "cannot be written: "),
        ("no such folder/x.onnx", "No such file or directory"),
        (".", "is a folder: name a file in it"),
        ("/dev/null", "is a device or a pipe"),
        ("x" * 300 + ".onnx", "File name too long"),
    ],
)
@pytest.mark.parametrize("option", ["-o", "--plan"])
def test_an_output_that_cannot_be(
    place: str, sentence: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    other = {"-o": "--plan", "--plan": "-o"}[option]
    arguments = ["rewrite", str(SAMPLE), "--scale", "0.5", "--no-verify", other, str(tmp_path / "other")]
    assert run([*arguments, option, str(tmp_path / place)]) == 2
    assert sentence in told(capsys)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    target = tmp_path / "slim.onnx"
    target.symlink_to(precious)
    assert run([*REWRITE, str(target)]) == 0
    assert precious.read_text() == "mine"
    assert not target.is_symlink()
    onnx.checker.check_model(target)


@pytest.mark.parametrize("external", [False, True])
def test_from_python_the_output_may_be_the_input(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load(SAMPLE)
    onnx.save(model, path, save_as_external_data=external, location="m.data", size_threshold=0)
    for _ in range(2):
        read = cg.load(path)
        cg.save(cg.rewrite(read, cg.plan(read, scale=0.5, multiple_of=1)), path)
        onnx.checker.check_model(path, full_check=True)
    half = {t.name: list(t.dims) for t in onnx.load(path).graph.initializer}
    first = model.graph.initializer[0]
    assert half[first.name][0] == first.dims[0] // 4


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("/dev/zero", "is a device or a pipe"),
        ("/dev/stdin", "is a device or a pipe"),
        ("fifo", "is a device or a pipe"),
        ("/proc/self/mem", "cannot be read: Input/output error"),
        ("/", "is a folder"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("gone", "There is no file"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_a_model_that_cannot_be_read(
    model: str,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if model == "/dev/stdin":
        reading, _ = os.pipe()
        os.dup2(reading, 0)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)
    assert run(["analyze", model]) == 2
    assert sentence in told(capsys)


@pytest.mark.parametrize("file", ["/dev/zero", "fifo", "/proc/self/mem", "folder"])
@pytest.mark.parametrize("option", ["--plan", "--widths"])
def test_a_plan_or_widths_that_cannot_be_read(
    file: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / file)
    if option == "--plan":
        assert run(["verify", str(SAMPLE), str(SAMPLE), "--plan", path]) == 2
    else:
        assert run(["rewrite", str(SAMPLE), "-o", str(tmp_path / "x.onnx"), "--widths", path]) == 2
    assert "cannot be read" in told(capsys)


@pytest.mark.parametrize("more", [[], ["--json"], ["--text"]])
def test_a_reader_that_goes_away(more: list[str]) -> None:
    command = [sys.executable, "-m", "conet_graph", "analyze", str(SAMPLE), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 0


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_output_stream_that_is_full(more: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = process("analyze", SAMPLE, *more, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "conet-graph: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_leaves_the_old_output(
    suffix: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from conet_graph.rewriting.checkpoint_file import write_checkpoint

    plan, weights, out = tmp_path / "p.json", tmp_path / f"w{suffix}", tmp_path / f"out{suffix}"
    assert run([*REWRITE, str(tmp_path / "x.onnx"), "--plan", str(plan)]) == 0
    write_checkpoint({"weight": torch.ones(64, 64)}, weights)
    data = bytearray(weights.read_bytes())
    flipped = bytearray(data)
    flipped[:40] = bytes(40)
    weights.write_bytes(
        {"cut": data[: len(data) // 2], "flipped": flipped, "empty": b"", "text": b"none"}[damage]
    )
    out.write_bytes(b"old")
    capsys.readouterr()
    assert run(["apply", str(plan), str(weights), "-o", str(out)]) == 2
    assert "is no intact" in told(capsys)
    assert out.read_bytes() == b"old"
