"""What the processes that lead lives last said of them, in Redis, for whoever asks. Libraries: msgspec, redis-py."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from sluice.adapters.redis import RedisError
from sluice.domain.lifecycle_waits import LifeTold
from sluice.errors import TransportError
from sluice.names import Keys

__all__ = ["LifeBoard"]

KEPT_S = 24 * 3600


class LifeBoard:
    """One record for each life. Every method raises TransportError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys, model: str, alias: str) -> None:
        self._client, self._key = client, keys.life_told(model, alias)

    def put(self, told: LifeTold) -> None:
        try:
            self._client.set(self._key, msgspec.json.encode(told), ex=KEPT_S)
        except RedisError as error:
            raise TransportError(f"cannot store what the lifecycle is at: {error}") from error

    def get(self) -> LifeTold | None:
        """None where nothing was said for a day, or another release said it so that this one cannot read it."""
        try:
            value = cast("bytes | None", self._client.get(self._key))
        except RedisError as error:
            raise TransportError(f"cannot read what the lifecycle is at: {error}") from error
        try:
            return None if value is None else msgspec.json.decode(value, type=LifeTold)
        except msgspec.DecodeError:
            return None
