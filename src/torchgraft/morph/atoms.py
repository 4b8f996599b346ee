"""The two atomic operations, in closed form: one filter becomes two in series, or several side by side."""

from __future__ import annotations

__all__ = ["isometry", "split_parallel", "split_series"]

import torch
from torch import Tensor

from torchgraft.errors import MorphError

_RANK = 1e-12  # singular values below this part of the largest count as zero


def isometry(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix (rows, columns) in float64 with orthonormal columns, or rows where those are fewer."""
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    matrix: Tensor = torch.linalg.qr(drawn).Q
    return matrix if rows >= columns else matrix.T


def split_series(
    weight: Tensor, width: int, generator: torch.Generator, spatial: str = "first"
) -> tuple[Tensor, Tensor]:
    """Split a filter (out, in, *kernel) into two in series with ``width`` channels between (TYPE-I).

    The ``spatial`` one, ``"first"`` or ``"second"``, keeps the kernel, the other has a single tap, so that the two
    compose to the filter at every border, however they are padded. With A a random isometry: A G, then A' (or B, then
    G B'): dense and perfectly conditioned. Fewer channels than the tapless side has are enough if the filter has no
    higher rank.

    >>> weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    >>> first, second = split_series(weight, 5, torch.Generator().manual_seed(0))
    >>> first.shape, second.shape, torch.allclose(torch.einsum("ol,likm->oikm", second[..., 0, 0], first), weight)
    (torch.Size([5, 2, 3, 3]), torch.Size([3, 5, 1, 1]), True)

    Raises :class:`MorphError` where ``width`` is less than the filter's rank.
    """
    if spatial == "second":
        second, first = split_series(weight.transpose(0, 1), width, generator)
        return first.transpose(0, 1), second.transpose(0, 1)
    rows = weight.to(torch.float64).reshape(weight.shape[0], -1)
    basis = torch.eye(weight.shape[0], dtype=torch.float64)
    if width < weight.shape[0]:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        basis = left[:, values > _RANK * float(values[0])]
        if basis.shape[1] > width:
            raise MorphError(f"{width} channels cannot carry a filter of rank {basis.shape[1]}: give the blob as many")
    turned = isometry(width, basis.shape[1], generator) if basis.shape[1] else basis.new_zeros(width, 0)
    first = (turned @ (basis.T @ rows)).reshape(width, *weight.shape[1:])
    return first, (basis @ turned.T).reshape(weight.shape[0], width, *[1] * (weight.dim() - 2))


def split_parallel(weight: Tensor, count: int, generator: torch.Generator, noise: float = 0.1) -> list[Tensor]:
    """Split a filter into ``count`` that sum to it (TYPE-II): equal shares, and noise that sums to zero.

    ``noise`` is relative to the root mean square of the filter. Any padding keeps the sum, if all have the same.

    >>> weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    >>> parts = split_parallel(weight, 3, torch.Generator().manual_seed(0))
    >>> len(parts), torch.allclose(sum(parts), weight), torch.allclose(parts[0], parts[1])
    (3, True, False)
    """
    whole = weight.to(torch.float64)
    size = noise * float(whole.square().mean().sqrt())
    parts = [
        whole / count + size * torch.randn(whole.shape, generator=generator, dtype=torch.float64)
        for _ in range(count - 1)
    ]
    return [*parts, whole - sum(parts, start=torch.zeros_like(whole))]
