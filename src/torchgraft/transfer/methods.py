"""What makes a method: one choice for every stage, by name or as a function."""

from __future__ import annotations

__all__ = ["METHODS", "Method", "customized"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torchgraft.errors import SpecError, choose
from torchgraft.match import MATCHERS, Matcher
from torchgraft.match.fitting import LEAST_SIMILARITY
from torchgraft.records import Layer, Move
from torchgraft.score import SCORERS, Scorer
from torchgraft.standardize import STANDARDIZERS, Standardizer
from torchgraft.transfer.narrowing import Narrowing, check_narrowing
from torchgraft.transfer.operators import CUSTOM, OPERATORS, Operator
from torchgraft.transfer.rules import Context, graft_moves, paper_moves

Mover = Callable[[Layer, Layer, Context], Iterator[Move]]


@dataclass(frozen=True, slots=True)
class Method:
    """One choice for every stage. Each may be replaced by a name from the stage's table or by a function.

    ``mixed`` lets blocks meet single layers; ``coupled`` makes all tensors agree on which units are where, and
    ``narrowing`` decides which are kept where there are fewer; ``least`` is the similarity below which only what reads
    the input is taken (:func:`~torchgraft.match.fitting.is_alike`).
    """

    standardize: Standardizer
    score: Scorer
    match: Matcher
    operator: str | Operator
    moves: Mover
    exponent: float = 0.5
    mixed: bool = False
    coupled: bool = False
    narrowing: str | Narrowing = "readers"
    least: float = 0.0

    def operator_name(self) -> str:
        """Name of the operator, for a plan that is printed or stored."""
        return (
            self.operator if isinstance(self.operator, str) else CUSTOM + getattr(self.operator, "__name__", "operator")
        )

    def chooses_units(self) -> bool:
        """Tell whether the units of a group stand in the same places in all its tensors."""
        return self.coupled and self.operator == "embed"

    def is_pure(self) -> bool:
        """Tell whether every stage of the matching is one of ours, which give the same match for the same networks."""
        known: tuple[tuple[object, Mapping[str, object]], ...] = (
            (self.standardize, STANDARDIZERS),
            (self.score, SCORERS),
            (self.match, MATCHERS),
        )
        return all(stage in table.values() for stage, table in known)


#: The methods by name: "graft" is the default, "dpiat" the published method to the letter, "fna" the remapping of Fang
#: et al. (arXiv:2006.12986): new blocks of a stage take its last one, wider layers the first units, kernels the centre.
METHODS: Mapping[str, Method] = {
    "graft": Method(
        STANDARDIZERS["graft"], SCORERS["graft"], MATCHERS["graft"], "embed", graft_moves, mixed=True, coupled=True,
        least=LEAST_SIMILARITY,
    ),
    "dpiat": Method(STANDARDIZERS["paper"], SCORERS["paper"], MATCHERS["dp"], "clip", paper_moves),
    "fna": Method(STANDARDIZERS["graft"], SCORERS["graft"], MATCHERS["stages"], "leading", paper_moves),
}  # fmt: skip


def customized(
    method: str,
    standardizer: str | Standardizer | None = None,
    scorer: str | Scorer | None = None,
    matcher: str | Matcher | None = None,
    operator: str | Operator | None = None,
    exponent: float | None = None,
    narrowing: str | Narrowing | None = None,
    least_similarity: float | None = None,
) -> Method:
    """Return the method of that name with the given stages replaced.

    Raises:
        SpecError: a name is not in its table, the exponent or the similarity is not between 0 and 1, or a narrowing is
            given where every tensor is cut for itself.
    """
    chosen = choose(METHODS, method, "method")
    if isinstance(standardizer, str):
        standardizer = choose(STANDARDIZERS, standardizer, "standardizer")
    if isinstance(scorer, str):
        scorer = choose(SCORERS, scorer, "scorer")
    if isinstance(matcher, str):
        matcher = choose(MATCHERS, matcher, "matcher")
    chosen = replace(
        chosen,
        standardize=standardizer or chosen.standardize,
        score=scorer or chosen.score,
        match=matcher or chosen.match,
    )
    if operator is not None:
        if isinstance(operator, str):
            choose(OPERATORS, operator, "operator")
        chosen = replace(chosen, operator=operator)
    if exponent is not None:
        if not 0 < exponent < 1:
            raise SpecError(f"the exponent of f(d) = d**-x must lie between 0 and 1, not be {exponent}")
        chosen = replace(chosen, exponent=exponent)
    if least_similarity is not None:
        if not 0 <= least_similarity <= 1:
            raise SpecError(f"least_similarity lies between 0 (take all that is matched) and 1, not {least_similarity}")
        chosen = replace(chosen, least=least_similarity)
    return chosen if narrowing is None else _narrowed(chosen, narrowing, method)


def _narrowed(method: Method, narrowing: str | Narrowing, name: str) -> Method:
    if isinstance(narrowing, str):
        check_narrowing(narrowing)
    if not method.chooses_units():
        with_operator = "" if method.operator == METHODS[name].operator else f" with operator {method.operator_name()}"
        raise SpecError(
            f"{name}{with_operator} cuts every tensor for itself, so no narrowing can be chosen: leave it out, or use "
            "graft with its own operator"
        )
    return replace(method, narrowing=narrowing)
