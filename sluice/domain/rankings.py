"""What a request knew and showed: topic `rankings`, from which drift is seen and models are trained again. Pure.

Library: msgspec.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sluice.domain.events import SCHEMA_VERSION, Id, Name, TimeMs

__all__ = ["RankedItem", "SlateRanked"]


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
    user_id: Id
    slate_id: Annotated[str, Meta(max_length=128)] = ""
    at_ms: TimeMs
    items: tuple[RankedItem, ...]
    """Best first"""
    v: int = SCHEMA_VERSION
