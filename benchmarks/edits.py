"""What an edit of a trained model costs, once its architecture is known, beside a plain copy of the model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.rows import Row
from benchmarks.speed import median, milliseconds
from torchgraft import morph
from torchgraft.io import import_torchvision

EDITS: dict[str, Callable[..., morph.Edited]] = {
    "widen a layer": partial(morph.widen, path="layer1.0.conv1", width=96),
    "widen the stream": partial(morph.widen, path="conv1", width=96),
    "deepen": partial(morph.deepen, path="layer1.0.conv1"),
    "stack": partial(morph.stack, path="layer2", depth=5),
    "expand a kernel": partial(morph.expand_kernel, path="layer1.0.conv2", size=5),
    "split": partial(morph.split, path="layer1.0.conv2", graph="s>t:3x3 s>t:3x3"),
    "branch": partial(morph.branch, path="layer1.0.conv2", merge="concat"),
}


def processor(run: Callable[[], object], repeats: int = 9) -> float:
    """Smallest processor time of a call, which other processes disturb least."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def rows() -> Iterator[Row]:
    """Measure every edit of a resnet50, without and with its certificate."""
    import_torchvision()
    import timm

    model, inputs = timm.create_model("resnet50").eval(), torch.zeros(1, 3, 64, 64)
    plain = median(lambda: copy.deepcopy(model), 9)
    for name, edit in EDITS.items():
        run = partial(edit, model, inputs=inputs, certify=False)
        again, least, whole = median(run, 9), processor(run), median(partial(edit, model, inputs=inputs), 1)
        figure = f"{milliseconds(again)} ({milliseconds(least)} of processor time at least)"
        beside = f"{again / plain:.1f}× `copy.deepcopy`; with its certificate {whole:.1f} s"
        yield Row(f"{name}, resnet50, again", figure, "≤ 50 ms", beside)
