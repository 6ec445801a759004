"""The router on a real Redis and a real broker: first writer wins, TTL, live allocations, exposure log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from ports import own_port

from infra import redis_server, server
from router import AssignmentRequest, MemoryAssignments, Router, build
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect, wait_for_redis
from sluice.domain.assignment import AssignmentClaims, Claim, StoredAssignment
from sluice.domain.events import AssignmentMade, DecisionMade, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.errors import InvalidEvent, TransportError
from sluice.names import ASSIGNMENTS, DECISIONS, Keys
from sluice.settings import Settings

A, B = (StoredAssignment(name, "a=50,b=50", 0, 0.5) for name in "ab")


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(name=f"e{uuid4().hex[:8]}", variants=(Variant(name="a"), Variant(name="b")))


@pytest.fixture
def redis(embedded: Settings) -> Iterator[Any]:
    with connect(embedded) as client:
        yield client


class ClaimsContract:
    """What every implementation of the port `AssignmentClaims` does."""

    @pytest.fixture
    def store(self) -> AssignmentClaims:
        raise NotImplementedError

    @pytest.fixture
    def name(self) -> str:
        return uuid4().hex

    def test_the_first_writer_wins(self, store: AssignmentClaims, name: str) -> None:
        assert store.claim([Claim(name, "u1", A, 60_000), Claim(name, "u2", B, 60_000)]) == [(A, True), (B, True)]
        assert store.claim([Claim(name, "u3", A, 60_000), Claim(name, "u1", B, 60_000)]) == [(A, True), (A, False)]

    def test_replacing_succeeds_only_over_what_still_stands(self, store: AssignmentClaims, name: str) -> None:
        store.claim([Claim(name, "u", A, 60_000)])
        assert store.replace([(Claim(name, "u", B, 60_000), B)]) == [(A, False)]
        assert store.replace([(Claim(name, "u", B, 60_000), A)]) == [(B, True)]
        assert store.replace([(Claim(name, "new", A, 60_000), B)]) == [(A, True)]
        assert store.claim([Claim(name, "u", A, 60_000)]) == [(B, False)]

    def test_nothing_claimed_nothing_answered(self, store: AssignmentClaims) -> None:
        assert store.claim([]) == []


class TestMemory(ClaimsContract):
    @pytest.fixture
    def store(self) -> AssignmentClaims:
        return MemoryAssignments()


class TestRedis(ClaimsContract):
    @pytest.fixture
    def store(self, redis: Any) -> AssignmentClaims:
        return AssignmentStore(redis, Keys(f"t{uuid4().hex}:"))

    def test_an_assignment_expires(self, redis: Any, wait_until: Callable[..., Any]) -> None:
        keys = Keys(f"t{uuid4().hex}:")
        store = AssignmentStore(redis, keys)
        store.claim([Claim("e", "u", A, 60_000), Claim("e", "short", A, 30)])
        assert 50_000 < redis.pttl(keys.assignment("e", "u")) <= 60_000
        wait_until(lambda: store.lookup([("e", "short")]) == [None], 5, "expiry")
        assert store.claim([Claim("e", "short", B, 60_000)]) == [(B, True)]

    def test_look_up(self, redis: Any) -> None:
        store = AssignmentStore(redis, Keys(f"t{uuid4().hex}:"))
        store.claim([Claim("e", "u", A, 60_000)])
        assert store.lookup([("e", "nobody"), ("e", "u"), ("f", "u")]) == [None, A, None]
        assert store.lookup([]) == []

    def test_a_foreign_value_is_an_invalid_event(self, redis: Any) -> None:
        keys = Keys(f"t{uuid4().hex}:")
        redis.set(keys.assignment("e", "u"), b"?")
        with pytest.raises(InvalidEvent, match="not an assignment"):
            AssignmentStore(redis, keys).lookup([("e", "u")])

    def test_one_round_trip_a_batch(self, redis: Any) -> None:
        store = AssignmentStore(redis, Keys(f"t{uuid4().hex}:"))
        store.claim([Claim("e", "first", A, 60_000)])
        before = redis.info("stats")
        store.claim([Claim("e", str(n), A if n % 2 else B, 60_000) for n in range(500)])
        after = redis.info("stats")
        # What a script does counts as well: of each unit the look and the write; then one call a variant, and INFO.
        assert after["total_commands_processed"] - before["total_commands_processed"] == 1000 + 2 + 1
        if "total_reads_processed" in after:
            assert after["total_reads_processed"] - before["total_reads_processed"] < 20

    def test_answers_of_a_large_batch_come_in_its_order(self, redis: Any) -> None:
        store = AssignmentStore(redis, Keys(f"t{uuid4().hex}:"))
        claims = [Claim("ef"[n % 2], f"u{n}", (A, B)[n % 3 == 0], 60_000) for n in range(2500)]
        other = [Claim(claim.experiment, claim.unit, B, 60_000) for claim in claims[:1200]]
        assert store.claim(other[::2]) == [(B, True)] * 600
        taken = {(claim.experiment, claim.unit) for claim in other[::2]}
        assert store.claim(claims) == [
            (B, False) if (claim.experiment, claim.unit) in taken else (claim.wanted, True) for claim in claims
        ]

    def test_a_server_that_forgot_the_script_is_told_again(self, redis: Any) -> None:
        store = AssignmentStore(redis, Keys(f"t{uuid4().hex}:"))
        assert store.claim([Claim("e", "u", A, 60_000)]) == [(A, True)]
        redis.script_flush()
        assert store.claim([Claim("e", "u", B, 60_000), Claim("e", "v", B, 60_000)]) == [(A, False), (B, True)]

    def test_answers_that_come_too_late_are_not_taken_for_those_of_the_next_call(
        self, embedded: Settings, redis: Any, wait_until: Callable[..., Any]
    ) -> None:
        def claim(unit: str, wanted: StoredAssignment) -> list[tuple[StoredAssignment, bool]] | None:
            try:
                return store.claim([Claim("e", unit, wanted, 60_000)])
            except TransportError:
                return None

        with connect(embedded, timeout_s=0.05) as hasty:
            store = AssignmentStore(hasty, Keys(f"t{uuid4().hex}:"))
            # So hasty that on a busy machine any call may come too late: each is made until it is answered.
            assert wait_until(lambda: claim("first", A), 10, "Redis answers")[0][0] == A
            wait_until(
                lambda: redis.client_pause(300) and claim("late", A) is None, 10, "a call that is not answered in time"
            )
            assert wait_until(lambda: claim("next", B), 10, "Redis answers again")[0][0] == B
            assert wait_until(lambda: claim("first", B), 10, "an answer") == [(A, False)]

    def test_what_somebody_else_wrote_is_an_invalid_event(self, redis: Any) -> None:
        keys = Keys(f"t{uuid4().hex}:")
        for value in (b"?", b"two\nlines"):
            redis.set(keys.assignment("e", "u"), value)
            with pytest.raises(InvalidEvent, match=r"not (an assignment|assignments)"):
                AssignmentStore(redis, keys).claim([Claim("e", "u", A, 60_000)])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., Any]) -> Iterator[Any]:
    executable = redis_server.bundled() or redis_server.installed()
    assert executable is not None
    # Redis takes port + 10,000 for the bus of a cluster too and refuses ports for which there is none.
    folder, port = tmp_path_factory.mktemp("cluster"), own_port()
    url = f"redis://127.0.0.1:{port}/0"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", ""]
    node = server.start("redis-server", url, [executable, *options], folder / "log", cwd=folder)
    try:
        with wait_for_redis(Settings(redis=url)) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), 20, "the slots")
            yield client
    finally:
        node.stop()


class TestRedisCluster(ClaimsContract):
    """Of one node: keys of different slots in one command are refused as they are by many."""

    @pytest.fixture
    def store(self, cluster: Any) -> AssignmentClaims:
        return AssignmentStore(cluster, Keys(f"t{uuid4().hex}:"))

    def test_a_batch_over_many_slots(self, store: AssignmentClaims) -> None:
        claims = [Claim("e", f"u{n}", (A, B)[n % 2], 60_000) for n in range(300)]
        assert store.claim(claims) == [(claim.wanted, True) for claim in claims]
        assert store.claim(claims) == [(claim.wanted, False) for claim in claims]


def requests(count: int) -> list[AssignmentRequest]:
    return [AssignmentRequest(f"u{n}", {}, n) for n in range(count)]


def test_two_routers_with_different_allocations_agree_on_every_unit(redis: Any, experiment: Experiment) -> None:
    keys = Keys(f"t{uuid4().hex}:")
    first = Router([experiment], AssignmentStore(redis, keys))
    second = Router([experiment], AssignmentStore(redis, keys))
    assert second.update(experiment.name, 1, {"a": 1, "b": 99})
    answers: dict[int, Any] = {}

    def assign(which: int, router: Router, order: int) -> None:
        answers[which] = [a for part in range(20) for (a,) in router.assign(requests(400)[::order][part::20])]

    threads = [
        threading.Thread(target=assign, args=(1, first, 1)),
        threading.Thread(target=assign, args=(2, second, -1)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = [{a.assignment.unit: a for a in answers[which]} for which in (1, 2)]
    assert len(found[0]) == len(found[1]) == 400
    for unit, one in found[0].items():
        other = found[1][unit]
        assert (one.assignment, one.version) == (other.assignment, other.version)
        assert one.sticky != other.sticky


def test_allocations_follow_the_decisions(
    embedded: Settings, redis: Any, experiment: Experiment, wait_until: Callable[..., Any]
) -> None:
    AllocationStore(redis, Keys(embedded.prefix)).put(experiment.name, 4, {"a": 20, "b": 80})
    with build(embedded, [experiment]) as router:
        assert router.allocation(experiment.name) == (4, {"a": 20, "b": 80})
        publish(
            embedded,
            b"garbage",
            decision(experiment, 6, {"a": 7, "b": 93}),
            decision(experiment, 5, {"a": 0, "b": 100}),
        )
        wait_until(lambda: router.allocation(experiment.name)[0] == 6, 15, "allocation 6")
        publish(embedded, decision(experiment, 9, {"a": 50, "b": 49}), decision(experiment, 7, {"a": 0, "b": 100}))
        wait_until(lambda: router.allocation(experiment.name) == (7, {"a": 0, "b": 100}), 15, "allocation 7")
        ((answer,),) = router.assign([AssignmentRequest("u", {}, 5)])
        assert (answer.assignment.variant, answer.assignment.propensity, answer.version) == ("b", 1.0, 7)


def test_the_exposure_log_reaches_its_topic_keyed_by_the_user(embedded: Settings, experiment: Experiment) -> None:
    with build(embedded, [experiment]) as router:
        answers = router.assign(requests(50))
        router.assign(requests(50))
    found = []
    with TopicReader(embedded, ASSIGNMENTS, from_start=True) as reader:
        for _ in range(600):
            for message in reader.poll(0.1):
                made = msgspec.json.decode(message.value() or b"", type=AssignmentMade)
                if made.experiment == experiment.name:
                    assert message.key() == made.user_id.encode()
                    found.append(made)
            if len(found) >= 100:
                break
    assert len(found) == 100
    assert sum(made.sticky for made in found) == 50
    variants = {a.assignment.unit: a.assignment.variant for (a,) in answers}
    assert all(variants[made.unit] == made.variant for made in found)


def test_a_redis_that_is_away_is_a_transport_error(experiment: Experiment) -> None:
    client = connect(Settings(redis="redis://127.0.0.1:1/0"))
    router = Router([experiment], AssignmentStore(client, Keys()), retry_s=0.1)
    with pytest.raises(TransportError, match="Redis does not take assignments"):
        router.assign(requests(2))


def decision(experiment: Experiment, version: int, shares: dict[str, int]) -> bytes:
    return encode(
        DecisionMade(
            experiment=experiment.name, version=version, at_ms=0, offsets={}, config_hash="", config={}, seed=0,
            evidence=(), results=(), sample_ratio_p=None, allocation=shares, allocation_version=version,
            verdict="continue", reasons=(),
        )
    )  # fmt: skip


def publish(settings: Settings, *values: bytes) -> None:
    out = producer(settings)
    for value in values:
        out.produce(DECISIONS, value, "k")
    assert out.flush(10) == 0
