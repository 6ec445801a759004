"""What a request knew and showed: topic `rankings`, from which drift is seen and models are trained again. Pure.

Library: msgspec.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from sluice.domain.events import SCHEMA_VERSION, Id, Name, TimeMs

__all__ = ["MAX_RANKED", "RankedItem", "SlateRanked", "columns_digest", "records", "shown_probability"]

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
    features: tuple[float, ...]
    """As they were served, in the order of the model's columns (`sluice.features`)"""


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
    v: int = SCHEMA_VERSION


def columns_digest(names: Sequence[str]) -> str:
    """16 hex digits that change with any name or their order."""
    return blake2b("\0".join(names).encode(), digest_size=8).hexdigest()


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
