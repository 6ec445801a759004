"""The keeper: states in Redis are those of one uninterrupted pass over the log, whatever fails, whoever takes over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from feature_logs import DEFINITIONS, Record, Rows, ended_slates, random_feature_logs
from flaky_redis import FlakyRedis

from sluice.adapters.features import FeatureKeeping, FeatureStore, KeeperProgress
from sluice.adapters.redis import connect
from sluice.errors import ConfigError, Fenced, TransportError
from sluice.features import ItemState, OnlineFeatures, UserState, make_catalogue
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors.feature_keeper import COMMIT_EVERY_MS, FeatureKeeper
from stream_processors.features import Resume, encode_resume

ITEMS = [f"m{n}" for n in range(13)]
USERS = [f"u{n}" for n in range(40)]
CATALOGUE = make_catalogue(ITEMS, {item: ("Drama", "War")[: n % 3] for n, item in enumerate(ITEMS)}, {"m1": "A (1994)"})
NOTHING = KeeperProgress(at_ms=0, applied_ms=0, final_ms=0, slates=0, lag=0, behind="")
_names = count()


@pytest.fixture
def keys() -> Keys:
    return Keys(f"keeper [{next(_names)}]*:")


@pytest.fixture
def clock() -> Iterator[Callable[[], int]]:
    ticks = count(0, COMMIT_EVERY_MS // 5)
    yield lambda: next(ticks)


def keeper_of(client: object, keys: Keys, clock: Callable[[], int]) -> FeatureKeeper:
    return FeatureKeeper(FeatureStore(client, keys), FeatureKeeping(client, keys), DEFINITIONS, clock)  # type: ignore[arg-type]


def expected(logs: tuple[list[Rows], list[Rows]]) -> OnlineFeatures:
    online = OnlineFeatures(CATALOGUE)
    for slate in ended_slates(logs, DEFINITIONS):
        online.observe(slate.user, slate.items, slate.liked, slate.ratings_milli, slate.end_ms)
    return online


def assert_states(store: FeatureStore, wanted: OnlineFeatures) -> None:
    users, items = store.read(USERS, ITEMS)
    assert [state.to_hash() for state in users] == [wanted.users.get(u, UserState()).to_hash() for u in USERS]
    assert [state.to_hash() for state in items] == [wanted.items.get(i, ItemState.new(i)).to_hash() for i in ITEMS]


def feed(keeper: FeatureKeeper, logs: tuple[list[Rows], list[Rows]], rng: random.Random) -> bool:
    """A few records of some topic partition; False when all are read."""
    joiner = keeper.joiner
    unread = [(t, p) for t, p in joiner.places() if joiner.offset(t, p) < len(logs[t][p])]
    if not unread:
        return False
    topic, p = rng.choice(unread)
    start = joiner.offset(topic, p)
    rows = logs[topic][p][start : start + rng.randint(1, 30)]
    keeper.read(topic, p, [Record(start + n, data) for n, data in enumerate(rows)])
    return True


def drain(keeper: FeatureKeeper, logs: tuple[list[Rows], list[Rows]], rng: random.Random) -> None:
    while feed(keeper, logs, rng):
        pass
    while keeper.learn(0):
        pass


@pytest.mark.parametrize("seed", range(25))
def test_any_failure_at_any_command_leaves_the_states_of_one_uninterrupted_pass(
    embedded: Settings, keys: Keys, clock: Callable[[], int], seed: int
) -> None:
    """Two keepers in turns, each overtaken now and then, with commands that arrive when their sender is long gone."""
    rng = random.Random(seed)
    logs = random_feature_logs(rng, partitions=2, slates=80)
    with connect(embedded) as sound, FlakyRedis.from_url(embedded.redis) as flaky:
        flaky.rng, flaky.rate, flaky.late = rng, 0.0, []
        FeatureStore(sound, keys).put_catalogue(CATALOGUE)
        starts = [(0, 0)] * 2
        keepers = [keeper_of(flaky, keys, clock) for _ in range(2)]
        for keeper in keepers:
            assert keeper.take_up(starts)
        flaky.rate = 0.2
        failures = overtaken = 0
        for _ in range(400):
            place = rng.random() < 0.1
            try:
                feed(keepers[place], logs, rng)
                if rng.random() < 0.5:
                    keepers[place].learn(0)
            except (TransportError, Fenced) as error:
                failures += isinstance(error, TransportError)
                overtaken += isinstance(error, Fenced)
                if rng.random() < 0.5:
                    keepers[place] = keeper_of(flaky, keys, clock)
                while True:
                    try:
                        keepers[place].take_up(starts)
                        break
                    except TransportError:
                        failures += 1
            while flaky.late and rng.random() < 0.3:
                with sound.pipeline(transaction=False) as pipe:
                    for command in flaky.late.pop(rng.randrange(len(flaky.late))):
                        pipe.execute_command(*command)
                    pipe.execute()
        assert failures > 10
        assert overtaken
        last = keeper_of(sound, keys, clock)
        assert last.take_up(starts)
        drain(last, logs, rng)
        wanted = expected(logs)
        store = FeatureStore(sound, keys)
        assert_states(store, wanted)
        progress = store.progress()
        assert progress is not None
        assert progress.slates == len(ended_slates(logs, DEFINITIONS))
        assert progress.final_ms == last.joiner.final_ms


def test_a_keeper_waits_for_a_catalogue_and_follows_it(
    embedded: Settings, keys: Keys, clock: Callable[[], int]
) -> None:
    with connect(embedded) as client:
        keeper, store = keeper_of(client, keys, clock), FeatureStore(client, keys)
        assert not keeper.take_up([(0, 0)])
        store.put_catalogue(make_catalogue(["m1"], {}))
        assert keeper.take_up([(0, 0)])
        store.put_catalogue(CATALOGUE)
        digest, found = store.catalogue() or ("", None)
        assert found == CATALOGUE
        assert store.catalogue(digest) is None
        for _ in range(20):  # by its clock several times the pace at which it looks
            keeper.learn(0)
        assert keeper._digest == digest


def test_a_keeper_that_was_overtaken_can_change_nothing(embedded: Settings, keys: Keys) -> None:
    state = UserState(count=1)
    with connect(embedded) as client:
        old, new, store = FeatureKeeping(client, keys), FeatureKeeping(client, keys), FeatureStore(client, keys)
        old.claim()
        old.commit({"u": state}, {}, b"{}", NOTHING)
        assert new.claim().resume == b"{}"
        with pytest.raises(Fenced):
            old.commit({"u": UserState(count=9)}, {}, b"{}", NOTHING)
        assert store.read(["u"], [])[0][0].count == 1
        new.commit({"u": UserState(count=2)}, {}, b"{}", NOTHING)
        assert store.read(["u"], [])[0][0].count == 2


def test_states_of_a_whole_log_replace_all_others(embedded: Settings, keys: Keys, clock: Callable[[], int]) -> None:
    rng = random.Random(3)
    logs = random_feature_logs(rng, partitions=2, slates=120)
    slates = ended_slates(logs, DEFINITIONS)
    until = slates[len(slates) // 2].end_ms
    online = OnlineFeatures(CATALOGUE)
    for slate in slates:
        if slate.end_ms <= until:
            online.observe(slate.user, slate.items, slate.liked, slate.ratings_milli, slate.end_ms)
    with connect(embedded) as client:
        store, running = FeatureStore(client, keys), keeper_of(client, keys, clock)
        store.put_catalogue(CATALOGUE)
        assert running.take_up([(0, 0)] * 2)
        drain(running, logs, rng)
        told: list[int] = []
        FeatureKeeping(client, keys).write_all(online.users, online.items, until, told.append)
        assert told[-1] == len(online.users) + len(online.items)
        assert_states(store, online)
        assert store.progress() is None
        with pytest.raises(Fenced):
            for _ in range(10):
                running.learn(0)
        # The next one learns the other half, of the same log from its beginning.
        keeper = keeper_of(client, keys, clock)
        assert keeper.take_up([(0, 0)] * 2)
        drain(keeper, logs, rng)
        assert_states(store, expected(logs))
        FeatureKeeping(client, keys).reset()
        assert_states(store, OnlineFeatures(CATALOGUE))
        again = keeper_of(client, keys, clock)
        assert again.take_up([(0, 0)] * 2)
        drain(again, logs, rng)
        assert_states(store, expected(logs))


def test_states_that_were_not_written_to_the_end_are_not_built_on(
    embedded: Settings, keys: Keys, clock: Callable[[], int]
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with connect(embedded) as client:
        FeatureStore(client, keys).put_catalogue(CATALOGUE)
        keeping = FeatureKeeping(client, keys)
        with pytest.raises(KeyboardInterrupt):
            keeping.write_all({"u": UserState(count=1)}, {}, 10, stop)
        with pytest.raises(TransportError, match="not written to the end"):
            keeper_of(client, keys, clock).take_up([(0, 0)])
        keeping.write_all({"u": UserState(count=1)}, {}, 10)
        assert keeper_of(client, keys, clock).take_up([(0, 0)])


def test_who_writes_the_states_as_a_whole_is_not_disturbed_by_a_keeper(
    embedded: Settings, keys: Keys, clock: Callable[[], int]
) -> None:
    with connect(embedded) as client:
        FeatureStore(client, keys).put_catalogue(CATALOGUE)

        def keeper_comes(_: int) -> None:
            with pytest.raises(TransportError, match="not written to the end"):
                keeper_of(client, keys, clock).take_up([(0, 0)])

        for _ in range(2):  # the first time, and over states that are whole
            FeatureKeeping(client, keys).write_all({"u": UserState(count=1)}, {}, 10, keeper_comes)
        assert keeper_of(client, keys, clock).take_up([(0, 0)])


def test_states_of_another_version_are_refused(embedded: Settings, keys: Keys, clock: Callable[[], int]) -> None:
    with connect(embedded) as client:
        FeatureStore(client, keys).put_catalogue(CATALOGUE)
        keeping = FeatureKeeping(client, keys)
        keeping.claim()
        keeping.commit({}, {}, encode_resume(Resume(features_version=0)), NOTHING)
        with pytest.raises(ConfigError, match="--rebuild"):
            keeper_of(client, keys, clock).take_up([(0, 0)])


@pytest.mark.parametrize(
    "fields",
    [
        {"numbers": "1 2 3", "vector": bytes(128), "traits": "{}"},
        {"numbers": "-1 0 0 0 0 0 0 0 0", "vector": bytes(128), "traits": "{}"},
        {"numbers": "1 0 0 0 0 0 0 0 99999999999999999999", "vector": bytes(128), "traits": "{}"},
        {"numbers": "0 0 0 0 0 0 0 0 0", "vector": bytes(127), "traits": "{}"},
        {"numbers": "0 0 0 0 0 0 0 0 0", "vector": bytes(128), "traits": '{"genre:A":[-4,1,1]}'},
        {"numbers": "0 0 0 0 0 0 0 0 0", "vector": bytes(128), "traits": "[1"},
        {"numbers": "0 0 0 0 0 0 0 0 0"},
        {"batch": "soon"},
        None,
    ],
)
def test_what_something_else_wrote_counts_as_nothing_and_is_replaced(
    embedded: Settings, keys: Keys, fields: dict[str, str | bytes] | None
) -> None:
    with connect(embedded) as client:
        for key in (keys.feature_user("u"), keys.feature_item("m")):
            if fields is None:
                client.set(key, "text")
            else:
                client.hset(key, mapping=fields)  # type: ignore[arg-type]
        store, keeping = FeatureStore(client, keys), FeatureKeeping(client, keys)
        users, items = store.read(["u"], ["m"])
        assert users[0].to_hash() == UserState().to_hash() or users[0].count == 0
        assert items[0].count == 0
        keeping.claim()
        keeping.commit({"u": UserState(count=3)}, {"m": items[0]}, b"{}", NOTHING)
        assert store.read(["u"], [])[0][0].count == 3


def test_a_redis_that_is_away_is_said(keys: Keys) -> None:
    client = connect(Settings(redis="redis://127.0.0.1:1/0"))
    with pytest.raises(TransportError):
        FeatureStore(client, keys).read(["u"], ["m"])
    with pytest.raises(TransportError):
        FeatureKeeping(client, keys).claim()
