"""The states that a whole log leaves behind: from where the online features go on. Library: numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.features.batch import SlateLog
from sluice.features.catalogue import Catalogue
from sluice.features.online import OnlineFeatures

__all__ = ["learn_log"]


def learn_log(
    log: SlateLog, users: Sequence[str], catalogue: Catalogue, *, before_ms: int | None = None
) -> OnlineFeatures:
    """The states of all users and items after the slates of `log`, in the order in which they ended.

    users: ids by the codes in `log.user`. before_ms: only slates that ended before it. Slates that end at the same
    moment are learned in the order of the log.
    """
    online = OnlineFeatures(catalogue)
    ids = [log.items[code] for code in log.item.tolist()]
    liked, ratings = log.liked.tolist(), log.rating_milli.tolist()
    bounds, owners, ends = log.offsets.tolist(), log.user.tolist(), log.end_ms.tolist()
    by_end = np.argsort(log.end_ms, kind="stable")
    if before_ms is not None:
        by_end = by_end[log.end_ms[by_end] < before_ms]
    for slate in by_end.tolist():
        rows = slice(bounds[slate], bounds[slate + 1])
        online.observe(users[owners[slate]], ids[rows], liked[rows], ratings[rows], ends[slate])
    return online
