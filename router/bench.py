"""`sluice bench route`: latency and throughput of the router over HTTP, beside a bare FastAPI echo of the same run.

Everything runs on 127.0.0.1: a broker, a Redis, `sluice route`, the echo (`router.bench_echo`) and the load generator
(`router.bench_load`). Libraries: click, uvloop, LightGBM, MLflow.
"""

from __future__ import annotations

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
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from router.bench_load import Load, at_most, at_rate
from sluice.errors import TransportError
from sluice.settings import Settings

__all__ = ["route"]

ASSIGN_RATE, RANK_RATE = 500, 200
USERS, ITEMS, SHOWN = 20_000, 5_000, 10
BATCH = 10_000
DECISIONS_MADE = 100
MODEL = "models:/bench@trees"


@click.command()
@click.option("--infra", type=click.Choice(["embedded", "local"]), default="embedded", show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=5.0, show_default=True, help="Of each rate.")
@click.option(
    "--rounds", type=click.IntRange(1, 20), default=5, show_default=True, help="Pairs of peaks; medians count."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def route(infra: str, seconds: float, rounds: int, as_json: bool) -> None:
    """Assignments and rankings over HTTP, batches in process, and how soon a decision is followed."""
    from infra import stack

    def say(text: str) -> None:
        if not as_json:
            click.echo(text, err=True)

    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, ExitStack() as closing:
        say(f"starting {infra} servers, a model and the services …")
        running = closing.enter_context(stack.start(infra, Settings(state=Path(folder))))
        # The service asks for no token, and the registry is the bench's own.
        settings = replace(running.settings, token="", mlflow="")
        _prepare(settings, Path(folder))
        echo = closing.enter_context(_child([sys.executable, "-m", "router.bench_echo"], settings))
        service = closing.enter_context(_child([sys.executable, "-m", "router", "--port", "0", "--json"], settings))
        figures = _over_http(echo, service, seconds, rounds, say)
        say("batches of 10,000 units …")
        figures |= _batches(settings)
        say(f"{DECISIONS_MADE} decisions …")
        figures |= _decisions(settings)
    figures |= {
        "infra": infra, "rounds": rounds, "seconds": seconds,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
    }  # fmt: skip
    click.echo(json.dumps(figures)) if as_json else _show(figures)


def _over_http(echo: str, service: str, seconds: float, rounds: int, say: Any) -> dict[str, Any]:
    import uvloop

    def rate(url: str, body: Any, per_second: float) -> Load:
        uvloop.run(at_most(url, body, seconds=0.5))  # connections, caches and clocks are warm
        return uvloop.run(at_rate(url, body, per_second=per_second, seconds=seconds))

    # First, so that a broker that has just started is warm when latencies count.
    pairs = []
    for number in range(rounds):
        say(f"peaks: round {number + 1} of {rounds} …")
        bare = uvloop.run(at_most(f"{echo}/echo", _assign_body, seconds=seconds / 2)).per_second
        ours = uvloop.run(at_most(f"{service}/assign", _assign_body, seconds=seconds / 2)).per_second
        pairs.append((bare, ours))
    say(f"{ASSIGN_RATE} assignments a second …")
    quiet = rate(f"{echo}/echo", _assign_body, ASSIGN_RATE)
    assign = rate(f"{service}/assign", _assign_body, ASSIGN_RATE)
    say(f"{RANK_RATE} rankings a second …")
    rank = rate(f"{service}/rank", _rank_body, RANK_RATE)
    # In turns, so that what else the machine does meets both alike.
    shadowed = partial(_rank_body, experiment=b"shadowed")
    added = []
    for number in range(rounds):
        say(f"shadow: round {number + 1} of {rounds} …")
        off, on = (rate(f"{service}/rank", body, RANK_RATE) for body in (_rank_body, shadowed))
        added.append((on.quantile(0.99) - off.quantile(0.99), on.quantile(0.5) - off.quantile(0.5)))
    return {
        "assign_p99_ms": round(assign.quantile(0.99), 2),
        "assign_p50_ms": round(assign.quantile(0.5), 2),
        "echo_p99_ms": round(quiet.quantile(0.99), 2),
        "assign_rps": round(statistics.median(ours for _, ours in pairs)),
        "echo_rps": round(statistics.median(bare for bare, _ in pairs)),
        "assign_rps_ratio_to_echo": round(statistics.median(ours / bare for bare, ours in pairs), 3),
        "rank_p99_ms": round(rank.quantile(0.99), 2),
        "rank_p50_ms": round(rank.quantile(0.5), 2),
        "shadow_added_p99_ms": round(statistics.median(p99 for p99, _ in added), 2),
        "shadow_added_p50_ms": round(statistics.median(p50 for _, p50 in added), 2),
    }


def _assign_body(number: int) -> bytes:
    return b'{"units":[{"user_id":"u%d"}],"experiments":["plain"]}' % (number * 7919 % USERS)


def _rank_body(number: int, experiment: bytes = b"ranked") -> bytes:
    first = number * 7919 % (ITEMS - SHOWN)
    items = b",".join(b'"m%d"' % item for item in range(first, first + SHOWN))
    return b'{"user_id":"u%d","experiment":"%b","items":[%b]}' % (number * 104_729 % USERS, experiment, items)


def _batches(settings: Settings) -> dict[str, Any]:
    """`Router.assign` in this process, against Redis; half of the batches are units that were seen before."""
    from router import AssignmentRequest, Router
    from sluice.adapters.assignments import AssignmentStore
    from sluice.adapters.redis import connect
    from sluice.names import Keys

    speeds: dict[str, list[float]] = {"new": [], "sticky": []}
    with connect(settings) as client:
        router = Router(_experiments()[:1], AssignmentStore(client, Keys("bench:")))
        for start in range(0, 7 * BATCH, BATCH):
            requests = [AssignmentRequest(f"user-{start + n}", {}, n) for n in range(BATCH)]
            for kind in speeds:
                begun = time.perf_counter()
                router.assign(requests)
                speeds[kind].append(BATCH / (time.perf_counter() - begun))
    return {
        "batch_units_per_second": round(statistics.median(speeds["new"] + speeds["sticky"])),
        "batch_new_units_per_second": round(statistics.median(speeds["new"])),
        "batch_sticky_units_per_second": round(statistics.median(speeds["sticky"])),
    }


def _decisions(settings: Settings) -> dict[str, Any]:
    """From before a decision is handed to the producer until a router in this process draws from its allocation.

    The first one is left out: with it the producer connects, which it does once.
    """
    from router import build
    from sluice.adapters.kafka import producer
    from sluice.domain.events import DecisionMade, encode
    from sluice.names import DECISIONS

    took_ms = []
    out = producer(settings, {"linger.ms": 0})
    plain = _experiments()[0]
    with build(settings, [plain]) as router:
        rng = random.Random(1)
        for version in range(1, DECISIONS_MADE + 2):
            share = rng.randrange(1, 100)
            decision = DecisionMade(
                experiment=plain.name, version=version, at_ms=0, offsets={}, config_hash="", config={}, seed=0,
                evidence=(), results=(), sample_ratio_p=None, allocation={"a": share, "b": 100 - share},
                allocation_version=version, verdict="continue", reasons=(),
            )  # fmt: skip
            time.sleep(rng.uniform(0, 0.06))  # decisions come at any moment of the reader's waiting
            begun = time.perf_counter()
            out.produce(DECISIONS, encode(decision), plain.name)
            while router.allocation(plain.name)[0] < version:
                out.poll(0)
                if time.perf_counter() - begun > 10:
                    raise TransportError("a decision was not followed within 10 s")
                time.sleep(0.0005)
            took_ms.append(1000 * (time.perf_counter() - begun))
    took_ms = sorted(took_ms[1:])
    return {
        "allocation_p99_ms": round(took_ms[int(0.99 * len(took_ms))], 1),
        "allocation_p50_ms": round(statistics.median(took_ms), 1),
    }


def _experiments() -> tuple[Any, ...]:
    from sluice.domain.experiment import Experiment, Variant
    from sluice.domain.experiment_parts import Shadow

    return (
        Experiment(name="plain", variants=(Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity"))),
        Experiment(name="ranked", variants=(Variant(name="trees", ranker=MODEL), Variant(name="same", ranker=MODEL))),
        Experiment(
            name="shadowed",
            variants=(Variant(name="trees", ranker=MODEL), Variant(name="same", ranker=MODEL)),
            shadow=(Shadow(name="next", ranker=MODEL),),
        ),
    )


def _prepare(settings: Settings, folder: Path) -> None:
    """Experiments, states of users and items, and a registered model of boosted trees."""
    from router.bench_model import register_model, write_states
    from sluice.adapters import catalogue

    register_model(settings, folder / "artifacts", MODEL)
    write_states(settings, USERS, ITEMS)
    catalogue.apply(settings, _experiments())


@contextmanager
def _child(command: list[str], settings: Settings) -> Iterator[str]:
    """A service that prints its address as JSON; ends it afterwards."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")},
        "SLUICE_KAFKA": settings.kafka, "SLUICE_REDIS": settings.redis, "SLUICE_STATE": str(settings.state),
    }  # fmt: skip
    log = settings.state / f"{command[2].rpartition('.')[2]}.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            said = log.read_text(errors="replace").strip().splitlines()
            raise TransportError(f"{' '.join(command[2:])}: {said[-1] if said else 'ended at once'}")
        yield json.loads(line)["url"]
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"the router on {figures['infra']}", show_header=False)
    rows = [
        (f"/assign at {ASSIGN_RATE}/s, p99", f"{figures['assign_p99_ms']} ms", f"echo {figures['echo_p99_ms']} ms"),
        ("/assign at most", f"{figures['assign_rps']:,}/s", f"{figures['assign_rps_ratio_to_echo']} × echo"),
        (f"/rank of {SHOWN} items at {RANK_RATE}/s, p99", f"{figures['rank_p99_ms']} ms", "boosted trees"),
        ("a shadow adds to that p99", f"{figures['shadow_added_p99_ms']} ms", "in turns"),
        ("Router.assign, 10,000 a batch", f"{figures['batch_units_per_second']:,} units/s", ""),
        ("decision → allocation in use, p99", f"{figures['allocation_p99_ms']} ms", ""),
    ]
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(figures["machine"], style="dim")
