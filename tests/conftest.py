"""Fixtures that several test files share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torchgraft.io import import_torchvision

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and parallel test workers would fight for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def zoo() -> tuple[object, object]:
    """timm and torchvision, imported in the order that works with any build of torchvision."""
    torchvision = import_torchvision()
    import timm

    return timm, torchvision


@pytest.fixture(scope="session")
def shared() -> Path:
    """The evaluation data beside the checkout; tests that need it skip visibly where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no evaluation data beside the checkout ({SHARED.name}/)")
    return SHARED


@pytest.fixture(scope="session")
def published_pairs(shared: Path) -> list[dict[str, object]]:
    """What the published code of DPIAT computes for pairs of real networks."""
    lines = (shared / "fixtures" / "dpiat_pairs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
