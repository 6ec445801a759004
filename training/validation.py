"""Checks of the data before anything is trained on it: every complaint is one line. Library: pandera."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pandera.pandas as pa

from producers.ratings import RatingsLog
from sluice.errors import ConfigError
from sluice.features.definition import MAX_RATING_MILLI
from training.dataset import Dataset
from training.models import validation_split

__all__ = ["check_balance", "check_ratings"]

EARLIEST_MS, LATEST_MS = 631_152_000_000, 2_145_916_800_000
"""1990 to 2038"""
RAREST = 0.01
"""A class with a smaller share is not learned from but memorised."""


def check_ratings(log: RatingsLog, titles: Mapping[str, str]) -> None:
    """Ranges, duplicates and references. titles: of the items, when the data set has them. Raises ConfigError."""
    frame = pd.DataFrame({
        "user": np.asarray(log.users)[log.user],
        "item": np.asarray(log.items)[log.item],
        "rating": log.rating_milli / 1000,
        "time": log.at_ms,
    })  # fmt: skip
    known = [pa.Check.isin(set(titles), error="is not among the items of the data set")] if titles else []
    top = MAX_RATING_MILLI / 1000
    schema = pa.DataFrameSchema(
        {
            "user": pa.Column(str),
            "item": pa.Column(str, known),
            "rating": pa.Column(float, pa.Check.in_range(0, top, error=f"must lie in [0, {top:g}]")),
            "time": pa.Column(
                int, pa.Check.in_range(EARLIEST_MS, LATEST_MS, error="must be milliseconds of 1990–2037")
            ),
        },
        unique=["user", "item", "time"],
    )
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise ConfigError(f"{log.name}: {_first(frame, errors.failure_cases)}") from errors


def check_balance(data: Dataset) -> None:
    """Both parts must hold slates, and clicks as well as none, of several users each. Raises ConfigError.

    So must, but for the users, what a training cuts off the train part to validate by.
    """
    for part, slates in (("train", data.train), ("test", data.test)):
        if not len(slates):
            raise ConfigError(f"{data.name}: the {part} part has no slates: change --train-share, or give more ratings")
        share = float(data.log.liked[data.rows(slates)].mean())
        if not RAREST <= share <= 1 - RAREST:
            raise ConfigError(
                f"{data.name}: {share:.1%} of the impressions of the {part} part are clicks: one class only, nothing "
                "to learn (see --click-from)"
            )
        rows = data.rows(slates)
        user, liked = np.repeat(data.log.user[slates], np.diff(data.log.offsets)[slates]), data.log.liked[rows]
        if min(len(np.unique(user[liked])), len(np.unique(user[~liked]))) < 2:
            raise ConfigError(
                f"{data.name}: the {part} part is of one user only, so nothing can be said about others: change "
                "--train-share, or give more ratings"
            )
    early, late = validation_split(data, data.train)
    for slates in (early, late, *(validation_split(data, early) if len(early) else ())):
        if not len(slates) or data.log.liked[data.rows(slates)].all() or not data.log.liked[data.rows(slates)].any():
            raise ConfigError(
                f"{data.name}: clicks, or what was not clicked, are missing from a stretch of the train part, so that "
                "models cannot be validated: give more ratings, or change --train-share or --click-from"
            )


def _first(frame: pd.DataFrame, failures: pd.DataFrame) -> str:
    """Of the first rule that is broken: how often, and where first."""
    failure = failures.iloc[0]
    if failure["check"] == "multiple_fields_uniqueness":
        keys = ["user", "item", "time"]
        rows = np.flatnonzero(frame.duplicated(keys))
        row = frame.iloc[rows[0]]
        copies = "1 rating is a duplicate" if len(rows) == 1 else f"{len(rows):,} ratings are duplicates"
        return f"{copies}; first: user {row['user']}, item {row['item']} at {row['time']}"
    same = failures[(failures["column"] == failure["column"]) & (failures["check"] == failure["check"])]
    row = frame.iloc[int(failure["index"])]
    broken = "1 rating breaks a rule" if len(same) == 1 else f"{len(same):,} ratings break a rule"
    return (
        f"{broken}: {failure['column']} {failure['check']}; "
        f"first: user {row['user']}, item {row['item']}, rating {row['rating']:g} at {row['time']}"
    )
