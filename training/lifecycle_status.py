"""Where a life stands, who leads it and why nothing happens, in words and for programs. Library: msgspec."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from sluice.adapters.lives import LifeBoard
from sluice.adapters.redis import connect
from sluice.domain.lifecycle import LifecycleState
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.lifecycle_waits import LifeAnswer
from sluice.errors import ConfigError, TransportError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["as_object", "in_words", "led"]

log = logging.getLogger(__name__)

SHOWN = 10


def led(settings: Settings, model: str, alias: str) -> LifeAnswer | None:
    """None, and a line in the log, where Redis does not answer."""
    try:
        settings.require_redis()
        with connect(settings) as client:
            return LifeBoard(client, Keys(settings.prefix), model, alias).get()
    except (TransportError, ConfigError) as error:
        log.warning("who leads is not known: %s", error)
        return None


def as_object(
    model: str, state: LifecycleState, events: Sequence[LifecycleEvent], by: LifeAnswer | None
) -> dict[str, Any]:
    """For `--json`. by: None where it is not known."""
    told = msgspec.to_builtins(state)
    del told["seen"]
    leader, waits = (by.leader, by.waits) if by is not None else (None, None)
    return {"model": model, "state": told, "leader": leader, "waits": waits, "events": events}


def in_words(
    model: str, state: LifecycleState, events: Sequence[LifecycleEvent], by: LifeAnswer | None
) -> list[str]:  # fmt: skip
    """Lines for people, the latest events last. by: as in `as_object`."""
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


def _who(by: LifeAnswer | None) -> list[str]:
    if by is None:
        return []
    return [f"led by {by.leader}" if by.leader is not None else "nobody leads it: `sluice lifecycle run FILE` does"]


def _what(state: LifecycleState, by: LifeAnswer | None) -> list[str]:
    waits = by.waits if by is not None else None
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
