"""Baselines of the field, each a rule of ours for the tensors of two matched layers.

All were published for pairs of one family, whose layers pair by name. Here they meet any pair: layers pair by the
paper's match (or by ``graft``'s, where the name says so), a batch norm's statistics move with its weights, and the
classifier follows the same rule as every other layer.
"""

from __future__ import annotations

__all__ = ["NOISE", "dct", "depth_stack", "fna", "net2net", "parse_net2net", "tile_middle", "weight_selection"]

import torch
from torch import nn

from torchgraft._api import Options, transfer
from torchgraft.errors import LabError
from torchgraft.lab.initializations import rules
from torchgraft.lab.initializations.matching import MATCHES, filled, match_stacked, served, warm_start, with_statistics
from torchgraft.lab.initializations.start import Start
from torchgraft.lab.records import Initialized
from torchgraft.network import unwrap
from torchgraft.plan import Report
from torchgraft.transfer.operators import Operator, leading

#: How far a copied unit of ``net2net`` is from its original, in deviations of its tensor.
NOISE = 0.01


def fna(start: Start) -> Initialized:
    """FNA parameter remapping: leading units, all others zero, kernels centred (Fang et al. 2020).

    Layers the source lacks copy the layer that the match shares out over them; with ``fna:stages``, which is
    torchgraft's method ``fna``, the last one of their stage, as published.
    """
    return _reported(warm_start(start, leading))


def weight_selection(start: Start) -> Initialized:
    """Weight selection: evenly spaced units of a larger source (Xu et al., ICLR 2024).

    The paper asks for a source that is nowhere smaller, leaves the head out and takes the first blocks of each stage;
    here a smaller source fills the target's first units, and the match chooses the blocks.
    """
    return _reported(warm_start(start, rules.evenly))


def tile_middle(start: Start) -> Initialized:
    """Tile from the middle: the source in the centre, repeated outwards (ModernBERT-large, 2024, as Phi)."""
    return _whole(start, rules.tiled)


def dct(start: Start) -> Initialized:
    """Discrete cosine transform: low frequencies of every tensor cut out or padded (FRONT, arXiv:2603.07523)."""
    return _whole(start, rules.cosine)


def depth_stack(start: Start) -> Initialized:
    """Progressive stacking: equal blocks take the source's, over and over, clipped (Gong et al. 2019; StackBERT)."""
    options: Options = {
        "method": "dpiat",
        "standardizer": with_statistics,
        "matcher": match_stacked,
        "operator": "clip",
        "seed": start.own_seed,
    }
    return _reported(transfer(start.source, start.target, **options))


def _reported(report: Report) -> Initialized:
    return Initialized(report.coverage, report.fingerprint, note=report.summary())


def _whole(start: Start, rule: Operator) -> Initialized:
    """Apply a rule that fills every tensor it is given."""
    report = warm_start(start, rule)
    return filled(start, report, served(report))


def net2net(start: Start) -> Initialized:
    """Net2Net: random units copied, their readers divided; new layers the identity (Chen et al. 2016).

    arXiv:1511.05641. Net2Wider for every matched layer. Net2Deeper for a layer without a source of its own that is
    square (as many outputs as inputs, stride 1): identity weights, and a batch norm behind them that undoes itself.
    Copies differ by noise, unless ``net2net:noise=0`` asks for the exact form. The function is kept only where the
    target contains the source (its kernels, ReLU); an identity inside a residual branch doubles the stream.
    """
    match, noise = parse_net2net(start.argument)
    report = warm_start(start, rules.replicating(start.own_seed, noise), match)
    made = _identities(unwrap(start.target), report)
    new = [key for key in (tensor.key for tensor in report.tensors) if key.rpartition(".")[0] in made]
    told = f"; identity: {', '.join(made)}" if made else ""
    return filled(start, report, [*served(report), *new], told)


def parse_net2net(argument: str) -> tuple[str, float]:
    """Read ``"MATCH:noise=NUMBER"``, each part optional.

    Raises:
        LabError: a part is neither.

    >>> parse_net2net("graft:noise=0"), parse_net2net("")
    (('graft', 0.0), ('dp', 0.01))
    """
    match, noise = "dp", NOISE
    for part in argument.split(":") if argument else ():
        if part in MATCHES:
            match = part
            continue
        try:
            noise = float(part.removeprefix("noise=")) if part.startswith("noise=") else -1.0
        except ValueError:
            noise = -1.0
        if not 0 <= noise < 1:
            raise LabError(f"{part!r} is neither a match ({', '.join(MATCHES)}) nor noise=NUMBER between 0 and 1")
    return match, noise


def _identities(target: nn.Module, report: Report) -> list[str]:
    """Make every square layer without a source of its own the identity, and the batch norm behind it; return paths."""
    owned = {transfer.target for transfer in report.plan.transfers if not transfer.reused}
    made, behind = [], ""
    with torch.no_grad():
        for path, module in target.named_modules():
            if path not in owned and isinstance(module, nn.Conv2d | nn.Linear) and _is_square(module):
                _set_identity(module)
                made.append(path)
                behind = path
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                if behind and path not in owned:
                    _undo_itself(module)
                    made.append(path)
                behind = ""
            elif isinstance(module, nn.Conv2d | nn.Linear):
                behind = ""
    return made


def _is_square(module: nn.Conv2d | nn.Linear) -> bool:
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    if module.in_channels != module.out_channels or set(module.stride) != {1}:
        return False
    reach = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
    pads = [size // 2 for size in reach] if isinstance(module.padding, str) else module.padding
    return module.padding != "valid" and all(2 * pad == size for pad, size in zip(pads, reach, strict=True))


def _set_identity(module: nn.Conv2d | nn.Linear) -> None:
    if isinstance(module, nn.Linear):
        nn.init.eye_(module.weight)
    else:
        nn.init.dirac_(module.weight, module.groups)
    if module.bias is not None:
        module.bias.zero_()


def _undo_itself(norm: nn.modules.batchnorm._BatchNorm) -> None:
    norm.reset_parameters()
    if norm.affine:
        norm.weight.fill_((1 + norm.eps) ** 0.5)
