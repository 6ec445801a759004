"""A broker with its topics and a Redis, in one of three modes; everything they keep lies in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra import redis_server, tansu
from infra.kafka import broker
from infra.server import Server, ServerDied, free_port
from sluice.adapters.kafka import ensure_topics, missing_topics, wait_for_broker
from sluice.adapters.redis import wait_for_redis
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["MODES", "Options", "Stack", "start"]

MODES = ("embedded", "local", "external")
PORT_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked of a stack. A port of 0 is a free one."""

    kafka_port: int = 0
    redis_port: int = 0
    kafka_memory: str = "768m"
    redis_memory: str = "1gb"
    persist: bool = False
    deadline_s: float = 30.0


@dataclass
class Stack:
    """Running servers, ready for use: `settings` says where. Stop it, or use it as a context manager."""

    infra: str
    settings: Settings
    servers: list[Server] = field(default_factory=list)
    scratch: list[Path] = field(default_factory=list)

    @property
    def pids(self) -> dict[str, int]:
        return {server.name: server.pid for server in self.servers}

    def dead(self) -> Server | None:
        """A server that ended by itself, if any."""
        return next((server for server in self.servers if not server.alive), None)

    def stop(self) -> None:
        """End the servers, the latest first, and delete what need not be kept."""
        while self.servers:
            self.servers.pop().stop()
        for folder in self.scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(mode: str, settings: Settings, options: Options | None = None) -> Stack:
    """Start (or with `external` only check) a broker and a Redis below `settings.state`; create the topics.

    Raises ConfigError when something is not installed or configured, TransportError when it does not answer.
    """
    options = options or Options()
    if mode == "external":
        return _check(settings)
    if mode not in MODES:
        raise ConfigError(f"infra: {mode!r}: allowed are {', '.join(MODES)}")
    if mode == "embedded" and options.persist:
        raise ConfigError("the embedded broker keeps everything in memory: use --infra local to persist")
    state = settings.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    stack = Stack(mode, settings)
    kafka_folder, redis_folder = state / "kafka", state / "redis"
    if not options.persist:
        stack.scratch = [kafka_folder, redis_folder]
        for folder in stack.scratch:  # what a killed run left behind
            shutil.rmtree(folder, ignore_errors=True)

    def start_broker(port: int) -> Server:
        log = state / "logs" / "kafka.log"
        if mode == "embedded":
            return tansu.start(kafka_folder, log, port, options.deadline_s)
        return broker.start(kafka_folder, log, port, memory=options.kafka_memory, deadline_s=options.deadline_s)

    def start_redis(port: int) -> Server:
        bundled, installed = redis_server.bundled(), redis_server.installed()
        executable = (bundled or installed) if mode == "embedded" else (installed or bundled)
        log = state / "logs" / "redis.log"
        return redis_server.start(
            executable, redis_folder, log, port, memory=options.redis_memory, persist=options.persist
        )

    try:
        stack.servers.append(_on_free_port(start_redis, options.redis_port))
        stack.servers.append(_on_free_port(start_broker, options.kafka_port))
        redis, kafka = stack.servers
        if not options.persist:
            kafka.graceful = False  # its files are deleted next: no need to wait until they are whole
        # Only a broker that was started by us: properties for another (TLS, SASL) would not fit it.
        stack.settings = replace(settings, kafka=kafka.address, redis=redis.address, kafka_config={})
        ensure_topics(stack.settings)
    except BaseException:
        stack.stop()
        raise
    return stack


def _check(settings: Settings) -> Stack:
    settings.require_kafka()
    settings.require_redis()
    wait_for_broker(settings)
    wait_for_redis(settings).close()
    missing = missing_topics(settings)
    if missing:
        raise ConfigError(f"topics {', '.join(missing)} do not exist: `sluice infra topics` creates them")
    return Stack("external", settings)


def _on_free_port(start_server: Callable[[int], Server], wanted: int) -> Server:
    for attempt in range(PORT_TRIES):
        try:
            return start_server(wanted or free_port())
        except ServerDied:
            # Somebody may have taken the free port meanwhile; a wanted one will not become free by trying.
            if wanted or attempt == PORT_TRIES - 1:
                raise
    raise AssertionError("unreachable")
