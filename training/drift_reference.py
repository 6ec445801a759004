"""What is kept of a training to see drift by: `sluice.domain.drift.Reference`. Library: numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sluice.domain.drift import LEAST_USERS, Outcomes, Reference, Rows, make_reference
from sluice.features.definition import Floats, Ints
from training.models import Examples, Model, validation_split

__all__ = ["SHOWN", "enough", "halves", "outcomes_of", "reference_of", "rows_of", "shown"]

SHOWN = 3
"""Items of a slate that are shown, as by a replay unless it is told otherwise"""


def reference_of(
    examples: Examples, train: Ints, fit: Callable[[Ints], Model], importance: Mapping[str, float] | None = None
) -> Reference:
    """What a model fitted to the first half of the slates `train` shows of the second half, and what became of it.

    So neither features nor scores are of slates the model had seen, and item histories are about as old as they will be
    when it serves. Raises ConfigError when there are too few users.
    """
    early, late = halves(examples, train)
    rows, slates, score = shown(examples, late, fit(early).predict(examples, late))
    return make_reference(
        examples.names, rows_of(examples, rows, slates, score), outcomes_of(examples, rows, slates, score), importance
    )


def enough(examples: Examples, train: Ints) -> bool:
    """Whether a reference can be made: users to tell apart, and clicks and none wherever a model is fitted."""
    if len(train) < 4:
        return False
    early, late = halves(examples, train)
    data = examples.data
    if len(early) < 4 or len(np.unique(data.log.user[late])) < LEAST_USERS:
        return False
    parts = (*validation_split(data, early), early)
    return all(len(part) > 0 and 0 < examples.liked[data.rows(part)].mean() < 1 for part in parts)


def halves(examples: Examples, train: Ints) -> tuple[Ints, Ints]:
    """(s,) slates → those of the first half that had ended when the second begins, and the second half."""
    log, cut = examples.data.log, len(train) // 2
    early, late = train[:cut], train[cut:]
    return early[log.end_ms[early] < log.at_ms[late[0]]], late


def shown(examples: Examples, slates: Ints, score: Floats, count: int = SHOWN) -> tuple[Ints, Ints, Floats]:
    """score: of the rows of `slates`. Returns rows, slates and scores of the best `count` rows of each slate."""
    data = examples.data
    rows = data.rows(slates)
    slate = np.repeat(slates, np.diff(data.log.offsets)[slates])
    order = np.lexsort((rows, -score, slate))
    ordered = slate[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    best = order[place < count]
    return rows[best], slate[best], score[best]


def rows_of(examples: Examples, rows: Ints, slates: Ints, score: Floats) -> Rows:
    """What a monitor would be told of these rows when they were shown."""
    data = examples.data
    users = [data.users[code] for code in data.log.user[slates].tolist()]
    return Rows(users, data.log.at_ms[slates], examples.features[rows], score)


def outcomes_of(examples: Examples, rows: Ints, slates: Ints, score: Floats) -> Outcomes:
    """What a monitor would be told of these rows when clicks can no longer come."""
    plain = rows_of(examples, rows, slates, score)
    return Outcomes(plain.user, plain.at_ms, plain.features, score, examples.liked[rows])
