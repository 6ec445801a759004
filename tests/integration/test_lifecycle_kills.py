"""SIGKILL at every state of a life, at every kind of moment: the same end, nothing twice, the alias at one version.

Each case kills a process in the step that is due in one state; another one leads the life to its end. Quick runs kill
once in every state, between what was done and what was said; the other moments are marked slow. `-s` shows the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from lives import ALIAS, NAME, Moment, Stand, killed

from infra import stack as stacks
from sluice.adapters import catalogue
from sluice.domain.lifecycle import LifecycleState, Policy
from sluice.domain.lifecycle_events import Breach
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan, ShadowRule

PLAN = Plan(name="films", model=NAME, alias=ALIAS, policy=Policy(cooldown_s=0), shadow=ShadowRule(requests=20))
RELEASE = [
    "drift-detected", "retrain-requested", "model-trained", "gate-passed", "shadow-started", "shadow-judged",
    "canary-advanced", "canary-advanced", "promoted",
]  # fmt: skip
BACK = ["breach-detected", "rolled-back"]
EVERY: tuple[Moment, ...] = ("turn", "deed", "done", "sent", "over")
MOVES: tuple[Moment, ...] = (*EVERY, "moving", "moved")


class State(NamedTuple):
    name: str
    deed: str
    """The method that does what is due there"""
    events: int
    """What has happened by then"""
    moments: tuple[Moment, ...] = EVERY


STATES = (
    State("drift seen", "_request", 1),
    State("requested", "_train", 2),
    State("trained", "_judge", 3),
    State("gate passed", "_start_shadow", 4),
    State("in the shadow", "_judge_shadow", 5),
    State("shadow passed", "_canary", 6),
    State("canary at 5 %", "_canary", 7),
    State("canary through", "_promote", 8, MOVES),
    State("promoted", "_tidy", 9),
    State("breach", "_roll_back", 10, MOVES),
)
CASES = [
    pytest.param(state, moment, marks=() if moment == "done" else pytest.mark.slow, id=f"{state.name}, {moment}")
    for state in STATES for moment in state.moments
]  # fmt: skip


Ends = dict[int, LifecycleState]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Iterator[Ends]:
    """Events → the state after them, of a life in which nobody was killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with stacks.start("embedded", Settings(state=folder), stacks.Options(deadline_s=120)) as running:
        stand = Stand(replace(running.settings, mlflow=mlflow_store(folder)), folder)
        yield {until: lead(stand, until) for until in (len(RELEASE), len(RELEASE + BACK))}


@pytest.fixture
def stand(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path,
    service_env: Callable[[Settings], dict[str, str]], monkeypatch: pytest.MonkeyPatch,
) -> Stand:  # fmt: skip
    made = Stand(replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path)), tmp_path)
    for name, value in {**service_env(made.settings), "SLUICE_MLFLOW": made.settings.mlflow}.items():
        monkeypatch.setenv(name, value)  # for the process that trains
    return made


def world(stand: Stand, journal: Journal, *, by_hand: bool = True) -> bool:
    """What others do at this moment of the life; whether that was an event itself.

    by_hand: what the training would say is said, instead of letting a process find the version that is there.
    """
    match len(journal.events):
        case 0:
            journal.append(stand.drift)
            return True
        case 2:
            assert journal.state.attempt is not None
            attempt = journal.state.attempt.id
            stand.judged(passed=True, attempt=attempt)
            if by_hand:
                journal.append(stand.training(attempt))
            return by_hand
        case 5:
            stand.shadowed(20)
        case 6:
            stand.decide(1, "running", 5)
        case 7:
            stand.decide(2, "promoted", 100)
        case 9:
            journal.append(Breach(id="b1", model=NAME, at_ms=5, version="2", reason="clicks fell"))
            return True
    return False


def lead(stand: Stand, until: int, *, first: bool = False, unsettled: bool = False) -> LifecycleState:
    """On, from wherever it stands, until so many events have happened; at an end of the life, until nothing is due.

    first: the next step is done by the process, even if it is a training. unsettled: leave what is due at the end.
    """
    with Journal(stand.settings, NAME, ALIAS) as journal:
        life = Lifecycle(stand.settings, PLAN, journal, clock_ms=lambda: stand.at_ms)
        while len(journal.events) < until:
            if not world(stand, journal, by_hand=not first):
                life.turn()
            first = False
        if until in (len(RELEASE), len(RELEASE + BACK)) and not unsettled:
            assert life.turn() is None
        life.close()
        return journal.state


def prepare(stand: Stand, state: State) -> None:
    """To where the step of `state` is due."""
    lead(stand, state.events, unsettled=True)
    if state.name != "promoted":
        with Journal(stand.settings, NAME, ALIAS) as journal:
            world(stand, journal, by_hand=False)


@pytest.mark.parametrize(("state", "moment"), CASES)
def test_a_killed_process_is_followed_by_one_that_comes_to_the_same_end(
    stand: Stand, undisturbed: Ends, state: State, moment: Moment
) -> None:
    prepare(stand, state)
    killed(stand, PLAN, state.deed, moment)
    alias, left = stand.alias, stand.records
    assert alias in ("1", "2")
    expected = RELEASE if state.events <= len(RELEASE) else RELEASE + BACK
    after = lead(stand, len(expected), first=True)
    assert after == undisturbed[len(expected)]
    assert stand.records == expected
    assert stand.alias == after.in_force
    assert catalogue.load(stand.settings)["films-2"].state.status == "stopped"
    print(f"| {state.name} | {moment} | {left[-1]}, alias at {alias} | {expected[-1]}, alias at {after.in_force} |")
