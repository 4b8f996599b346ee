"""The documentation is true: its code runs and prints what it says, its commands parse, its links lead somewhere."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Fenced:
    """A fenced block of a page: its language, its text, the line on which the text starts."""

    language: str
    text: str
    line: int


@functools.cache
def fenced(page: str) -> tuple[Fenced, ...]:
    """Return the fenced blocks of a page, in order."""
    content = (ROOT / page).read_text(encoding="utf-8")
    return tuple(
        Fenced(found[1], found[2], content.count("\n", 0, found.start(2)) + 1) for found in _FENCE.finditer(content)
    )


def with_language(*languages: str) -> list[str]:
    return [page for page in PAGES if any(block.language in languages for block in fenced(page))]


def run(block: Fenced, page: str, namespace: dict[str, Any]) -> str:
    """Execute one block with warnings as errors and return what it printed."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec")
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, namespace)  # the block is ours, from the repository
    return printed.getvalue()


def commands(page: str) -> Iterator[list[str]]:
    """Yield the command lines of the shell blocks, without prompt and comment."""
    for block in fenced(page):
        if block.language in ("console", "sh"):
            lines = block.text.replace("\\\n", " ").splitlines()
            prompted = [line for line in lines if line.startswith("$ ")] if block.language == "console" else lines
            for line in prompted:
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words:
                    yield words


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual renderers make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_have_examples() -> None:
    assert {"README.md", "docs/how-it-works.md"} <= set(with_language("python"))
    assert "README.md" in with_language("console", "sh")


@pytest.mark.parametrize("page", with_language("python"))
def test_examples_run_and_print_what_the_page_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from torchgraft.io import import_torchvision

    import_torchvision()  # before timm: see there
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    previous, printed = "", ""
    for block in fenced(page):
        if block.language == "python":
            printed = run(block, page, namespace)
        elif block.language == "text" and previous == "python":
            assert printed.splitlines() == block.text.splitlines(), f"{page}:{block.line} says otherwise"
        previous = block.language


def parse(words: list[str]) -> click.Context:
    """Parse a command line of torchgraft as the program would, without running it."""
    from torchgraft.cli import app

    name, *arguments = words[1:]
    command: click.Command = app.commands[name]
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments)


@pytest.mark.parametrize("page", with_language("console", "sh"))
def test_commands_exist_and_their_options_too(page: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        if words[0] == "torchgraft":
            context = parse(words)
            named = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert named <= set(re.findall(r"(?<!\S)--?[\w-]+", context.get_help().replace(",", " "))), words
        elif words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), words
        else:
            assert words[:2] == ["pip", "install"], f"{page} shows a command that nothing checks: {words}"


@pytest.mark.parametrize("line", ["plan a --target b --no-such-option", "transfer a --target b", "rank --target b"])
def test_a_wrong_command_line_is_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(["torchgraft", *line.split()])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.is_file(), f"{page} links to {link}, which is not there"
        assert not anchor or anchor in anchors(file), f"{page} links to {link}, a heading that is not there"
