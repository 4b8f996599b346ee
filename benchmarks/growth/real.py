"""``python -m benchmarks.growth.real``: trained networks grown and cut, and what is left of their accuracy.

Needs the evaluation data beside the checkout; says so and stops where there is none.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.__main__ import machine
from benchmarks.growth.checkpoints import CHECKPOINTS, MCUNET, MOBILENET, Pictures, further, grown, load, pictures
from benchmarks.zoo.models import silence
from torchgraft.demo.training import recalibrated
from torchgraft.lab.initializations import initialize

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"

#: Larger targets: what they are called, and what their network is built with. ``side`` is that of the pictures,
#: ``classes`` more than the source has.
GROWN: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
    "cifar10_resnet20": (
        ("twice as wide", {"widths": (32, 64, 128)}),
        ("1.5 times as wide", {"widths": (24, 48, 96)}),
        ("ResNet-32", {"depth": 5}),
        ("ResNet-56, 1.25 times as wide", {"depth": 9, "widths": (20, 40, 80)}),
        ("kernels 5×5", {"kernel": 5}),
        ("wider, deeper, kernels 5×5", {"widths": (24, 48, 96), "depth": 5, "kernel": 5}),
        ("wider, pictures of 40 px", {"widths": (24, 48, 96), "side": 40}),
        ("wider, 20 classes", {"widths": (24, 48, 96), "classes": 20}),
    ),
    "cifar10_resnet20b": (
        ("1.5 times as wide, ResNet-32", {"widths": (24, 48, 96), "depth": 5}),
        ("kernels 7×7", {"kernel": 7}),
    ),
    "cifar10_resnet20b_thin": (
        ("the full ResNet-20", {"inner": (16, 16, 16, 32, 32, 32, 64, 64, 64)}),
    ),
    "cifar10_nin": (("1.5 times as wide", {"factor": 1.5}),),
    "cifar100_mbconvnet_a": (
        ("1.25 times as wide", {"factor": 1.25}),
        ("deeper", {"repeats": 3}),
        ("1.5 times as wide, deeper, kernels 5×5", {"factor": 1.5, "repeats": 2, "kernel": 5}),
        ("wider, 200 classes", {"factor": 1.25, "classes": 200}),
    ),
    "in1k_mobilenetv2_035_128": (
        ("1.5 times as wide", {"blocks": grown(MOBILENET, 1.5), "stem": 24}),
        ("kernels 7×7, deeper", {"blocks": grown(MOBILENET, kernel=7, twice=True)}),
        ("wider inside, pictures of 160 px", {"blocks": grown(MOBILENET, hidden=1.5), "side": 160}),
    ),
    "in1k_mcunet_5fps_128": (
        ("1.25 times as wide, all kernels at least 5×5, deeper", {"blocks": grown(MCUNET, 1.25, 5, True), "stem": 20}),
        ("wider, 1,100 classes", {"blocks": grown(MCUNET, 1.25), "stem": 20, "classes": 1100}),
    ),
    "in1k_mobilenetv1_100_224": (("mobilenetv1_125", {"name": "mobilenetv1_125"}),),
    "in1k_mobilenetv2_100_224": (
        ("mobilenetv2_140", {"name": "mobilenetv2_140"}),
        ("mobilenetv2_120d", {"name": "mobilenetv2_120d"}),
    ),
}  # fmt: skip

#: Smaller targets.
CUT: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
    "cifar10_resnet20": (
        ("75 %", {"widths": (12, 24, 48)}),
        ("50 %", {"widths": (8, 16, 32)}),
    ),
    "cifar10_resnet20b": (
        ("75 %", {"widths": (12, 24, 48)}),
        ("50 %", {"widths": (8, 16, 32)}),
        ("75 % inside the blocks", {"inner": (12,) * 3 + (24,) * 3 + (48,) * 3}),
        ("50 % inside the blocks", {"inner": (8,) * 3 + (16,) * 3 + (32,) * 3}),
    ),
    "cifar10_nin": (("75 %", {"factor": 0.75}), ("50 %", {"factor": 0.5})),
    "cifar100_mbconvnet_a": (("75 %", {"factor": 0.75}), ("50 %", {"factor": 0.5})),
    "in1k_mobilenetv2_035_128": (
        ("75 %", {"blocks": grown(MOBILENET, 0.75), "stem": 12}),
        ("75 % inside the blocks", {"blocks": grown(MOBILENET, hidden=0.75)}),
        ("50 % inside the blocks", {"blocks": grown(MOBILENET, hidden=0.5)}),
    ),
    "in1k_mcunet_5fps_128": (
        ("75 % inside the blocks", {"blocks": grown(MCUNET, hidden=0.75)}),
        ("50 % inside the blocks", {"blocks": grown(MCUNET, hidden=0.5)}),
    ),
    "in1k_mobilenetv2_100_224": (("mobilenetv2_075", {"name": "mobilenetv2_075"}),),
}  # fmt: skip


def _lab(name: str) -> Callable[[nn.Module, nn.Module], object]:
    return lambda source, target: initialize(name, source, target, seed=0)


def _kept(rule: str) -> Callable[[nn.Module, nn.Module], object]:
    return lambda source, target: tg.transfer(source, target, narrowing=rule)


def _stale(source: nn.Module, target: nn.Module) -> object:
    return tg.apply(replace(tg.plan(source, target), followed=()), source, target)


#: What a smaller target is started by.
WAYS: Mapping[str, Callable[[nn.Module, nn.Module], object]] = {
    "dpiat": lambda source, target: tg.transfer(source, target, method="dpiat"),
    "crop": lambda source, target: tg.transfer(source, target, operator="clip"),
    "evenly spaced": _lab("weight_selection"),
    "magnitude": lambda source, target: tg.transfer(source, target, operator="magnitude"),
    "graft, centre": _kept("centre"),
    "graft, even": _kept("even"),
    "graft, norm scale": _kept("norm_scale"),
    "graft, magnitude": _kept("magnitude"),
    "**graft, readers**": tg.transfer,
    "graft, readers, stale": _stale,
}


@dataclass(frozen=True, slots=True)
class Grown:
    """A grown network: how many pictures source and target get right, and how far their outputs are apart.

    ``known`` counts among the source's classes alone, ``changed`` the pictures that are read otherwise.
    """

    source: str
    target: str
    count: int
    before: int
    after: int
    known: int
    changed: int
    apart: float
    coverage: float
    parameters: tuple[int, int]
    reason: str


def built(name: str, sizes: Mapping[str, Any]) -> nn.Module:
    """Build a fresh target, from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return CHECKPOINTS[name].build(**{key: value for key, value in sizes.items() if key != "side"}).eval()


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs for all pictures."""
    with torch.inference_mode():
        return torch.cat([model(part) for part in torch.split(images, 50)])


def grow(name: str, told: str, sizes: Mapping[str, Any], count: int) -> Grown:
    """Grow a checkpoint into a larger target and read the pictures with both."""
    source, target = load(name, FOLDER), built(name, sizes)
    shown = pictures(name, FOLDER, count, int(sizes.get("side", 0)))
    report = tg.transfer(source, target)
    old, new = answers(source, shown.images), answers(target, shown.images)
    classes = old.shape[1]
    kept = new[:, :classes]
    reason = ""
    if not torch.allclose(kept, old, atol=1e-3 * float(old.abs().max()), rtol=0):
        reason = "; ".join(tg.verify(source, target, report, shown.images[:2]).reasons[:2])
    before, after, known = (int((one.argmax(1) == shown.labels).sum()) for one in (old, new, kept))
    return Grown(
        name, told, len(old), before, after, known,
        int((kept.argmax(1) != old.argmax(1)).sum()), float((kept - old).abs().max() / old.abs().max()),
        report.coverage, (_size(source), _size(target)), reason,
    )  # fmt: skip


def _size(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def cut(name: str, sizes: Mapping[str, Any], shown: Pictures, others: Tensor) -> Iterator[tuple[str, float, float]]:
    """Yield for every way its name, and the accuracy in percent as it is and with statistics measured anew."""
    source = load(name, FOLDER)
    for way, start in WAYS.items():
        target = built(name, sizes)
        start(source, target)
        measured = recalibrated(copy.deepcopy(target), torch.split(others, 64)).eval()
        yield way, accuracy(target.eval(), shown), accuracy(measured, shown)


def accuracy(model: nn.Module, shown: Pictures) -> float:
    """Return the share of pictures that are read correctly, in percent."""
    return 100 * float((answers(model, shown.images).argmax(1) == shown.labels).double().mean())


_HEAD = """\
# Trained networks, grown and cut

