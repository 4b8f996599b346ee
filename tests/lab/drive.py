"""A driver to be killed, of fake runs: ``python -m tests.lab.drive ENGINE FOLDER JOURNAL ADDRESS DOES WORKERS``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lab.fakes import fake_task, fake_work
from torchgraft.lab.engines import ENGINES, Options
from torchgraft.lab.records import Task
from torchgraft.lab.run import run_tasks
from torchgraft.lab.store import Store


def grid(journal: Path, does: str) -> list[Task]:
    """Return a source and ten targets, half of which start from it."""
    source = fake_task("source", "sleep 0.1", journal=journal, kind="source")
    targets = [fake_task(f"t{i}", does, journal=journal, source="source" if i % 2 else "") for i in range(10)]
    return [source, *targets]


if __name__ == "__main__":
    engine, folder, journal, address, does, workers = sys.argv[1:]
    options = Options(workers=int(workers), address=address)
    summary = run_tasks(grid(Path(journal), does), Store(folder), ENGINES[engine], fake_work, options=options)
    sys.stdout.write(f"{summary.now} {summary.others}\n")
