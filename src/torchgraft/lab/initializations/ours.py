"""The methods of torchgraft itself, and the small grammar that names their variants.

``dpiat:bipartite:full:x=0.25`` is the published method with another matcher, operator and exponent. The parts stand in
any order, and those left out stay as they are in the method. ``graft:rate=0.25`` trains what it transfers at a quarter
of the recipe's learning rate.
"""

from __future__ import annotations

__all__ = ["RATE", "VARIANT", "dpiat", "from_method", "graft", "parse_method", "parse_start", "parse_variant"]

from torch import nn

from torchgraft._api import Options, transfer
from torchgraft.errors import LabError
from torchgraft.lab.initializations.start import Start
from torchgraft.lab.records import Initialized
from torchgraft.match import MATCHERS
from torchgraft.optim import share_of, transferred_keys
from torchgraft.transfer.methods import METHODS
from torchgraft.transfer.narrowing import RULE_NAMES
from torchgraft.transfer.operators import OPERATORS

#: How variants are written, for help texts.
VARIANT = "[:MATCHER][:OPERATOR][:x=NUMBER][:keep=NARROWING][:least=NUMBER]"
_AUTO = "rate=auto"
#: How the share of the learning rate is written that what is transferred is trained at; ``auto``: what suits the plan.
RATE = "[:rate=NUMBER|auto]"


def graft(start: Start) -> Initialized:
    """Warm start by torchgraft's default method, or a variant of it."""
    return from_method("graft", start)


def dpiat(start: Start) -> Initialized:
    """Warm start by the published method to the letter (arXiv:2212.13970), or a variant of it (appendix B.8)."""
    return from_method("dpiat", start)


def from_method(method: str, start: Start, source: nn.Module | None = None) -> Initialized:
    """Transfer by ``method`` in the variant that the argument names; ``source`` replaces the start's own."""
    variant, share = parse_start(start.argument)
    options: Options = {**variant, "method": method, "seed": start.seed}
    report = transfer(source or start.source, start.target, **options)
    share = share_of(report) if share is None else share
    shares = {} if share == 1 else dict.fromkeys(transferred_keys(report), share)
    return Initialized(report.coverage, report.fingerprint, note=report.summary(), shares=shares)


def parse_start(argument: str) -> tuple[Options, float | None]:
    """Read a variant, and the share of the learning rate that what is transferred is trained at; ``None`` for ``auto``.

    Raises:
        LabError: a part is none, or the share is not between 0 and 1.

    >>> parse_start("bipartite:rate=0.25"), parse_start("rate=auto"), parse_start("")
    (({'matcher': 'bipartite'}, 0.25), ({}, None), ({}, 1.0))
    """
    parts = argument.split(":") if argument else []
    rates = [part for part in parts if part.startswith("rate=")]
    if len(rates) > 1 or any(part != _AUTO and not 0 < _number(part) <= 1 for part in rates):
        raise LabError(
            f"{argument!r} names no share of the learning rate: write rate=NUMBER once, above 0 and at most 1"
        )
    rest = ":".join(part for part in parts if part not in rates)
    return parse_variant(rest), None if rates == [_AUTO] else _number(rates[0]) if rates else 1.0


def parse_method(argument: str) -> tuple[str, str]:
    """Split ``"dpiat:dp:clip"`` into method and variant; nothing means ``graft``.

    Raises:
        LabError: no such method, or no such variant.

    >>> parse_method("dpiat:dp:clip"), parse_method("")
    (('dpiat', 'dp:clip'), ('graft', ''))
    """
    method, _, variant = argument.partition(":")
    method = method or "graft"
    if method not in METHODS:
        raise LabError(f"unknown method {method!r} (valid: {', '.join(METHODS)}, each with {VARIANT})")
    parse_variant(variant)
    return method, variant


def parse_variant(argument: str) -> Options:
    """Read ``"MATCHER:OPERATOR:x=NUMBER:keep=NARROWING:least=NUMBER"``, each part optional and in any order.

    Raises:
        LabError: a part is no matcher, operator, exponent or narrowing, or a stage is named twice.

    >>> parse_variant("bipartite:full")
    {'matcher': 'bipartite', 'operator': 'full'}
    """
    options: Options = {}
    for part in argument.split(":") if argument else ():
        stage = _read_part(part, argument)
        twice = options.keys() & stage.keys()
        if twice:
            raise LabError(f"{argument!r} names two {twice.pop()}s: leave one")
        options = {**options, **stage}
    return options


def _read_part(part: str, argument: str) -> Options:
    if part in MATCHERS:
        return {"matcher": part}
    if part in OPERATORS:
        return {"operator": part}
    if part.startswith("x="):
        exponent = _number(part)
        if 0 < exponent < 1:
            return {"exponent": exponent}
        raise LabError(f"{part!r} in {argument!r} is no exponent: write x=NUMBER between 0 and 1")
    if part.startswith("keep="):
        if part[5:] in RULE_NAMES:
            return {"narrowing": part[5:]}
        raise LabError(f"{part!r} in {argument!r} is no narrowing: write keep= and one of {', '.join(RULE_NAMES)}")
    if part.startswith("least="):
        if 0 <= _number(part) <= 1:
            return {"least_similarity": _number(part)}
        raise LabError(f"{part!r} in {argument!r} is no similarity: write least=NUMBER between 0 and 1")
    raise LabError(
        f"{part!r} in {argument!r} is neither a matcher ({', '.join(MATCHERS)}) nor an operator "
        f"({', '.join(OPERATORS)}) nor an exponent (x=NUMBER) nor a narrowing (keep=NAME) nor a similarity "
        "(least=NUMBER)"
    )


def _number(part: str) -> float:
    """Return the number behind the equals sign, -1 where there is none."""
    try:
        return float(part.partition("=")[2])
    except ValueError:
        return -1.0
