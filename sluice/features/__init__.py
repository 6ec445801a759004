"""Features of candidate items: one definition, two executions that agree bit for bit. Pure: no I/O, no clock."""

from __future__ import annotations

from sluice.features.batch import SlateLog, batch_features
from sluice.features.catalogue import Catalogue, make_catalogue, release_year
from sluice.features.definition import VERSION, names
from sluice.features.history import learn_log
from sluice.features.online import (
    ItemState,
    OnlineFeatures,
    SlateRequest,
    UserState,
    feature_rows,
    feature_table,
    observe_slate,
)

__all__ = [
    "VERSION", "Catalogue", "ItemState", "OnlineFeatures", "SlateLog", "SlateRequest", "UserState", "batch_features",
    "feature_rows", "feature_table", "learn_log", "make_catalogue", "names", "observe_slate", "release_year",
]  # fmt: skip
