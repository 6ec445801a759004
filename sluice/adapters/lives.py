"""Who leads a life, and what that process last said of it, in Redis, for whoever asks. Libraries: msgspec, redis-py."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from sluice.adapters.lease import holder
from sluice.adapters.redis import RedisError
from sluice.domain.lifecycle_waits import LifeAnswer, WaitsTold
from sluice.errors import TransportError
from sluice.names import Keys

__all__ = ["LifeBoard"]

KEPT_S = 24 * 3600


class LifeBoard:
    """One record for each life, beside its lease. Every method raises TransportError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys, model: str, alias: str) -> None:
        self._client, self._key, self._lease = client, keys.life_told(model, alias), keys.lifecycle(model, alias)

    def put(self, told: WaitsTold) -> None:
        try:
            self._client.set(self._key, msgspec.json.encode(told), ex=KEPT_S)
        except RedisError as error:
            raise TransportError(f"cannot store what the lifecycle is at: {error}") from error

    def get(self) -> LifeAnswer:
        """What a process said that leads no more is left out, and what another release said that we cannot read."""
        leader = holder(self._client, self._lease)
        if leader is None:
            return LifeAnswer(leader=None, waits=None)
        try:
            value = cast("bytes | None", self._client.get(self._key))
        except RedisError as error:
            raise TransportError(f"cannot read what the lifecycle is at: {error}") from error
        try:
            waits = None if value is None else msgspec.json.decode(value, type=WaitsTold)
        except msgspec.DecodeError:
            waits = None
        return LifeAnswer(leader=leader, waits=waits)
