"""Where a run happened: versions, commit, device, threads, host."""

from __future__ import annotations

__all__ = ["contents", "setting", "threads"]

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "timm", "torchvision", "transformers")


def setting(device: str) -> dict[str, Any]:
    """Return what is needed to tell whether another run can be compared with this one.

    ``commit`` is the checkout's that torchgraft runs from (empty where it is installed), and ``dirty`` tells whether
    the package's files differ from the commit.

    >>> sorted(setting("cpu"))
    ['commit', 'device', 'dirty', 'host', 'threads', 'versions']
    """
    commit, dirty = _commit()
    return {
        "versions": dict(_versions()),
        "commit": commit,
        "dirty": dirty,
        "device": _device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch compute on so many threads, on as many as before where there is no number, and set them back."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def contents(paths: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files among ``paths``, which a run's key knows by their names alone.

    >>> contents(["", "pretrained", "no/such.file"])
    {}
    """
    return {path: _digest(path, *_state(path)) for path in dict.fromkeys(paths) if path and Path(path).is_file()}


def _state(path: str) -> tuple[int, int]:
    state = Path(path).stat()
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=32)  # a checkpoint of some hundred megabytes serves many runs
def _digest(path: str, changed: int, size: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    import torchgraft

    found = [("torchgraft", torchgraft.__version__), ("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append((package, ""))
    return tuple(found)


@functools.cache  # the code that runs is the one of the first call, whatever is committed afterwards
def _commit() -> tuple[str, bool]:
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return "", False  # installed, perhaps inside the checkout of something else
    return _git(package, "rev-parse", "HEAD") or "", bool(_git(package, "status", "--porcelain", "--", "."))


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, or nothing where it fails: no git, no checkout, a folder of somebody else."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # set inside git's hooks
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, env=clean, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor() if device.type == "cpu" else str(device)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # not Linux
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
