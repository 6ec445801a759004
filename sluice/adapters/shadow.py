"""Sums of shadow comparisons in Redis, moved on with their offset by one atomic call. Library: redis-py.

`shadow:{p}` is one hash for partition p of topic `shadow`: `offset`, the next one to be counted, and for each
`["experiment","variant","version","shadow","shadow_version"]` the sums as JSON (`sluice.domain.shadow.ShadowSums`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import redis

from sluice.domain.shadow import ShadowFigures, ShadowKey, ShadowSums, figures
from sluice.errors import Fenced, TransportError
from sluice.names import Keys

__all__ = ["ShadowStore"]

T = TypeVar("T")

_OFFSET = b"offset"
_COMMIT = """
if (redis.call('HGET', KEYS[1], 'offset') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'offset', unpack(ARGV, 2))
return 1
"""


class ShadowStore:
    """Reads and writes the sums of every partition. Every method raises TransportError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._commit = client.register_script(_COMMIT)

    def load(self, partition: int) -> tuple[int, dict[ShadowKey, ShadowSums]]:
        """(next offset, sums of what lies before it); (0, {}) when nothing was counted."""
        return self._read(self._keys.shadow(partition))

    def commit(self, partition: int, expected: int, offset: int, changed: Mapping[ShadowKey, ShadowSums]) -> None:
        """Set these sums, which include the log up to `offset`. Raises Fenced unless `expected` still stands there."""
        fields = [part for key, sums in changed.items() for part in (_json(key), _json(sums))]
        arguments: list[bytes | int] = [expected, offset, *fields]
        if not _asking(lambda: self._commit(keys=[self._keys.shadow(partition)], args=arguments)):
            raise Fenced(f"shadow partition {partition}: another worker has moved it on from offset {expected}")

    def reset(self, partition: int) -> None:
        """Forget a partition: its log began anew."""
        _asking(lambda: self._client.delete(self._keys.shadow(partition)))

    def figures(self, experiment: str | None = None) -> list[ShadowFigures]:
        """Of all partitions together, by key; only those of `experiment` when one is named."""
        merged: dict[ShadowKey, ShadowSums] = {}
        # A prefix may hold characters that mean something in a pattern.
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._keys.shadow(0)).replace("{0}", "{*}")
        for name in _asking(lambda: list(self._client.scan_iter(match=pattern, count=1000))):
            for key, sums in self._read(name.decode())[1].items():
                if experiment in (None, key.experiment):
                    merged.setdefault(key, ShadowSums()).merge(sums)
        return [figures(key, merged[key]) for key in sorted(merged)]

    def _read(self, name: str) -> tuple[int, dict[ShadowKey, ShadowSums]]:
        fields = _asking(lambda: self._client.hgetall(name))
        return int(fields.pop(_OFFSET, 0)), {
            ShadowKey(*msgspec.json.decode(key, type=tuple[str, str, str, str, str])): msgspec.json.decode(
                value, type=ShadowSums
            )
            for key, value in fields.items()
        }


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _asking(command: Callable[[], T]) -> Any:
    try:
        return command()
    except redis.RedisError as error:
        raise TransportError(f"Redis does not answer about shadows: {error}") from error
