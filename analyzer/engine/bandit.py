"""Thompson sampling as exact shares: a variant gets the traffic that matches the probability that it is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sluice.domain.allocation import whole_percents

__all__ = ["moved_enough", "thompson_shares"]


def thompson_shares(p_best: Mapping[str, float], floor: float) -> dict[str, int]:
    """Whole percents that sum to 100, proportional to `p_best`, none below `floor` (a share in [0, 1/k]).

    A floor that is not a whole percent is rounded up, except that k floors never exceed 100 % (floor 1/3 of
    three variants is 33 %). Raises ValueError when `p_best` is empty, negative or all 0, or the floor too high.
    Source: Thompson 1933; Scott 2010 (probability matching).
    """
    if not p_best or min(p_best.values()) < 0 or not 0 < sum(p_best.values()) < math.inf:
        raise ValueError(f"p_best: must be ≥ 0 and not all 0, got {dict(p_best)}")
    k = len(p_best)
    if not 0 <= floor * k <= 1 + 1e-9:
        raise ValueError(f"floor: {floor} of {k} variants; allowed is 0 to 1/{k}")
    least = min(math.ceil(100 * floor - 1e-9), 100 // k)
    # Variants below the floor are lifted to it and the others share the rest, until none of those falls below.
    lifted: set[str] = set()
    while True:
        free = {name: weight for name, weight in p_best.items() if name not in lifted}
        rest = 100 - least * len(lifted)
        total = sum(free.values())
        low = {name for name, weight in free.items() if weight * rest < least * total}
        if not low:
            break
        lifted |= low
    # All can be lifted, by rounding, when k floors are 100 %: then nothing is divided.
    return whole_percents({name: least if name in lifted else p_best[name] * rest / total for name in p_best})


def moved_enough(new: Mapping[str, int], previous: Mapping[str, int], min_change: int) -> bool:
    """Whether some variant's share differs by at least `min_change` percentage points, or the variants differ.

    Every allocation splits the counts into further cells; small steps would make many cells and move little traffic.
    """
    return new.keys() != previous.keys() or max(abs(new[name] - previous[name]) for name in new) >= min_change
