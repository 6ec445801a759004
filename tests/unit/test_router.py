"""The router on memory: determinism, stickiness, propensities, updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from router import AssignmentRequest, MemoryAssignments, Router
from sluice.domain.allocation import choose
from sluice.domain.assignment import Claim, StoredAssignment
from sluice.domain.bucketing import bucket
from sluice.domain.events import AssignmentMade
from sluice.domain.experiment import Experiment, Variant, load_experiments
from sluice.errors import ConfigError, TransportError

AB = load_experiments("{name: ab, variants: [{name: a, share: 80}, {name: b, share: 20}]}", "test")[0]
SLATES = load_experiments("{name: slates, unit: slate, variants: [{name: a}, {name: b}, {name: c}]}", "test")[0]


def request(user: str, slate: str = "s", at_ms: int = 1) -> AssignmentRequest:
    return AssignmentRequest(user, {"slate": slate}, at_ms)


def test_two_experiments_answer_every_request_in_order() -> None:
    router = Router([AB, SLATES], MemoryAssignments())
    answers = router.assign([request(f"u{n}", f"s{n}") for n in range(50)])
    for n, (ab, slates) in enumerate(answers):
        assert (ab.assignment.experiment, ab.assignment.unit, ab.assignment.unit_kind) == ("ab", f"u{n}", "user")
        assert (slates.assignment.unit, slates.assignment.unit_kind) == (f"s{n}", "slate")
        assert ab.assignment.variant == choose({"a": 80, "b": 20}, bucket("ab", f"u{n}"))
        assert ab.assignment.propensity == {"a": 0.8, "b": 0.2}[ab.assignment.variant]
        assert slates.assignment.propensity == {"a": 0.34, "b": 0.33, "c": 0.33}[slates.assignment.variant]
        assert ab.assignment.allocation == "a=80,b=20"
        assert (ab.version, ab.sticky) == (0, False)


def test_assignments_are_a_function_of_unit_salt_and_allocation() -> None:
    requests = [request(f"u{n}") for n in range(100)]
    one, other = (Router([AB], MemoryAssignments()).assign(requests) for _ in range(2))
    assert one == other
    salted = Router([Experiment(name="ab", variants=AB.variants, salt="other")], MemoryAssignments()).assign(requests)
    assert one != salted


def test_shares_are_met() -> None:
    router = Router([AB], MemoryAssignments())
    got = Counter(a.assignment.variant for (a,) in router.assign([request(f"u{n}") for n in range(20_000)]))
    assert abs(got["a"] - 16_000) < 4 * 56.6  # sd of Binomial(20000, 0.8)


def test_a_unit_keeps_what_it_was_assigned_with_when_the_allocation_moves() -> None:
    router = Router([AB], MemoryAssignments())
    before = router.assign([request(f"u{n}") for n in range(200)])
    assert router.update("ab", 3, {"a": 0, "b": 100})
    after = router.assign([request(f"u{n}") for n in range(300)])
    assert [a.assignment for (a,) in after[:200]] == [a.assignment for (a,) in before]
    assert all(a.sticky and a.version == 0 for (a,) in after[:200])
    assert {(a.assignment.variant, a.assignment.propensity, a.version, a.sticky) for (a,) in after[200:]} == {
        ("b", 1.0, 3, False)
    }


def test_a_unit_that_comes_twice_in_a_batch_is_assigned_once() -> None:
    log: list[AssignmentMade] = []
    router = Router([AB], MemoryAssignments(), exposures=log.extend)
    (first,), (second,) = router.assign([request("u", at_ms=5), request("u", at_ms=6)])
    assert (first.sticky, second.sticky) == (False, True)
    assert first.assignment == second.assignment
    assert [(made.at_ms, made.sticky, made.user_id) for made in log] == [(5, False, "u"), (6, True, "u")]
    assert {made.variant for made in log} == {first.assignment.variant}


def test_only_newer_allocations_of_its_own_variants_are_taken() -> None:
    router = Router([AB], MemoryAssignments())
    assert router.update("ab", 2, {"a": 10, "b": 90})
    for version, shares in [(2, {"a": 1, "b": 99}), (1, {"a": 1, "b": 99}), (5, {"a": 100}), (5, {"a": 50, "b": 49}),
                            (5, {"a": 110, "b": -10}), (5, {"a": 40, "c": 60})]:  # fmt: skip
        assert not router.update("ab", version, shares)
    assert not router.update("unknown", 9, {"a": 100})
    assert router.allocation("ab") == (2, {"a": 10, "b": 90})


def test_a_variant_that_left_the_experiment_is_drawn_again() -> None:
    store = MemoryAssignments()
    Router([AB], store).assign([request(f"u{n}") for n in range(50)])
    changed = Experiment(name="ab", variants=(Variant(name="a"), Variant(name="new")))
    answers = Router([changed], store).assign([request(f"u{n}") for n in range(50)])
    variants = Counter(a.assignment.variant for (a,) in answers)
    assert set(variants) == {"a", "new"}
    again = Router([changed], store).assign([request(f"u{n}") for n in range(50)])
    assert [a.assignment for (a,) in again] == [a.assignment for (a,) in answers]
    assert all(a.sticky for (a,) in again)


def test_a_missing_unit_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"slates randomises by slate; the request has \['session'\]"):
        Router([SLATES], MemoryAssignments()).assign([AssignmentRequest("u", {"session": "x"}, 0)])


def test_no_requests_no_answers() -> None:
    assert Router([AB], MemoryAssignments()).assign([]) == []


class Flaky(MemoryAssignments):
    """A store that is away for its first calls."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def claim(self, claims):  # type: ignore[no-untyped-def]
        if self.failures:
            self.failures -= 1
            raise TransportError("away")
        return super().claim(claims)


def test_a_store_that_comes_back_is_waited_for() -> None:
    store = Flaky(2)
    ((answer,),) = Router([AB], store).assign([request("u")])
    assert store.failures == 0
    assert not answer.sticky


def test_a_store_that_stays_away_is_a_transport_error() -> None:
    with pytest.raises(TransportError, match="away \\(retried for"):
        Router([AB], Flaky(10**9), retry_s=0.1).assign([request("u")])


def test_closing_ends_the_retries_and_runs_the_actions_once_in_reverse() -> None:
    router = Router([AB], Flaky(10**9), retry_s=3600)
    done: list[int] = []
    router.on_close(lambda: done.append(1))
    router.on_close(lambda: done.append(2))
    router.close()
    router.close()
    assert done == [2, 1]
    with pytest.raises(TransportError):
        router.assign([request("u")])


def test_an_assignment_is_kept_for_as_long_as_its_experiment_says() -> None:
    claimed: list[Claim] = []

    class Recorded(MemoryAssignments):
        def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
            claimed.extend(claims)
            return super().claim(claims)

    variants = (Variant(name="a"), Variant(name="b"))
    experiments = [Experiment(name=f"of{ttl_s}", variants=variants, assignment_ttl_s=ttl_s) for ttl_s in (5, 3600)]
    with Router(experiments, Recorded()) as router:
        router.assign([AssignmentRequest("u", {}, 0)])
    assert [(claim.experiment, claim.ttl_ms) for claim in claimed] == [("of5", 5_000), ("of3600", 3_600_000)]
