"""Whether known groups of users meet what they like equally often. Library: numpy.

A group that likes less gets fewer clicks under any ranking. So beside the click rate stands what it has above chance
(the items of the same slates in random order): the part for which the model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sluice.features.definition import Floats, Ints
from training.dataset import Dataset
from training.metrics import CUTOFFS, Scored
from training.segments import MIN_USERS, attributes_of, shown_first
from training.simultaneous import Estimated, Interval, ratio, simultaneous

__all__ = ["GroupFigures", "fairness"]


class GroupFigures(NamedTuple):
    """Of one model for one group, against all other users of known group. Intervals hold together over all groups."""

    attribute: str
    group: str
    users: int
    rates: dict[int, float]
    """k → click rate at k"""
    chance: dict[int, float]
    """k → the same in random order"""
    difference: dict[int, Interval]
    """k → click rate at k minus that of the others; all groups and k together with 95 %"""
    gain_difference: dict[int, Interval]
    """k → the same of what stands above chance; likewise"""


class _Rates(NamedTuple):
    rate: Estimated
    chance: Estimated


def fairness(scored: Scored, data: Dataset, slates: Ints, seed: int = 0) -> tuple[list[GroupFigures], list[str]]:
    """Groups of at least `MIN_USERS` users with as many others, and the names of those that are smaller.

    scored: of `slates`. Of an attribute with two groups only the smaller one is listed: the other one is its mirror.
    """
    groups, small = _groups(data, np.unique(data.log.user[slates]))
    inside = [[_rates(scored, own, k) for k in CUTOFFS] for _, _, own, _ in groups]
    others = [[_rates(scored, rest, k) for k in CUTOFFS] for _, _, _, rest in groups]
    pairs = [pair for one, other in zip(inside, others, strict=True) for pair in zip(one, other, strict=True)]
    differences = iter(simultaneous([one.rate - other.rate for one, other in pairs], seed=seed))
    gains = iter(
        simultaneous([(one.rate - one.chance) - (other.rate - other.chance) for one, other in pairs], seed=seed)
    )
    figures = [
        GroupFigures(
            attribute, group, int(own.sum()),
            {k: one.rate.value for k, one in zip(CUTOFFS, rates, strict=True)},
            {k: one.chance.value for k, one in zip(CUTOFFS, rates, strict=True)},
            {k: next(differences) for k in CUTOFFS},
            {k: next(gains) for k in CUTOFFS},
        )
        for (attribute, group, own, _), rates in zip(groups, inside, strict=True)
    ]  # fmt: skip
    return figures, small


_Group = tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]
"""Attribute, group, (u,) whether a user of the test set is in it, (u,) whether in another one"""


def _groups(data: Dataset, tested: Ints) -> tuple[list[_Group], list[str]]:
    found: list[_Group] = []
    small: list[str] = []
    for attribute, values in attributes_of(data).items():
        own = values[tested]
        known = own != ""
        names, counts = np.unique(own[known], return_counts=True)
        judged: Sequence[int] = range(len(names))
        if len(names) == 2:
            judged = [int(counts.argmin())]
        for place in judged:
            inside = own == names[place]
            rest = known & ~inside
            if min(inside.sum(), rest.sum()) < MIN_USERS:
                small.append(f"{attribute} {names[place]} ({counts[place]} users)")
            else:
                found.append((attribute, str(names[place]), inside, rest))
    return found, small


def _rates(scored: Scored, members: NDArray[np.bool_], k: int) -> _Rates:
    """Click rate at k, and in random order, over the slates of `members`."""
    users = len(members)
    sizes = np.diff(scored.offsets)
    mine = members[scored.row_user]
    shown = shown_first(scored, k).astype(np.float64) * mine
    # Any item of a slate is among the first k with the same probability.
    by_chance = np.repeat(np.minimum(sizes, k) / sizes, sizes) * mine
    return _Rates(_of(scored, shown, users), _of(scored, by_chance, users))


def _of(scored: Scored, shown: Floats, users: int) -> Estimated:
    return ratio(shown * scored.liked, shown, scored.row_user, users)
