"""Who gives out versions when several processes write decisions, and how an old decision is found again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from analyzer import journal as journals
from analyzer.engine import Snapshot, decide
from analyzer.journal import Journal, find_decision
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.domain.events import DecisionMade, StatsCell, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.domain.status import State
from sluice.names import DECISIONS, EXPERIMENTS
from sluice.settings import Settings

Wait = Callable[..., Any]


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    made = make_stack("embedded")
    assert isinstance(made, Settings)
    return made


def experiment(name: str = "e") -> Experiment:
    return Experiment(name=name, variants=(Variant(name="a"), Variant(name="b")))


def decision(version: int, at_ms: int = 0, name: str = "e") -> DecisionMade:
    made = decide(experiment(name), Snapshot((), {}, at_ms))
    return msgspec.structs.replace(made, version=version)


def started(settings: Settings, wait_until: Wait) -> Journal:
    made = Journal(settings)
    wait_until(lambda: made.poll() == ([], set()) and made.caught_up, 10, "the journal has caught up")
    return made


def drained(journal: Journal, wait_until: Wait, version: int) -> tuple[list[int], set[str]]:
    """Our versions that stand and the experiments others decide on, once `version` stands and all of ours is back."""
    ours: list[int] = []
    others: set[str] = set()

    def read() -> bool:
        accepted, seen = journal.poll()
        ours.extend(found.version for found in accepted)
        others.update(seen)
        last = journal.last.get("e")
        return last is not None and last.version >= version and journal.settled("e")

    wait_until(read, 10, f"decision {version} stands")
    return ours, others


def test_of_equal_versions_the_first_in_the_log_stands(settings: Settings, wait_until: Wait) -> None:
    with started(settings, wait_until) as one, started(settings, wait_until) as two:
        one.append(decision(1, at_ms=111))
        assert drained(one, wait_until, 1) == ([1], set())
        two.append(decision(1, at_ms=222))  # it had not read on
        assert drained(two, wait_until, 1) == ([], {"e"})
        assert two.last["e"].at_ms == 111
        one.append(decision(2))
        assert drained(one, wait_until, 2) == ([2], set())
        assert drained(two, wait_until, 2) == ([], {"e"})
    found = find_decision(settings, "e", 1)
    assert found == encode(decision(1, at_ms=111))


def test_an_older_version_never_stands(settings: Settings, wait_until: Wait) -> None:
    with started(settings, wait_until) as one:
        for version in (5, 4, 6):
            one.append(decision(version))
        assert drained(one, wait_until, 6) == ([5, 6], {"e"})


def test_what_was_decided_before_the_start_is_nobodys_interference(settings: Settings, wait_until: Wait) -> None:
    with started(settings, wait_until) as one:
        one.append(decision(3))
        drained(one, wait_until, 3)
    with started(settings, wait_until) as two:
        assert two.last["e"].version == 3


def test_old_decisions_are_found_beyond_the_tail(
    settings: Settings, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "TAIL", 2)
    out = producer(settings)
    out.produce(DECISIONS, key="e", value=encode(decision(1)))
    out.produce(DECISIONS, key="e", value=encode(decision(2)))
    out.produce(DECISIONS, key="e", value=b"{")
    for version in range(1, 40):
        out.produce(DECISIONS, key="f", value=encode(decision(version, name="f")))
    assert out.flush(20) == 0
    assert find_decision(settings, "e", 1) == encode(decision(1))
    assert find_decision(settings, "e", None) == encode(decision(2))
    assert find_decision(settings, "e", 3) is None
    assert find_decision(settings, "f", 39) == encode(decision(39, name="f"))
    assert find_decision(settings, "f", 40) is None
    assert find_decision(settings, "g", None) is None
    with started(settings, wait_until) as one:
        assert "e" not in one.last
        known = one.recall("e")
        assert known is not None
        assert known.version == 2
        assert one.recall("g") is None


def configured(found: dict[str, Experiment]) -> dict[str, Experiment]:
    return {name: msgspec.structs.replace(one, state=State()) for name, one in found.items()}


def test_the_catalogue_holds_what_was_applied_last_and_skips_what_is_none(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.apply(settings, [experiment("x"), experiment("y")])
    changed = msgspec.structs.replace(experiment("x"), seed=9)
    catalogue.apply(settings, [changed])
    out = producer(settings)
    out.produce(EXPERIMENTS, key="bad", value=b"{}")
    out.produce(EXPERIMENTS, key="other", value=msgspec.json.encode(experiment("z")))
    assert out.flush(20) == 0
    with caplog.at_level(logging.WARNING):
        assert configured(catalogue.load(settings)) == {"x": changed, "y": experiment("y")}
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "topic experiments",
        "topic experiments",
    ]


def test_a_malformed_record_does_not_remove_the_experiment_of_its_key(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.apply(settings, [experiment("x"), experiment("y")])
    out = producer(settings)
    for value in (b"{}", b"\xff", msgspec.json.encode(experiment("y"))):
        out.produce(EXPERIMENTS, key="x", value=value)
    out.produce(EXPERIMENTS, key="y", value=None)
    assert out.flush(20) == 0
    assert configured(catalogue.load(settings)) == {"x": experiment("x")}
    assert len(caplog.records) == 1, "one line a key"


@pytest.mark.parametrize("mode", ["embedded", pytest.param("local", marks=pytest.mark.kafka)])
def test_a_decision_on_thousands_of_cells_is_kept(
    make_stack: Callable[..., Settings], wait_until: Wait, mode: str
) -> None:
    settings = make_stack(mode)
    click = OutcomeStatistics(10**12, 10**12, 10**12)
    cells = tuple(
        StatsCell(
            experiment="e", variant="a", allocation=f"a=50,b=50,c={number}",
            statistics=CellStatistics(10**12, 10**12, 10**12, {"click": click}),
        )
        for number in range(8000)
    )  # fmt: skip
    large = msgspec.structs.replace(decision(1), evidence=cells)
    assert len(encode(large)) > 2_000_000
    with started(settings, wait_until) as journal:
        journal.append(large)
        drained(journal, wait_until, 1)
        assert encode(journal.last["e"]) == encode(large)
