"""A replay of an experiment with segments and a reserve, counted: every part is exact, and the parts make the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sluice
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.domain.statistics import CellStatistics
from sluice.names import IMPRESSIONS, Keys
from sluice.settings import Settings

SLUICE = [sys.executable, "-m", "sluice"]
EXPERIMENTS = """
experiments:
  - name: slates
    unit: slate
    variants: &both [{name: popularity}, {name: random}]
    bandit: &reserve {reserve: 0.2}
    segments: &keys [history, colour]
  - {name: users, unit: user, variants: *both, bandit: *reserve, segments: *keys}
"""
DATA = ("--data", "synthetic:slates=1500,users=200,popularity=0.6,random=0.4", "--seed", "5", "--disorder", "0.1")
UNIFORM, MOVED = "popularity=50,random=50", "popularity=90,random=10"


@pytest.fixture
def run(service_env: Callable[[Settings], dict[str, str]]) -> Callable[..., Any]:
    def run(settings: Settings, *arguments: str) -> Any:
        done = subprocess.run(
            [*SLUICE, *arguments, "--json"], capture_output=True, text=True, timeout=120, env=service_env(settings)
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def written(settings: Settings) -> Counter[tuple[str, str, str]]:
    """(experiment or segment, variant, allocation) → distinct impressions on the topic."""
    assignments: dict[str, list[list[Any]]] = {}
    with TopicReader(settings, IMPRESSIONS, from_start=True) as reader:
        while not reader.caught_up:
            for message in reader.poll(0.1):
                event = json.loads(message.value() or b"")
                if event["type"] == "impression":
                    assignments[event["impression_id"]] = event["assignments"]
    return Counter((a[0], a[1], a[2]) for carried in assignments.values() for a in carried)


def check(found: sluice.ExperimentCounts, sent: Counter[tuple[str, str, str]]) -> None:
    """The segments of `found` are what was sent, and each of its variants is the sum of its parts."""
    assert list(found.segments) == ["history"], "nothing is counted by an attribute that no request has"
    history = found.segments["history"]
    assert set(history) == {"new", "returning"}
    for name, row in found.variants.items():
        parts = {value: part.variants[name] for value, part in history.items()}
        assert all(part.impressions > 0 for part in parts.values())
        assert sum(part.impressions for part in parts.values()) == row.impressions
        assert sum(part.clicks for part in parts.values()) == row.clicks
        assert set(row.cells) == {UNIFORM, MOVED}
        for allocation, cell in row.cells.items():
            assert cell.impressions == sent[found.experiment, name, allocation]
            cells = {value: part.cells.get(allocation, CellStatistics()) for value, part in parts.items()}
            for value, one in cells.items():
                assert one.impressions == sent[f"{found.experiment}@history={value}", name, allocation]
            if found.experiment == "slates":  # a slate lies in one segment, so sums over units add up as well
                assert cells["new"] + cells["returning"] == cell
    reserved = sum(row.cells[UNIFORM].units for row in found.variants.values())
    units = sum(row.units for row in found.variants.values())
    assert reserved / units == pytest.approx(0.2, abs=4 * (0.16 / units) ** 0.5)


def test_segments_partition_their_experiment_exactly(
    make_stack: Callable[..., Settings], run: Callable[..., Any], service_env: Callable[[Settings], dict[str, str]],
    wait_until: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    settings = make_stack("embedded")
    file = tmp_path / "experiments.yaml"
    file.write_text(EXPERIMENTS)
    with connect(settings) as client:
        # Traffic has moved before the replay begins: the units of the reserve shall not follow.
        for name in ("slates", "users"):
            AllocationStore(client, Keys(settings.prefix)).put(name, 1, {"popularity": 90, "random": 10})
    summary = run(settings, "replay", *DATA, "--experiment", str(file))
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([*SLUICE, "process"], env=service_env(settings), stdout=log, stderr=log)
    try:
        with sluice.LiveCounters(settings) as live:
            settled = summary["impressions"], summary["outcomes"]

            def counted() -> bool:
                assert worker.poll() is None, (tmp_path / "log").read_text()
                records = live.records()
                return (records.impressions.get("counted"), records.clicks.get("counted")) == settled

            wait_until(counted, 60, "everything counted")
            found = live.totals()
        assert run(settings, "verify")["verify"] == "exact"
    finally:
        worker.terminate()
        worker.wait(60)
    assert set(found) == {"slates", "users"}
    sent = written(settings)
    for counts in found.values():
        assert (counts.known, counts.impressions, counts.clicks) == (True, summary["impressions"], summary["clicks"])
        check(counts, sent)
