"""`sluice ope --experiment` after a replay whose truth is known: every variant's true click rate on every slate."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from sluice.adapters.kafka import producer
from sluice.names import CLICKS
from sluice.settings import Settings

DATA = "synthetic:slates=3000,users=60,a=0.35,b=0.5,c=0.4"
EXPERIMENT = """
name: rankers
unit: slate
variants: [{name: a, ranker: popularity, share: 20}, {name: b, ranker: random, share: 50},
           {name: c, ranker: affinity, share: 30}]
bandit: {policy: fixed}
"""


@pytest.fixture
def sluice(service_env: Callable[[Settings], dict[str, str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(settings: Settings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sluice", *map(str, arguments)]
        return subprocess.run(
            command, env=service_env(settings), capture_output=True, text=True, check=False, timeout=120
        )

    return run


def test_every_variant_is_valued_at_its_true_rate(
    make_stack: Callable[..., Settings], sluice: Callable[..., Any], tmp_path: Path
) -> None:
    settings = make_stack("embedded")
    file, log = tmp_path / "rankers.yaml", tmp_path / "log.parquet"
    file.write_text(EXPERIMENT)
    done = sluice(
        settings, "replay", "--data", DATA, "--experiment", file, "--duplicates", "0.1", "--disorder", "0.1", "--json"
    )
    assert done.returncode == 0, done.stderr
    replayed = json.loads(done.stdout)

    reports = {}
    for name, row in replayed["variants"].items():
        done = sluice(
            settings, "ope", "--experiment", "rankers", "--target", name, "--context", "position", "--save", log,
            "--json",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        reports[name] = report = json.loads(done.stdout)
        for method in ("ips", "snips", "dm", "dr", "replay"):
            low, high = report[method]["sequence"]
            assert low < row["true_ctr"] < high, (name, method)
            assert high - low < 0.2
        # What was read is what was counted, planted duplicates and disorder or not.
        assert report["variants"][name]["rows"] == row["impressions"]
        assert report["variants"][name]["mean_reward"] == pytest.approx(row["ctr"], abs=1e-6)
    assert report["rows"] == replayed["impressions"]
    assert report["units"] == replayed["slates"]
    assert report["logged"]["estimate"] == pytest.approx(replayed["clicks"] / replayed["impressions"])
    truth = {name: row["true_ctr"] for name, row in replayed["variants"].items()}
    assert max(reports, key=lambda name: reports[name]["dr"]["estimate"]) == max(truth, key=lambda name: truth[name])

    # The saved log says the same without any broker.
    offline = sluice(Settings(state=tmp_path), "ope", "--log", log, "--target", "c", "--context", "position", "--json")
    assert json.loads(offline.stdout) == reports["c"]
    assert parquet.read_schema(log).metadata[b"experiment"] == b"rankers"
    shown = sluice(Settings(state=tmp_path), "ope", "--log", log, "--target", "a=50,b=50")
    assert "a=50,b=50 from 9,000 rows of 3,000 units" in shown.stdout


def test_nothing_to_evaluate(make_stack: Callable[..., Settings], sluice: Callable[..., Any]) -> None:
    settings = make_stack("embedded")
    done = sluice(settings, "ope", "--experiment", "nope")
    assert done.returncode == 2
    assert "experiment 'nope': no impressions to evaluate in the log; applied are none" in done.stderr
    done = sluice(settings, "replay", "--data", "synthetic:slates=50", "--no-final-heartbeat")
    assert done.returncode == 0, done.stderr
    out = producer(settings)
    out.produce(CLICKS, partition=0, value=b"{")
    assert out.flush(10) == 0
    done = sluice(settings, "ope", "--experiment", "demo", "--json")
    assert done.returncode == 2
    assert "1 records are no events: left out" in done.stderr
    assert "150 impressions left out: their window is still open" in done.stderr
    assert "all windows are still open" in done.stderr


def test_no_broker_is_one_line(sluice: Callable[..., Any], tmp_path: Path) -> None:
    done = sluice(Settings(state=tmp_path), "ope", "--experiment", "demo")
    assert done.returncode == 2
    assert done.stderr.startswith("sluice: no broker: start one with `sluice infra up`")
