"""What the README and the docs show is what happens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from conet_graph.cli import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_commands_print_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```console\n\$ conet-graph (.*?)\n(.*?)```", README, re.DOTALL)
    assert len(shown) == 5
    for command, expected in shown:
        capsys.readouterr()
        assert run(command.split()) == 0
        found = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
        # The last digits of a difference in floating point belong to the processor.
        masked = [re.sub(r"difference \S+", "difference", line) for line in found]
        assert masked == [re.sub(r"difference \S+", "difference", li) for li in expected.splitlines()]


def alike(line: str) -> str:
    """A line of a search without what a shorter one has otherwise: its numbers, and how its sizes do."""
    line = re.sub(r"\d[\d.,]*( [kMG])?", "#", line.partition("; sizes: ")[0])
    return " ".join(line.removesuffix("settled").split())


def test_the_search_is_as_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, with fewer trials: its lines, its table and its files."""
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    ((command, shown),) = re.findall(
        r"```text\n\$ conet-graph (search .*?[^\\])\n(.*?)```", README, re.DOTALL
    )
    shorter = ["--trials", "2", "--epochs", "1", "--device", "cpu"]
    assert run([*command.replace("\\\n", " ").split(), *shorter]) == 0
    told = capsys.readouterr()
    found = {alike(line) for line in (told.err + told.out).splitlines()}
    expected = [alike(line) for line in shown.splitlines() if line != "..." and not line.startswith("Size ")]
    assert [line for line in expected if line not in found] == []
    assert len(expected) > 12
    assert (tmp_path / "RUN" / "final.onnx").is_file()
    assert (tmp_path / "RUN" / "widths.json").is_file()


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "slim.onnx").is_file()


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")]])
def test_links_resolve(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
