"""The baselines of `sluice bench count`, each in a process of its own: `python -m … consume|tuned|faust EVENTS`.

Prints one JSON line: {"per_second": …, "cpu_us": …}, from the first event on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from sluice.adapters.kafka import Consumer, TopicPartition, consumer
from sluice.adapters.redis import connect
from sluice.domain.events import Heartbeat, clicks_decoder, impressions_decoder
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings


class _Clock:
    """From the first call of `count` to `events`."""

    def __init__(self, events: int) -> None:
        self.events, self.seen, self.began, self.cpu, self.first = events, 0, 0.0, 0.0, 0

    def count(self, records: int) -> bool:
        if not self.seen:
            self.began, self.cpu, self.first = time.perf_counter(), time.process_time(), records
        self.seen += records
        return self.seen >= self.events

    def report(self) -> None:
        moved = self.seen - self.first
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        print(json.dumps({"per_second": moved / seconds, "cpu_us": cpu / moved * 1e6}), flush=True)


def bare_consume(settings: Settings, events: int) -> None:
    """`consume(10000)` as the library comes, with nothing set but what it needs."""
    client = Consumer(
        {
            "bootstrap.servers": settings.kafka,
            "group.id": "bench",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    _consume(client, events)


def tuned_consume(settings: Settings, events: int) -> None:
    """The same loop with the client settings of Sluice: the ceiling of any consumer in Python."""
    _consume(consumer(settings), events)


def _consume(client: Consumer, events: int) -> None:
    client.assign([TopicPartition(topic, p, 0) for topic in (IMPRESSIONS, CLICKS) for p in range(4)])
    clock = _Clock(events)
    while True:
        messages = client.consume(10_000, 0.1)
        if messages and clock.count(len(messages)):
            break
    clock.report()
    client.close()


def plain_faust(settings: Settings, events: int) -> None:
    """The textbook way: two Faust agents, event by event, the same join and the same per-unit sums.

    Without watermarks, dedupe windows, dead letters or atomic offsets; totals go to Redis once a second.
    """
    import faust

    app = faust.App(
        f"bench-{os.getpid()}",
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        store="memory://",
        datadir=str(settings.state / "faust"),
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=4,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=6,
        broker_heartbeat_interval=2,
    )
    redis = connect(settings)
    clock = _Clock(events)
    opened: dict[str, tuple[tuple[str, str, str], str]] = {}
    clicked: set[str] = set()
    early: dict[str, str] = {}
    units: dict[tuple[str, str, str, str], list[int]] = {}
    cells: dict[tuple[str, str, str], list[int]] = {}

    def done() -> None:
        clock.report()
        os._exit(0)

    def add(cell: tuple[str, str, str], unit: str, shown: int, hit: int) -> None:
        total = units.setdefault((*cell, unit), [0, 0])
        n, c = total
        total[0] += shown
        total[1] += hit
        sums = cells.setdefault(cell, [0] * 6)
        if not n and shown:
            sums[0] += 1
        sums[1] += shown
        sums[2] += (n + shown) ** 2 - n * n
        sums[3] += hit
        sums[4] += (c + hit) ** 2 - c * c
        sums[5] += (n + shown) * (c + hit) - n * c

    def click(name: str) -> None:
        if name in clicked:
            return
        clicked.add(name)
        cell, unit = opened[name]
        add(cell, unit, 0, 1)

    @app.agent(app.topic(IMPRESSIONS, value_type=bytes, value_serializer="raw"))
    async def impressions(stream: Any) -> None:
        async for value in stream:
            event = impressions_decoder.decode(value)
            if not isinstance(event, Heartbeat) and event.impression_id not in opened:
                made = event.assignments[0]
                cell = (made.experiment, made.variant, made.allocation)
                opened[event.impression_id] = (cell, made.unit)
                add(cell, made.unit, 1, 0)
                if early.pop(event.impression_id, None):
                    click(event.impression_id)
            if clock.count(1):
                done()

    @app.agent(app.topic(CLICKS, value_type=bytes, value_serializer="raw"))
    async def clicks(stream: Any) -> None:
        async for value in stream:
            event = clicks_decoder.decode(value)
            if not isinstance(event, Heartbeat):
                if event.impression_id in opened:
                    click(event.impression_id)
                else:
                    early[event.impression_id] = event.click_id
            if clock.count(1):
                done()

    @app.timer(interval=1.0)  # type: ignore[untyped-decorator]
    async def save() -> None:
        if cells:
            redis.hset("bench:faust", mapping={" ".join(key): str(sums) for key, sums in cells.items()})

    logging.disable(logging.CRITICAL)
    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    {"consume": bare_consume, "tuned": tuned_consume, "faust": plain_faust}[sys.argv[1]](
        Settings.load(), int(sys.argv[2])
    )
