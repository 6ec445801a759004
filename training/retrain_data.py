"""Training data from the log: outcomes joined to what was shown, in one order, cut by time. Pure. Library: numpy.

An impression is clicked when a click of its id lies within the attribution window behind its first event time, as in
the counts; here a click that came late to the log is one as well. Impressions whose window was open when the log ended
are left out, for nobody knows yet. Features are those that were served: what a request knew is what it knew.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sluice.errors import ConfigError
from sluice.features import Catalogue, SlateLog
from sluice.features.definition import Floats
from training.dataset import Dataset
from training.models import Examples
from training.retrain_log import Logged, Row

__all__ = ["MAX_WEIGHT", "LoggedData", "LoggedSlates", "effective_share", "join"]

MAX_WEIGHT = 20.0
"""What was hardly ever shown counts at most so much more in training (Ionides 2008: truncated importance sampling)"""
LIKED_MILLI = 5000


@dataclass(frozen=True, eq=False)
class LoggedSlates(Dataset):
    """A dataset of shown items. Its catalogue is that of the model in force, by which their features were made."""

    served: Catalogue = field(default_factory=Catalogue)

    @cached_property
    def catalogue(self) -> Catalogue:
        return self.served


@dataclass(frozen=True, eq=False)
class LoggedData:
    """Rows of the log, ready to learn from."""

    examples: Examples
    shown: Floats
    """(m,) probability that the item was shown"""
    random: NDArray[np.bool_]
    """(s,) slates that were ordered by chance"""
    rows_hash: str
    """Of features, outcomes and probabilities"""
    dropped: Mapping[str, int]
    """Why impressions were left out, and how many"""

    @property
    def data(self) -> LoggedSlates:
        assert isinstance(self.examples.data, LoggedSlates)
        return self.examples.data


def join(
    logged: Logged, catalogue: Catalogue, *, window_ms: int, holdout: float, name: str, fingerprint: str,
    options: Mapping[str, float], weighted: bool = False,
) -> LoggedData:  # fmt: skip
    """Slates in order of (event time, first impression), rows within by impression; the last `holdout` are the test.

    weighted: rows weigh 1 / probability in training, at most `MAX_WEIGHT`. Raises ConfigError when nothing is left.
    """
    dropped: Counter[str] = Counter()
    kept = [(slate, rows) for slate in logged.slates if (rows := _kept(slate, logged, window_ms, dropped))]
    if not kept:
        counts = [f"{number:,} {text}" for text, number in sorted(dropped.items())]
        why = ", ".join(counts) or "no slate has such features"
        raise ConfigError(f"the log has nothing to learn from: {why} (is `rankings: true` in the experiment?)")
    kept.sort(key=lambda pair: (pair[0].at_ms, pair[0].items[pair[1][0]][1]))
    flat = [(slate, row) for slate, rows in kept for row in rows]
    place = np.array([slate.first + row for slate, row in flat], dtype=np.int64)
    impressions = [slate.items[row][1] for slate, row in flat]
    liked = np.array([_clicked(one, logged, window_ms) for one in impressions])
    shown = np.array([slate.items[row][2] for slate, row in flat])
    items = sorted({slate.items[row][0] for slate, row in flat})
    users = sorted({slate.user_id for slate, _ in kept})
    item_code, user_code = ({one: at for at, one in enumerate(ids)} for ids in (items, users))
    at_ms = np.array([slate.at_ms for slate, _ in kept], dtype=np.int64)
    log = SlateLog(
        user=np.array([user_code[slate.user_id] for slate, _ in kept], dtype=np.int64),
        at_ms=at_ms,
        end_ms=at_ms + window_ms,
        offsets=np.concatenate(([0], np.cumsum([len(rows) for _, rows in kept]))).astype(np.int64),
        item=np.array([item_code[slate.items[row][0]] for slate, row in flat], dtype=np.int64),
        liked=liked,
        rating_milli=LIKED_MILLI * liked.astype(np.int64),
        items=items,
    )
    data = LoggedSlates(
        name=name, fingerprint=fingerprint, log=log, users=users, titles={}, tags={}, about={},
        genres={item: tuple([catalogue.genres[one] for one in catalogue.facts(item).genres]) for item in items},
        test_from=min(int(len(kept) * (1 - holdout)), len(kept) - 1), options=dict(options), served=catalogue,
    )  # fmt: skip
    features = logged.features[place]
    digest = hashlib.sha256()
    for part in (features, liked, shown, log.offsets):
        digest.update(np.ascontiguousarray(part).tobytes())
    weight = np.minimum(1 / shown, MAX_WEIGHT) if weighted else None
    random = np.array([slate.random for slate, _ in kept])
    return LoggedData(Examples(data, features, weight), shown, random, digest.hexdigest()[:16], dict(dropped))


def effective_share(weight: Floats) -> float:
    """Kish's effective sample size as a share of the rows: (Σw)² / (n Σw²), 1 when all weigh the same."""
    return float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))


def _kept(slate: Row, logged: Logged, window_ms: int, dropped: Counter[str]) -> list[int]:
    """Which of its items are known to the end, in order of their impressions."""
    if slate.at_ms + window_ms >= logged.watermark_ms.get(slate.partition, 0):
        dropped["may still be clicked"] += len(slate.items)
        return []
    there = [row for row, item in enumerate(slate.items) if item[1] in logged.shown_ms]
    if len(there) < len(slate.items):
        dropped["have no impression"] += len(slate.items) - len(there)
    return sorted(there, key=lambda row: slate.items[row][1])


def _clicked(impression: str, logged: Logged, window_ms: int) -> bool:
    first = logged.shown_ms[impression]
    return any(0 <= at_ms - first <= window_ms for at_ms in logged.clicks_ms.get(impression, ()))
