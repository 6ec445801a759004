"""Sticky assignments of units in Redis: one round trip for a whole batch. Library: redis-py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import ClusterCrossSlotError, NoScriptError

from sluice.domain.assignment import Claim, StoredAssignment, decode_assignment, encode_assignment
from sluice.errors import InvalidEvent, TransportError
from sluice.names import Keys

__all__ = ["AssignmentStore"]

# Equal assignments are equal bytes, and there are few (variant, allocation) pairs: both directions are looked up.
MAX_CACHED = 10_000
CHUNK = 1000
"""Units of one call of the script, which nothing else of the server interrupts: about a millisecond."""

# One call for many units, and one text for all answers: a reply a unit costs the client more than the server. The
# lines are what was stored before, empty where this call stored what was wanted.
_CLAIM = """
local call, wanted, ttl_ms, out = redis.call, ARGV[1], ARGV[2], {}
for i, key in ipairs(KEYS) do
  local stored = call('GET', key)
  if stored then
    out[i] = stored
  else
    call('PSETEX', key, ttl_ms, wanted)
    out[i] = ''
  end
end
return table.concat(out, '\\n')
"""

_REPLACE = """
local stored = redis.call('GET', KEYS[1])
if stored == false or stored == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return {1, ARGV[2]}
end
return {0, stored}
"""


Group = tuple[str, StoredAssignment, int]
"""(experiment, what is wanted, TTL in ms): claims that differ in their units alone"""
Call = tuple[Group, Sequence[int]]
"""With the places of the claims"""


class AssignmentStore:
    """First writer wins, until the TTL of the first write ends. Redis 6.2 or later. Not thread-safe."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._claim = client.register_script(_CLAIM)
        self._chunk = CHUNK
        self._encoded: dict[StoredAssignment, bytes] = {}
        self._decoded: dict[bytes, StoredAssignment] = {}

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        """(assignment in force, made by this call) of every claim, in order, in one round trip.

        Raises TransportError when Redis is away (repeating the call is safe), InvalidEvent when something
        else wrote a key.
        """
        # Claims that want the same go together: their keys alone differ.
        places: dict[Group, list[int]] = {}
        for place, claim in enumerate(claims):
            places.setdefault((claim.experiment, claim.wanted, claim.ttl_ms), []).append(place)
        answers: list[Any] = [None] * len(claims)
        for ((_, wanted, _), rows), text in self._call(claims, places):
            made = (wanted, True)
            known = {b"": made}
            found = text.split(b"\n")
            if len(found) != len(rows):
                raise InvalidEvent(f"not assignments: {len(found)} lines for {len(rows)} units: {text[:80]!r}")
            for line in set(found) - {b""}:
                known[line] = (self._decode(line), False)
            for place, line in zip(rows, found, strict=True):
                answers[place] = known[line]
        return answers

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        """As `claim`, but each also overwrites the assignment it is paired with, if that still stands."""
        pipeline: Any = self._client.pipeline(transaction=False)
        for claim, old in claims:
            key = self._keys.assignment(claim.experiment, claim.unit)
            pipeline.eval(_REPLACE, 1, key, self._encode(old), self._encode(claim.wanted), str(claim.ttl_ms))
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

    def _call(self, claims: Sequence[Claim], places: Mapping[Group, Sequence[int]]) -> Iterable[tuple[Call, bytes]]:
        """Calls of the script, with their answers. Raises TransportError when Redis is away."""
        if not claims:
            return []
        for _ in range(3):
            calls = [
                (group, rows[start : start + self._chunk])
                for group, rows in places.items()
                for start in range(0, len(rows), self._chunk)
            ]
            try:
                try:
                    return zip(calls, self._send(claims, calls), strict=True)
                except NoScriptError:  # the first call on this server, or the first since it was restarted
                    self._client.script_load(_CLAIM)
            except ClusterCrossSlotError:  # a cluster, where every unit has a slot of its own
                self._chunk = 1
            except redis.RedisError as error:
                raise TransportError(f"Redis does not take assignments: {error}") from error
        raise TransportError("Redis does not take assignments: it forgets scripts as soon as they are loaded")

    def _send(self, claims: Sequence[Claim], calls: Sequence[Call]) -> list[bytes]:
        """Without a pipeline, which packs everything before it sends anything: the server works meanwhile."""
        pool: Any = self._client.connection_pool
        connection = pool.get_connection()
        try:
            for (experiment, wanted, ttl_ms), rows in calls:
                prefix = self._keys.assignment(experiment, "")
                keys = [prefix + claims[row].unit for row in rows]
                connection.send_command("EVALSHA", self._claim.sha, len(keys), *keys, self._encode(wanted), ttl_ms)
            return [connection.read_response() for _ in calls]
        except BaseException:
            connection.disconnect()  # answers may still be on their way
            raise
        finally:
            pool.release(connection)

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
