"""What the tests of several engines need: drivers in processes of their own, and someone who kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.fakes import begun
from torchgraft.lab.store import Store

ROOT = Path(__file__).resolve().parents[2]
RUNS = ["source", *(f"t{i}" for i in range(10))]  # the grid of tests.lab.drive


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait until the condition holds, or fail; patient, since a busy machine starts workers slowly."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@contextmanager
def killer(journal: Path, key: str) -> Iterator[None]:
    """Kill the process that begins a run, once, as soon as it has."""

    def kill() -> None:
        wait_for(lambda: key in dict(begun(journal)))
        os.kill(dict(begun(journal))[key], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def driver(
    engine: str, folder: Path, journal: Path, address: str, does: str, workers: int = 2
) -> Iterator[subprocess.Popen[str]]:
    """Start a driver of the grid in ``tests.lab.drive``; it is gone when the context ends."""
    command = [sys.executable, "-m", "tests.lab.drive", engine, str(folder), str(journal), address, does, str(workers)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and whoever runs these tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:  # before the context waits for its end
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_complete(folder: Path) -> None:
    """Check that the store holds every run of the grid exactly once, in unspoiled lines."""
    store = Store(folder, create=False)
    assert sorted(row.key for row in store.rows()) == RUNS
    assert store.path.read_bytes().count(b"\n") == 11 and store.notes == ()


def kill_and_resume(engine: str, folder: Path, address: str = "") -> tuple[list[str], list[str]]:
    """Kill a driver in the middle of its grid, let two others finish it together, and check what is left behind.

    Returns the runs that were finished before, and those that were begun after.
    """
    journal = folder / "journal"
    with driver(engine, folder, journal, address, "sleep 0.3") as first:
        wait_for(lambda: len(Store(folder).rows()) >= 3)
        first.kill()
        first.wait()
    orphans = {pid for _, pid in begun(journal)}
    wait_for(lambda: not any(is_alive(pid) for pid in orphans))
    finished = [row.key for row in Store(folder).rows()]
    before = len(begun(journal))
    with (
        driver(engine, folder, journal, address, "sleep 0.3", workers=1) as second,
        driver(engine, folder, journal, address, "sleep 0.3", workers=1) as third,
    ):
        told = [process.communicate(timeout=100) for process in (second, third)]
    assert [second.returncode, third.returncode] == [0, 0], told
    again = [key for key, _ in begun(journal)[before:]]
    done = [tuple(map(int, out.split())) for out, _ in told]
    assert sum(now for now, _ in done) == len(again) > 1
    assert 3 <= len(finished) <= 10
    check_complete(folder)
    return finished, again
