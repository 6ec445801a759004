"""The allocation in force of each experiment, in Redis, where every router process reads it. Library: redis-py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from sluice.domain.allocation import allocation_key, parse_allocation_key
from sluice.errors import InvalidEvent, TransportError
from sluice.names import Keys

__all__ = ["AllocationStore"]

# One call, so that of two analyzers the one that is behind cannot win by being late. Versions stay far
# below 2^53, where Lua's numbers are exact.
_PUT = """
local stored = tonumber(redis.call('HGET', KEYS[1], 'version') or '')
if stored and stored >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'shares', ARGV[2])
return 1
"""


class AllocationStore:
    """Allocations by experiment: a hash {version, shares} each, versions only ever grow."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._put = client.register_script(_PUT)

    def put(self, experiment: str, version: int, shares: Mapping[str, int]) -> bool:
        """Store `shares` (variant → whole percents) unless the stored version is newer or equal; True when stored.

        Raises TransportError when Redis is away.
        """
        key = self._keys.allocation(experiment)
        try:
            return bool(self._put(keys=[key], args=[version, allocation_key(shares)]))
        except redis.RedisError as error:
            raise TransportError(f"cannot store the allocation of {experiment}: {error}") from error

    def get(self, experiment: str) -> tuple[int, dict[str, int]] | None:
        """(version, variant → whole percents), or None before the first `put`.

        Raises TransportError when Redis is away, InvalidEvent when something else wrote the key.
        """
        key = self._keys.allocation(experiment)
        try:
            found = cast("list[bytes | None]", self._client.hmget(key, ["version", "shares"]))
        except redis.RedisError as error:
            raise TransportError(f"cannot read the allocation of {experiment}: {error}") from error
        version, shares = found
        if version is None and shares is None:
            return None
        try:
            return int(version or b""), parse_allocation_key((shares or b"").decode())
        except ValueError as error:
            raise InvalidEvent(f"Redis key {key} does not hold an allocation: {found}") from error
