"""`sluice infra`: start, stop and inspect a broker and a Redis."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import click

from infra import state as states
from infra import supervisor
from infra.kafka import jars
from infra.stack import MODES, Options, Stack
from infra.stack import start as start_stack
from sluice.adapters.kafka import cluster_id, ensure_topics, missing_topics
from sluice.adapters.redis import server_info
from sluice.errors import SluiceError
from sluice.names import TOPICS
from sluice.settings import Settings, masked_url

__all__ = ["infra"]


class _Size(click.ParamType):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = re.fullmatch(r"(\d+)\s*([mg])b?", str(value), re.IGNORECASE)
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r}: allowed is a whole number with m or g, such as 512m", param, ctx)
        return match[1] + match[2].lower()


Command = Callable[..., None]


def _server_options(command: Command) -> Command:
    for option in reversed(
        [
            click.option("--infra", "mode", type=click.Choice(MODES), default="embedded", show_default=True,
                         help="embedded: Tansu and Redis from wheels; local: Apache Kafka and redis-server; "
                              "external: only check SLUICE_KAFKA and SLUICE_REDIS."),
            click.option("--kafka-port", type=click.IntRange(0, 65535), default=0, help="A fixed port of the broker."),
            click.option("--redis-port", type=click.IntRange(0, 65535), default=0, help="A fixed port of Redis."),
            click.option("--kafka-memory", type=_Size(), default="768m", show_default=True, help="Heap of local."),
            click.option("--redis-memory", type=_Size(), default="1g", show_default=True,
                         help="What Redis may hold; writes beyond it are refused, nothing is evicted."),
            click.option("--persist", is_flag=True, help="Keep the data for the next start (local only)."),
            click.option("--deadline", type=click.FloatRange(1), default=60.0, show_default=True,
                         help="Seconds until a server must answer."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def infra() -> None:
    """Start, stop and inspect a broker and a Redis.

    Servers listen on 127.0.0.1 only, on free ports, and keep their files in one folder (SLUICE_STATE, `.sluice`).
    """


@infra.command()
@_server_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def up(mode: str, as_json: bool, **given: Any) -> None:
    """Start the servers in the background; return when they answer and the topics exist."""
    settings = Settings.load()
    options = _options(given)
    if mode == "external":
        with start_stack(mode, settings, options) as checked:
            found = states.describe(checked)
    else:
        if mode == "local" and states.holder(settings.state) is None:
            jars.java()
            jars.find()  # here and not in the background: a person should see the download
        found = supervisor.up(mode, settings, _arguments(given), options.deadline_s + 15)
    _announce(found, as_json)
    for name in ("SLUICE_KAFKA", "SLUICE_REDIS"):
        if mode != "external" and os.environ.get(name):
            click.echo(f"sluice: {name} is set: commands will use that, not the server just started", err=True)


@infra.command()
@_server_options
@click.option("--parent", type=int, help="End when this process, our parent, has ended (default: whoever started us).")
@click.option("--detached", is_flag=True, help="Outlive the parent.")
def run(mode: str, parent: int | None, detached: bool, **given: Any) -> None:
    """Run the servers in the foreground; print one JSON line when they are ready.

    They end with this command, and this command ends with its parent.
    """
    watched = None if detached else (parent or os.getppid())

    def ready(stack: Stack) -> None:
        found = states.describe(stack)
        click.echo(json.dumps({**found, "redis": masked_url(found["redis"])}))

    supervisor.run(mode, Settings.load(), _options(given), parent=watched, ready=ready)


@infra.command()
def down() -> None:
    """Stop what `up` or `run` started from this state folder."""
    state = Settings.load().state
    stopped = supervisor.down(state)
    click.echo("stopped" if stopped else f"nothing was running from {state}")


@infra.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Say what runs and whether it answers. Exit code 1 when something does not."""
    settings = Settings.load()
    holder = states.holder(settings.state)
    ready = holder.ready if holder else None
    named = os.environ.get("SLUICE_KAFKA") or os.environ.get("SLUICE_REDIS")
    mode = ready["infra"] if ready else ("external" if named else None)
    kafka, redis = _kafka_status(settings), _redis_status(settings)
    found = {
        "up": kafka["answers"] and not kafka["missing_topics"] and redis["answers"],
        "infra": mode,
        "state": str(settings.state),
        "kafka": kafka,
        "redis": redis,
        "pids": {"sluice infra": ready["pid"], **ready["pids"]} if ready else {},
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    ctx.exit(0 if found["up"] else 1)


@infra.command()
@click.option(
    "--replication",
    type=click.IntRange(-1),
    default=-1,
    show_default=True,
    help="Copies of each new topic; -1 for the broker's default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")  # fmt: skip
def topics(replication: int, as_json: bool) -> None:
    """Create the topics that are missing; leave the others as they are."""
    settings = Settings.load()
    missing = missing_topics(settings)
    ensure_topics(settings, replication=replication)
    if as_json:
        click.echo(json.dumps({"created": missing, "topics": [topic.name for topic in TOPICS]}))
        return
    for topic in TOPICS:
        count = settings.partitions if topic.keyed_by_user else 1
        click.echo(f"{topic.name:<16} " + (f"created, partitions: {count}" if topic.name in missing else "exists"))


def _options(given: dict[str, Any]) -> Options:
    return Options(
        kafka_port=given["kafka_port"],
        redis_port=given["redis_port"],
        kafka_memory=given["kafka_memory"],
        redis_memory=given["redis_memory"] + "b",
        persist=given["persist"],
        deadline_s=given["deadline"],
    )


def _arguments(given: dict[str, Any]) -> list[str]:
    """The same options once more, for the `run` that `up` starts."""
    words = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, str(value)]
    return words


