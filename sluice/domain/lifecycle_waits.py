"""Why nothing happens in the life of a model, for whoever asks. Pure. Library: msgspec."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from sluice.domain.lifecycle import LifecycleState, Policy, held_back, next_schedule_ms, waits_for_approval, wanted

__all__ = ["LifeAnswer", "Waits", "WaitsTold", "waits"]


class Waits(Struct, frozen=True, kw_only=True):
    """What a life waits for, or is at."""

    reason: Literal[
        "paused", "approval", "cooldown", "daily-limit", "reason", "shadow", "canary", "overtaken", "at-work", "failure"
    ]
    """`reason`: for drift, the schedule or a command. `at-work`: a step is being done; `failure`: it failed and is due
    again"""
    words: str
    until_ms: int | None = None
    """Where a time is known at which it goes on by itself"""


class WaitsTold(Waits, frozen=True, kw_only=True):
    """What the process that leads a life last said that it waits for, or is at."""

    at_ms: int
    """Clock of that process"""


class LifeAnswer(Struct, frozen=True, kw_only=True):
    """Who leads the life of a model, and what it waits for."""

    leader: str | None
    """Null: nobody does"""
    waits: WaitsTold | None
    """Null without a leader"""


def waits(state: LifecycleState, now_ms: int, policy: Policy, since_ms: int = 0) -> Waits:
    """What is waited for where no step is due; arguments as of `next_step`."""
    if state.paused is not None:
        return Waits(reason="paused", words=f"paused by {state.paused.by}: {state.paused.why}")
    if waits_for_approval(state, policy):
        assert state.running is not None
        words = f"version {state.running.version} has passed: `sluice lifecycle approve` shows it to users"
        return Waits(reason="approval", words=words)
    held = held_back(state, now_ms, policy)
    asked = wanted(state, now_ms, policy, since_ms)
    if held is not None and asked is not None:
        kind, until_ms = held
        why = (
            "cooldown of the last one" if kind == "cooldown" else f"the daily limit of {policy.daily_limit} is reached"
        )
        words = f"the next attempt ({asked.reason}) begins at {_moment(until_ms)}: {why}"
        return Waits(reason=kind, words=words, until_ms=until_ms)
    return _nothing_wanted(state, now_ms, policy, since_ms)


def _nothing_wanted(state: LifecycleState, now_ms: int, policy: Policy, since_ms: int) -> Waits:
    if state.drift is not None and not policy.drift:
        reason = "drift is open, and the plan trains on a schedule or a command alone"
    else:
        reason = f"no drift of version {state.in_force} is open" if state.in_force else "no drift was seen"
    due_ms = next_schedule_ms(state, now_ms, policy, since_ms)
    if due_ms is None:
        return Waits(reason="reason", words=f"{reason}; there is no schedule")
    return Waits(reason="reason", words=f"{reason}; by schedule the next attempt begins at {_moment(due_ms)}",
                 until_ms=due_ms)  # fmt: skip


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
