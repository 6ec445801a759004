"""All models and baselines on one test set, with intervals over users and tests of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sluice.features.definition import Floats, Ints
from training.delong import Difference, difference
from training.metrics import Scored, bootstrap, intervals, point, user_weights
from training.models import Examples, Trained
from training.train import scored

__all__ = ["BASELINES", "DRAWS", "Comparison", "Figures", "baselines", "compare", "evaluate", "figures"]

DRAWS = 500
BASELINES = ("random", "most_rated", "popularity", "best_possible")


class Figures(NamedTuple):
    """Of one model."""

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """95 %, from a bootstrap over users"""


class Comparison(NamedTuple):
    """First minus second, on the same rows."""

    first: str
    second: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """95 %, paired: both are drawn with the same users"""
    ahead: Mapping[str, float]
    """Share of the draws in which the first has the larger figure, equal ones half"""
    auc_test: Difference
    """DeLong's test of the AUCs, rows clustered by user"""


def evaluate(examples: Examples, trained: Sequence[Trained], slates: Ints, seed: int = 0) -> dict[str, Scored]:
    """Every model and baseline, by name, with its scores of `slates`."""
    found = {one.name: scored(examples, slates, one.model.predict(examples, slates)) for one in trained}
    return found | baselines(examples, slates, seed)


def baselines(examples: Examples, slates: Ints, seed: int = 0) -> dict[str, Scored]:
    """What needs no training; `best_possible` knows the outcomes."""
    rows = examples.data.rows(slates)
    history = examples.column("item_history")[rows]
    scores: dict[str, tuple[Floats, bool]] = {
        "random": (np.random.default_rng(seed).random(len(rows)), False),
        "most_rated": (history.astype(np.float64), False),
        "popularity": (examples.column("item_like_rate")[rows].astype(np.float64), True),
        "best_possible": (examples.liked[rows].astype(np.float64), False),
    }
    return {name: scored(examples, slates, score, is_probability=p) for name, (score, p) in scores.items()}


def figures(results: Mapping[str, Scored], seed: int = 0, draws: int = DRAWS) -> dict[str, Figures]:
    """Every figure of every model. results: all of the same slates. Raises ValueError when there are none."""
    weights = _weights(results, draws, seed)
    return {name: Figures(point(one), intervals(bootstrap(one, weights))) for name, one in results.items()}


def compare(results: Mapping[str, Scored], first: str, second: str, seed: int = 0, draws: int = DRAWS) -> Comparison:
    """Differences of all figures that both have."""
    one, other = results[first], results[second]
    weights = _weights({first: one, second: other}, draws, seed)
    value, reference = point(one), point(other)
    drawn, against = bootstrap(one, weights), bootstrap(other, weights)
    names = [name for name in value if name in reference]
    differences = {name: drawn[name] - against[name] for name in names}
    return Comparison(
        first,
        second,
        {name: value[name] - reference[name] for name in names},
        intervals(differences),
        {name: _ahead(lead) for name, lead in differences.items()},
        difference(one.liked, one.score, other.score, one.row_user),
    )


def _ahead(lead: Floats) -> float:
    defined = lead[~np.isnan(lead)]
    return float(((defined > 0) + (defined == 0) / 2).mean()) if len(defined) else float("nan")


def _weights(results: Mapping[str, Scored], draws: int, seed: int) -> Floats:
    if not results:
        raise ValueError("results: nothing to evaluate")
    sizes = {int(one.user.max()) + 1 for one in results.values()}
    if len(sizes) > 1:
        raise ValueError(f"results: of different slates: {sorted(sizes)} users")
    return user_weights(sizes.pop(), draws, seed)
