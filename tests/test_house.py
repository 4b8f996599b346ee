"""The house rules that no linter knows: size ceilings, the public surface, the changelog, what is never committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import torchgraft as tg

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, "a file stays under 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines; a function stays under 60"


def test_public_names_are_documented_and_sorted() -> None:
    assert tg.__all__ == sorted(tg.__all__)
    for name in tg.__all__:
        assert (getattr(tg, name).__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_every_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if path.name not in ("__init__.py", "__main__.py"):
        assert "__all__" in names


def test_version_and_changelog_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert version == tg.__version__ == newest[1]


def test_nothing_is_committed_that_must_not_be() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = listed.stdout.split()
    assert not [name for name in files if name.endswith((".safetensors", ".npz", ".pt", ".pth", ".xz", ".bin"))]
    texts = [(ROOT / name) for name in files if name.endswith((".py", ".md", ".toml", ".txt", "Makefile", "run"))]
    here = "/" + "work" + "/"
    assert not [path.name for path in texts if path.exists() and here in path.read_text()]


def test_public_names_are_imported_when_asked_for_and_files_never_take_their_place() -> None:
    code = (
        "import sys, torchgraft as tg\n"
        "assert not [name for name in sys.modules if name.startswith('torchgraft.')], 'imported too early'\n"
        "import torchgraft.plan, torchgraft.similarity, torchgraft.transfer.apply, torchgraft.verify\n"
        "assert all(callable(one) for one in (tg.plan, tg.similarity, tg.transfer, tg.verify))\n"
        "assert tg.axes.axis_groups and tg.errors.GraftError is tg.GraftError\n"
        "assert set(tg.__all__) <= set(dir(tg)) and [getattr(tg, name) for name in tg.__all__]\n"
        "tg.nothing\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("AttributeError: module 'torchgraft' has no attribute 'nothing'\n"), done.stderr
