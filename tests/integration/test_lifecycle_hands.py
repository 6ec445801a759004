"""What people do to a model in the middle of its life: nothing of it is undone, nothing hangs, all of it is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from lives import ALIAS, CATALOGUE, NAME, PLAN, Stand
from registered_models import likes, register

from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.domain.events import DecisionMade, encode
from sluice.domain.experiment import config_hash
from sluice.domain.lifecycle import LifecycleState
from sluice.domain.lifecycle_events import (
    Abandoned,
    Aborted,
    Breach,
    CanaryAdvanced,
    DriftDetected,
    GatePassed,
    LifecycleEvent,
    ModelTrained,
    MovedByHand,
    Paused,
    Promoted,
    Resumed,
    RetrainRequested,
    ShadowStarted,
)
from sluice.errors import ConfigError, Conflict
from sluice.names import DECISIONS, LIFECYCLE
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_command import lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan
from training.lifecycle_release import Decisions
from training.retrain import RESULT_TAG

QUICK = msgspec.structs.replace(PLAN, policy=msgspec.structs.replace(PLAN.policy, canary=False))
ADA = {"by": "ada", "why": "because"}


@pytest.fixture
def stand(make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path) -> Stand:
    return Stand(replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path)), tmp_path)


def gated(stand: Stand, plan: Plan = PLAN) -> str:
    """Id of an attempt whose version has passed the gate."""
    attempt = stand.trained()
    stand.judged(passed=True)
    assert isinstance(stand.turn(plan), GatePassed)
    return attempt


def looks(stand: Stand, life: Lifecycle, times: int) -> list[LifecycleEvent | None]:
    """What comes of so many turns, in each of which the alias is looked at."""
    found = []
    for _ in range(times):
        stand.at_ms += 10_000
        found.append(life.turn())
    return found


def status(stand: Stand, release: str = "films-2") -> str:
    return catalogue.load(stand.settings)[release].state.status


@pytest.mark.parametrize(
    ("deleted", "words"), [("alias", "knows no such model"), ("version", "models:/.*/2: .* knows no such model")]
)
def test_what_somebody_deleted_ends_the_attempt(stand: Stand, deleted: str, words: str) -> None:
    gated(stand)
    assert stand.turn() is None  # the canary begins
    stand.decide(1, "promoted", 100)
    assert isinstance(stand.turn(), CanaryAdvanced)
    if deleted == "alias":
        stand.client.delete_registered_model_alias(NAME, ALIAS)
    else:
        stand.client.delete_model_version(NAME, "2")
    ended = stand.turn()
    assert isinstance(ended, Abandoned)
    assert re.search(words, ended.reasons[0])
    if deleted == "version":
        assert stand.alias == "1"
        stand.turn(Plan(name="films", model=NAME, alias=ALIAS))
        assert status(stand) == "stopped"


@pytest.mark.parametrize("verdict", ["", "{}", "yes"])
def test_a_version_without_a_verdict_is_not_released(stand: Stand, verdict: str) -> None:
    stand.trained()  # and registered by somebody, not by a training of ours
    if verdict:
        stand.client.set_model_version_tag(NAME, "2", RESULT_TAG, verdict)
    ended = stand.turn()
    assert isinstance(ended, Abandoned) and ended.reasons == ("version 2 carries no verdict of its model tests",)
    assert stand.alias == "1"


def test_an_alias_that_somebody_moved_after_the_promotion_is_left_there(stand: Stand, tmp_path: Path) -> None:
    gated(stand, QUICK)
    assert isinstance(stand.turn(QUICK), Promoted)
    register(stand.settings.mlflow_uri, tmp_path / "3", ALIAS, likes("item_new", CATALOGUE))
    stand.say(Breach(id="b1", model=NAME, at_ms=5, version="2", reason="clicks fell"))
    with Journal(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, QUICK, journal)
        with pytest.raises(ConfigError, match="moved by hand to version 3"):
            life.roll_back("by hand")
    told = stand.turn(QUICK)
    assert isinstance(told, MovedByHand)
    assert (told.version, told.before, told.cause, stand.alias) == ("3", "2", "b1", "3")
    assert stand.turn(QUICK) is None
    # Drift of the version that serves no longer, said by a monitor that did not know: no training.
    stand.say(DriftDetected(id="d2", model=NAME, at_ms=6, version="2", since_ms=0, until_ms=1))
    assert stand.turn(QUICK) is None
    stand.say(DriftDetected(id="d3", model=NAME, at_ms=6, version="3", since_ms=0, until_ms=1))
    stand.client.set_registered_model_alias(NAME, ALIAS, "1")
    told = stand.turn(QUICK)
    assert isinstance(told, MovedByHand) and (told.version, told.before) == ("1", "3")
    assert stand.turn(QUICK) is None
    assert stand.kinds.count("retrain-requested") == 1


def test_an_alias_that_somebody_moved_is_told_of_before_anything_asks(stand: Stand) -> None:
    stand.say(RetrainRequested(id="r", model=NAME, alias=ALIAS, at_ms=1, against="1", reason="x"))
    stand.say(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=1, attempt="r", **ADA))
    with Journal(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, PLAN, journal, clock_ms=lambda: stand.at_ms)
        for version in ("2", "1", "2"):
            stand.client.set_registered_model_alias(NAME, ALIAS, version)
            first, told, after = looks(stand, life, 3)
            assert isinstance(told, MovedByHand) and (first, after) == (None, None)
            assert (told.version, journal.state.in_force) == (version, version)
        journal.append(DriftDetected(id="d2", model=NAME, at_ms=6, version="2", since_ms=0, until_ms=1))
        (asked,) = looks(stand, life, 1)
        assert isinstance(asked, RetrainRequested) and asked.against == "2"
        life.close()


def test_an_alias_that_somebody_moved_ends_the_attempt_before_its_canary_is_through(
    stand: Stand, tmp_path: Path
) -> None:  # fmt: skip
    gated(stand)
    with Journal(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, PLAN, journal, clock_ms=lambda: stand.at_ms)
        stand.client.set_registered_model_alias(NAME, ALIAS, "2")  # as a promotion that was killed leaves it
        assert looks(stand, life, 3) == [None] * 3
        register(stand.settings.mlflow_uri, tmp_path / "3", ALIAS, likes("item_new", CATALOGUE))
        _, ended, told = looks(stand, life, 3)
        assert isinstance(ended, Abandoned) and ended.reasons == ("the alias was moved by hand, from version 1 to 3",)
        assert isinstance(told, MovedByHand) and (told.version, stand.alias) == ("3", "3")
        assert status(stand) == "stopped"
        life.close()


def test_of_what_others_say_at_length_the_beginning_is_kept(stand: Stand) -> None:
    reasons = ("fewer clicks, " * 400,) * 2
    stand.say(msgspec.structs.replace(stand.drift, reasons=reasons))
    asked = stand.turn()
    assert isinstance(asked, RetrainRequested)
    assert (len(asked.reason), asked.reason[:12]) == (1000, "fewer clicks")
    with Journal(stand.settings, NAME, ALIAS) as journal:
        assert journal.state.running is not None
        unreadable = msgspec.structs.replace(asked, id="r2", reason="x" * 3000)
        with pytest.raises(ConfigError, match=r"retrain-requested: .*length <= 2000 - at `\$.reason`"):
            journal.append(unreadable)
    assert len(stand.records) == 2


def test_what_is_no_event_of_the_topic_is_passed_over(stand: Stand) -> None:
    client = producer(stand.settings)
    good = encode(stand.drift)
    for wrong in (None, b"", b"\xff", b"[" * 60_000, b'{"type":"no-such"}', good.replace(b'"at_ms":1', b'"at_ms":-1')):
        client.produce(LIFECYCLE, key=NAME, value=wrong)
    client.produce(LIFECYCLE, key=NAME, value=good.replace(b"{", b'{"unknown":"' + b"x" * 70_000 + b'",', 1))
    old = DecisionMade.__struct_config__.tag
    client.produce(DECISIONS, key="films-2", value=f'{{"type":"{old}","experiment":"films-2","v":0}}'.encode())
    assert client.flush(10) == 0
    assert stand.turn() is None and stand.kinds == []
    gated(stand)
    assert stand.turn() is None
    stand.decide(1, "running", 5)
    assert isinstance(stand.turn(), CanaryAdvanced)


def test_decisions_on_many_experiments_are_told_apart(stand: Stand) -> None:
    release, decisions = PLAN.release("2", canary=True), Decisions(stand.settings)
    other = msgspec.structs.replace(release, name="films-3")
    assert decisions.of(release) is None
    stand.decide(1, "running", 5)
    found = decisions.of(release)
    assert found is not None and (found.latest.version, found.latest.experiment) == (1, "films-2")
    assert decisions.of(other) is None
    stand.write(msgspec.structs.replace(found.latest, experiment="films-3", config_hash=config_hash(other), version=7))
    of_other = decisions.of(other)
    assert of_other is not None and of_other.latest.version == 7
    assert decisions.of(release) == found
    stand.write(msgspec.structs.replace(found.latest, version=2, config_hash="of another one"))
    assert decisions.of(release) is None
    decisions.close()


def test_a_rollback_by_hand_that_was_overtaken_is_no_success(stand: Stand) -> None:
    gated(stand, QUICK)
    assert isinstance(stand.turn(QUICK), Promoted)

    class Overtaken(Journal):
        def append(self, event: LifecycleEvent) -> LifecycleState:
            stand.say(RetrainRequested(id="r2", model=NAME, alias=ALIAS, at_ms=9, against="2", reason="x"))
            return super().append(event)

    with Overtaken(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, QUICK, journal, clock_ms=lambda: stand.at_ms)
        with pytest.raises(Conflict, match="look again"):
            life.roll_back("no", by="ada")
    assert stand.alias == "2"


def test_the_release_of_an_attempt_that_was_ended_is_stopped_though_the_next_one_has_begun(stand: Stand) -> None:
    attempt = gated(stand)
    assert stand.turn() is None
    assert status(stand) == "running"
    # Both while no process runs: it never sees the life idle.
    stand.say(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=5, attempt=attempt, **ADA))
    stand.say(RetrainRequested(id="r2", model=NAME, alias=ALIAS, at_ms=6, against="1", reason="again", by="ada"))
    stand.say(ModelTrained(id="t2", model=NAME, alias=ALIAS, at_ms=7, attempt="r2", version="3"))
    stand.say(GatePassed(id="g2", model=NAME, alias=ALIAS, at_ms=8, attempt="r2", version="3"))
    assert stand.turn() is None  # its canary begins
    assert (status(stand), status(stand, "films-3")) == ("stopped", "running")


def test_a_life_that_is_paused_shows_its_candidate_to_nobody(stand: Stand) -> None:
    gated(stand)
    assert stand.turn() is None
    stand.decide(1, "running", 5)
    assert isinstance(stand.turn(), CanaryAdvanced)
    stand.say(Paused(id="p", model=NAME, alias=ALIAS, at_ms=5, **ADA))
    assert stand.turn() is None
    assert status(stand) == "paused"
    stand.say(Resumed(id="q", model=NAME, alias=ALIAS, at_ms=6, **ADA))
    assert stand.turn() is None
    assert status(stand) == "running"
    catalogue.change(stand.settings, "films-2", "pause", by="ben", why="the database")
    assert stand.turn() is None
    assert status(stand) == "paused"  # whoever paused the experiment starts it again


@pytest.mark.parametrize("shadow", [True, False])
def test_an_experiment_that_somebody_stopped_ends_its_attempt(stand: Stand, shadow: bool) -> None:
    plan = msgspec.structs.replace(PLAN, policy=msgspec.structs.replace(PLAN.policy, shadow=shadow))
    gated(stand, plan)
    begun = stand.turn(plan)
    assert isinstance(begun, ShadowStarted) if shadow else begun is None
    catalogue.change(stand.settings, "films-2", "stop", by="ben", why="wrong model")
    ended = stand.turn(plan)
    assert isinstance(ended, Aborted)
    assert (ended.by, ended.why) == ("ben", "experiment films-2 was stopped: wrong model")
    assert stand.turn(plan) is None  # and it is not tried again for the same drift


def test_decisions_on_another_experiment_of_the_same_name_move_no_canary(stand: Stand) -> None:
    gated(stand)
    assert stand.turn() is None
    stand.decide(1, "promoted", 100)
    with_other_steps = msgspec.structs.replace(PLAN, stopping=msgspec.structs.replace(PLAN.stopping, alpha=0.01))
    assert stand.turn(with_other_steps) is None
    assert isinstance(stand.turn(), CanaryAdvanced)


def test_who_aborts_between_the_move_and_its_event_is_obeyed(stand: Stand) -> None:
    attempt = gated(stand, QUICK)

    class Overtaken(Journal):
        def append(self, event: LifecycleEvent) -> LifecycleState:
            if isinstance(event, Promoted):
                assert stand.alias == "2"
                stand.say(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=8, attempt=attempt, **ADA))
            return super().append(event)

    with Overtaken(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, QUICK, journal, clock_ms=lambda: stand.at_ms)
        life.turn()
        assert (stand.alias, journal.state.in_force, journal.state.promotions) == ("1", "1", 0)
        life.close()


def test_two_aliases_of_one_model_have_lives_of_their_own(stand: Stand) -> None:
    gated(stand, QUICK)
    with Journal(stand.settings, NAME, "Other") as other:
        assert [event.id for event in other.events] == ["d1"]  # of version 1, of whichever alias
        life = Lifecycle(stand.settings, msgspec.structs.replace(QUICK, alias="Other"), other, clock_ms=lambda: 2000)
        found = life.turn()
        assert isinstance(found, MovedByHand) and (found.version, found.before) == ("2", "")  # not its own drift
        other.append(DriftDetected(id="d9", model=NAME, at_ms=1, version="2", since_ms=0, until_ms=1))
        asked = life.turn()
        assert isinstance(asked, RetrainRequested) and asked.against == "2"
        life.close()
    assert isinstance(stand.turn(QUICK), Promoted)
    with Journal(stand.settings, NAME, "Other") as other:
        assert other.state.running is not None and other.state.promotions == 0


def test_commands_that_would_change_nothing_say_so(
    stand: Stand, service_env: Callable[[Settings], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**service_env(stand.settings), "SLUICE_MLFLOW": stand.settings.mlflow}.items():
        monkeypatch.setenv(name, value)

    def sluice(*arguments: str, by: str = "ada") -> None:
        every = [*arguments, f"{NAME}@{ALIAS}", "--why", "because", "--by", by]
        CliRunner().invoke(lifecycle, every, catch_exceptions=False, standalone_mode=False)

    with pytest.raises(ConfigError, match="no attempt is under way"):
        sluice("abort")
    with pytest.raises(Conflict, match="nothing to resume: no attempt is under way"):
        sluice("resume")
    stand.trained()
    for wrong in (("approve",), ("skip", "shadow"), ("skip", "canary"), ("request",)):
        with pytest.raises(Conflict, match=rf"nothing to {wrong[0]}: attempt \w+ stands at `trained`"):
            sluice(*wrong)
    sluice("pause")
    with pytest.raises(Conflict, match=r"nothing to pause: paused by ada \(because\)"):
        sluice("pause", by="ben")
    sluice("resume", by="ben")
    stand.judged(passed=True)
    assert isinstance(stand.turn(), GatePassed)
    sluice("approve")
    with pytest.raises(Conflict, match="stands at `gated`, approved"):
        sluice("approve", by="ben")
    sluice("abort")
    with pytest.raises(ConfigError, match="no promotion that could be taken back"):
        sluice("rollback")
    told = CliRunner().invoke(lifecycle, ["status", f"{NAME}@{ALIAS}"], catch_exceptions=False).output
    assert "nobody leads it" in told and "aborted by ada: because" in told
    found = msgspec.json.decode(
        CliRunner().invoke(lifecycle, ["status", f"{NAME}@{ALIAS}", "--json"], catch_exceptions=False).output
    )
    assert (found["leader"], found["waits"], found["state"]["in_force"]) == (None, None, "1")
