"""The package as it is laid out: its packages, links, one-way arrows and imports."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "conet_graph.ir": ROOT / "ir",
    "conet_graph.passes": ROOT / "passes",
    "conet_graph.models": ROOT / "models",
    "conet_graph": ROOT / "conet_graph",
}
# What each folder may import of ours; conet_graph itself may import all of it.
MAY_IMPORT = {
    "conet_graph.ir": ("conet_graph.ir",),
    "conet_graph.passes": ("conet_graph.ir", "conet_graph.passes"),
    "conet_graph.models": ("conet_graph.models",),
}
SCREEN = 60  # lines
TORCH = ("torch", "torchvision", "onnx2torch", "timm")


def python_files(folder: Path) -> Iterator[Path]:
    """The folder's own files: links to other folders are not followed."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [f for f in folders if not (Path(parent) / f).is_symlink()]
        yield from (Path(parent) / name for name in sorted(names) if name.endswith(".py"))


def imported(source: str) -> set[str]:
    """Full names of all that a source imports, wherever in it; `from a import b` counts as a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def wrong_arrows(package: str, source: str) -> set[str]:
    """Imports of ours that a file of this package may not have."""
    ours = {name for name in imported(source) if within(name, ("conet_graph",)) or name[0] == "."}
    if package in MAY_IMPORT:
        return {name for name in ours if not within(name, MAY_IMPORT[package])}
    return {name for name in ours if name[0] == "." or within(name, ("conet_graph.cli",))}


def folders_with_init() -> set[str]:
    found = set()
    for package, folder in FOLDERS.items():
        for file in python_files(folder):
            if file.name == "__init__.py":
                found.add(".".join((package, *file.parent.relative_to(folder).parts)))
    return found


def setuptools_table() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
    return table


def test_the_packages_list_names_every_folder_with_an_init() -> None:
    assert setuptools_table()["packages"] == sorted(folders_with_init())


def test_no_folder_with_python_files_lacks_an_init() -> None:
    folders = {file.parent for folder in FOLDERS.values() for file in python_files(folder)}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()] == []


def test_package_dir_names_the_folders() -> None:
    wanted = {package: str(folder.relative_to(ROOT)) for package, folder in FOLDERS.items()}
    assert setuptools_table()["package-dir"] == wanted


@pytest.mark.parametrize("name", ["ir", "passes", "models"])
def test_the_links_are_there(name: str) -> None:
    link = ROOT / "conet_graph" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_the_marker_of_types_is_there() -> None:
    assert (ROOT / "conet_graph" / "py.typed").is_file()


@pytest.mark.parametrize("package", FOLDERS)
def test_arrows_point_one_way(package: str) -> None:
    cli = ROOT / "conet_graph" / "cli"
    entry_points = {ROOT / "conet_graph" / "__main__.py"}
    files = [
        file
        for file in python_files(FOLDERS[package])
        if cli not in file.parents and file not in entry_points
    ]
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in wrong_arrows(package, file.read_text(encoding="utf-8"))
    }
    assert wrong == set()


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("conet_graph.ir", "import conet_graph", {"conet_graph"}),
        ("conet_graph.ir", "from conet_graph.passes import base", {"conet_graph.passes.base"}),
        ("conet_graph.passes", "def f():\n from conet_graph import plan", {"conet_graph.plan"}),
        ("conet_graph.passes", "from . import base", {"..base"}),
        ("conet_graph.models", "import conet_graph.ir.graph", {"conet_graph.ir.graph"}),
        ("conet_graph", "from conet_graph import cli", {"conet_graph.cli"}),
        ("conet_graph.passes", "from conet_graph.ir import graph\nimport onnx", set()),
        ("conet_graph", "import conet_graph.ir\nfrom conet_graph.models import zoo", set()),
    ],
)
def test_a_wrong_arrow_is_found(package: str, source: str, wrong: set[str]) -> None:
    assert wrong_arrows(package, source) == wrong


@pytest.mark.parametrize("package", ["conet_graph.ir", "conet_graph.passes"])
def test_graph_work_never_names_torch(package: str) -> None:
    naming = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in python_files(FOLDERS[package])
        for name in imported(file.read_text(encoding="utf-8"))
        if within(name, TORCH)
    }
    assert naming == set()


def too_long(source: str) -> list[str]:
    """Functions with more lines than a screen, their signatures and docstrings left out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and (body[-1].end_lineno or 0) - body[0].lineno >= SCREEN:
                found.append(node.name)
    return found


def test_functions_fit_a_screen() -> None:
    files = [file for folder in (*FOLDERS.values(), ROOT / "benchmarks") for file in python_files(folder)]
    assert len(files) > 300
    assert {f.name: found for f in files if (found := too_long(f.read_text("utf-8")))} == {}


def test_a_function_that_is_too_long_is_found() -> None:
    assert too_long("def f(x):\n    'a doc'\n" + "    x += 1\n" * 60) == []
    assert too_long("def f(x):\n    'a doc'\n" + "    x += 1\n" * 61) == ["f"]


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh Python holds after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["conet_graph", "conet_graph.cli"])
def test_importing_starts_without_torch(module: str) -> None:
    loaded = loaded_after(f"import {module}")
    assert "conet_graph" in loaded
    assert loaded.isdisjoint(TORCH)


def test_an_import_of_torch_is_seen() -> None:
    assert "torch" in loaded_after("import sys, types; sys.modules['torch'] = types.ModuleType('t')")
