"""Where a life stands, who leads it and why nothing happens, in words and for programs. Library: msgspec."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from sluice.adapters.lease import holder
from sluice.adapters.lives import LifeBoard
from sluice.adapters.redis import connect
from sluice.domain.lifecycle import LifecycleState
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.lifecycle_waits import LifeTold
from sluice.errors import ConfigError, TransportError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["Led", "as_object", "in_words", "led"]

log = logging.getLogger(__name__)

SHOWN = 10


class Led(NamedTuple):
    """What Redis knows of the process that leads."""

    known: bool
    """False: Redis does not answer"""
    leader: str | None
    told: LifeTold | None
    """What it last said; None without a leader"""


def led(settings: Settings, model: str, alias: str) -> Led:
    keys = Keys(settings.prefix)
    try:
        settings.require_redis()
        with connect(settings) as client:
            leader = holder(client, keys.lifecycle(model, alias))
            told = LifeBoard(client, keys, model, alias).get() if leader is not None else None
    except (TransportError, ConfigError) as error:
        log.warning("who leads is not known: %s", error)
        return Led(False, None, None)
    return Led(True, leader, told)


def as_object(model: str, state: LifecycleState, events: Sequence[LifecycleEvent], by: Led) -> dict[str, Any]:
    """For `--json`."""
    told = msgspec.to_builtins(state)
    del told["seen"]
    waits = None if by.told is None else {**msgspec.to_builtins(by.told.waits), "at_ms": by.told.at_ms}
    return {"model": model, "state": told, "leader": by.leader, "waits": waits, "events": events}


def in_words(model: str, state: LifecycleState, events: Sequence[LifecycleEvent], by: Led) -> list[str]:
    """Lines for people, the latest events last."""
    lines = [f"{model}: version {state.in_force or 'unknown'} is in force"]
    if state.before:
        lines[0] += f", before it version {state.before}"
    lines += [*_who(by), *_what(state, by)]
    attempt = state.attempt
    if attempt is not None:
        stage = attempt.outcome if attempt.stage == "ended" else attempt.stage
        version = f" version {attempt.version}" if attempt.version else ""
        lines.append(f"attempt {attempt.id}:{version} {stage} ({attempt.reason})")
    for event in events[-SHOWN:]:
        at = datetime.fromtimestamp(event.at_ms / 1000, UTC)
        lines.append(f"  {at:%Y-%m-%d %H:%M:%S} {event.__struct_config__.tag}{_because(event)}")
    return lines


def _who(by: Led) -> list[str]:
    if not by.known:
        return []
    return [f"led by {by.leader}" if by.leader is not None else "nobody leads it: `sluice lifecycle run FILE` does"]


def _what(state: LifecycleState, by: Led) -> list[str]:
    waits = by.told.waits if by.told is not None else None
    # Somebody may have paused it a moment ago, or while nobody leads.
    if state.paused is not None and (waits is None or waits.reason != "paused"):
        return [f"paused by {state.paused.by}: {state.paused.why}"]
    if waits is None:
        return []
    kind = {"at-work": "at work: ", "failure": "fails, and is tried again: "}.get(waits.reason, "waits: ")
    return [kind + waits.words]


def _because(event: LifecycleEvent) -> str:
    by, reasons = getattr(event, "by", ""), getattr(event, "reasons", ())
    words = "; ".join(reasons) or getattr(event, "reason", "") or getattr(event, "why", "")
    return (f" by {by}" if by else "") + (f": {words}" if words else "")
