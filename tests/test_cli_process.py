"""The command as a process of its own: on a terminal, in a pipe, under signals and limits."""

import contextlib
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Bomb
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from torchgraft.cli import app

LINEAR = "python:torch.nn:Linear,in_features=4,out_features=3"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with one good file in it."""
    monkeypatch.chdir(tmp_path)
    save_file(nn.Linear(5, 3).state_dict(), "good.safetensors")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with what is in it; caches of imported models aside."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def transfer(source: str, target: str) -> list[str]:
    return ["transfer", source, "--target", target, "-o", "out.safetensors", "--report", "report.json"]


def on_terminal(arguments: list[str], **environment: str) -> str:
    """Run the command on a terminal of its own and return everything it wrote there."""
    leader, follower = pty.openpty()
    base = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "torchgraft", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**base, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment},
    )
    os.close(follower)
    written = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(leader, 65536):
            written += chunk
    os.close(leader)
    assert process.wait(30) == 0
    return written.decode()


def test_a_terminal_gets_colours_and_progress(folder: Path) -> None:
    written = on_terminal(["plan", "good.safetensors", "--target", LINEAR])
    assert "\x1b[36mresized" in written
    assert f"planning good.safetensors → {LINEAR}"[:30] in written


def test_no_color_and_quiet_are_respected(folder: Path) -> None:
    written = on_terminal(["transfer", "good.safetensors", "--target", LINEAR, "-o", "x.safetensors"], NO_COLOR="1")
    assert "wrote x.safetensors" in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", written)
    assert on_terminal(["transfer", "good.safetensors", "--target", LINEAR, "-o", "x.safetensors", "--quiet"]) == ""


def test_names_cannot_speak_to_the_terminal(folder: Path) -> None:
    save_file({"\x1b[2J\x1b]0;owned\x07.weight": torch.zeros(3, 4)}, "names.safetensors")
    result = CliRunner().invoke(app, ["plan", "names.safetensors", "--target", LINEAR])
    assert result.exit_code == 0
    assert r"\x1b[2J\x1b]0;owned\x07.weight" in result.stdout
    assert "\x1b" not in result.output


@pytest.mark.parametrize("key", ["[red]a.weight", "a[/b].weight", "a[b].weight"])
def test_names_are_not_read_as_markup(folder: Path, key: str) -> None:
    save_file({key: torch.zeros(3, 4)}, "names.safetensors")
    result = CliRunner().invoke(app, ["plan", "names.safetensors", "--target", LINEAR])
    assert result.exit_code == 0
    assert key in result.stdout


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torchgraft", *arguments],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        # A shell starts background jobs with SIGINT ignored, and whoever runs these tests may be one.
        preexec_fn=options.pop("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)),
        **options,
    )


def test_the_real_command_defuses_a_bomb(folder: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3, 4)}, "args": Bomb()}, "bomb.pth")
    before = everything(folder)
    with start(transfer("bomb.pth", LINEAR)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("torchgraft: error: bomb.pth holds ")
    assert err.count("\n") == 1
    assert everything(folder) == before


def test_a_real_write_that_fails(folder: Path) -> None:
    big = "python:torch.nn:Linear,in_features=200,out_features=200"
    before = everything(folder)
    with start(
        ["transfer", "good.safetensors", "--target", big, "-o", "out.safetensors"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("torchgraft: error: out.safetensors cannot be written: ")
    assert err.count("\n") == 1
    assert everything(folder) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_trace(folder: Path, number: int, code: int) -> None:
    Path("slow_model.py").write_text("import time\ndef net():\n    print('waiting', flush=True)\n    time.sleep(60)\n")
    before = everything(folder)
    with start(transfer("good.safetensors", "python:slow_model:net")) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (code, "", "")
    assert everything(folder) == before


def test_a_reader_that_leaves(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with start(["plan", "good.safetensors", "--target", LINEAR, "--json"], stdout=write) as process:
        os.close(write)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_that_is_full(folder: Path) -> None:
    with (
        open("/dev/full", "w") as full,
        start(["plan", "good.safetensors", "--target", LINEAR], stdout=full) as process,
    ):
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "torchgraft: error: standard output: No space left on device\n")
