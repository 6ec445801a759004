"""What a request knew and showed: topic `rankings`, from which drift is seen and models are trained again. Pure.

Libraries: msgspec; numpy for features, loaded by those who read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from sluice.domain.events import SCHEMA_VERSION, Assignment, Id, Name, TimeMs
from sluice.domain.segments import parse_segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "MAX_RANKED",
    "RankedItem",
    "SlateRanked",
    "columns_digest",
    "have_columns",
    "pack_features",
    "records",
    "segments_of",
    "shown_probability",
    "unpack_features",
]

MAX_RANKED = 32
"""Items of one record: with the longest ids and the most features it stays below what an event may have"""


class RankedItem(Struct, frozen=True, kw_only=True, gc=False):
    """One item that was shown."""

    item_id: Id
    impression_id: Id
    score: float | None
    """What the variant said of it; null where no model ranked"""
    shown: Annotated[float, Meta(gt=0, le=1)]
    """Probability that the request showed the item: over variants, share of the allocation × whether it would have"""
    features: bytes
    """As they were served: little-endian float32 in the order of the model's columns (`sluice.features`), NaN where one
    was missing. Base64 on the wire: `unpack_features`"""


class SlateRanked(Struct, frozen=True, kw_only=True, tag_field="type", tag="ranking"):
    """A slate was ranked for a user. Topic `rankings`, keyed by the user."""

    experiment: Name
    variant: Name
    """Whose ranking was shown"""
    model: Annotated[str, Meta(max_length=256)] = ""
    """Registered name of the variant's model; empty for a rule"""
    model_version: str = ""
    features_version: int
    columns: Annotated[str, Meta(max_length=64)] = ""
    """Digest of the names of the columns (`columns_digest`): features of other columns are not taken for these"""
    user_id: Id
    slate_id: Annotated[str, Meta(max_length=128)] = ""
    at_ms: TimeMs
    random: bool = False
    """Whether the order was drawn, whatever the items are: what was shown is then a fair sample of the slate"""
    items: tuple[RankedItem, ...]
    """Best first"""
    segments: tuple[str, ...] = ()
    """Parts of the experiment that the request also counts in, as `history=new`"""
    v: int = SCHEMA_VERSION


def columns_digest(names: Sequence[str]) -> str:
    """16 hex digits that change with any name or their order."""
    return blake2b("\0".join(names).encode(), digest_size=8).hexdigest()


def pack_features(values: NDArray[np.float32]) -> bytes:
    """What `RankedItem.features` says of (columns,) float32 values: the same bits."""
    return values.astype("<f4", copy=False).tobytes()


def unpack_features(packed: bytes | bytearray, columns: int) -> NDArray[np.float32]:
    """(m, columns) Inverse of `pack_features`, of m items one after another; read-only as `packed` is.

    Raises ValueError for other lengths than `have_columns` finds.
    """
    import numpy as np

    return np.frombuffer(packed, dtype="<f4").reshape(-1, columns).astype(np.float32, copy=False)


def have_columns(items: Iterable[RankedItem], columns: int) -> bool:
    """Whether each item has so many features, and no part of one besides."""
    return {len(item.features) for item in items} <= {4 * columns}


def segments_of(parts: Iterable[Assignment]) -> tuple[str, ...]:
    """`SlateRanked.segments`, of a request's assignments under the names of its segments."""
    return tuple([f"{found.key}={found.value}" for part in parts if (found := parse_segment(part.experiment))])


def shown_probability(
    item: str,
    shares: Mapping[str, float],
    tops: Mapping[str, Collection[str]],
    chance: Collection[str],
    by_chance: float,
) -> float:
    """Probability that a request shows `item`, before its variant and the order of variants by chance are drawn.

    shares: variant → percents. tops: variant → what it shows of this slate, of every variant that has a share
    and does not order by chance. chance: the variants that do; they show each item of the slate with probability
    `by_chance`, k of n.
    """
    return min(
        1.0,
        sum(
            share / 100 * (by_chance if variant in chance else item in tops[variant])
            for variant, share in shares.items()
            if share
        ),
    )


def records(slate: SlateRanked) -> Iterator[SlateRanked]:
    """`slate` as records that an event may be as large as: `MAX_RANKED` items in each."""
    for first in range(0, len(slate.items), MAX_RANKED):
        yield replace(slate, items=slate.items[first : first + MAX_RANKED])
