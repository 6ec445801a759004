"""`sluice demo loop`: what it prints is what stands on the topics, and no version serves that was not promoted."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from demo_processes import processes_of
from movielens_files import write_shared_tastes

from sluice.console.demo.loop_seen import Ranked, seen
from sluice.domain.lifecycle import LifecycleState, fold
from sluice.domain.lifecycle_events import LifecycleEvent, OfAttempt, Promoted
from sluice.errors import SluiceError
from sluice.settings import INFRA_FILE, Settings
from sluice.subscription import subscribe

KEYS = [
    "drift_at", "detected_at", "promoted_at", "ctr_before", "ctr_drifted", "ctr_recovered", "ctr_without_loop",
    "ctr_fresh_model", "behind_fresh_error", "won_back", "clicks_lost", "slates", "stopped_at", "attempts",
    "promotions", "ranked", "units_exposed_share", "users_exposed_share", "events", "data", "seconds",
]  # fmt: skip
SLATES, TRAINED, CHANGE = 3600, 1440, 1800
RATES = ("ctr_before", "ctr_drifted", "ctr_recovered", "ctr_without_loop", "ctr_fresh_model")


@pytest.fixture
def run(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Callable[..., Any]
) -> Callable[..., tuple[dict[str, Any], list[Ranked]]]:
    """What the demo printed, and what its broker held of the model's rankings."""

    def run(*arguments: str) -> tuple[dict[str, Any], list[Ranked]]:
        data = write_shared_tastes(tmp_path / "films")
        demo = start("loop", "--json", "--data", str(data), "--change", "0.5", *arguments)
        (file,) = wait_until(lambda: list(tmp_path.glob(f"sluice-demo-*/{INFRA_FILE}")), 60, "servers")
        ranked = list(rankings(demo, Settings.load({"SLUICE_STATE": str(file.parent)})))
        out, err = demo.communicate(timeout=200)
        assert (demo.returncode, err) == (0, "")
        (line,) = out.splitlines()
        assert processes_of(tmp_path) == []
        assert list(tmp_path.glob("sluice-demo-*")) == []
        return json.loads(line), ranked

    return run


def rankings(demo: subprocess.Popen[str], settings: Settings) -> Iterator[Ranked]:
    """Those of the model, for as long as the demo runs: its broker holds them in memory."""
    with subscribe("rankings", from_start=True, settings=settings) as slates:
        while demo.poll() is None:
            try:
                yield from (seen(slate) for slate in slates.poll(0.2) if slate.model_version)
            except SluiceError:
                if not demo.wait(200):
                    return
                raise


def life(found: dict[str, Any]) -> tuple[list[LifecycleEvent], LifecycleState]:
    """The events, each of which fits the state before it, and their end."""
    events = [msgspec.convert(event, LifecycleEvent) for event in found["events"]]
    state = LifecycleState()
    for event in events:
        after = fold([event], state)
        if isinstance(event, OfAttempt):
            assert after.attempt != state.attempt, f"out of order: {event}"
        state = after
    assert fold([*events, *events]) == state
    return events, state


def check(found: dict[str, Any], ranked: list[Ranked]) -> None:
    assert list(found) == KEYS
    assert (found["slates"]["before"], sum(found["slates"].values()) <= SLATES - TRAINED) == (CHANGE - TRAINED, True)
    assert all(0 < found[name] < 1 for name in RATES if found[name] is not None)
    assert found["ctr_drifted"] < found["ctr_before"]
    since = [one for one in ranked if one.at_ms >= found["drift_at"]]
    assert found["ranked"] == Counter(one.version for one in since)
    assert min(one.number for one in since) >= CHANGE > max(one.number for one in ranked if one not in since)
    assert found["attempts"] == sum(event["type"] == "retrain-requested" for event in found["events"]) >= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loop_notices_trains_releases_and_recovers(run: Callable[..., tuple[dict[str, Any], list[Ranked]]]) -> None:
    found, ranked = run("--speed", "45/s")
    check(found, ranked)
    events, state = life(found)
    promoted = [event for event in events if isinstance(event, Promoted)]
    assert (state.promotions, state.in_force) == (found["promotions"], promoted[-1].version)
    assert found["drift_at"] < found["detected_at"] < found["promoted_at"]
    # Whoever the model ranks for from then on sees the new version, or one that followed it.
    later = {one.version for one in ranked if one.at_ms > found["promoted_at"]}
    assert promoted[0].version in later and promoted[0].before not in later
    assert found["ctr_without_loop"] < found["ctr_recovered"] < found["ctr_fresh_model"] + 0.05
    assert found["won_back"] > 0.5 and found["clicks_lost"] > 0
    assert found["units_exposed_share"] == 0 or found["promotions"] < found["attempts"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_who_learns_from_poisoned_clicks_is_stopped(run: Callable[..., tuple[dict[str, Any], list[Ranked]]]) -> None:
    found, ranked = run("--bad", "--speed", "150/s")
    check(found, ranked)
    events, state = life(found)
    assert not any(isinstance(event, Promoted) for event in events)
    assert state.in_force == found["events"][-1].get("against", state.in_force)
    assert found["stopped_at"] in ("gate", "shadow", "canary")
    since = [one for one in ranked if one.at_ms >= found["drift_at"]]
    exposed = [one for one in since if one.version != state.in_force]
    assert found["units_exposed_share"] == len(exposed) / len(since)
    assert found["users_exposed_share"] == len({one.user_id for one in exposed}) / len({one.user_id for one in since})
    if found["stopped_at"] != "canary":
        assert not exposed
    assert (found["promoted_at"], found["ctr_recovered"], found["ctr_fresh_model"]) == (None, None, None)
    assert found["ctr_without_loop"] == found["ctr_drifted"]
