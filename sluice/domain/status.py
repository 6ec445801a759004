"""The life of an experiment: its status, who changed it and why, and which changes are allowed. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from sluice.errors import ConfigError, Conflict

__all__ = ["ACTIONS", "KEPT_CHANGES", "Action", "Change", "State", "Status", "changed"]

Status: TypeAlias = Literal["draft", "running", "paused", "stopped", "shipped"]
Action: TypeAlias = Literal["create", "apply", "start", "pause", "stop", "ship"]

KEPT_CHANGES = 20
MAX_WHY = 500
MAX_BY = 100


class Change(Struct, frozen=True, kw_only=True):
    """One change: what was done, by whom, why and when (clock time, milliseconds), and what came of it."""

    revision: int
    action: Action
    status: Status
    by: Annotated[str, Meta(max_length=MAX_BY)]
    why: Annotated[str, Meta(max_length=MAX_WHY)] = ""
    at_ms: int
    variant: str = ""
    """The one that was shipped."""


class State(Struct, frozen=True, kw_only=True):
    """What the control plane says of an experiment. No part of its configuration: it enters no hash.

    draft: nobody sees it but forced units. running: as configured. paused and stopped: everybody sees the control.
    shipped: everybody sees `variant`. Only a running one gives assignments, and only of it decisions are made.
    """

    status: Status = "running"
    variant: str = ""
    """The one that was shipped."""
    revision: Annotated[int, Meta(ge=0)] = 0
    """Grows by one with every change; 0: published without the control plane."""
    changes: Annotated[tuple[Change, ...], Meta(max_length=KEPT_CHANGES)] = ()
    """The last ones, the newest last."""


ACTIONS: dict[Action, tuple[dict[Status, Status], str]] = {
    "start": ({"draft": "running", "paused": "running"}, "start a draft, or go on with a paused one"),
    "pause": ({"running": "paused"}, "everybody sees the control until it is started again"),
    "stop": (
        {"draft": "stopped", "running": "stopped", "paused": "stopped"},
        "for good: everybody sees the control",
    ),
    "ship": (
        {"running": "shipped", "paused": "shipped", "stopped": "shipped"},
        "for good: everybody sees one variant",
    ),
}
"""Action → (status before → status after; what it means)"""

_WAY_OUT: dict[Status, str] = {
    "stopped": "a stopped experiment stays stopped; compare again under another name",
    "shipped": "a shipped experiment stays shipped; compare again under another name",
}


def changed(
    name: str, state: State | None, action: Action, *, by: str, why: str, at_ms: int, variant: str = ""
) -> State:
    """The state after `action`; state None: there is no such experiment yet.

    `variant` is what is shipped. Raises Conflict, one line with the way out, when the action is not allowed now, and
    ConfigError for texts that are too long.
    """
    before = state or State()
    if action == "create":
        if state is not None:
            raise Conflict(f"experiment {name} exists and is {state.status}; `apply` changes its configuration")
        status: Status = "draft"
    elif action == "apply":
        status = before.status
    else:
        steps, _ = ACTIONS[action]
        if before.status not in steps:
            way = _WAY_OUT.get(before.status) or f"`{action}` works on {' and '.join(steps)} ones"
            raise Conflict(f"experiment {name} is {before.status}: cannot {action} it; {way}")
        status = steps[before.status]
    if len(by) > MAX_BY or len(why) > MAX_WHY:
        raise ConfigError(f"at most {MAX_BY} characters say who, and {MAX_WHY} why")
    shipped = variant if action == "ship" else before.variant
    change = Change(
        revision=before.revision + 1, action=action, status=status, by=by, why=why, at_ms=at_ms,
        variant=variant if action == "ship" else "",
    )  # fmt: skip
    return State(
        status=status,
        variant=shipped,
        revision=change.revision,
        changes=(*before.changes, change)[-KEPT_CHANGES:],
    )
