"""What the router's HTTP API takes and answers of drift, as frozen structs. Library: msgspec."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from sluice.domain.drift import DriftReport
from sluice.domain.events import Id

__all__ = ["MAX_CHECKED", "MAX_COLUMNS", "DriftAnswer", "DriftCheckBody", "DriftRow", "DriftSeen"]

MAX_CHECKED = 1000
"""Rows of one check"""
MAX_COLUMNS = 256


class DriftSeen(Struct, frozen=True, kw_only=True):
    """What a monitor last said of one version of a model."""

    checked_ms: int
    """When, by its clock: a monitor that runs looks every few seconds"""
    report: DriftReport


class DriftAnswer(Struct, frozen=True, kw_only=True):
    """One of every version that `sluice drift --follow` watched lately, the last one first."""

    drift: tuple[DriftSeen, ...]


Value: TypeAlias = Annotated[float, Meta(ge=-1e30, le=1e30)]


class DriftRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item that was shown, or would be."""

    user_id: Id
    """Rows of a user hang together: they count as one witness"""
    features: Annotated[tuple[Value | None, ...], Meta(min_length=1, max_length=MAX_COLUMNS)]
    """As they were served; null where one is missing"""
    score: Value
    """What the model said"""


class DriftCheckBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /drift-check`: rows beside the reference that was logged with a model."""

    model: Annotated[
        str, Meta(pattern=r"^[^/@\x00-\x1f]{1,200}(@[A-Za-z0-9_.-]{1,200}|/[1-9][0-9]{0,8})$", max_length=256)
    ]
    """`NAME@ALIAS` or `NAME/VERSION`"""
    rows: Annotated[tuple[DriftRow, ...], Meta(min_length=1, max_length=MAX_CHECKED)]
    columns: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=MAX_COLUMNS)] | None = None
    """Names of the features of every row; by default those of the model, in its order"""
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Probability that the answer says `drifted` where nothing changed"""
