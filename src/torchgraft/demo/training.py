"""The handwritten digits, and one training recipe for every network of the demo."""

from __future__ import annotations

__all__ = [
    "BATCH",
    "FINE_RATE",
    "RATE",
    "Digits",
    "accuracy",
    "load_digits",
    "recalibrated",
    "recalibrated_accuracy",
    "seeded",
    "single_thread",
    "train",
]

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchgraft.errors import SpecError

BATCH, RATE, FINE_RATE, TEST_SHARE = 64, 5e-3, 1e-3, 0.3


@dataclass(frozen=True, slots=True)
class Digits:
    """Images ``(n, 1, 8, 8)`` and labels ``(n,)``, split into a part to learn from and a part to test on."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(seed: int, limit: int | None = None) -> Digits:
    """Load scikit-learn's 1,797 handwritten digits, split by class, and standardize them by the training part.

    Args:
        seed: seed of the split.
        limit: use only so many images.

    Raises:
        SpecError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise SpecError("the demo needs scikit-learn, which is not installed: pip install torchgraft[demo]") from None
    images, labels = datasets.load_digits(return_X_y=True)
    images, labels = images[:limit], labels[:limit]
    parts = train_test_split(images, labels, test_size=TEST_SHARE, stratify=labels, random_state=seed)
    learn, test = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in parts[:2])
    mean, deviation = learn.mean(), learn.std()
    answers, truth = (torch.tensor(part, dtype=torch.long) for part in parts[2:])
    return Digits((learn - mean) / deviation, answers, (test - mean) / deviation, truth)


def train(
    network: nn.Module,
    digits: Digits,
    epochs: int,
    rate: float,
    seed: int,
    tick: Callable[[], object] = lambda: None,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Train with Adam, one epoch of linear warm-up and then a cosine down to zero; return the test accuracies.

    The warm-up keeps the first steps small: Adam's are about equally large for every weight, however good it is.

    Args:
        network: trained in place.
        digits: what to learn.
        epochs: passes over the training part.
        rate: highest learning rate.
        seed: seed of the order of the images.
        tick: called after every epoch.
        optimizer: of the network's parameters, at ``rate``; a new Adam unless given.

    Returns:
        ``epochs + 1`` accuracies in percent; the first is from before any training.
    """
    order = torch.Generator().manual_seed(seed)
    count = len(digits.train_labels)
    steps = -(-count // BATCH)
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, steps * epochs))
    found = [accuracy(network, digits)]
    for _ in range(epochs):
        network.train()
        for batch in _batches(torch.randperm(count, generator=order)):
            optimizer.zero_grad()
            loss = cross_entropy(network(digits.train_images[batch]), digits.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        found.append(accuracy(network, digits))
        tick()
    return found


def _batches(rows: Tensor) -> Sequence[Tensor]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def _rate(step: int, warm: int, total: int) -> float:
    """Share of the full learning rate at a step.

    >>> [round(_rate(step, 2, 6), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the share of the test images that ``network`` reads correctly, in percent."""
    network.eval()
    with torch.inference_mode():
        right = network(digits.test_images).argmax(1) == digits.test_labels
    return 100 * float(right.double().mean())


def recalibrated_accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the accuracy of a copy whose BatchNorm statistics are measured anew on the training images.

    No weight changes: this tells how much of a low accuracy is due to statistics alone.
    """
    return accuracy(recalibrated(network, _batches(digits.train_images)), digits)


def recalibrated(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy whose BatchNorm statistics are plain means over ``batches``; its weights are the same."""
    measured = copy.deepcopy(network)
    for part in measured.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None  # a plain mean over all batches
    measured.train()
    with torch.no_grad():
        for batch in batches:
            measured(batch)
    return measured


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose initialization depends on ``seed`` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute on one thread: networks this small lose by more, and the sums do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
