"""Engines on one machine: a worker that dies costs its own run a second try, and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.drive import grid
from tests.lab.fakes import begun, fake_row, fake_task, fake_work, gpus_seen
from tests.lab.killing import ROOT, RUNS, check_complete, driver, is_alive, kill_and_resume, killer, wait_for
from torchgraft.errors import LabError
from torchgraft.lab.engines import ENGINES, Failure, Job, Options
from torchgraft.lab.engines.jobs import attempt, environment, first_line, gpus_here
from torchgraft.lab.records import Outcome, Task
from torchgraft.lab.run import run_tasks
from torchgraft.lab.store import Store


@pytest.mark.parametrize("name", ["workers", "per_gpu", "threads", "attempts"])
def test_options_below_one_are_refused(name: str) -> None:
    values: dict[str, Any] = {name: 0}
    with pytest.raises(LabError, match=f"{name} is 0: give at least 1"):
        Options(**values)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(LabError, match="unknown device 'tpu': give cpu or cuda"):
        Options(device="tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["inline", "cores"])
def test_a_gpu_that_is_not_there_is_an_error(name: str) -> None:
    with (
        pytest.raises(LabError, match="there is no GPU here that torch can use"),
        ENGINES[name](fake_work, Options(device="cuda")),
    ):
        pytest.fail("a pool was opened")


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert gpus_here() == ("5", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus_here() == ("0", "1")


def test_an_error_of_a_run_becomes_text() -> None:
    failure = attempt(fake_work, fake_task("k", "fail oops"), b"", "cpu")
    assert isinstance(failure, Failure)
    assert failure.line == "_Awkward: oops" and "fakes.py" in failure.trace
    assert first_line(LabError("the file x is missing\nmore")) == "the file x is missing"
    assert first_line(KeyError()) == "KeyError"


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHGRAFT_A", "old")
    monkeypatch.delenv("TORCHGRAFT_B", raising=False)
    with environment({"TORCHGRAFT_A": "new", "TORCHGRAFT_B": "new"}):
        assert os.environ["TORCHGRAFT_A"] == os.environ["TORCHGRAFT_B"] == "new"
    assert os.environ["TORCHGRAFT_A"] == "old" and "TORCHGRAFT_B" not in os.environ


def test_inline_does_one_run_at_a_time_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    seen = []

    def work(task: Task, weights: bytes, *, device: str) -> Outcome:
        seen.append((weights, device, torch.get_num_threads()))
        return Outcome(fake_row(task.key))

    with ENGINES["inline"](work, Options(threads=before + 1)) as pool:
        assert (pool.free(), pool.running(), pool.wait(0.0)) == (1, 0, [])
        pool.submit(Job(fake_task("k"), lambda: b"w"))
        assert (pool.free(), pool.running()) == (0, 1)
        (finished,) = pool.wait(0.0)
    assert finished.task.key == "k" and isinstance(finished.result, Outcome)
    assert seen == [(b"w", "cpu", before + 1)] and torch.get_num_threads() == before


def test_cores_repeat_the_run_of_a_killed_worker_and_finish_all_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("torchgraft.lab.engines.cores"), "gpus_here", lambda: ("5", "7"))
    options = Options(device="cuda", attempts=2)  # one worker on each of two pretended GPUs
    journal = tmp_path / "journal"
    tasks = [
        fake_task("slow", "sleep-once 600", journal=journal),
        fake_task("dies", "die 9", journal=journal),
        fake_task("fails", "fail oops", journal=journal),
        fake_task("exits", "exit 3", journal=journal),
        *grid(journal, ""),
    ]
    with (
        caplog.at_level(logging.WARNING),
        killer(journal, "slow"),
        pytest.raises(LabError) as error,
    ):
        run_tasks(tasks, Store(tmp_path), ENGINES["cores"], fake_work, options=options)
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  random b seed 0: SystemExit: 3",
        "  random b seed 0: _Awkward: oops",
        "  random b seed 0: its worker died 2 times (the last one was killed by SIGKILL)",
    ]
    keys = [key for key, _ in begun(journal)]
    assert {key for key in keys if keys.count(key) > 1} == {"slow", "dies"}
    assert sorted(row.key for row in Store(tmp_path).rows()) == ["slow", "source", *(f"t{i}" for i in range(10))]
    assert "a worker was killed by SIGKILL; its run is begun again" in caplog.text
    assert not any(is_alive(pid) for _, pid in begun(journal))
    assert gpus_seen(journal) == {"5", "7"}
    assert all(row.setting == {"device": "cuda", "threads": 1} for row in Store(tmp_path).rows())


def test_cores_survive_the_death_of_their_driver_which_two_others_replace(tmp_path: Path) -> None:
    finished, again = kill_and_resume("cores", tmp_path)
    assert sorted([*finished, *again]) == RUNS, "nothing is lost, and nothing done twice"


def test_ctrl_c_ends_cores_at_once(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with driver("cores", tmp_path, journal, "", "sleep-once 600") as process:
        wait_for(lambda: len(begun(journal)) >= 3)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the workers too
        _, told = process.communicate(timeout=10)
    assert process.returncode != 0
    assert told.count("Traceback") == 1 and told.rstrip().endswith("KeyboardInterrupt")
    assert not any(is_alive(pid) for _, pid in begun(journal))
    assert [row.key for row in Store(tmp_path).rows()] == ["source"]


def test_workers_that_cannot_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "lab_broken_import.py"
    broken.write_text(
        "import os\n"
        f"if os.getpid() != {os.getpid()}: raise SystemExit(7)\n"
        "from tests.lab.fakes import fake_work\n"
        "def work(task, weights, *, device): return fake_work(task, weights, device=device)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import lab_broken_import

    with pytest.raises(LabError, match=r"worker processes cannot start here \(the last one ended with exit code 7\)"):
        run_tasks(
            [fake_task("t")],
            Store(tmp_path / "store"),
            ENGINES["cores"],
            lab_broken_import.work,
            options=Options(workers=1, attempts=1),
        )


def test_a_script_without_a_main_guard_may_use_cores(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from tests.lab.drive import grid
            from tests.lab.fakes import fake_work
            from torchgraft.lab.engines import ENGINES, Options
            from torchgraft.lab.run import run_tasks
            from torchgraft.lab.store import Store
            from pathlib import Path
            folder = Path(sys.argv[1])
            tasks = grid(folder / "journal", "")
            print(run_tasks(tasks, Store(folder), ENGINES["cores"], fake_work, options=Options(workers=1)).now)
            """
        )
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, name, str(tmp_path / folder)],
                    stdin=stack.enter_context(script.open()),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environ,
                )
            )
            for name, folder in ((str(script), "file"), ("-", "nowhere"))  # a notebook has no file either
        ]
        told = [process.communicate(timeout=100) for process in started]
    assert told == [("11\n", ""), ("11\n", "")]
    check_complete(tmp_path / "file")
    check_complete(tmp_path / "nowhere")
