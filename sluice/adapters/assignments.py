"""Sticky assignments of units in Redis: one pipelined round trip for a whole batch. Library: redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from sluice.domain.assignment import Claim, StoredAssignment, decode_assignment, encode_assignment
from sluice.errors import TransportError
from sluice.names import Keys

__all__ = ["AssignmentStore"]

# Equal assignments are equal bytes, and there are few (variant, allocation) pairs: both directions are looked up.
MAX_CACHED = 10_000

_REPLACE = """
local stored = redis.call('GET', KEYS[1])
if stored == false or stored == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return {1, ARGV[2]}
end
return {0, stored}
"""


class AssignmentStore:
    """First writer wins, until the TTL of the first write ends. Redis 6.2 or later. Not thread-safe."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._encoded: dict[StoredAssignment, bytes] = {}
        self._decoded: dict[bytes, StoredAssignment] = {}

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        """(assignment in force, made by this call) of every claim, in order, in one round trip.

        Raises TransportError when Redis is away (repeating the call is safe), InvalidEvent when something
        else wrote a key.
        """
        if not claims:
            return []
        pipeline: Any = self._client.pipeline(transaction=False)
        for experiment, unit, wanted, ttl_ms in claims:
            key = self._keys.assignment(experiment, unit)
            # SET with both NX and GET is one command only from Redis 7 on.
            pipeline.execute_command("SET", key, self._encode(wanted), "NX", "PX", ttl_ms)
            pipeline.execute_command("GET", key)
        answers = self._execute(pipeline)
        return [
            # A key that expired between the two commands was ours or is nobody's: what was wanted holds.
            (self._decode(stored) if stored is not None else claim.wanted, bool(made) or stored is None)
            for claim, made, stored in zip(claims, answers[::2], answers[1::2], strict=True)
        ]

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        """As `claim`, but each also overwrites the assignment it is paired with, if that still stands."""
        pipeline: Any = self._client.pipeline(transaction=False)
        for (experiment, unit, wanted, ttl_ms), old in claims:
            key = self._keys.assignment(experiment, unit)
            pipeline.eval(_REPLACE, 1, key, self._encode(old), self._encode(wanted), str(ttl_ms))
        return [(self._decode(stored), bool(made)) for made, stored in self._execute(pipeline)]

    def lookup(self, units: Sequence[tuple[str, str]]) -> list[StoredAssignment | None]:
        """The assignment of every (experiment, unit), None where there is none, in one round trip.

        Raises TransportError when Redis is away, InvalidEvent when something else wrote a key.
        """
        if not units:
            return []
        pipeline: Any = self._client.pipeline(transaction=False)
        for experiment, unit in units:
            pipeline.execute_command("GET", self._keys.assignment(experiment, unit))
        return [None if stored is None else self._decode(stored) for stored in self._execute(pipeline)]

    def _execute(self, pipeline: Any) -> list[Any]:
        try:
            answers: list[Any] = pipeline.execute()
        except redis.RedisError as error:
            raise TransportError(f"Redis does not take assignments: {error}") from error
        return answers

    def _encode(self, assignment: StoredAssignment) -> bytes:
        data = self._encoded.get(assignment)
        if data is None:
            if len(self._encoded) >= MAX_CACHED:
                self._encoded.clear()
            data = self._encoded[assignment] = encode_assignment(assignment)
        return data

    def _decode(self, data: bytes) -> StoredAssignment:
        assignment = self._decoded.get(data)
        if assignment is None:
            if len(self._decoded) >= MAX_CACHED:
                self._decoded.clear()
            assignment = self._decoded[data] = decode_assignment(data)
        return assignment
