"""A life on a real broker and a real registry: every step once, the alias at one version, back in one command."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from canary_worlds import World
from lives import ALIAS, CATALOGUE, NAME, PLAN, Stand
from registered_models import likes, register

from analyzer.engine import Snapshot, decide
from sluice.adapters import catalogue
from sluice.domain.experiment import load_experiments
from sluice.domain.lifecycle import LifecycleState, event_id
from sluice.domain.lifecycle_events import (
    Aborted,
    Breach,
    CanaryAdvanced,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
)
from sluice.errors import ConfigError, TransportError
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import CANDIDATE, CONTROL, Plan, ShadowRule, load_plan


@pytest.fixture
def stand(make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path) -> Stand:
    return Stand(replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path)), tmp_path)


def test_a_version_is_promoted_once_the_canary_is_through_and_comes_back_on_a_breach(stand: Stand) -> None:
    stand.trained()
    stand.judged(passed=True)
    assert isinstance(stand.turn(), GatePassed)
    assert stand.turn() is None  # the canary is published, and nothing is decided yet
    release = catalogue.load(stand.settings)["films-2"]
    assert release.starting_allocation == {CONTROL: 99, CANDIDATE: 1}
    stand.decide(1, "running", 5)
    advanced = stand.turn()
    assert isinstance(advanced, CanaryAdvanced) and advanced.share == 5
    assert stand.turn() is None
    stand.decide(2, "promoted", 100)
    advanced = stand.turn()
    assert isinstance(advanced, CanaryAdvanced) and advanced.share == 100
    assert stand.alias == "1"
    # Killed between what it did and what it said: the alias is moved, the topic does not know.
    stand.client.set_registered_model_alias(NAME, ALIAS, "2")
    promoted = stand.turn()
    assert isinstance(promoted, Promoted) and (promoted.version, promoted.before) == ("2", "1")
    assert stand.turn() is None
    assert catalogue.load(stand.settings)["films-2"].state.status == "stopped"
    stand.say(Breach(id="b1", model=NAME, at_ms=5, version="2", reason="clicks fell"))
    back = stand.turn()
    assert isinstance(back, RolledBack) and (back.version, back.to, back.cause) == ("2", "1", "b1")
    assert stand.alias == "1"
    assert stand.turn() is None
    assert stand.kinds.count("promoted") == stand.kinds.count("rolled-back") == 1


def test_an_experiment_in_which_a_promoted_version_breaks_a_guardrail_takes_it_back(stand: Stand) -> None:
    now_ms = time.time_ns() // 1_000_000
    stand.at_ms = now_ms - 3_600_000
    quick = replace_policy(canary=False)
    stand.trained()
    stand.judged(passed=True)
    assert isinstance(stand.turn(quick), GatePassed)
    assert isinstance(stand.turn(quick), Promoted)
    stand.at_ms = now_ms
    (watched,) = load_experiments(
        f"{{name: e, unit: slate, variants: [{{name: A, ranker: popularity}}, {{name: B, ranker: '{quick.serving}'}}], "
        "guardrails: [{outcome: error, margin: 0.1, better: lower}]}", "test",
    )  # fmt: skip
    (watched,) = catalogue.apply(stand.settings, [watched])
    assert stand.turn(quick) is None  # nothing is decided yet
    world = World()
    world.add(50, (2000, 1000), (2000, 1000), error=(0, 900))
    stand.write(decide(watched, Snapshot(world.cells, {0: (1, 1)}, now_ms)))
    told = stand.turn(quick)
    assert isinstance(told, Breach) and (told.version, told.cause) == ("2", "e/1")
    assert told.reason == "experiment e: error of B is worse than that of A by more than 0.1"
    back = stand.turn(quick)
    assert isinstance(back, RolledBack) and (back.to, back.cause, back.reasons) == ("1", told.id, (told.reason,))
    stand.at_ms += 20_000
    assert stand.turn(quick) is None  # what it says goes on, and is no news
    assert stand.alias == "1"
    assert stand.records.count("breach-detected") == 1


def test_a_refused_version_and_a_canary_that_did_worse_leave_the_alias_alone(stand: Stand) -> None:
    attempt = stand.trained()
    stand.judged(passed=False)
    refused = stand.turn()
    assert isinstance(refused, GateRefused) and refused.reasons == ("AUC fell",)
    assert stand.turn(replace_policy(cooldown_s=3600)) is None
    again = RetrainRequested(id="r2", model=NAME, alias=ALIAS, at_ms=9, against="1", reason="again")
    stand.say(again)
    stand.say(ModelTrained(id="t2", model=NAME, alias=ALIAS, at_ms=9, attempt="r2", version="2"))
    stand.judged(passed=True)
    assert isinstance(stand.turn(), GatePassed)
    stand.turn()
    stand.decide(1, "rolled-back", 0)
    back = stand.turn()
    assert isinstance(back, RolledBack) and back.reasons == ("as it is",)
    assert stand.turn() is None
    assert stand.alias == "1"
    assert attempt != "r2"
    assert catalogue.load(stand.settings)["films-2"].state.status == "stopped"


@pytest.mark.parametrize(
    ("asked", "passed", "words"),
    [
        ([(19, {})], None, ""),
        ([(20, {})], True, ""),
        ([(15, {}), (5, {"error": "timeout"})], False, "25.0% of its rankings failed, more than 1.0%"),
        ([(20, {"us": 300_000})], False, "more than 100"),
        ([(20, {"error": "unusable", "version": ""})], False, "100.0% of its rankings failed"),  # it never loaded
    ],
)
def test_a_shadow_is_judged_by_what_was_summed_up(
    stand: Stand, asked: list[tuple[int, dict[str, Any]]], passed: bool | None, words: str
) -> None:
    plan = msgspec.structs.replace(replace_policy(shadow=True), shadow=ShadowRule(requests=20))
    stand.trained()
    stand.judged(passed=True)
    assert isinstance(stand.turn(plan), GatePassed)
    started = stand.turn(plan)
    assert isinstance(started, ShadowStarted) and started.experiment == "films-2"
    assert catalogue.load(stand.settings)["films-2"].starting_allocation == {CONTROL: 100, CANDIDATE: 0}
    for requests, how in asked:
        stand.shadowed(requests, **how)
    judged = stand.turn(plan)
    if passed is None:
        assert judged is None
        return
    assert isinstance(judged, ShadowJudged)
    assert (judged.passed, judged.figures["compared"]) == (passed, sum(n for n, how in asked if "error" not in how))
    assert words in " ".join(judged.reasons)
    assert stand.alias == "1"


def test_what_a_suspended_process_had_decided_is_not_done_once_it_was_overtaken(stand: Stand) -> None:
    quick = replace_policy(canary=False)
    attempt = stand.trained()
    stand.judged(passed=True)
    assert isinstance(stand.turn(quick), GatePassed)

    class Overtaken(Journal):
        """Suspended when it has decided to promote: it reads on only when it is about to move the alias."""

        def catch_up(self) -> LifecycleState:
            if not self.state.running or stand.kinds[-1] != "gate-passed":
                return super().catch_up()
            stand.say(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=8, attempt=attempt, by="ada", why="no"))
            return super().catch_up()

    with Overtaken(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, quick, journal, clock_ms=lambda: stand.at_ms)
        assert life.turn() is None
        assert life.turn() is None
        life.close()
    assert (stand.alias, stand.kinds[-1]) == ("1", "aborted")


def test_an_alias_that_somebody_moved_is_not_moved_back(stand: Stand, tmp_path: Path) -> None:
    stand.trained()
    stand.judged(passed=True)
    quick = replace_policy(canary=False)
    assert isinstance(stand.turn(quick), GatePassed)
    register(stand.settings.mlflow_uri, tmp_path / "3", ALIAS, likes("item_new", CATALOGUE))
    ended = stand.turn(quick)
    assert ended is not None and ended.__struct_config__.tag == "abandoned"
    assert "moved by hand, from version 1 to 3" in str(ended)
    assert stand.alias == "3"


def test_mlflow_that_is_away_during_a_promotion_is_waited_for(stand: Stand) -> None:
    stand.trained()
    stand.judged(passed=True)
    quick = replace_policy(canary=False)
    assert isinstance(stand.turn(quick), GatePassed)
    settings, stand.settings = stand.settings, replace(stand.settings, mlflow="http://127.0.0.1:9")
    with pytest.raises(TransportError, match="does not answer"):
        stand.turn(quick)
    stand.settings = settings
    assert stand.kinds[-1] == "gate-passed"
    assert isinstance(stand.turn(quick), Promoted)
    assert stand.alias == "2"


def test_people_and_other_processes_say_the_same_thing_once(stand: Stand) -> None:
    attempt = stand.trained()
    stand.judged(passed=True)
    with Journal(stand.settings, NAME, ALIAS) as one, Journal(stand.settings, NAME, ALIAS) as other:
        lives = [Lifecycle(stand.settings, PLAN, journal, clock_ms=lambda: 7) for journal in (one, other)]
        first = lives[0].turn()
        assert isinstance(first, GatePassed)
        gate = replace_event(first, at_ms=8)
        other.append(gate)  # it had begun before it could read the first one
        assert one.poll(0.5) == other.state
    assert stand.kinds.count("gate-passed") == 1
    stand.say(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=8, attempt=attempt, by="ada", why="no"))
    assert stand.turn() is None
    with Journal(stand.settings, NAME, ALIAS) as journal, pytest.raises(ConfigError, match="no promotion"):
        Lifecycle(stand.settings, PLAN, journal).roll_back("x")


def replace_policy(**changes: Any) -> Plan:
    return msgspec.structs.replace(PLAN, policy=msgspec.structs.replace(PLAN.policy, **changes))


def replace_event(event: LifecycleEvent, **changes: Any) -> Any:
    return msgspec.structs.replace(event, **changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{name: a, model: m}", "missing required field `alias`"),
        ("{name: a, model: m, alias: b, policy: {schedule: '99 * * * *'}}", "is no cron expression"),
        ("{name: a, model: m, alias: b, polcy: {}}", "unknown field `polcy`"),
    ],
)
def test_files_that_are_wrong_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "life.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_plan(tmp_path / "life.yaml")


def test_ids_name_what_they_are_about() -> None:
    assert event_id("m", "a", 1) == event_id("m", "a", "1") != event_id("m", "a1")
