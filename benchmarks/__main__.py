"""Speed and memory, each beside a physical limit or a published figure: ``python -m benchmarks --output FILE``."""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

import torch

from benchmarks import edits, memory, speed
from benchmarks.rows import Row, table


def machine() -> str:
    """Name processor, cores and versions, without naming the host."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{model}, one thread; Python {platform.python_version()}, torch {torch.__version__}"


def page(rows: list[Row]) -> str:
    """Write the page: what was measured, how, where and when."""
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Each figure is the median of several runs in one process, on models already built, with one thread. "
            "*All new*: both architectures are met for the first time, so both are also run once without values to "
            "find which axes belong together (graft). *New pair*: both were met before, but not together. *Again*: "
            "any two models of two architectures that were planned before; what follows from architectures alone "
            "is remembered. Ratios are taken inside one run.",
            "",
            *table(rows),
            "",
            "- Command: `make bench` (`python -m benchmarks --output docs/benchmarks.md`)",
            f"- Machine: {machine()}",
            f"- Date: {datetime.date.today().isoformat()}",
            "- The published figures (0.46 s to match, 1.87 s for the similarity) are those of DPIAT's own code for "
            "the same pair on one core, as the project's reference states them; they were not measured in this run.",
            "",
        ]
    )


def main() -> None:
    """Measure everything and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="file to write; printed where absent")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    text = page([*speed.rows(), *edits.rows(), *memory.rows()])
    if output is None:
        print(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
        print(f"wrote {output}")


if __name__ == "__main__":
    main()
