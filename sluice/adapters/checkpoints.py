"""How far a replay has come, and how far the counting has followed it, in Redis. Library: redis-py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import msgspec
import redis
from msgspec import Struct

from sluice.adapters.counters import CounterStore
from sluice.errors import TransportError
from sluice.names import Keys

__all__ = ["ReplayCheckpoint", "ReplayStore", "ReplayTruth"]

TTL_S = 30 * 24 * 3600


class ReplayCheckpoint(Struct, frozen=True, kw_only=True):
    """Everything of the slates before `next_slate` is acknowledged by the broker, outcomes included."""

    next_slate: int
    totals: dict[str, object]
    """What was counted over those slates; the replay's own business."""
    reached_ms: int = 0
    """No later event time had been sent by then: where the final heartbeat starts from when nothing is left to send."""
    offsets: dict[str, dict[int, int]]
    """Topic → partition → next offset: a log that ends before has been lost."""
    finished: bool = False


class ReplayTruth(Struct, frozen=True, kw_only=True):
    """What a replay knows to be true of the experiment it ranks for, over the slates sent so far (docs/replay.md)."""

    slates: int
    true_rates: dict[str, float | None]
    """Variant → click rate, had it ranked every slate; null before the first"""
    regret: int
    """In clicks"""
    regret_fixed_split: float
    finished: bool = False


class ReplayStore:
    """One checkpoint by name of a replay, and what is true by name of an experiment."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._counters = CounterStore(client, keys)

    def counted(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Partition → next (impressions, clicks) offset counted. Raises TransportError when Redis is away."""
        try:
            return self._counters.offsets(partitions)
        except redis.RedisError as error:
            raise TransportError(f"cannot read how far the counting is: {error}") from error

    def reached_ms(self) -> int | None:
        """Largest event time counted on any partition; None before the first count.

        Raises TransportError when Redis is away.
        """
        try:
            found = [self._counters.read(partition) for partition in self._counters.partitions()]
        except redis.RedisError as error:
            raise TransportError(f"cannot read how far the counting is: {error}") from error
        return max((counts.at_ms for counts in found if counts is not None), default=None)

    def save(self, name: str, checkpoint: ReplayCheckpoint) -> None:
        """Raises TransportError when Redis is away."""
        try:
            self._client.set(self._keys.replay(name), msgspec.json.encode(checkpoint), ex=TTL_S)
        except redis.RedisError as error:
            raise TransportError(f"cannot store the checkpoint of the replay: {error}") from error

    def save_truth(self, experiment: str, truth: ReplayTruth) -> None:
        """Kept as long as a checkpoint. Raises TransportError when Redis is away."""
        try:
            self._client.set(self._keys.truth(experiment), msgspec.json.encode(truth), ex=TTL_S)
        except redis.RedisError as error:
            raise TransportError(f"cannot store what the replay knows: {error}") from error

    def truths(self, experiments: Iterable[str]) -> dict[str, ReplayTruth]:
        """Of those experiments that a replay ranks for. Raises TransportError when Redis is away."""
        wanted = list(experiments)
        try:
            with self._client.pipeline(transaction=False) as pipe:  # on a cluster the keys lie apart
                for name in wanted:
                    pipe.get(self._keys.truth(name))
                answers = pipe.execute()
        except redis.RedisError as error:
            raise TransportError(f"cannot read what the replay knows: {error}") from error
        found = {}
        for name, data in zip(wanted, answers, strict=True):
            try:
                if data is not None:
                    found[name] = msgspec.json.decode(data, type=ReplayTruth)
            except msgspec.DecodeError:
                continue
        return found

    def load(self, name: str) -> ReplayCheckpoint | None:
        """None when there is none, or none that this version can read. Raises TransportError when Redis is away."""
        try:
            data = cast("bytes | None", self._client.get(self._keys.replay(name)))
        except redis.RedisError as error:
            raise TransportError(f"cannot read the checkpoint of the replay: {error}") from error
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=ReplayCheckpoint)
        except msgspec.DecodeError:
            return None
