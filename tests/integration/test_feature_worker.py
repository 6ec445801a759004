"""`sluice features` on a broker: killed, overtaken, waiting; the states stay those of one pass over the log."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_logs import write
from feature_logs import DEFINITIONS, Rows, ended_slates, random_feature_logs

from sluice.adapters.features import FeatureKeeping, FeatureStore, KeeperProgress
from sluice.adapters.redis import connect
from sluice.errors import Fenced, LogTruncated
from sluice.features import ItemState, OnlineFeatures, UserState, make_catalogue
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors import feature_worker
from stream_processors.feature_worker import FeatureWorker
from stream_processors.features import Resume, encode_resume

Wait = Callable[..., Any]
Logs = tuple[list[Rows], list[Rows]]
PARTITIONS = 4
ITEMS = [f"m{n}" for n in range(12)]
CATALOGUE = make_catalogue(ITEMS, {item: ("Drama", "War")[: n % 3] for n, item in enumerate(ITEMS)})
NOTHING = KeeperProgress(at_ms=0, applied_ms=0, final_ms=0, slates=0, lag=0, behind="")


def short(settings: Settings) -> Settings:
    return replace(settings, window_ms=DEFINITIONS.window_ms, lateness_ms=DEFINITIONS.lateness_ms)


def store_of(settings: Settings) -> FeatureStore:
    return FeatureStore(connect(settings), Keys(settings.prefix))


def written(settings: Settings, logs: Logs, part: slice) -> None:
    for topic, name in ((0, "impressions"), (1, "clicks")):
        rows = [("", data, p) for p, log in enumerate(logs[topic]) for data in log[part]]
        write(settings, **{name: rows})


def assert_states(settings: Settings, logs: Logs) -> None:
    online = OnlineFeatures(CATALOGUE)
    for slate in ended_slates(logs, DEFINITIONS):
        online.observe(slate.user, slate.items, slate.liked, slate.ratings_milli, slate.end_ms)
    assert len(online.users) > 10
    users, items = store_of(settings).read(list(online.users), ITEMS)
    assert [state.to_hash() for state in users] == [state.to_hash() for state in online.users.values()]
    assert [state.to_hash() for state in items] == [online.items.get(i, ItemState.new(i)).to_hash() for i in ITEMS]


def learned(settings: Settings, slates: int) -> Callable[[], bool]:
    store = store_of(settings)

    def condition() -> bool:
        progress = store.progress()
        return progress is not None and progress.slates >= slates

    return condition


@contextmanager
def keeping(settings: Settings) -> Iterator[FeatureWorker]:
    worker, stop = FeatureWorker(settings), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, stop)
        try:
            yield worker
        finally:
            stop.set()
            running.result(60)
            worker.close()


def test_states_follow_the_log_over_a_restart(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    logs = random_feature_logs(random.Random(5), partitions=PARTITIONS, slates=400)
    wanted = len(ended_slates(logs, DEFINITIONS))
    store_of(settings).put_catalogue(CATALOGUE)
    with keeping(settings):
        written(settings, logs, slice(0, 150))
        wait_until(learned(settings, 50), 30, "the first slates")
    with keeping(settings):
        written(settings, logs, slice(150, None))
        wait_until(learned(settings, wanted), 30, "all slates")
    assert_states(settings, logs)
    progress = store_of(settings).progress()
    assert progress is not None
    assert progress.slates == wanted
    assert progress.behind.startswith(("impressions[", "clicks["))
    with keeping(settings):
        wait_until(lambda: store_of(settings).progress().lag == 0, 30, "an idle keeper that tells its lag")  # type: ignore[union-attr]
    assert_states(settings, logs)


def test_slates_that_cannot_end_yet_stay_in_the_log(
    make_stack: Callable[..., Settings], wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes on `clicks` for a long time: `impressions` wait, instead of filling the memory."""
    monkeypatch.setattr(feature_worker, "MAX_OPEN", 100)
    monkeypatch.setattr(feature_worker, "BATCH", 300)
    settings = short(make_stack("embedded"))
    logs = random_feature_logs(random.Random(8), partitions=PARTITIONS, slates=800, span=16_000)
    store_of(settings).put_catalogue(CATALOGUE)
    written(settings, (logs[0], [[] for _ in logs[1]]), slice(None))
    with keeping(settings) as worker:
        wait_until(lambda: worker._keeper.joiner.open >= 100, 30, "slates that wait")
        written(settings, ([[] for _ in logs[0]], logs[1]), slice(0, 20))
        wait_until(learned(settings, 1), 30, "the first slates")
        assert store_of(settings).progress().lag > 1000  # type: ignore[union-attr]
        written(settings, ([[] for _ in logs[0]], logs[1]), slice(20, None))
        wait_until(learned(settings, len(ended_slates(logs, DEFINITIONS))), 60, "all slates")
    assert_states(settings, logs)


