"""What a model saw and how well it did when it was trained: the yardstick of every later window. Library: msgspec."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from sluice.domain.drift.samples import Ints
from sluice.errors import ConfigError

__all__ = [
    "DRIFT_FILE", "FORMAT", "GROWING", "SCORE", "Centre", "FeatureReference", "PerformanceReference", "Reference",
]  # fmt: skip

DRIFT_FILE = "drift.json"
FORMAT = 1
SCORE = "score"
GROWING = frozenset({
    "user_history", "user_gap", "item_history", "item_gap", "item_presence", "item_age", "genre_history",
    "slate_history",
})  # fmt: skip
"""Features that change with the age of the log, whatever the world does. They are checked for missing values only."""

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class Centre(Struct, frozen=True, kw_only=True):
    """Distribution over users of the mean of a user's rows."""

    mean: float
    """Users weigh as they do in the evidence: many rows tell more than few"""
    between: Annotated[float, Meta(ge=0)]
    """Standard deviation between users with very many rows"""
    within: Annotated[float, Meta(ge=0)]
    """Standard deviation between the rows of a user"""
    error: Annotated[float, Meta(ge=0)]
    """Standard error of `mean`"""


class FeatureReference(Struct, frozen=True, kw_only=True):
    """One feature, by age of the user's history."""

    name: str
    kind: Literal["rank", "growing"]
    importance: float = 0.0
    edges: tuple[float, ...]
    """Ascending; a value x lies in the bin with the number of edges ≤ x"""
    values: tuple[float, ...] = ()
    """All that occurred, where these are few: any other is as strange as a missing one"""
    counts: tuple[tuple[Count, ...], ...]
    """By age, then bin"""
    strange: Share = 0.0
    """Mean over users of the share that was missing"""
    strange_error: Annotated[float, Meta(ge=0)] = 0.0
    """Its standard error; 0 also where none was missing"""
    rank: Centre | None = None
    """Of the rank of a value among those of the same age, from −½ to ½; null when the feature grows"""
    spread: Centre | None = None
    """Of its distance from the middle; null also where values are few"""
    relation: Centre | None = None
    """Of its rank × (click − score): what the score does not know of this feature; null when the feature grows"""


class PerformanceReference(Struct, frozen=True, kw_only=True):
    """What followed scores that the model gave to slates it had not been trained on."""

    impressions: Count
    users: Count
    click_rate: Centre
    calibration: Centre
    """Click − score"""
    log_loss: Centre
    """Log loss − what the score itself lets expect, its entropy"""
    mean_score: float
    mean_log_loss: float


class Reference(Struct, frozen=True, kw_only=True):
    """All that is kept of a training to see drift by."""

    format: int = FORMAT
    columns: tuple[str, ...]
    """All features, in the order in which they are served"""
    age: str = ""
    """The column that tells how old a user's history is; "" when there is none"""
    age_edges: tuple[float, ...] = ()
    rows: Count
    users: Count
    shown_by: Literal["itself", "others"] = "itself"
    """Who had chosen the rows: this version, as it will, or those whose log it was trained from"""
    features: tuple[FeatureReference, ...]
    """In the order of the columns, the score last"""
    performance: PerformanceReference

    def dump(self) -> bytes:
        """As JSON"""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def load(cls, data: bytes) -> Reference:
        """What `dump` gave. Raises ConfigError, in one line, when it cannot be used."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{DRIFT_FILE}: {error}") from error
        if found.format != FORMAT:
            raise ConfigError(
                f"{DRIFT_FILE}: format {found.format}, this program reads {FORMAT}: train the model again"
            )
        if (fault := _fault(found)) is not None:
            raise ConfigError(f"{DRIFT_FILE}: {fault}")
        return found

    def ages(self, features: NDArray[np.floating]) -> Ints:
        """(m, columns) → (m,) the stratum of each row by age of its user's history; 0 where that is missing."""
        if not self.age:
            return np.zeros(len(features), dtype=np.int64)
        age = np.nan_to_num(features[:, self.columns.index(self.age)].astype(np.float32), nan=-np.inf)
        return np.searchsorted(np.array(self.age_edges, dtype=np.float32), age, side="right")


def _fault(found: Reference) -> str | None:
    if tuple(one.name for one in found.features) != (*found.columns, SCORE):
        return "its features are not those of its columns"
    if found.age and found.age not in found.columns:
        return f"{found.age!r} is none of its columns"
    for one in found.features:
        shape = {len(counts) for counts in one.counts}
        if len(one.counts) != len(found.age_edges) + 1 or shape != {len(one.edges) + 1}:
            return f"{one.name}: counts must be given for every age and bin"
        if any(low >= high for low, high in zip(one.edges, one.edges[1:], strict=False)):
            return f"{one.name}: edges must rise"
        if {one.kind == "rank"} != {one.rank is not None, one.relation is not None}:
            return f"{one.name}: ranks are given of what does not grow, and of nothing else"
    return None
