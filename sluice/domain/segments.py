"""Segments: parts of an experiment's impressions, counted as experiments of their own. Pure.

Impressions of experiment `demo` whose attribute `history` is `new` also carry the variant under the name
`demo@history=new`. Counting takes any name, so a segment gets the same exact sums as its experiment.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sluice.domain.definitions import OTHER

__all__ = ["MAX_KEY", "MAX_VALUE", "Segment", "parse_segment", "segment_name"]

MAX_KEY = 40
MAX_VALUE = 40
"""Characters of a value; a longer one is counted as `other`"""
_NOT_IN_VALUES = re.compile(r"[^\w.+-]+")


class Segment(NamedTuple):
    """What the name of a segment says."""

    experiment: str
    key: str
    value: str


def segment_name(experiment: str, key: str, value: str) -> str:
    """The name under which the part of `experiment` with attribute `key` = `value` is counted.

    In values, each run of characters other than letters, digits and `_ . + -` becomes one `_`; an empty value and
    one of more than `MAX_VALUE` characters become `other`.
    """
    clean = _NOT_IN_VALUES.sub("_", value)
    return f"{experiment}@{key}={clean if 0 < len(clean) <= MAX_VALUE else OTHER}"


def parse_segment(name: str) -> Segment | None:
    """Inverse of `segment_name`; None for the name of an experiment, which holds neither `@` nor `=`."""
    experiment, at, rest = name.partition("@")
    key, equals, value = rest.partition("=")
    return Segment(experiment, key, value) if experiment and at and key and equals and value else None
