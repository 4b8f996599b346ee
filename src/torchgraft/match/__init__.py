"""Stage 3: scores become a match."""

from __future__ import annotations

__all__ = ["MATCHERS", "Matcher"]

from collections.abc import Mapping

from torchgraft.match.graft import match_graft
from torchgraft.match.matchers import Matcher, match_bipartite, match_dp, match_nbipartite, match_random
from torchgraft.match.stages import match_stages

#: Matchers by name.
MATCHERS: Mapping[str, Matcher] = {
    "graft": match_graft,
    "dp": match_dp,
    "random": match_random,
    "bipartite": match_bipartite,
    "nbipartite": match_nbipartite,
    "stages": match_stages,
}
