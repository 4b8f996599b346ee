"""The driver: nothing is done twice, nothing is lost, and what fails is told."""

from __future__ import annotations

import io
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.lab.fakes import PAIR, begun, fake_row, fake_task, fake_work
from torchgraft.errors import LabError, SpecError
from torchgraft.lab import progress as progress_module
from torchgraft.lab.engines import ENGINES, Finished
from torchgraft.lab.experiments import load_experiment
from torchgraft.lab.progress import describe, progress
from torchgraft.lab.records import Outcome, Task
from torchgraft.lab.run import Summary, run_experiment, run_tasks
from torchgraft.lab.store import Store

INLINE = ENGINES["inline"]


def grid(journal: Path) -> list[Task]:
    source = fake_task("s", kind="source", journal=journal)
    return [
        fake_task("t1", journal=journal, source="s"),  # before its source, for once
        source,
        fake_task("t2", journal=journal),
        fake_task("t3", journal=journal, source="s"),
        fake_task("t2", journal=journal),  # the same run for another pair
    ]


def counts(summary: Summary) -> tuple[int, int, int, int, int]:
    return summary.total, summary.before, summary.now, summary.others, summary.left


def test_sources_come_before_their_targets_and_nothing_is_done_twice(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    assert counts(run_tasks(grid(journal), store, INLINE, fake_work)) == (4, 0, 4, 0, 0)
    assert [key for key, _ in begun(journal)] == [row.key for row in store.rows()] == ["s", "t1", "t2", "t3"]
    assert counts(run_tasks(grid(journal), Store(store.folder), INLINE, fake_work)) == (4, 4, 0, 0, 0)
    assert len(begun(journal)) == 4
    assert store.weights("s") == b"s"


def test_lost_weights_are_trained_again_only_where_they_are_needed(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    run_tasks(grid(journal), store, INLINE, fake_work)
    store.weights_path("s").unlink()
    assert run_tasks(grid(journal), store, INLINE, fake_work).now == 0
    more = [*grid(journal), fake_task("t4", journal=journal, source="s")]
    assert counts(run_tasks(more, store, INLINE, fake_work)) == (5, 3, 2, 0, 0)
    assert [key for key, _ in begun(journal)][4:] == ["s", "t4"]
    assert [row.key for row in store.rows()] == ["s", "t1", "t2", "t3", "t4"]


def test_a_failed_run_stops_no_other_and_is_told_by_name(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    failing = [
        fake_task("f1", "fail no such file", journal=journal),
        fake_task("f2", "fail no such file", journal=journal),
        fake_task("s2", "exit", journal=journal, kind="source"),
        fake_task("t8", journal=journal, source="s2"),
        fake_task("t9", journal=journal, source="s2"),
    ]
    with pytest.raises(LabError) as error:
        run_tasks([*failing, *grid(journal)], store, INLINE, fake_work)
    first, *rest = str(error.value).splitlines()
    assert first.startswith("3 of 9 runs failed, and 2 wait for a source that failed; ")
    assert rest == [
        "  random b seed 0, random b seed 0: _Awkward: no such file",
        "  source b seed 0: SystemExit",
    ]
    assert sorted(row.key for row in store.rows()) == ["s", "t1", "t2", "t3"]
    failed = store.folder / "failed"
    assert {path.name for path in failed.iterdir()} == {"f1.txt", "f2.txt", "s2.txt"}
    assert "second line" in (failed / "f1.txt").read_text() and "Traceback" in (failed / "f1.txt").read_text()

    mended = [replace(task, spec="") for task in failing]
    assert run_tasks([*mended, *grid(journal)], store, INLINE, fake_work).now == 5
    assert list(failed.iterdir()) == []


def test_a_source_without_weights_and_a_row_of_another_run_are_failures(tmp_path: Path) -> None:
    def bare(task: Task, weights: bytes, *, device: str) -> Outcome:
        return Outcome(fake_row("other" if task.key == "t2" else task.key))

    with pytest.raises(LabError) as error:
        run_tasks(grid(tmp_path / "journal"), Store(tmp_path / "store"), INLINE, bare)
    assert "its weights did not come back" in str(error.value)
    assert "the work returned the row of another run (other)" in str(error.value)
    assert Store(tmp_path / "store").rows() == ()


def test_a_budget_begins_no_more_runs_and_a_second_call_goes_on(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    tasks = [fake_task(f"t{i}", "sleep 0.05", journal=journal) for i in range(5)]
    first = run_tasks(tasks, store, INLINE, fake_work, budget=0.07)
    assert first.now + first.left == 5 and 1 <= first.now <= 2
    assert counts(run_tasks(tasks, store, INLINE, fake_work)) == (5, first.now, first.left, 0, 0)
    assert counts(run_tasks(tasks[:1], Store(tmp_path / "new"), INLINE, fake_work, budget=0)) == (1, 0, 0, 0, 1)


def test_an_interrupt_leaves_the_store_sound_and_the_claims_free(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    told = io.StringIO()

    def interrupted(task: Task, weights: bytes, *, device: str) -> Outcome:
        if task.key == "t2":
            raise KeyboardInterrupt
        return fake_work(task, weights, device=device)

    with pytest.raises(KeyboardInterrupt):
        run_tasks(grid(journal), store, INLINE, interrupted, console=Console(file=told))
    assert "stopped: 2 runs are done; the same command goes on from here" in told.getvalue()
    assert [row.key for row in Store(store.folder).rows()] == ["s", "t1"]
    assert counts(run_tasks(grid(journal), Store(store.folder), INLINE, fake_work)) == (4, 2, 2, 0, 0)


def test_what_another_driver_has_in_hand_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    other = Store(store.folder)
    claim = other.claim("s")
    assert claim is not None

    def finish() -> None:
        time.sleep(0.3)
        other.save_weights("s", b"s")
        other.append(fake_row("s"))
        claim.release()

    thread = threading.Thread(target=finish)
    thread.start()
    summary = run_tasks(grid(journal), store, INLINE, fake_work)
    thread.join()
    assert counts(summary) == (4, 0, 3, 1, 0)
    keys = [key for key, _ in begun(journal)]
    assert keys[0] == "t2" and sorted(keys) == ["t1", "t2", "t3"]


def test_what_another_driver_gives_up_is_done_here(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "store"), tmp_path / "journal"
    claim = Store(store.folder).claim("t2")
    assert claim is not None
    timer = threading.Timer(0.3, claim.release)
    timer.start()
    assert counts(run_tasks(grid(journal), store, INLINE, fake_work)) == (4, 0, 4, 0, 0)
    timer.join()


def test_lines_are_told_where_there_is_no_terminal(tmp_path: Path) -> None:
    told = io.StringIO()
    tasks = [fake_task(f"t{i}") for i in range(5)] + [fake_task("f", "fail [bold]oops")]
    with pytest.raises(LabError):
        run_tasks(tasks, Store(tmp_path), INLINE, fake_work, console=Console(file=told, width=40))
    lines = told.getvalue().splitlines()
    assert len(lines) == 2  # the first, and the failure; none in between
    assert lines[0].startswith("1/6, about 0 s left: random b seed 0: 50.00 % in 0 s")
    assert lines[1].endswith("random b seed 0 FAILED: _Awkward: [bold]oops")


def test_a_bar_is_shown_on_a_terminal() -> None:
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=100)
    with progress(console, 4, 2) as bar:
        bar.step(Finished(fake_task("t"), Outcome(fake_row("t"))), done=3)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.getvalue())
    assert re.search(r"random b seed 0 ━+.* 3/4 0:00:00 about 0 s left", plain)


def test_runs_are_named_for_people() -> None:
    assert describe(fake_task("t", source="s")) == "random a→b seed 0"
    assert describe(fake_task("s", kind="source")) == "source b seed 0"


def test_an_experiment_on_digits_is_run_and_resumed(tmp_path: Path, zoo: object) -> None:
    assert counts(run_experiment(PAIR, tmp_path)) == (3, 0, 3, 0, 0)
    store = Store(tmp_path, create=False)
    assert [(row.kind, row.initialization) for row in store.rows()] == [
        ("source", "random"),
        ("target", "random"),
        ("target", "graft"),
    ]
    assert all(len(row.curve) == 2 for row in store.rows())
    assert load_experiment(str(tmp_path / "experiments" / "tiny.json")) == PAIR
    wider = replace(PAIR, seeds=(0, 1))
    assert counts(run_experiment(wider, tmp_path, budget=0)) == (5, 3, 0, 0, 2)
    assert load_experiment(str(tmp_path / "experiments" / "tiny.json")).seeds == (0, 1)


def test_an_unknown_engine_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"unknown engine 'core': did you mean 'cores'\? \(valid: inline, cores, ray\)"):
        run_experiment(PAIR, tmp_path / "store", engine="core")
    assert not (tmp_path / "store").exists()


def test_the_start_of_the_workers_is_not_counted_into_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    pace = progress_module._Pace(total=11, before=0)
    now[0] += 62.0  # a minute until the worker was there, and a run of two seconds
    first = Finished(fake_task("a"), Outcome(replace(fake_row("a"), seconds=2.0)))
    assert pace.left(1, first) == pytest.approx(20.0)
    now[0] += 2.0
    assert pace.left(2, first) == pytest.approx(18.0)
