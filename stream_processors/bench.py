"""`sluice bench count`: the counting rate of one processor, against two named baselines of the same run.

The baselines are in `stream_processors.bench_baselines`: a bare confluent-kafka `consume(10000)` loop as the
library comes, the same loop with our client settings, and a plain Faust agent that counts event by event.
All read the same topics on the same broker.

Libraries: click, rich.
"""

from __future__ import annotations

import heapq
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from infra import stack
from sluice.adapters.counters import CounterStore
from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.domain.events import Assignment, ImpressionShown, OutcomeObserved, encode
from sluice.errors import SluiceError
from sluice.names import CLICKS, IMPRESSIONS, RANKINGS, Keys
from sluice.settings import Settings
from stream_processors.drift_pace import SHARE

__all__ = ["count"]

FAUST_EVENTS = 60_000
"""The plain agent is slow: it reads only so many."""


@click.command()
@click.option("--infra", type=click.Choice(["local", "embedded"]), default="local", show_default=True)
@click.option("--events", type=click.IntRange(min=1000), default=1_200_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Pairs; medians are shown.")
@click.option("--drift", is_flag=True, help="Every round twice more, beside a drift monitor.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def count(infra: str, events: int, rounds: int, drift: bool, as_json: bool) -> None:
    """Events counted per second by one `sluice process`, exactly once into Redis, on 4 partitions."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        settings = Settings(state=Path(folder), partitions=4)
        with stack.start(infra, settings) as running:
            settings = running.settings
            _say(as_json, f"writing {events:,} events to {infra} …")
            total = write_events(settings, events, rankings=drift)
            pairs, tuned = [], []
            watched: dict[str, list[Figures]] = {"paced": [], "unpaced": []}
            for number in range(rounds):
                _say(as_json, f"round {number + 1} of {rounds} …")
                bare = _baseline(settings, "consume", total)
                tuned.append(_baseline(settings, "tuned", total))
                pairs.append((bare, _sluice(replace(settings, prefix=f"bench{number}:"), total)))
                for pace, found in watched.items() if drift else ():
                    found.append(_beside_drift(replace(settings, prefix=f"{pace}{number}:"), total, pace))
            faust = _baseline(settings, "faust", min(FAUST_EVENTS, total))
    result = _summary(infra, total, pairs, tuned, faust)
    if drift:
        result["drift"] = _drift_summary([ours for _, ours in pairs], **watched)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _show(result)


def write_events(settings: Settings, events: int, *, rankings: bool = False) -> int:
    """About `events` events, three impressions a slate and 0.6 clicks an impression; the exact number.

    rankings: also what a model knew of each slate, which is not counted.
    """
    client = producer(settings, {"linger.ms": 50})
    written = 0
    for topic, key, value in generate(events, rankings=rankings):
        while True:
            try:
                client.produce(topic, value, key)
                break
            except BufferError:
                client.poll(0.2)
        written += topic != RANKINGS
        if written % 1000 == 0:
            client.poll(0)
    if client.flush(60):
        raise SluiceError("the broker did not take all events within 60 s")
    return written


def generate(events: int, seed: int = 1, *, rankings: bool = False) -> Iterator[tuple[str, bytes, bytes]]:
    """(topic, key, value) in event-time order; clicks follow with an exponential delay of 30 s."""
    rng = random.Random(seed)
    variants = ("affinity", "popularity", "random")
    splits = ((34, 33, 33), (50, 30, 20), (60, 25, 15), (70, 20, 10), (80, 10, 10))
    keys = [",".join(f"{name}={share}" for name, share in zip(variants, split, strict=True)) for split in splits]
    slates = max(1, round(events / 4.8))
    at = 1_000_000_000_000
    pending: list[tuple[int, int, bytes, bytes]] = []
    for slate in range(slates):
        at += rng.randrange(400)
        while pending and pending[0][0] <= at:
            yield (CLICKS, *heapq.heappop(pending)[2:])
        user = f"u{rng.randrange(20_000)}"
        split = slate * len(keys) // slates
        which = rng.randrange(3)
        if rankings:
            from stream_processors.bench_drift import ranking

            yield RANKINGS, user.encode(), ranking(user, f"{slate:x}", at, 3)
        made = (Assignment("bench", variants[which], keys[split], f"{slate:x}", splits[split][which] / 100, "slate"),)
        for position in range(3):
            name = f"{slate:x}-{position}"
            shown = ImpressionShown(
                impression_id=name,
                user_id=user,
                item_id=f"m{rng.randrange(9000)}",
                at_ms=at,
                assignments=made,
                slate_id=f"{slate:x}",
                position=position,
            )
            yield IMPRESSIONS, user.encode(), encode(shown)
            if rng.random() < 0.6:
                when = at + int(rng.expovariate(1 / 30_000))
                click_event = OutcomeObserved(click_id=f"{name}c", impression_id=name, user_id=user, at_ms=when)
                heapq.heappush(pending, (when, slate * 3 + position, user.encode(), encode(click_event)))
    while pending:
        yield (CLICKS, *heapq.heappop(pending)[2:])


def _baseline(settings: Settings, name: str, events: int) -> dict[str, float]:
    command = [sys.executable, "-m", "stream_processors.bench_baselines", name, str(events)]
    done = subprocess.run(command, env=_environment(settings), capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SluiceError(f"baseline {name}: {done.stderr.strip()[-400:]}")
    # Faust resets the terminal on the same line, even when there is none.
    found: dict[str, float] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def _sluice(settings: Settings, events: int) -> dict[str, float]:
    """Rate between the first and the last commit that Redis shows of one `sluice process`."""
    store = CounterStore(connect(settings), Keys(settings.prefix))
    command = [sys.executable, "-m", "sluice", "process", "--loglevel", "error"]
    with _child(command, settings) as child:
        deadline = time.monotonic() + 300
        begun: tuple[float, int, float] | None = None
        while True:
            counted = sum(map(sum, store.offsets(range(4)).values()))
            now, cpu = time.perf_counter(), _cpu_seconds(child.pid)
            if counted and begun is None:
                begun = (now, counted, cpu)
            if begun and counted >= events:
                moved = counted - begun[1]
                return {"per_second": moved / (now - begun[0]), "cpu_us": (cpu - begun[2]) / moved * 1e6}
            if child.poll() is not None or time.monotonic() > deadline:
                raise SluiceError(f"sluice process stopped at {counted} of {events} events")
            time.sleep(0.005)


def _beside_drift(settings: Settings, events: int, pace: str) -> dict[str, float]:
    """`_sluice`, while a drift monitor in a process of its own reads the rankings of the same slates."""
    command = [sys.executable, "-m", "stream_processors.bench_drift", pace]
    with _child(command, settings, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != b"ready":
            raise SluiceError("the drift monitor did not start")
        found = _sluice(settings, events)
        child.send_signal(signal.SIGTERM)
        told: dict[str, float] = json.loads(child.stdout.read() or b"{}")
    if not told.get("records"):
        raise SluiceError("the drift monitor read nothing")
    return {**found, "monitor_us": told["cpu_s"] / events * 1e6}


@contextmanager
def _child(
    command: list[str], settings: Settings, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, env=_environment(settings), stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "SLUICE_KAFKA": settings.kafka,
        "SLUICE_REDIS": settings.redis,
        "SLUICE_PREFIX": settings.prefix,
        "SLUICE_STATE": str(settings.state),
    }


def _cpu_seconds(pid: int) -> float:
    """User and system time so far; nan where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Figures = dict[str, float]


def _summary(
    infra: str, events: int, pairs: list[tuple[Figures, Figures]], tuned: list[Figures], faust: Figures
) -> dict[str, Any]:
    """Medians; ratios are medians of the ratios of each round."""
    bare, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def median(figures: list[Figures], name: str = "per_second") -> float:
        return statistics.median(figure[name] for figure in figures)

    def ratio(others: list[Figures]) -> float:
        return round(statistics.median(a["per_second"] / b["per_second"] for a, b in zip(ours, others, strict=True)), 3)

    return {
        "events": events,
        "consume_per_second": round(median(bare)),
        "tuned_consume_per_second": round(median(tuned)),
        "faust_per_second": round(faust["per_second"]),
        "sluice_per_second": round(median(ours)),
        "ratio_to_consume": ratio(bare),
        "ratio_to_tuned_consume": ratio(tuned),
        "ratio_to_faust": round(median(ours) / faust["per_second"], 1),
        "cpu_us_per_event": {
            "consume": round(median(bare, "cpu_us"), 2),
            "tuned_consume": round(median(tuned, "cpu_us"), 2),
            "faust": round(faust["cpu_us"], 2),
            "sluice": round(median(ours, "cpu_us"), 2),
        },
        "rounds": len(pairs),
        "infra": infra,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
    }


def _drift_summary(alone: list[Figures], paced: list[Figures], unpaced: list[Figures]) -> dict[str, Any]:
    """Medians; ratios are medians of the ratios of each round."""

    def beside(found: list[Figures]) -> dict[str, Any]:
        ratios = [two["per_second"] / one["per_second"] for one, two in zip(alone, found, strict=True)]
        return {
            "sluice_per_second": round(statistics.median(one["per_second"] for one in found)),
            "ratio_to_without": round(statistics.median(ratios), 3),
        }

    cpu_us = statistics.median(one["monitor_us"] for one in unpaced)
    return {
        **beside(paced),
        "core_share": SHARE,
        "cpu_us_per_event": round(cpu_us, 2),
        "follows_per_second": round(SHARE / cpu_us * 1e6),
        "unpaced": beside(unpaced),
    }


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['events']:,} events, {result['infra']}, median of {result['rounds']}")
    for heading in ("", "events/s", "CPU µs/event", "sluice is"):
        table.add_column(heading, justify="left" if not heading else "right")
    cpu = result["cpu_us_per_event"]
    table.add_row("bare consume(10000)", f"{result['consume_per_second']:,}", f"{cpu['consume']}",
                  f"{result['ratio_to_consume']:.2f} ×")  # fmt: skip
    table.add_row("the same, our client settings", f"{result['tuned_consume_per_second']:,}", f"{cpu['tuned_consume']}",
                  f"{result['ratio_to_tuned_consume']:.2f} ×")  # fmt: skip
    table.add_row("plain Faust agent", f"{result['faust_per_second']:,}", f"{cpu['faust']}",
                  f"{result['ratio_to_faust']:.1f} ×")  # fmt: skip
    table.add_row("sluice process", f"{result['sluice_per_second']:,}", f"{cpu['sluice']}", "")
    drift = result.get("drift")
    if drift:
        for name, beside in (("a drift monitor", drift), ("one that may use a whole core", drift["unpaced"])):
            table.add_row(f"sluice process beside {name}", f"{beside['sluice_per_second']:,}", "",
                          f"{1 / beside['ratio_to_without']:.2f} ×")  # fmt: skip
    console = Console()
    console.print(table)
    if drift:
        console.print(
            f"drift monitor: {drift['cpu_us_per_event']} µs of CPU an event; with {drift['core_share']:.0%} of a core "
            f"it follows {drift['follows_per_second']:,} events/s"
        )
    console.print(result["machine"], style="dim")


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        click.echo(text, err=True)