def _announce(found: dict[str, Any], as_json: bool) -> None:
    shown = {**found, "redis": masked_url(found["redis"])}
    if as_json:
        click.echo(json.dumps(shown))
    else:
        click.echo(f"{shown['infra']}: Kafka {shown['kafka']}, Redis {shown['redis']}")


def _kafka_status(settings: Settings) -> dict[str, Any]:
    status: dict[str, Any] = {"address": settings.kafka, "answers": False, "missing_topics": [], "error": ""}
    if settings.kafka:
        try:
            cluster_id(settings, 3.0)
            status |= {"answers": True, "missing_topics": missing_topics(settings)}
        except SluiceError as error:
            status["error"] = str(error)
    return status


def _redis_status(settings: Settings) -> dict[str, Any]:
    status: dict[str, Any] = {"address": masked_url(settings.redis), "answers": False, "error": ""}
    if settings.redis:
        try:
            info = server_info(settings)
            status |= {"answers": True, "version": info["redis_version"], "used_bytes": int(info["used_memory"])}
            status |= {"max_bytes": int(info["maxmemory"])}
        except SluiceError as error:
            status["error"] = str(error)
    return status


def _show(found: dict[str, Any]) -> None:
    if found["infra"] is None:
        click.echo(f"nothing runs from {found['state']}; `sluice infra up` starts a broker and a Redis")
        return
    click.echo(f"{found['infra']}, state in {found['state']}")
    kafka, redis = found["kafka"], found["redis"]
    topics_said = f"topics missing: {', '.join(kafka['missing_topics'])}" if kafka["missing_topics"] else "topics exist"
    click.echo(f"Kafka  {kafka['address'] or '-'}  " + (topics_said if kafka["answers"] else _silence(kafka)))
    memory = f"{redis.get('used_bytes', 0) / 2**20:.0f} MiB of {redis.get('max_bytes', 0) / 2**20:.0f} MiB used"
    said = f"Redis {redis.get('version')}, {memory}" if redis["answers"] else _silence(redis)
    click.echo(f"Redis  {redis['address'] or '-'}  {said}")
    for name, pid in found["pids"].items():
        click.echo(f"{pid:>7}  {name}")


def _silence(status: dict[str, Any]) -> str:
    return f"does not answer: {status['error']}" if status["address"] else "not configured"