def test_a_second_keeper_takes_over(make_stack: Callable[..., Settings], wait_until: Wait) -> None:
    settings = short(make_stack("embedded"))
    store_of(settings).put_catalogue(CATALOGUE)
    first, stop = FeatureWorker(settings), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run, stop)
        wait_until(lambda: store_of(settings).progress(), 30, "the first commit")
        with keeping(settings), pytest.raises(Fenced):
            running.result(60)
    first.close()


def test_a_log_that_does_not_reach_back_is_said_and_a_new_beginning_helps(
    make_stack: Callable[..., Settings], wait_until: Wait
) -> None:
    settings = short(make_stack("embedded"))
    logs = random_feature_logs(random.Random(6), partitions=PARTITIONS, slates=100)
    written(settings, logs, slice(None))
    store_of(settings).put_catalogue(CATALOGUE)
    other = FeatureKeeping(connect(settings), Keys(settings.prefix))
    other.claim()
    lost = Resume(impressions=(10_000,) * PARTITIONS, clicks=(10_000,) * PARTITIONS)
    other.commit({"u0": UserState(count=7)}, {}, encode_resume(lost), NOTHING)
    worker = FeatureWorker(settings)
    with pytest.raises(LogTruncated, match="offset 10000 is next"):
        worker.run(threading.Event())
    with keeping(replace(settings, accept_truncated=True)):
        wait_until(learned(settings, 1), 30, "slates of what is there")
    worker.reset()
    worker.close()
    with keeping(settings):
        wait_until(learned(settings, len(ended_slates(logs, DEFINITIONS))), 30, "all slates")
    assert_states(settings, logs)


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(
    make_stack: Callable[..., Settings], service_env: Callable[[Settings], dict[str, str]], wait_until: Wait,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings, rng = short(make_stack("embedded")), random.Random(7)
    logs = random_feature_logs(rng, partitions=PARTITIONS, slates=3000, span=60_000)
    wanted = len(ended_slates(logs, DEFINITIONS))
    log = tmp_path / "log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "sluice", "features"], env=service_env(settings), stdout=out, stderr=out,
                cwd=tmp_path, start_new_session=True,
            )  # fmt: skip

    child = start()
    try:
        wait_until(lambda: "wait for a catalogue" in log.read_text(), 30, "the line")
        store_of(settings).put_catalogue(CATALOGUE)
        size = max(len(rows) for topic in logs for rows in topic)
        for part in range(5):
            begin = slice(size * part // 5, size * (part + 1) // 5)
            written(settings, logs, begin)
            wait_until(learned(settings, rng.randrange(wanted * part // 7, wanted * (part + 1) // 7)), 30, "slates")
            child.kill()
            assert child.wait(60) == -signal.SIGKILL
            child = start()
        wait_until(learned(settings, wanted), 30, "all slates")
        assert_states(settings, logs)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    assert "Traceback" not in log.read_text()
