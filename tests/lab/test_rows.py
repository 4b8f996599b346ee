"""Rows survive JSON, strange numbers included."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgraft.errors import LabError
from torchgraft.lab.records import Epoch, Initialized, Row
from torchgraft.lab.rows import row_from_dict, row_to_dict

ROW = Row(
    key="0123456789abcdef",
    kind="target",
    network="b",
    source="a",
    initialization="graft",
    seed=3,
    task={"spec": "timm:mnasnet_050", "recipe": {"rate": 4e-3}, "pairs": ["nan"]},
    curve=(Epoch(0, 0, 1.0, 4.6), Epoch(1, 79, 12.5, 3.9, 4.1, 4e-3, 17.0, 5.5)),
    start=Initialized(0.9, "abc", {"dpiat": 0.7, "graft": 0.8}, 0.1, "a note"),
    exploded="",
    parameters=1000,
    seconds=6.0,
    finished="2025-01-01T00:00:00+00:00",
    setting={"versions": {"torch": "2.13"}, "dirty": False},
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def test_a_row_comes_back_equal_through_json() -> None:
    text = json.dumps(row_to_dict(ROW), allow_nan=False)
    assert row_from_dict(json.loads(text)) == ROW


@given(st.lists(st.tuples(FLOATS, FLOATS, st.none() | FLOATS), min_size=1, max_size=3), FLOATS)
def test_every_number_comes_back(points: list[tuple[float, float, float | None]], similarity: float) -> None:
    curve = tuple(Epoch(n, n, accuracy, loss, train) for n, (accuracy, loss, train) in enumerate(points))
    row = replace(ROW, curve=curve, start=Initialized(similarity={"graft": similarity}))
    back = row_from_dict(json.loads(json.dumps(row_to_dict(row), allow_nan=False)))
    assert repr(asdict(back)) == repr(asdict(row))


def test_nan_is_no_number_of_json_and_comes_back_as_nan() -> None:
    row = replace(ROW, curve=(Epoch(0, 0, 1.0, math.nan, gradient=math.inf),))
    values = row_to_dict(row)
    assert values["curve"][0]["loss"] == "nan" and values["curve"][0]["gradient"] == "inf"
    assert math.isnan(row_from_dict(values).curve[0].loss)


@pytest.mark.parametrize(
    "change",
    [{"curve": None}, {"curve": [{"epoch": 0}]}, {"extra": 1}, {"start": "x"}, {"start": {"speed": 1}}, {"curve": 3}],
)
def test_what_is_no_row_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LabError, match="this is no row of the lab"):
        row_from_dict({**row_to_dict(ROW), **change})


@pytest.mark.parametrize("missing", ["key", "curve", "start", "seed"])
def test_a_row_that_lacks_something_is_refused(missing: str) -> None:
    values = row_to_dict(ROW)
    del values[missing]
    with pytest.raises(LabError, match=missing):
        row_from_dict(values)
