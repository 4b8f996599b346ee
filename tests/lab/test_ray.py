"""Ray: a real one of two workers on this machine, a killed worker, a killed driver, two drivers on one store."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.drive import grid
from tests.lab.fakes import PAIR, begun, fake_task, fake_work
from tests.lab.killing import RUNS, kill_and_resume, killer
from torchgraft.errors import LabError
from torchgraft.lab.engines import ENGINES, Options
from torchgraft.lab.engines.jobs import environment
from torchgraft.lab.engines.ray import SETTINGS
from torchgraft.lab.run import run_experiment, run_tasks
from torchgraft.lab.store import Store

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a Ray of two workers and return its address; this process is connected to it."""
    with environment(SETTINGS):
        started = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield started.address_info["gcs_address"]
    ray.shutdown()


def test_the_run_of_a_killed_worker_is_repeated_and_all_others_finish(
    cluster: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal"
    tasks = [
        fake_task("slow", "sleep-once 600", journal=journal),
        fake_task("dies", "die 9", journal=journal),
        fake_task("fails", "fail oops", journal=journal),
        *grid(journal, ""),
    ]
    with caplog.at_level(logging.WARNING), killer(journal, "slow"), pytest.raises(LabError) as error:
        run_tasks(tasks, Store(tmp_path), ENGINES["ray"], fake_work, options=Options(attempts=2))
    fails, dies = sorted(str(error.value).splitlines()[1:])
    assert fails == "  random b seed 0: _Awkward: oops"
    assert dies.startswith("  random b seed 0: its worker was lost 2 times (the last time: WorkerCrashedError: ")
    keys = [key for key, _ in begun(journal)]
    assert {key for key in keys if keys.count(key) > 1} == {"slow", "dies"}
    assert sorted(row.key for row in Store(tmp_path).rows()) == ["slow", "source", *(f"t{i}" for i in range(10))]
    assert "a worker was lost; its run is begun again" in caplog.text
    assert ray.is_initialized(), "a Ray that was there before is left alone"


def test_a_killed_driver_is_replaced_by_two_others(cluster: str, tmp_path: Path) -> None:
    finished, again = kill_and_resume("ray", tmp_path, cluster)
    assert sorted([*finished, *again]) == RUNS, "nothing is lost, and nothing done twice"


def test_an_experiment_on_digits_is_run_on_ray(cluster: str, tmp_path: Path, zoo: object) -> None:
    assert run_experiment(PAIR, tmp_path / "ray", engine="ray").now == 3
    assert run_experiment(PAIR, tmp_path / "ray", engine="ray").before == 3
    run_experiment(PAIR, tmp_path / "inline")
    on_ray, here = (Store(tmp_path / name).rows() for name in ("ray", "inline"))
    accuracies = [{row.key: [point.accuracy for point in row.curve] for row in rows} for rows in (on_ray, here)]
    assert accuracies[0] == accuracies[1]


def test_a_cluster_without_room_is_an_error(cluster: str, tmp_path: Path) -> None:
    for options, what in ((Options(threads=3), "core"), (Options(device="cuda"), "GPU")):
        with pytest.raises(LabError, match=f"this Ray has no {what} now: give the number of workers if it grows"):
            run_tasks([fake_task("t")], Store(tmp_path), ENGINES["ray"], fake_work, options=options)


def test_an_address_at_which_nothing_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with (
            pytest.raises(LabError, match=f"no Ray can be reached at {address} "),
            ENGINES["ray"](fake_work, Options(address=address)),
        ):
            pytest.fail("a pool was opened")


def test_a_missing_ray_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(LabError, match=r"needs Ray, which is not installed: pip install torchgraft\[ray\]"),
        ENGINES["ray"](fake_work, Options()),
    ):
        pytest.fail("a pool was opened")
