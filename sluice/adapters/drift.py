"""What drift monitors last said, in Redis, for whoever asks. Libraries: msgspec, redis-py."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from sluice.domain.api_drift import DriftSeen
from sluice.errors import TransportError
from sluice.names import Keys

__all__ = ["KEPT", "DriftBoard"]

KEPT = 32
"""Versions of models, and parts of them: whatever was looked at longest ago makes room"""

_decoder = msgspec.json.Decoder(DriftSeen)


class DriftBoard:
    """The latest report of each version and part: one hash, its fields `NAME/VERSION` or `NAME/VERSION PART`."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client, self._key = client, keys.drift

    def put(self, seen: DriftSeen) -> None:
        """Raises TransportError when Redis is away."""
        field = " ".join(filter(None, [f"{seen.report.model}/{seen.report.version}", seen.report.part]))
        try:
            self._client.hset(self._key, field, msgspec.json.encode(seen))
            if self._client.hlen(self._key) > KEPT:
                old = sorted(self._read(), key=lambda found: found[1].checked_ms if found[1] else 0)[:-KEPT]
                self._client.hdel(self._key, *(name for name, _ in old))
        except redis.RedisError as error:
            raise TransportError(f"cannot store what drift was seen: {error}") from error

    def latest(self, model: str | None = None) -> list[DriftSeen]:
        """Of this registered model, or of all; the last one first. Raises TransportError when Redis is away."""
        try:
            found = [seen for _, seen in self._read() if seen is not None]
        except redis.RedisError as error:
            raise TransportError(f"cannot read what drift was seen: {error}") from error
        wanted = [seen for seen in found if model in (None, seen.report.model)]
        return sorted(wanted, key=lambda seen: -seen.checked_ms)

    def _read(self) -> list[tuple[bytes, DriftSeen | None]]:
        """By field; None what another release wrote so that this one cannot read it."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
        return [(name, _decoded(value)) for name, value in found.items()]


def _decoded(value: bytes) -> DriftSeen | None:
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError:
        return None
