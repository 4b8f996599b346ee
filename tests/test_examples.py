"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


def test_autogrow_gets_deeper_and_better(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("autogrow")
    printed = capsys.readouterr().out.splitlines()
    depths = [int(a) + int(b) for a, b in re.findall(r"(\d+) \+ (\d+) blocks", "\n".join(printed))]
    assert depths == list(range(2, 2 + len(found["grown"]))) and len(depths) > 2
    assert found["grown"][-1] > found["grown"][0] and found["grown"][-1] > 90
    assert printed[-1].startswith("as deep from the start") and found["scratch"][0] > 90


def test_mothernets_hatch_members_that_are_better_than_from_scratch(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("mothernets")
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "the trunk",
        "wide",
        "deep",
        "large kernels",
        "wide and deep",
        "all together",
    ]
    assert found["hatched"] > found["trunk"] and found["hatched"] > found["scratch"] > 80