What is left of a trained network's accuracy in another network, before any training. Top-1 on test pictures; for the
nets trained on ImageNet on pictures that seem to come from the training set, so that only the differences count.
"""
_GROWN = """\
## Grown

`tg.transfer(source, target)` into a freshly built, larger network. *Right* counts the pictures that are classified
correctly. Where the target has more classes, *right* counts among all classes, the new ones with fresh weights, and the
rest of the line among the source's. *Read otherwise* counts the pictures for which another class comes first;
*deviation* is the largest over all outputs, divided by the largest output.
"""
_CUT = """\
## Cut

Top-1 in percent before any training: as it is / with the statistics of batch norms measured anew on {further} other
pictures (the weights are the same). Tensor by tensor: *dpiat*, the published method, which crops at the centre and
leaves the statistics as they are; *crop*, the same with statistics (`operator="clip"`); *evenly spaced*, weight
selection (Xu et al., 2024); *magnitude*, the largest slices (`operator="magnitude"`).

*graft* keeps the same units in every tensor of a group and takes what was cut out of the running statistics; which
units is decided by number (`narrowing="centre"`, `"even"`) or by the weights (`"norm_scale"`, `"magnitude"`, and
`"readers"`, the default). *Stale*: the default with the statistics as they were, which shows what following is worth.
"""


def page(grown_rows: Sequence[Grown], cuts: Sequence[Sequence[str]], command: str, minutes: float) -> str:
    """Return the page as markdown."""
    same = [one for one in grown_rows if one.changed == 0 and one.known == one.before]
    lines = [
        _HEAD, f"`{command}`: {minutes:.0f} minutes on a shared machine ({machine()}), "
        f"{datetime.date.today().isoformat()}.", "", _GROWN,
        f"**{len(same)} of {len(grown_rows)} grown networks keep every answer.**", "",
        "| trained network | grown into | parameters | right before | right after | among its classes | read otherwise "
        "| deviation | coverage |", "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in grown_rows:
        sizes = " → ".join(f"{size / 1e6:.2f} M" for size in one.parameters)
        lines.append(
            f"| {one.source} | {one.target} | {sizes} | {one.before} of {one.count} | {one.after} | {one.known} | "
            f"{one.changed} | {one.apart:.1e} | {one.coverage:.1%} |"
        )
    reasons = [f"- {one.source}, {one.target}: {one.reason}" for one in grown_rows if one.reason]
    lines += ["", "Where the function is not kept:", "", *reasons] if reasons else []
    lines += ["", _CUT.format(further="512 (CIFAR) or 256 (ImageNet)")]
    lines += [
        f"| trained network | its top-1 | width kept | {' | '.join(WAYS)} |",
        "|---|---:|---|" + "---:|" * len(WAYS),
    ]
    lines += [f"| {' | '.join(row)} |" for row in cuts]
    if cuts:
        columns = zip(*([tuple(map(float, cell.split(" / "))) for cell in row[3:]] for row in cuts), strict=True)
        means = [" / ".join(f"{sum(side) / len(side):.1f}" for side in zip(*column, strict=True)) for column in columns]
        lines.append(f"| **mean** | | | {' | '.join(means)} |")
    return "\n".join(lines).rstrip() + "\n"


def cut_rows(count: int) -> Iterator[list[str]]:
    """Yield the lines of the table of cut networks."""
    for name, targets in CUT.items():
        seen = count // 5 if CHECKPOINTS[name].side == 224 else count
        shown, others = pictures(name, FOLDER, seen), further(name, FOLDER, seen)
        whole = accuracy(load(name, FOLDER), shown)
        for told, sizes in targets:
            figures = [f"{plain:.1f} / {fresh:.1f}" for _, plain, fresh in cut(name, sizes, shown, others)]
            yield [name, f"{whole:.1f}", told, *figures]


def main(arguments: Sequence[str]) -> int:
    """Grow and cut all checkpoints.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth.real", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page to write (markdown)")
    parser.add_argument("--images", type=int, default=1000, help="CIFAR pictures, and at 128 px (at 224 px: a fifth)")
    parser.add_argument("--only", default="", help="checkpoints whose name begins like this")
    chosen = parser.parse_args(arguments)
    if not FOLDER.is_dir():
        print("skipped: no evaluation data beside the checkout (shared/data)", file=sys.stderr)
        return 0
    silence()
    start = time.monotonic()
    rows = []
    for name, targets in GROWN.items():
        for told, sizes in targets if name.startswith(chosen.only) else ():
            count = chosen.images // 5 if CHECKPOINTS[name].side == 224 else chosen.images
            rows.append(grow(name, told, sizes, count))
            print(replace(rows[-1]), file=sys.stderr, flush=True)
    cuts = []
    for row in cut_rows(chosen.images) if not chosen.only else ():
        cuts.append(row)
        print(row, file=sys.stderr, flush=True)
    command = shlex.join(["python", "-m", "benchmarks.growth.real", *arguments])
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(page(rows, cuts, command, (time.monotonic() - start) / 60), encoding="utf-8")
    print(f"{sum(one.changed == 0 for one in rows)} of {len(rows)} keep every answer: {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
