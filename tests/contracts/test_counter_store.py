"""The contract of the counter store, on every Redis there is and on the in-memory one of the brute-force tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
import pytest
import redis
from memory_store import MemoryStore
from ports import own_port

from infra import redis_server
from infra.server import Server
from sluice.adapters.counters import CounterStore, PartitionUpdate
from sluice.domain.definitions import Definitions
from sluice.domain.events import MovedUnits
from sluice.errors import Fenced
from sluice.names import Keys

Store: TypeAlias = CounterStore | MemoryStore

BY = Definitions(1000, 10, 5000, 3600)
OTHER_BY = Definitions(2000, 10, 5000, 3600)
HUGE = 2**53 + 1
"""The first integer that a double cannot hold."""
TWO_TO_200 = 2**200 + 1


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Name of a server → its URL; each is started once."""
    running: dict[str, Server] = {}

    def url(name: str) -> str:
        executable = redis_server.bundled() if name == "bundled" else redis_server.installed()
        if executable is None:
            pytest.skip(f"there is no {name} redis-server")
        if name not in running:
            folder = tmp_path_factory.mktemp(name)
            running[name] = redis_server.start(
                executable, folder, folder / "redis.log", own_port(), memory="256mb", persist=False
            )
        return running[name].address

    yield url
    for server in running.values():
        server.stop()


@pytest.fixture(params=["bundled", "installed"])
def client(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers(request.param)) as connected:
        connected.flushall()
        yield connected


