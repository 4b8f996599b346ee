"""``python -m benchmarks.zoo``: run the sweep and write its page; the exit code is 1 where a law was broken."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.zoo.page import render
from benchmarks.zoo.sweep import sweep


def main(arguments: Sequence[str]) -> int:
    """Run the sweep.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page to write (markdown)")
    parser.add_argument("--only", default="", metavar="REGEX", help="architectures whose library:name matches")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    chosen = parser.parse_args(arguments)
    start = time.monotonic()
    surveys, trials = sweep(chosen.only, chosen.workers)
    command = shlex.join(["python", "-m", "benchmarks.zoo", *arguments])
    page = render(surveys, trials, command, (time.monotonic() - start) / 60)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(page, encoding="utf-8")
    faulty = sum(bool(one.faults) for one in surveys) + sum(bool(one.faults) for one in trials)
    print(f"{len(surveys)} architectures, {len(trials)} with real weights, {faulty} with faults: {chosen.output}")
    return 1 if faulty or not surveys else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
