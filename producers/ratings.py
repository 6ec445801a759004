"""A ratings log in memory, whatever file or generator it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["RatingsLog"]


@dataclass(frozen=True, eq=False)
class RatingsLog:
    """n ratings as columns, in the order of the source. `users` and `items` give the ids behind the codes."""

    name: str
    """What the log is, for people: `ml-latest-small`."""
    user: NDArray[np.int32]
    """(n,) index into `users`"""
    item: NDArray[np.int32]
    """(n,) index into `items`"""
    rating_milli: NDArray[np.int32]
    """(n,) thousandths"""
    at_ms: NDArray[np.int64]
    """(n,) event time"""
    users: Sequence[str]
    items: Sequence[str]
    genres: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Item id → its genres; items without any may be missing."""
    about: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """User id → attributes; users of whom nothing is known may be missing."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any rating and any attribute."""
        digest = hashlib.blake2b(digest_size=8)
        for column in (self.user, self.item, self.rating_milli, self.at_ms):
            digest.update(np.ascontiguousarray(column).data)
        for ids in (self.users, self.items):
            digest.update("\n".join(ids).encode())
        for user, known in sorted(self.about.items()):
            digest.update(f"\n{user}{sorted(known.items())}".encode())
        return digest.hexdigest()