@pytest.fixture(params=["memory", "bundled", "installed"])
def store(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with redis.Redis.from_url(servers(request.param)) as connected:
        connected.flushall()
        yield CounterStore(connected, Keys())


def update(
    offsets: str,
    expected: str = "",
    *,
    partition: int = 0,
    by: Definitions = BY,
    expected_by: Definitions | None = None,
    reset: bool = False,
    **given: Any,
) -> PartitionUpdate:
    """A commit from `expected` to `offsets`. Without `expected`, the first one."""
    counts = {
        "offsets": offsets,
        "low": "0,0",
        "start": "0,0",
        "time": "7,5",
        "gauges": "2,3",
        "outcomes": '["click"]',
        "definitions": by.encode(),
        **given.pop("counts", {}),
    }
    if expected_by is None and expected:
        expected_by = by
    return PartitionUpdate(
        partition=partition,
        expected_offsets=expected,
        expected_definitions=expected_by.encode() if expected_by else "",
        reset=reset,
        counts=counts,
        units=given.pop("units", {}),
        buckets=given.pop("buckets", {}),
        **given,
    )


class TestEveryStore:
    def test_nothing_is_there_at_first(self, store: Store) -> None:
        assert store.read(3) is None
        assert store.read_all(3) == (None, {})
        assert store.partitions() == []
        assert store.offsets([0, 3]) == {0: (0, 0), 3: (0, 0)}
        assert store.rows(3, ["u"], ["b", "c"]) == [None, None, None]

    def test_what_is_committed_is_read(self, store: Store) -> None:
        committed = update(
            "12,5",
            counts={
                '["e","a","a=50,b=50"]': "3,7,21",
                '["e","a","a=50,b=50","click"]': "1,2,3,4,5,6",
                '["e","b"]': "8,9",
                "impressions.counted": "7",
                "clicks.late": "1",
                "low": "4,2",
                "start": "1,0",
            },
            units={'["e","user","unit"]': '[["e","a","a=50,b=50"]];3,1,0'},
            buckets={'["e","a",3600]': "7,1,4"},
        )
        assert store.commit([committed]) == [None]
        found, buckets = store.read_all(0)
        assert found is not None
        assert found == store.read(0)
        assert (found.impressions_offset, found.clicks_offset) == (12, 5)
        assert (found.impressions_low, found.clicks_low) == (4, 2)
        assert (found.impressions_start, found.clicks_start) == (1, 0)
        assert (found.at_ms, found.watermark_ms, found.waiting, found.open) == (7, 5, 2, 3)
        assert found.definitions == BY
        assert found.records == {"impressions.counted": 7, "clicks.late": 1}
        (cell,) = found.cells
        assert (cell.experiment, cell.variant, cell.allocation) == ("e", "a", "a=50,b=50")
        sums = cell.statistics
        assert (sums.units, sums.impressions, sums.impressions_squared) == (3, 7, 21)
        assert sums.outcome("click").value_squared == 5
        assert found.moved == (MovedUnits(experiment="e", variant="b", units=8, impressions=9),)
        assert buckets == {'["e","a",3600]': (7, 1, 4)}
        assert store.rows(0, ['["e","user","unit"]', "none"], ['["e","a",3600]']) == [
            '[["e","a","a=50,b=50"]];3,1,0',
            None,
            "7,1,4",
        ]
        assert store.partitions() == [0]
        assert store.offsets([0, 1]) == {0: (12, 5), 1: (0, 0)}

    def test_a_commit_changes_only_what_it_names(self, store: Store) -> None:
        first = update("1,0", counts={"impressions.counted": "1"}, units={"u": "1"}, buckets={"b": "1"})
        second = update("2,0", "1,0", counts={"clicks.counted": "4"}, units={"v": "2"}, buckets={"b": "2"})
        assert store.commit([first]) == [None]
        assert store.commit([second]) == [None]
        found = store.read(0)
        assert found is not None
        assert found.records == {"impressions.counted": 1, "clicks.counted": 4}
        assert store.rows(0, ["u", "v"], ["b"]) == ["1", "2", "2"]

    @pytest.mark.parametrize(
        "stale",
        [
            update("9,9"),  # believes that nothing is there
            update("9,9", "4,5"),  # another worker was quicker
            update("9,9", "5,"),
            update("9,9", "5,55"),
            update("9,9", "5,5", by=OTHER_BY),  # another worker counts with other definitions
            update("9,9", "5,5", by=OTHER_BY, expected_by=OTHER_BY, reset=True),
        ],
    )
    def test_a_stale_commit_is_refused_and_writes_nothing(self, store: Store, stale: PartitionUpdate) -> None:
        assert store.commit([update("5,5", counts={"clicks.late": "1"}, units={"u": "1"}, buckets={"b": "1"})]) == [
            None
        ]
        stale.counts["clicks.late"] = "99"
        stale.units["u"] = stale.buckets["b"] = stale.units["v"] = "99"
        before = store.read_all(0)
        (answer,) = store.commit([stale])
        assert isinstance(answer, Fenced)
        assert "partition 0" in str(answer)
        assert "5,5" in str(answer)
        assert store.read_all(0) == before
        assert store.rows(0, ["u", "v"], ["b"]) == ["1", None, "1"]

    def test_a_commit_is_refused_when_the_counts_are_gone(self, store: Store) -> None:
        (answer,) = store.commit([update("9,9", "5,5")])
        assert isinstance(answer, Fenced)
        assert store.read(0) is None
        assert store.partitions() == []

    def test_a_reset_leaves_nothing_of_before(self, store: Store) -> None:
        before = update("5,5", counts={"clicks.late": "1"}, units={"u": "1"}, buckets={"b": "1"})
        assert store.commit([before]) == [None]
        # A recount may begin with the offsets that stood there before: the definitions tell them apart.
        again = update("5,5", "5,5", by=OTHER_BY, expected_by=BY, reset=True, units={"v": "2"})
        assert store.commit([again]) == [None]
        found, buckets = store.read_all(0)
        assert found is not None
        assert found.definitions == OTHER_BY
        assert found.records == {}
        assert buckets == {}
        assert store.rows(0, ["u", "v"], ["b"]) == [None, "2", None]
        (late,) = store.commit([update("6,5", "5,5", by=BY)])
        assert isinstance(late, Fenced)

    @pytest.mark.parametrize("fields", [999, 1000, 1001, 4001, 20_000])
    def test_a_commit_of_any_size(self, store: Store, fields: int) -> None:
        """Lua's unpack takes about 8,000 arguments, and a script is sent in steps below that."""
        units = {f"unit {n}": f"{n},{n + 1},{n * n}" for n in range(fields)}
        buckets = {f"bucket {n}": str(n) for n in range(fields + 1)}
        counts = {f"records.{n}": str(n) for n in range(fields + 2)}
        assert store.commit([update("1,1", counts=counts, units=units, buckets=buckets)]) == [None]
        found, read = store.read_all(0)
        assert found is not None
        assert found.records == {f"records.{n}": n for n in range(fields + 2)}
        assert read == {f"bucket {n}": (n,) for n in range(fields + 1)}
        assert store.rows(0, list(units), ["bucket 3"]) == [*units.values(), "3"]

    @pytest.mark.parametrize("number", [HUGE, TWO_TO_200, -HUGE, -TWO_TO_200])
    def test_integers_beyond_a_double_survive(self, store: Store, number: int) -> None:
        counts = {
            '["e","a",""]': f"{HUGE},{HUGE},{abs(number)}",
            '["e","a","","click"]': f"1,2,3,{number},{number * number},{number}",
            "impressions.counted": str(HUGE),
        }
        offsets = f"{HUGE},{HUGE}"
        assert store.commit([update(offsets, counts=counts, units={"u": str(number)}, buckets={"b": str(number)})]) == [
            None
        ]
        found, buckets = store.read_all(0)
        assert found is not None
        assert found.impressions_offset == HUGE
        assert found.records == {"impressions.counted": HUGE}
        click = found.cells[0].statistics.outcome("click")
        assert (click.value, click.value_squared, click.value_impressions) == (number, number * number, number)
        assert store.rows(0, ["u"], ["b"]) == [str(number)] * 2
        assert buckets == {"b": (number,)}
        # The fence compares text: one that differs beyond a double's precision is another one.
        (answer,) = store.commit([update("1,1", f"{HUGE - 1},{HUGE}")])
        assert isinstance(answer, Fenced)

    def test_partitions_of_one_call_do_not_depend_on_each_other(self, store: Store) -> None:
        assert (
            store.commit([update("1,1", partition=p, counts={"clicks.late": str(p)}) for p in (2, 0, 11)]) == [None] * 3
        )
        answers = store.commit(
            [
                update("2,2", "1,1", partition=11),
                update("9,9", "7,7", partition=0),
                update("3,3", "1,1", partition=2),
                update("1,0", partition=5),
            ]
        )
        assert [type(answer) for answer in answers] == [type(None), Fenced, type(None), type(None)]
        assert store.partitions() == [0, 2, 5, 11]
        assert store.offsets([0, 2, 5, 11]) == {0: (1, 1), 2: (3, 3), 5: (1, 0), 11: (2, 2)}

    def test_names_may_hold_anything(self, store: Store) -> None:
        for place, name in enumerate(('{1}"', "a,b", "[0]", "\u0000\n", "ü.é", "counts:{0}", "offsets")):
            cell = update("1,0", partition=place, counts={f"[{_json(name)},{_json(name)},{_json(name)}]": "1,2,3"})
            assert store.commit([cell]) == [None]
            found = store.read(place)
            assert found is not None
            assert [(c.experiment, c.variant, c.allocation) for c in found.cells] == [(name, name, name)]


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


class TestRedis:
    """What only a shared server can show."""

    @pytest.mark.parametrize("prefix", ["", "sluice:", "a*b?:", "[x]:", "weird\\:", "with space:", "counts:", "ü:"])
    def test_any_prefix_sees_its_own_partitions_only(self, client: redis.Redis, prefix: str) -> None:
        others = [CounterStore(client, Keys(other)) for other in ("other:", "axb?:", "aXXby:", "x:", "counts:counts:")]
        for number, other in enumerate(others):
            assert other.commit([update("1,1", partition=20 + number)]) == [None]
        mine = CounterStore(client, Keys(prefix))
        assert mine.commit([update("1,1", partition=0), update("1,1", partition=13)]) == [None, None]
        assert mine.partitions() == [0, 13]

    def test_keys_that_move_together_share_one_hash_tag(self, client: redis.Redis) -> None:
        store = CounterStore(client, Keys())
        for partition in (0, 7):
            assert store.commit([update("1,1", partition=partition, units={"u": "1"}, buckets={"b": "1"})]) == [None]
        written = {key.decode() for key in client.keys("*")}  # type: ignore[union-attr]
        assert len(written) == 6
        # Redis Cluster hashes what stands between the first { and the next }, if it is not empty.
        tags = [key[key.index("{") + 1 : key.index("}")] for key in sorted(written)]
        assert sorted(tags) == ["0"] * 3 + ["7"] * 3

    def test_the_script_survives_a_flush_of_scripts(self, client: redis.Redis) -> None:
        store = CounterStore(client, Keys())
        assert store.commit([update("1,1")]) == [None]
        client.script_flush()
        assert store.commit([update("2,2", "1,1")]) == [None]

    def test_a_server_without_memory_takes_all_of_a_commit_or_nothing(self, client: redis.Redis) -> None:
        store = CounterStore(client, Keys())
        assert store.commit([update("1,1", units={"u": "1"})]) == [None]
        before = store.read_all(0)
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(redis.RedisError):
                store.commit([update("2,2", "1,1", units={f"u{n}": "1" for n in range(5000)})])
        finally:
            client.config_set("maxmemory", "256mb")
        assert store.read_all(0) == before
        assert store.rows(0, ["u", "u0"], []) == ["1", None]
        assert store.commit([update("2,2", "1,1")]) == [None]

    def test_of_workers_that_race_one_wins_each_step(self, client: redis.Redis) -> None:
        """Each thread moves the offset on from what it reads; every step is taken by exactly one of them."""
        won: list[int] = []
        together = threading.Barrier(4)

        def work() -> None:
            with redis.Redis(connection_pool=client.connection_pool) as own:
                store = CounterStore(own, Keys())
                together.wait(60)
                while (at := store.offsets([0])[0][0]) < 200:
                    step = update(f"{at + 1},0", f"{at},0" if at else "", counts={"clicks.late": str(at + 1)})
                    if store.commit([step]) == [None]:
                        won.append(at)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(won) == list(range(200))

    def test_a_reader_sees_one_moment(self, client: redis.Redis) -> None:
        """Counters and buckets that are read together are of one commit, while another thread commits."""
        store = CounterStore(client, Keys())
        stop = threading.Event()

        def write() -> None:
            with redis.Redis(connection_pool=client.connection_pool) as own:
                writer, at = CounterStore(own, Keys()), 0
                while not stop.is_set():
                    step = update(
                        f"{at + 1},0", f"{at},0" if at else "",
                        counts={"clicks.late": str(at + 1)}, buckets={"b": str(at + 1)}, units={"u": str(at + 1)},
                    )  # fmt: skip
                    assert writer.commit([step]) == [None]
                    at += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            seen = 0
            while seen < 300:
                counts, buckets = store.read_all(0)
                if counts is not None:
                    assert counts.records["clicks.late"] == counts.impressions_offset == buckets["b"][0]
                    seen += 1
                    u, b = store.rows(0, ["u"], ["b"])
                    assert u == b
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()


def test_the_servers_are_two(servers: Callable[[str], str]) -> None:
    """Redis 6.2 ships with the wheel, a newer one with most systems: the contract should have met both."""
    if redis_server.installed() is None or redis_server.bundled() is None:
        pytest.skip("only one redis-server on this machine")
    versions = set()
    for name in ("bundled", "installed"):
        with redis.Redis.from_url(servers(name)) as client:
            versions.add(client.info("server")["redis_version"])  # type: ignore[index]
    assert len(versions) == 2
