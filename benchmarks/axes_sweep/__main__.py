"""``python -m benchmarks.axes_sweep``: go on with the sweep until its budget is spent, and write its page."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.axes_sweep.page import render
from benchmarks.axes_sweep.store import Key, Result, Size, append, load
from benchmarks.axes_sweep.trials import measure, try_out
from benchmarks.zoo.models import Case, cases, silence


def main(arguments: Sequence[str]) -> int:
    """Run the sweep.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.axes_sweep", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page to write (markdown)")
    parser.add_argument("--store", type=Path, default=Path("build/axes_sweep.jsonl"), help="results so far")
    parser.add_argument("--only", default="", metavar="REGEX", help="architectures whose library:name matches")
    parser.add_argument("--budget", type=float, default=60, metavar="MINUTES", help="stop after this long")
    parser.add_argument("--largest", type=float, default=1e8, metavar="PARAMETERS", help="of what is probed")
    parser.add_argument("--retry", action="store_true", help="do again what failed")
    parser.add_argument("--again", action="store_true", help="do again what --only chooses")
    chosen = parser.parse_args(arguments)
    silence()
    end = time.monotonic() + 60 * chosen.budget
    every = list(cases())
    wanted = [case for case in every if re.search(chosen.only, f"{case.library}:{case.name}")]
    sizes, results = load(chosen.store)
    for case in wanted:
        if _key(case) not in sizes and time.monotonic() < end:
            sizes[_key(case)] = measure(case)
            append(chosen.store, sizes[_key(case)])
    skipped = set() if chosen.again else {key for key, one in results.items() if not (chosen.retry and not one.proven)}
    for case in _in_order(wanted, sizes, chosen.largest):
        if time.monotonic() > end:
            print(f"budget spent before {case.library}:{case.name}", file=sys.stderr)
            break
        if _key(case) not in skipped:
            results[_key(case)] = one = try_out(case, sizes[_key(case)].parameters <= chosen.largest)
            append(chosen.store, one)
            print(_line(one), file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.axes_sweep", *arguments])
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(render(every, sizes, results, command), encoding="utf-8")
    proven = sum(one.proven for one in results.values())
    print(f"{len(results)} of {len(every)} architectures tried, {proven} proven: {chosen.output}")
    return 0


def _key(case: Case) -> Key:
    return case.library, case.name


def _line(one: Result) -> str:
    return f"{one.seconds:5.1f} s {one.proof_seconds:6.1f} s {one.library}:{one.name} {one.error or one.reason}"


def _in_order(wanted: Sequence[Case], sizes: Mapping[Key, Size], largest: float) -> list[Case]:
    """Order from cheap to expensive: the cheapest of every family first, then others; what is too large comes last."""
    known = [(case, sizes[_key(case)]) for case in wanted if _key(case) in sizes]
    met: Counter[tuple[str, str]] = Counter()
    ranked = []
    for case, size in sorted(known, key=lambda pair: (pair[1].cost, _key(pair[0]))):
        met[size.library, size.family] += 1
        rank = 2 if size.parameters > largest else int(met[size.library, size.family] > 1)
        ranked.append((rank, size.cost, _key(case), case))
    return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
