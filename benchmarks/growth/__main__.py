"""``python -m benchmarks.growth``: measure every pair and write the page."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth.measure import measure
from benchmarks.growth.page import line, render
from benchmarks.growth.pairs import cases
from benchmarks.zoo.models import silence


def main(arguments: Sequence[str]) -> int:
    """Run the measurement.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--output", type=Path, help="page to write (markdown); lines are printed where absent")
    parser.add_argument("--only", default="", metavar="REGEX", help="pairs whose section: name matches")
    chosen = parser.parse_args(arguments)
    silence()
    start = time.monotonic()
    rows = []
    for case in cases():
        if re.search(chosen.only, f"{case.section}: {case.name}"):
            rows.append(measure(case))
            print(line(rows[-1]), file=sys.stderr, flush=True)
    if not rows:
        parser.error(f"no pair matches {chosen.only!r}")
    if chosen.output is not None:
        command = shlex.join(["python", "-m", "benchmarks.growth", *arguments])
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(render(rows, command, (time.monotonic() - start) / 60), encoding="utf-8")
        print(f"{sum(row.exact for row in rows)} of {len(rows)} pairs are exact: {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
