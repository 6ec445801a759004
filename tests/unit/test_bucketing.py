"""A unit's place and variant are the same in every process and for ever; places are uniform, and others by salt."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.domain.allocation import choose, parse_allocation_key
from sluice.domain.bucketing import bucket
from sluice.errors import InvalidEvent


@pytest.mark.parametrize(
    ("salt", "unit", "digest"),
    [
        # Source: GNU coreutils, `printf 'SALT\xffUNIT' | b2sum -l 64`.
        ("demo", "u1", 0x15111B57F6747C65),
        ("ab", "c", 0xD1A6A9B9EA9CBA96),
        ("a", "bc", 0xDC8B6DFF18E07135),
    ],
)
def test_the_place_is_the_first_53_bits_of_a_known_hash(salt: str, unit: str, digest: int) -> None:
    assert bucket(salt, unit) == (digest >> 11) / 2**53


def test_places_are_uniform_and_those_of_two_salts_are_independent() -> None:
    first, second = (np.array([bucket(salt, f"u{n}") for n in range(20_000)]) for salt in ("one", "other"))
    for places in (first, second):
        assert places.min() >= 0 and places.max() < 1
        tenths = np.histogram(places, bins=10, range=(0, 1))[0]
        assert np.abs(tenths - 2000).max() < 5 * np.sqrt(2000 * 0.9)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("place", "variant"), [(0.0, "a"), (0.1999, "a"), (0.2, "b"), (0.4999, "b"), (0.5, "d"), (1 - 2**-53, "d")]
)
def test_the_variant_depends_on_the_shares_and_not_on_the_order_they_come_in(place: float, variant: str) -> None:
    # place 0 |--a--| 0.2 |--b--| 0.5 |--d--| 1   (lower end included; c has no share)
    assert choose({"a": 20, "b": 30, "c": 0, "d": 50}, place) == variant
    assert choose({"d": 50, "c": 0, "b": 30, "a": 20}, place) == variant


@pytest.mark.parametrize("key", ["", "other", "a=", "a=x", "a=50,b", "a=101,b=-1", "a=200", "a=1.5,b=98.5"])
def test_what_is_no_allocation(key: str) -> None:
    with pytest.raises(InvalidEvent, match="not an allocation"):
        parse_allocation_key(key)
