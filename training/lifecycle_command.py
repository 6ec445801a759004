"""`sluice lifecycle`. Library: click."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sluice.adapters import logs
from sluice.adapters.exporter import exporting
from sluice.adapters.lease import Lease
from sluice.adapters.lives import LifeBoard
from sluice.adapters.metrics import Metrics
from sluice.adapters.redis import connect
from sluice.console.options import metrics_port_option
from sluice.errors import ConfigError, Conflict
from sluice.names import Keys
from sluice.settings import Settings
from training.options import needs_training
from training.retrain_command import parse_model

if TYPE_CHECKING:
    from sluice.domain.lifecycle import LifecycleState
    from training.lifecycle_journal import Journal

__all__ = ["lifecycle"]


@click.group()
def lifecycle() -> None:
    """Train a registered model again when it is time, and release it step by step.

    Every step is an event on topic `lifecycle`; a process that is killed goes on where it was.
    """


@lifecycle.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--once", is_flag=True, help="Do what is due, one step after the other, and stop where it must wait.")
@metrics_port_option
def run(file: Path, once: bool, metrics_port: int | None) -> None:
    """Lead the model of FILE through its life, until stopped.

    Several processes may be started for one model: one leads, the others stand by.
    """
    with needs_training():
        from training.lifecycle import Lifecycle
        from training.lifecycle_journal import Journal
        from training.lifecycle_plan import load_plan
        from training.lifecycle_process import Notes, Process

        plan, settings = load_plan(file), Settings.load()
        settings.require_kafka(), settings.require_redis()
        logs.configure("lifecycle", settings)
        stop, metrics = threading.Event(), Metrics("lifecycle")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with ExitStack() as closing:
            client, keys = closing.enter_context(connect(settings)), Keys(settings.prefix)
            who = f"{socket.gethostname()}, process {os.getpid()}"
            lease = closing.enter_context(Lease(client, keys.lifecycle(plan.model, plan.alias), who))
            journal = closing.enter_context(Journal(settings, plan.model, plan.alias))
            notes = Notes(LifeBoard(client, keys, plan.model, plan.alias))
            life = Lifecycle(settings, plan, journal, tell=notes, stopping=stop.is_set)
            closing.callback(life.close)
            process = Process(plan, journal, life, lease, metrics, notes, lambda event: click.echo(_json(event)))
            # Only now: totals are of the whole topic, and shall not seem to jump.
            closing.enter_context(exporting(metrics, settings, metrics_port))
            metrics.read_from(process.readings, ready=lambda: process.ready)
            closing.callback(metrics.stop_reading)
            process.once() if once else process.run(stop)


@lifecycle.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: state, leader, what it waits for, events.")
def status(model: str, as_json: bool) -> None:
    """Where the life of MODEL (NAME@ALIAS) stands, what it waits for, and what happened last."""
    from training.lifecycle_status import as_object, in_words, led

    name, alias = parse_model(model)
    with _journal(model) as journal:
        state, events = journal.state, list(journal.events)
    by = led(Settings.load(), name, alias)
    if as_json:
        click.echo(msgspec.json.encode(as_object(model, state, events, by)).decode())
    else:
        click.echo("\n".join(in_words(model, state, events, by)))


def _by_hand(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of what people do."""
    for option in (
        click.option("--by", default=getpass.getuser, help="Who.  [default: the user of this machine]"),
        click.option("--why", required=True, help="Why; it stays on the topic."),
        click.argument("model"),
    ):
        command = option(command)
    return command


@lifecycle.command()
@_by_hand
def pause(model: str, why: str, by: str) -> None:
    """Take no step until it is resumed; the version in force serves on."""
    _say(model, "Paused", by=by, why=why)


@lifecycle.command()
@_by_hand
def resume(model: str, why: str, by: str) -> None:
    """Take steps again."""
    _say(model, "Resumed", by=by, why=why)


@lifecycle.command()
@_by_hand
def approve(model: str, why: str, by: str) -> None:
    """Let users be shown the version that waits (`approval: manual`)."""
    _say(model, "Approved", attempt=True, by=by, why=why)


@lifecycle.command()
@click.argument("stage", type=click.Choice(["shadow", "canary"]))
@_by_hand
def skip(stage: str, model: str, why: str, by: str) -> None:
    """Count STAGE, the one that is next or under way, as passed."""
    _say(model, "Skipped", attempt=True, stage=stage, by=by, why=why)


@lifecycle.command()
@_by_hand
def abort(model: str, why: str, by: str) -> None:
    """End the attempt; the version in force serves on."""
    _say(model, "Aborted", attempt=True, by=by, why=why)


@lifecycle.command()
@_by_hand
def request(model: str, why: str, by: str) -> None:
    """Begin an attempt now, whatever the cooldown says."""
    with needs_training():
        from sluice.adapters.mlflow import ModelRef, Registry

        name, alias = parse_model(model)
        against = Registry(Settings.load()).resolve(ModelRef(name, alias=alias)).version
        _say(model, "RetrainRequested", against=against, reason=why, by=by)


@lifecycle.command()
@_by_hand
def rollback(model: str, why: str, by: str) -> None:
    """Bring the version before the last promotion back, at once."""
    with needs_training():
        from training.lifecycle import Lifecycle
        from training.lifecycle_plan import Plan

        name, alias = parse_model(model)
        with _journal(model) as journal:
            life = Lifecycle(Settings.load(), Plan(name="by-hand", model=name, alias=alias), journal)
            click.echo(_json(life.roll_back(why, by=by)))


def _journal(model: str) -> Journal:
    from training.lifecycle_journal import Journal

    name, alias = parse_model(model)
    settings = Settings.load()
    settings.require_kafka()
    return Journal(settings, name, alias)


def _say(model: str, kind: str, *, attempt: bool = False, **fields: Any) -> None:
    """Write what somebody did. attempt: it belongs to the one under way. Raises Conflict where it changes nothing."""
    from sluice.domain import lifecycle_events
    from sluice.domain.lifecycle import changes

    name, alias = parse_model(model)
    with _journal(model) as journal:
        state = journal.state
        running = state.running
        if attempt:
            if running is None:
                raise ConfigError(f"{model}: no attempt is under way")
            fields |= {"attempt": running.id, "cause": running.latest}
        made = getattr(lifecycle_events, kind)(
            id=uuid.uuid4().hex[:16], model=name, alias=alias, at_ms=time.time_ns() // 1_000_000, **fields
        )
        if (kind == "Paused" and state.paused is not None) or not changes(state, made):
            raise Conflict(f"{model}: nothing to {click.get_current_context().info_name}: {_place(state)}")
        journal.append(made)
        click.echo(_json(made))


def _place(state: LifecycleState) -> str:
    run, by = state.running, state.paused
    told = [f"paused by {by.by} ({by.why})"] if by is not None else []
    approved = ", approved" if run is not None and run.approved else ""
    told.append(f"attempt {run.id} stands at `{run.stage}`{approved}" if run is not None else "no attempt is under way")
    return ", ".join(told)


def _json(event: Any) -> str:
    return msgspec.json.encode(event).decode()
