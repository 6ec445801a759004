"""`sluice replay` as a process of its own against a broker: what it writes, and that a kill changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.adapters.kafka import Message
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.domain.definitions import Definitions
from sluice.names import ASSIGNMENTS, CLICKS, IMPRESSIONS, Keys
from sluice.settings import Settings
from stream_processors.recount import Recount, recount

SMALL = ("--data", "synthetic:slates=400,users=30,random=0.4,PolicyA=0.5,PolicyB=0.6", "--seed", "3")
TWO = """
experiments:
  - {name: first, unit: slate, variants: [{name: a, ranker: popularity}, {name: b, ranker: random}]}
  - {name: second, unit: user, variants: [{name: x}, {name: y}]}
"""


@pytest.fixture
def replay(service_env: Callable[[Settings], dict[str, str]]) -> Callable[..., subprocess.Popen[str]]:
    def start(settings: Settings, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "producers", "--json", *options]
        environ = service_env(settings)
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return dict(json.loads(out)) if code == 0 else {"error": err}


def read_all(settings: Settings, topic: str, wanted: int) -> list[Message]:
    found: list[Message] = []
    with TopicReader(settings, topic, from_start=True) as reader:
        empty = 0
        while len(found) < wanted or empty < 2:
            batch = reader.poll(0.1)
            found += batch
            empty = 0 if batch else empty + 1
            assert empty < 600, f"{topic}: {len(found)} of {wanted} records"
    return found


def events(messages: list[Message]) -> list[dict[str, Any]]:
    return [event for m in messages if (event := json.loads(m.value() or b""))["type"] != "heartbeat"]


def by_partition(messages: list[Message]) -> dict[int, list[tuple[int, bytes | None, int | None]]]:
    logs: dict[int, list[tuple[int, bytes | None, int | None]]] = {p: [] for p in range(4)}
    for message in messages:
        value = message.value()
        logs[message.partition() or 0].append(
            (message.offset() or 0, value if isinstance(value, bytes) else None, None)
        )
    return logs


def counted(impressions: list[Message], clicks: list[Message], settings: Settings) -> dict[int, Recount]:
    definitions = Definitions(settings.window_ms, settings.lateness_ms, settings.skew_ms, settings.bucket_ms)
    left, right = by_partition(impressions), by_partition(clicks)
    return {p: recount(left[p], right[p], definitions) for p in left}


def test_what_is_written_is_what_is_reported(stack: Settings, replay: Callable[..., Any]) -> None:
    summary = finish(replay(stack, *SMALL))
    impressions = read_all(stack, IMPRESSIONS, summary["impressions"] + 4)
    clicks = read_all(stack, CLICKS, summary["outcomes"] + 4)
    assignments = events(read_all(stack, ASSIGNMENTS, summary["slates"]))
    assert len(impressions) - len(events(impressions)) == len(clicks) - len(events(clicks)) == 4  # final heartbeats

    shown = {event["impression_id"]: event for event in events(impressions)}
    assert len(shown) == summary["impressions"] == 1200
    assert max(map(len, shown)) <= 20
    outcomes = events(clicks)
    assert len({event["click_id"] for event in outcomes}) == len(outcomes) == summary["outcomes"]
    assert sum(event.get("outcome", "click") == "click" for event in outcomes) == summary["clicks"]
    assert all(event["at_ms"] >= shown[event["impression_id"]]["at_ms"] for event in outcomes)
    assert len(assignments) == summary["slates"] == 400

    variants = Counter(event["assignments"][0][1] for event in shown.values())
    assert variants == {name: row["impressions"] for name, row in summary["variants"].items()}
    # A user's impressions and outcomes meet in one partition.
    homes = {
        topic: {json.loads(m.value() or b"")["user_id"]: m.partition() for m in messages if m.key()}
        for topic, messages in ((IMPRESSIONS, impressions), (CLICKS, clicks))
    }
    assert homes[IMPRESSIONS] == homes[CLICKS]
    # Everything is counted, and nothing is left waiting after the final heartbeat.
    recounts = counted(impressions, clicks, stack).values()
    assert sum(r.records["impressions.counted"] for r in recounts) == summary["impressions"]
    assert sum(r.records["clicks.counted"] for r in recounts) == summary["outcomes"]
    assert sum(r.waiting for r in recounts) == 0


def test_the_same_seed_writes_the_same_events(make_stack: Callable[..., Settings], replay: Callable[..., Any]) -> None:
    written = []
    for seed in ("3", "3", "4"):
        settings = make_stack("embedded")
        summary = finish(replay(settings, *SMALL, "--seed", seed, "--disorder", "0.2", "--duplicates", "0.1"))
        clicks = read_all(settings, CLICKS, summary["outcomes"])
        written.append({p: [value for _, value, _ in log] for p, log in by_partition(clicks).items()})
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("moment", [150, 700])
def test_a_kill_and_a_restart_count_the_same(
    make_stack: Callable[..., Settings], replay: Callable[..., Any], wait_until: Callable[..., Any], moment: int
) -> None:
    faults = ("--disorder", "0.2", "--duplicates", "0.1", "--late", "0.05")
    reference = make_stack("embedded")
    expected = finish(replay(reference, *SMALL, *faults))
    settings = make_stack("embedded")
    process = replay(settings, *SMALL, *faults, "--speed", "300/s")
    with TopicReader(settings, IMPRESSIONS, from_start=True) as reader:
        seen: list[Message] = []
        wait_until(lambda: seen.extend(reader.poll(0.02)) or len(seen) >= moment, 30, f"{moment} impressions")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    summary = finish(replay(settings, *SMALL, *faults))
    assert {**summary, **dict.fromkeys(UNEQUAL)} == {**expected, **dict.fromkeys(UNEQUAL)}
    if moment == 700:
        assert 0 < summary["resumed_from"] < 400

    totals = []
    for stack, numbers in ((reference, expected), (settings, summary)):
        impressions = read_all(stack, IMPRESSIONS, numbers["impressions"])
        clicks = read_all(stack, CLICKS, numbers["outcomes"])
        ids = {event["impression_id"] for event in events(impressions)} | {e["click_id"] for e in events(clicks)}
        recounts = counted(impressions, clicks, stack)
        totals.append((ids, {p: (r.cells, r.outcomes, r.buckets, r.waiting) for p, r in recounts.items()}))
    assert totals[0] == totals[1]


UNEQUAL = ("seconds", "events_per_second", "records", "resumed_from")


def test_replays_of_other_names_share_no_id(make_stack: Callable[..., Settings], replay: Callable[..., Any]) -> None:
    settings = make_stack("embedded")
    for name in ("one", "other"):
        finish(replay(settings, *SMALL, "--limit", "20", "--name", name))
    slates = [made["unit"] for made in events(read_all(settings, ASSIGNMENTS, 40))]
    assert len(set(slates)) == len(slates) == 40


def test_a_finished_replay_is_not_sent_again(embedded: Settings, replay: Callable[..., Any]) -> None:
    options = (*SMALL, "--limit", "50", "--name", "finished")
    first = finish(replay(embedded, *options))
    again = finish(replay(embedded, *options))
    assert again["records"] == {}
    assert {**first, **dict.fromkeys(UNEQUAL)} == {**again, **dict.fromkeys(UNEQUAL)}
    assert sum(finish(replay(embedded, *options, "--restart"))["records"].values()) > 0


@pytest.mark.slow
def test_a_checkpoint_of_a_lost_log_is_not_believed(
    make_stack: Callable[..., Settings], replay: Callable[..., Any]
) -> None:
    first, second = make_stack("embedded"), make_stack("embedded")
    finish(replay(first, *SMALL, "--limit", "50"))
    pattern = Keys(first.prefix).replay("*")
    with connect(first) as source, connect(second) as target:
        for key in source.keys(pattern):  # type: ignore[union-attr]
            target.set(key, source.get(key))  # type: ignore[arg-type]
    process = replay(second, *SMALL, "--limit", "50")
    out, err = process.communicate(timeout=120)
    assert "gone: starting again" in err
    assert json.loads(out)["records"][IMPRESSIONS] == 150


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_and_the_next_run_goes_on(
    embedded: Settings, replay: Callable[..., Any], wait_until: Callable[..., Any], kind: signal.Signals
) -> None:
    options = (*SMALL, "--name", f"signal {kind}")
    process = replay(embedded, *options, "--speed", "200/s")
    with connect(embedded) as client:
        pattern = Keys(embedded.prefix).replay("*")
        before = set(client.keys(pattern))  # type: ignore[arg-type]
        wait_until(lambda: set(client.keys(pattern)) - before, 30, "a checkpoint")  # type: ignore[arg-type]
    process.send_signal(kind)
    stopped = finish(process)
    assert not stopped["finished"]
    assert 0 < stopped["slates"] < 400
    resumed = finish(replay(embedded, *options))
    assert resumed["finished"]
    assert resumed["resumed_from"] == stopped["slates"]
    assert resumed["slates"] == 400


def test_several_experiments_ride_on_every_impression(
    embedded: Settings, replay: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    rows = ["userId,movieId,rating,timestamp"]
    rows += [f"{u},{m},{(u * m) % 5 + 1}.0,{1_000_000_000 + u * 1000 + m}" for u in range(1, 9) for m in range(1, 41)]
    (tmp_path / "ratings.csv").write_text("\n".join(rows))
    before = len(read_all(embedded, IMPRESSIONS, 0))
    summary = finish(replay(embedded, "--data", str(tmp_path), "--experiment", str(file), "--outcomes", "click"))
    assert (summary["ratings"], summary["slates"], summary["impressions"]) == (320, 32, 96)
    assert summary["outcomes"] == summary["clicks"]
    shown = [
        event
        for event in events(read_all(embedded, IMPRESSIONS, before + 96))
        if [a[0] for a in event["assignments"]] == ["first", "second"]
    ]
    assert len(shown) == 96
    for user in {event["user_id"] for event in shown}:
        assert len({event["assignments"][1][1] for event in shown if event["user_id"] == user}) == 1


def test_pacing_by_slates_and_by_event_time(embedded: Settings, replay: Callable[..., Any]) -> None:
    by_rate = finish(replay(embedded, *SMALL, "--limit", "100", "--speed", "100/s", "--name", "rate"))
    assert 0.9 < by_rate["seconds"] < 60
    # 100 slates at a mean of 20 s are about 2000 s of event time.
    by_time = finish(
        replay(embedded, *SMALL, "--limit", "100", "--speed", "2000x", "--name", "time", "--delay", "none")
    )
    assert 0.5 < by_time["seconds"] < 60  # a busy machine is late; at the pace of the events it takes 2000


def test_a_replay_waits_for_the_counting(
    embedded: Settings, replay: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Nothing counts here: the replay stops ahead of it, and stays interruptible."""
    before = len(read_all(embedded, IMPRESSIONS, 0))
    process = replay(embedded, *SMALL, "--max-lag", "0", "--name", "lag", "--speed", "50/s")
    with TopicReader(embedded, IMPRESSIONS, from_start=True) as reader:
        seen: list[Message] = []
        wait_until(lambda: seen.extend(reader.poll(0.05)) or len(seen) > before, 30, "the first impressions")
    process.send_signal(signal.SIGTERM)
    assert finish(process)["slates"] < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "/no/such"), "--data: /no/such: no such file"),
        (("--speed", "fast"), "--speed: 'fast': allowed are"),
        (("--delay", "slow"), "--delay: 'slow': allowed are"),
        (("--delay", "exponential:-5s"), "--delay: 'exponential:-5s': allowed are"),
        (("--click-from", "nan"), "--click-from: a rating, got nan"),
        (("--experiment", "/no/such.yaml"), "--experiment: /no/such.yaml: no such file or directory"),
        (("--outcomes", "buy"), "--outcomes: 'buy': allowed are click, rating"),
        (("--outcomes", ","), "--outcomes: ',': name at least one of click, rating"),
        (("--start", "soon"), "--start: 'soon': allowed are"),
        (
            ("--start", "2100-01-01"),
            "no slates between --start (or --from-share) and --stop: synthetic goes from 2020-09-13T12:26",
        ),
        (("--disorder", "0.7", "--late", "0.7"), "together at most 1"),
        (("--top-k", "2000"), "exceed 1000 items"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(
    embedded: Settings, replay: Callable[..., Any], options: tuple[str, ...], message: str
) -> None:
    error = finish(replay(embedded, *SMALL, *options), code=2)["error"]
    assert message in error
    assert "Traceback" not in error
