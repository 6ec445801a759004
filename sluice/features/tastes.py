"""Vectors of users and items that are learned from one slate at a time. Library: numpy.

An item's vector times a user's vector is what the user rates the item above what its quality and the user's own
level let expect: collaborative filtering by online matrix factorisation, each step normalised by the length of its
input, which keeps it stable whatever the data (normalised least mean squares; Haykin, Adaptive Filter Theory, ch. 7).

Components are whole numbers, `UNIT` to one, of at most `LIMIT`. Sums of their products stay below 2^53, where float64
is exact: the order of a summation, the BLAS or the machine cannot change a single bit.
"""

from __future__ import annotations

from hashlib import shake_128

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMENSIONS", "LIMIT", "UNIT", "learn", "matches", "start"]

DIMENSIONS = 32
UNIT = 65_536.0
LIMIT = 8 * UNIT
START = 0.06
"""Items begin within ± this: at zero nothing could ever be learned, and large beginnings are noise."""
USER_RATE = ITEM_RATE = 0.5
DAMPING = 1.0
"""Added to squared lengths, so that first steps are small."""

Vector = NDArray[np.float64]


def start(item: str) -> Vector:
    """(DIMENSIONS,) The vector an item begins with: a function of its id. Users begin at zero."""
    digest = shake_128(item.encode()).digest(2 * DIMENSIONS)
    return np.rint(np.frombuffer(digest, dtype="<i2") * (START * UNIT / 32_768))


def matches(items: Vector, user: Vector) -> Vector:
    """items (k, DIMENSIONS), user (DIMENSIONS,) or one a row → (k,) whole thousandths of a star."""
    products = items @ user if user.ndim == 1 else np.einsum("ij,ij->i", items, user)
    return np.asarray(np.rint(products * (1000 / (UNIT * UNIT))))


def learn(items: Vector, user: Vector, surprise: Vector) -> tuple[Vector, Vector]:
    """One slate. surprise: (k,) thousandths of a star. Returns new (items, user); the arguments stay as they are."""
    error = _whole(surprise * (UNIT / 1000) - (items @ user) * (1 / UNIT))
    flat = items.ravel()
    user = _whole(user + (error @ items) * (USER_RATE * UNIT / (DAMPING * UNIT * UNIT + float(flat @ flat))))
    error *= ITEM_RATE * UNIT / (DAMPING * UNIT * UNIT + float(user @ user))
    change = np.multiply.outer(error, user)
    change += items
    return _whole(change), user


def _whole(values: Vector) -> Vector:
    np.rint(values, out=values)
    np.maximum(values, -LIMIT, out=values)  # np.clip takes three times as long for so few
    np.minimum(values, LIMIT, out=values)
    return values
