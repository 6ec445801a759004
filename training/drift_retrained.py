"""One replay in which the model was trained again, from the log of what another one and chance had shown."""

from __future__ import annotations

import numpy as np

from sluice.errors import ConfigError
from training.dataset import Dataset
from training.drift_reference import outcomes_of, rows_of, shown
from training.drift_replays import Replay, fit
from training.drift_worlds import change_of
from training.loop_simulation import Rules, World
from training.models import Examples, Trained
from training.train import train_one

__all__ = ["retrained"]


def retrained(data: Dataset, seed: int) -> Replay:
    """What a version shows of the second half of the test part that learned from what was shown of the first.

    Of that, 70 % was shown by a model of the train part, and the rest by chance. Its reference is the one that its
    training gives: of what those had chosen. Raises ConfigError when the log is too short to learn from.
    """
    examples, now = Examples.of(data), change_of(data)
    first = Trained(name="PolicyA", model=fit(examples, data.train), params={}, validation={})
    logged = World(examples, examples, first, Rules(), seed).logged(data.test_from, now)
    made = train_one("PolicyA", logged.examples, logged.data.train)
    if made.reference is None:
        raise ConfigError("--retrained: too few users in the first half of what is watched: take more of the log")
    later = np.arange(now, len(data.log))
    found = shown(examples, later, made.model.predict(examples, later))
    return Replay(examples, made.reference, rows_of(examples, *found), outcomes_of(examples, *found))
