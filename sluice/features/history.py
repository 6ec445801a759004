"""The states that a whole log leaves behind: from where the online features go on. Library: numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.features.batch import SlateLog
from sluice.features.catalogue import Catalogue
from sluice.features.online import OnlineFeatures

__all__ = ["learn_log"]


def learn_log(log: SlateLog, users: Sequence[str], catalogue: Catalogue) -> OnlineFeatures:
    """The states of all users and items after every slate of `log`, each learned when it ended.

    users: ids by the codes in `log.user`. Slates that end at the same moment are learned in the order of the log.
    """
    online = OnlineFeatures(catalogue)
    ids = [log.items[code] for code in log.item.tolist()]
    liked, ratings = log.liked.tolist(), log.rating_milli.tolist()
    bounds, owners, ends = log.offsets.tolist(), log.user.tolist(), log.end_ms.tolist()
    for slate in np.argsort(log.end_ms, kind="stable").tolist():
        rows = slice(bounds[slate], bounds[slate + 1])
        online.observe(users[owners[slate]], ids[rows], liked[rows], ratings[rows], ends[slate])
    return online
