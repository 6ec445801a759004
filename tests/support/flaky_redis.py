"""A Redis client that fails at random: before a command, after it, in the middle of a pipeline, or with a delay."""

from __future__ import annotations

import random
from typing import Any

import redis
from redis.client import Pipeline


class FlakyRedis(redis.Redis):
    """Set `rng`, `rate` (failures a round trip) and `late` after construction."""

    rng: random.Random
    rate: float
    late: list[list[tuple[Any, ...]]]
    """Commands that were sent and whose answer nobody waited for: still on their way to the server"""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.rng.random() >= self.rate:
            return super().execute_command(*args, **options)
        fate = self.rng.randrange(3)
        if fate == 1:
            super().execute_command(*args, **options)
        elif fate == 2:
            self.late.append([args])
        raise redis.ConnectionError("planted")

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        pipe = _FlakyPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.client = self
        return pipe


class _FlakyPipeline(Pipeline):
    client: FlakyRedis

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        client = self.client
        if client.rng.random() >= client.rate:
            return super().execute(raise_on_error)
        sent = client.rng.randrange(len(self.command_stack) + 1)
        rest = [command[0] for command in self.command_stack[sent:]]
        del self.command_stack[sent:]
        super().execute(raise_on_error)
        if client.rng.random() < 0.5:
            client.late.append(rest)
        raise redis.ConnectionError("planted")
