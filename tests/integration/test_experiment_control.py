"""Experiments are changed while everything runs: the catalogue, the routers and the analyzer follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from router import AssignmentRequest, Routed, Router, build
from sluice.adapters import catalogue
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.domain.audience import Holdout, Layer
from sluice.domain.events import AssignmentMade
from sluice.domain.experiment import Experiment, Variant, load_experiment
from sluice.domain.status import State
from sluice.errors import ConfigError, Conflict
from sluice.names import EXPERIMENTS, Keys
from sluice.settings import Settings

Wait = Callable[..., Any]
TWO = (Variant(name="a"), Variant(name="b"))
FOLLOWS_S = 5.0
"""A second is promised; a busy machine gets more"""


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(name=f"e{uuid4().hex[:8]}", variants=TWO, control="b")


def ask(router: Router, name: str, users: int = 40) -> list[Routed]:
    return [answer for (answer,) in router.assign([AssignmentRequest(f"u{n}", {}, n) for n in range(users)], [name])]


def what(router: Router, name: str) -> set[tuple[str, str | None]]:
    """What 40 users are told: {(variant, why they are outside)}."""
    return {(answer.variant, answer.outside) for answer in ask(router, name)}


class TestFollowing:
    @pytest.fixture(params=["catalogue", "given"])
    def router(self, request: pytest.FixtureRequest, embedded: Settings, experiment: Experiment) -> Iterator[Router]:
        """Of all experiments, or of those it was given."""
        catalogue.apply(embedded, [experiment])
        with build(embedded, None if request.param == "catalogue" else [experiment]) as router:
            yield router

    def test_pausing_starting_and_shipping(
        self, router: Router, embedded: Settings, experiment: Experiment, wait_until: Wait
    ) -> None:
        name = experiment.name
        before = ask(router, name)
        assert {answer.variant for answer in before} == {"a", "b"}
        catalogue.change(embedded, name, "pause", by="ann", why="errors")
        wait_until(lambda: what(router, name) == {("b", "paused")}, FOLLOWS_S, "the pause is followed")
        assert all(answer.assignment is None for answer in ask(router, name))
        catalogue.change(embedded, name, "start", by="ann")
        wait_until(lambda: what(router, name) == {("a", None), ("b", None)}, FOLLOWS_S, "the start is followed")
        assert [answer.assignment for answer in ask(router, name)] == [answer.assignment for answer in before]
        catalogue.change(embedded, name, "ship", by="ann", variant="a")
        wait_until(lambda: what(router, name) == {("a", "shipped")}, FOLLOWS_S, "the shipping is followed")

    def test_a_router_that_starts_later_knows_the_status(
        self, router: Router, embedded: Settings, experiment: Experiment
    ) -> None:
        catalogue.change(embedded, experiment.name, "stop", by="ann")
        with build(embedded) as later:
            assert what(later, experiment.name) == {("b", "stopped")}


def test_new_and_changed_and_deleted_experiments_are_followed(
    embedded: Settings, experiment: Experiment, wait_until: Wait
) -> None:
    name = experiment.name
    with connect(embedded) as redis:
        AllocationStore(redis, Keys(embedded.prefix)).put(name, 3, {"a": 100, "b": 0})
    with build(embedded) as router:
        assert all(known.name != name for known in router.experiments)
        catalogue.create(embedded, [experiment], by="ann")
        wait_until(lambda: any(known.name == name for known in router.experiments), FOLLOWS_S, "the draft appears")
        assert what(router, name) == {("b", "draft")}
        catalogue.change(embedded, name, "start", by="ann")
        # With the allocation that was in force when it appeared.
        wait_until(lambda: what(router, name) == {("a", None)}, FOLLOWS_S, "the start is followed")
        catalogue.apply(embedded, [replace(experiment, traffic=0.0)], by="ann")
        wait_until(lambda: what(router, name) == {("b", "traffic")}, FOLLOWS_S, "the traffic is followed")
        assert router.allocation(name) == (3, {"a": 100, "b": 0})
        out = producer(embedded)
        out.produce(EXPERIMENTS, key=name, value=None)
        assert out.flush(10) == 0
        wait_until(lambda: all(known.name != name for known in router.experiments), FOLLOWS_S, "the deletion")


def test_held_out_units_are_in_the_exposure_log(embedded: Settings, experiment: Experiment) -> None:
    made: list[AssignmentMade] = []
    held = replace(experiment, holdout=Holdout(name=experiment.name, share=0.5))
    with build(embedded, [held], exposures=made.extend) as router:
        answers = ask(router, held.name)
    outside = [answer.outside for answer in answers]
    assert outside.count("holdout") > 5
    assert [one.outside or None for one in made] == outside
    assert {(one.variant, one.propensity, one.allocation) for one in made if one.outside} == {("b", 0.5, "")}


class TestCatalogue:
    def test_who_changed_what_and_why(self, embedded: Settings, experiment: Experiment) -> None:
        name = experiment.name
        assert catalogue.apply(embedded, [experiment], by="ann", why="first")[0].state.revision == 1
        assert catalogue.apply(embedded, [experiment], by="bob")[0].state.revision == 1, "nothing to change"
        catalogue.apply(embedded, [replace(experiment, seed=4)], by="bob", why="another seed")
        after = catalogue.change(embedded, name, "pause", by="eve", why="night", expected_revision=2)
        assert catalogue.load(embedded)[name] == after
        assert (after.seed, after.state.status, after.state.revision) == (4, "paused", 3)
        assert [(change.action, change.by, change.why) for change in after.state.changes] == [
            ("apply", "ann", "first"), ("apply", "bob", "another seed"), ("pause", "eve", "night"),
        ]  # fmt: skip
        moments = [change.at_ms for change in after.state.changes]
        assert moments == sorted(moments)

    def test_what_is_refused_says_why(self, embedded: Settings, experiment: Experiment) -> None:
        name = experiment.name
        with pytest.raises(ConfigError, match=f"experiment '{name}': not in the catalogue; there are: "):
            catalogue.change(embedded, name, "pause", by="x")
        catalogue.apply(embedded, [experiment], by="ann")
        with pytest.raises(Conflict, match=f"{name} is not at revision 7 any more: it is running at revision 1 by ann"):
            catalogue.change(embedded, name, "pause", by="x", expected_revision=7)
        with pytest.raises(Conflict, match=f"experiment {name} exists and is running"):
            catalogue.create(embedded, [experiment])
        for variant in ("", "c"):
            with pytest.raises(ConfigError, match=f"variant: '{variant}': allowed are a, b"):
                catalogue.change(embedded, name, "ship", by="x", variant=variant)
        catalogue.change(embedded, name, "ship", by="x", variant="a")
        with pytest.raises(Conflict, match="has shipped 'a': it must stay among its variants"):
            catalogue.apply(embedded, [replace(experiment, variants=(Variant(name="b"), Variant(name="c")))])
        with pytest.raises(Conflict, match="is shipped: cannot pause it"):
            catalogue.change(embedded, name, "pause", by="x")

    def test_layers_are_shared_with_what_runs_alone(self, embedded: Settings) -> None:
        layer = f"l{uuid4().hex[:8]}"
        first, second = (
            Experiment(name=f"{layer}-{n}", variants=TWO, layer=Layer(name=layer, range=(0, 0.6))) for n in "xy"
        )
        catalogue.apply(embedded, [first])
        with pytest.raises(ConfigError, match=rf"{layer}-x \[0, 0.6\) and {layer}-y \[0, 0.6\) of layer .* overlap"):
            catalogue.apply(embedded, [second])
        catalogue.create(embedded, [second])
        with pytest.raises(ConfigError, match="overlap"):
            catalogue.change(embedded, second.name, "start", by="x")
        catalogue.change(embedded, first.name, "stop", by="x")
        assert catalogue.change(embedded, second.name, "start", by="x").state.status == "running"

    def test_of_two_changes_at_one_moment_the_first_stands_for_ever(
        self, embedded: Settings, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another writer is quicker between reading and writing; what it wrote must survive a compaction, too."""
        name = experiment.name
        catalogue.apply(embedded, [experiment], by="ann")
        produce, meanwhile = catalogue._produce, iter([True])

        def slow(settings: Settings, *rest: Any) -> Any:
            if next(meanwhile, False):
                catalogue.change(settings, name, "stop", by="bob")
            return produce(settings, *rest)

        monkeypatch.setattr(catalogue, "_produce", slow)
        with pytest.raises(
            Conflict, match=f"{name} was changed at the same moment: it is stopped at revision 2 by bob"
        ):
            catalogue.change(embedded, name, "pause", by="eve")
        assert catalogue.load(embedded)[name].state.status == "stopped"
        with catalogue.TopicReader(embedded, EXPERIMENTS, from_start=True) as reader:
            records = [message.value() for message in reader.rest() if message.key() == name.encode()]
        last = load_experiment(records[-1] or b"")
        assert (last.state.status, last.state.changes[-1].by) == ("stopped", "bob")

    def test_many_writers_lose_no_change(self, stack: Settings, experiment: Experiment) -> None:
        name = experiment.name
        catalogue.create(stack, [experiment])
        done: list[str] = []

        def work(who: str) -> None:
            while True:
                try:
                    stands = catalogue.apply(stack, [replace(experiment, salt=who)], by=who)[0]
                except Conflict:
                    continue
                done.append(who)
                assert stands.state.changes[-1].by == who
                return

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        state = catalogue.load(stack)[name].state
        assert sorted(done) == [f"w{n}" for n in range(4)]
        assert state.revision == 5
        assert sorted(change.by for change in state.changes[1:]) == sorted(done)

    def test_records_without_a_state_still_run(self, embedded: Settings, experiment: Experiment) -> None:
        told = msgspec.to_builtins(experiment)
        del told["state"]
        out = producer(embedded)
        out.produce(EXPERIMENTS, key=experiment.name, value=msgspec.json.encode(told))
        assert out.flush(10) == 0
        assert catalogue.load(embedded)[experiment.name].state == State(status="running", revision=0)
        assert catalogue.change(embedded, experiment.name, "pause", by="x").state.revision == 1
