"""torchvision is imported where healthy, mended where its compiled half is missing, asked for where absent."""

import os
import subprocess
import sys
from pathlib import Path

FAKE = """
import torch
{prepare}
@torch.library.register_fake("torchvision::nms")
def rule(dets, scores, iou_threshold):
    return dets.new_empty(0)
"""
HEALTHY = """
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
REPORT = """
import sys
from torchgraft.io import import_torchvision, vision
first = import_torchvision()
assert first is import_torchvision() is sys.modules["torchvision"]
print(first.__name__, vision._declare_operators.cache_info().currsize)
"""


def run(code: str, *path: Path) -> "subprocess.CompletedProcess[str]":
    folders = [str(folder) for folder in path] + [folder for folder in sys.path if folder]
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )


def fake_torchvision(folder: Path, content: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text("from torchvision import rules\n")
    (folder / "torchvision" / "rules.py").write_text(content)
    return folder


def test_healthy_torchvision_is_left_alone(tmp_path: Path) -> None:
    done = run(REPORT, fake_torchvision(tmp_path, FAKE.format(prepare=HEALTHY)))
    assert done.stdout == "torchvision 0\n", done.stderr


def test_missing_operators_are_declared(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, FAKE.format(prepare=""))
    assert "operator torchvision::nms does not exist" in run("import torchvision", fake).stderr
    assert run(REPORT, fake).stdout == "torchvision 1\n"


def test_other_failures_are_told(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path, "raise RuntimeError('out of luck')")
    done = run("from torchgraft.io import import_torchvision; import_torchvision()", fake)
    assert "SpecError: torchvision fails to import (out of luck)" in done.stderr


def test_absent_torchvision_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from torchgraft.io import import_torchvision; import_torchvision()"
    )
    assert "SpecError: torchvision is not installed: pip install torchgraft[zoo]" in run(code).stderr


def test_installed_torchvision_and_timm_work_together() -> None:
    code = (
        "from torchgraft.io import import_torchvision\n"
        "vision = import_torchvision(); import timm\n"
        "print(len(vision.models.list_models()) > 100, len(timm.list_models()) > 1000)"
    )
    assert run(code).stdout == "True True\n"
