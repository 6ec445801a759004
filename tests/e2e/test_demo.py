"""`sluice demo` as people start it: the numbers agree, and no process is left, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo_processes import processes_of
from movielens_files import write_movielens

from infra.kafka import jars

KEYS = [
    "ratings", "slates", "impressions", "clicks", "counted_impressions", "counted_clicks", "variants", "decision",
    "regret", "regret_fixed_split", "verify", "infra", "seconds", "events_per_second",
]  # fmt: skip
VARIANTS = ("random", "PolicyA", "PolicyB")
SMALL = "synthetic:slates=600,users=50"


def check(found: dict[str, Any], slates: int, infra: str, names: tuple[str, ...] = VARIANTS) -> None:
    assert list(found) == KEYS
    assert (found["verify"], found["infra"], found["slates"]) == ("exact", infra, slates)
    assert found["impressions"] == 3 * slates == found["counted_impressions"]
    assert 0 < found["clicks"] == found["counted_clicks"]
    variants = found["variants"]
    assert tuple(variants) == names
    for row in variants.values():
        assert list(row) == ["impressions", "clicks", "ctr", "true_ctr", "p_best", "allocation"]
        assert row["ctr"] == pytest.approx(row["clicks"] / row["impressions"], abs=1e-6)
        assert 0 < row["true_ctr"] < 1
    assert sum(row["impressions"] for row in variants.values()) == found["impressions"]
    assert sum(row["clicks"] for row in variants.values()) == found["clicks"]
    assert sum(row["p_best"] for row in variants.values()) == pytest.approx(1, abs=1e-6)
    assert sum(row["allocation"] for row in variants.values()) == 100
    assert list(found["decision"]) == ["version", "verdict", "reasons"]
    assert found["decision"]["version"] >= 1
    assert all(found["decision"]["reasons"])


def test_everything_sent_is_counted_decided_on_and_verified(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    demo = start("--json", "--data", SMALL, "--limit", "400", "--speed", "max")
    out, err = demo.communicate(timeout=200)
    assert demo.returncode == 0, err
    assert err == ""
    (line,) = out.splitlines()
    check(json.loads(line), slates=400, infra="embedded")
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("sluice-demo-*")) == []


@pytest.mark.kafka
@pytest.mark.slow
def test_the_same_on_apache_kafka(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    if reason := jars.missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    demo = start("--json", "--infra", "local", "--data", SMALL, "--speed", "max")
    out, err = demo.communicate(timeout=200)
    assert demo.returncode == 0, err
    assert err == ""
    check(json.loads(out), slates=600, infra="local")
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_models_are_trained_once_and_compete_on_the_rest(
    environment: dict[str, str], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    environment["SLUICE_STATE"] = str(tmp_path / "state")
    data = write_movielens(tmp_path / "tiny")
    versions = []
    for _ in range(2):
        demo = start("--json", "--data", str(data), "--speed", "max")
        out, err = demo.communicate(timeout=200)
        assert (demo.returncode, err) == (0, "")
        found = json.loads(out)
        # 60 users with eight slates of ten each, of which the first 60 % are for training.
        check(found, slates=192, infra="embedded")
        assert found["ratings"] == 4800
        assert all(
            found["variants"][name]["true_ctr"] > found["variants"]["random"]["true_ctr"] for name in VARIANTS[1:]
        )
        versions.append(registered(tmp_path / "state" / "mlflow.db"))
    assert versions == [{("PolicyA", "1"), ("PolicyB", "2")}] * 2
    assert processes_of(tmp_path) == []


def registered(database: Path) -> set[tuple[str, str]]:
    """(alias, version) of the policies."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select alias, version from registered_model_aliases where name = 'movielens_ctr_ab'")
        (count,) = connection.execute("select count(*) from model_versions where name = 'movielens_ctr_ab'").fetchone()
        aliases = {(alias, str(version)) for alias, version in rows}
    assert count == len(aliases)
    return aliases


@pytest.mark.slow
def test_without_the_library_of_a_model_the_others_compete(
    environment: dict[str, str], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "lightgbm").mkdir()
    (tmp_path / "lightgbm" / "__init__.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    environment |= {"SLUICE_STATE": str(tmp_path / "state"), "PYTHONPATH": str(tmp_path)}
    demo = start("--json", "--data", str(write_movielens(tmp_path / "tiny")), "--speed", "max")
    out, err = demo.communicate(timeout=200)
    assert demo.returncode == 0, err
    assert "apt-get install libgomp1" in err
    check(json.loads(out), slates=192, infra="embedded", names=("random", "PolicyA"))


@pytest.mark.slow
def test_a_child_that_is_asked_for_nonsense_is_named_with_its_last_lines(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    demo = start("--data", str(tmp_path / "nothing-here"), "--speed", "max")
    _, err = demo.communicate(timeout=200)
    *context, last = err.splitlines()
    assert demo.returncode == 2
    assert last == "sluice: `sluice replay` ended with exit code 2"
    assert not any("all logs" in line for line in context), "no folder is kept for a mistake in the options"
    assert any("nothing-here" in line for line in context)
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_ends_everything_in_order(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    demo = start("--data", SMALL, "--speed", "60s")
    wait_until(lambda: list(tmp_path.glob("sluice-demo-*/replay.log")), 60, "the replay started")
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=200)
    assert (demo.returncode, err.strip()) == (130, "")
    assert out.splitlines()[:2] == ["starting broker and Redis", "starting the services"]
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("sluice-demo-*")) == []


@pytest.mark.slow
def test_the_dashboard_stays_after_the_verdict_until_ctrl_c(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    demo = start("--no-browser", "--json", "--data", SMALL, "--speed", "max")
    assert demo.stdout is not None and demo.stderr is not None
    first = demo.stderr.readline()
    assert first.startswith("dashboard at http://127.0.0.1:"), first + demo.stderr.read()
    url = first.split()[-1]
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}  # while the replay runs
    found = json.loads(demo.stdout.readline())
    check(found, slates=600, infra="embedded")
    looked = lambda: httpx.get(f"{url}/api/experiments/demo").json()  # noqa: E731
    shown = wait_until(lambda: (looked()["truth"] or {}).get("finished") and looked(), 20, "the truth is known")
    assert shown["decision"]["version"] == found["decision"]["version"]
    assert (shown["entry"]["verdict"], shown["truth"]["regret"]) == (found["decision"]["verdict"], found["regret"])
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=200)
    assert (demo.returncode, out) == (0, ""), err
    assert err.splitlines() == [f"the dashboard stays at {url} until Ctrl-C"]
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("sluice-demo-*")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_kill_9_leaves_no_process(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    demo = start("--data", SMALL, "--speed", "60s")
    wait_until(lambda: list(tmp_path.glob("sluice-demo-*/replay.log")), 60, "the replay started")
    assert len(processes_of(tmp_path)) > 4
    demo.kill()
    demo.wait()
    wait_until(lambda: not processes_of(tmp_path), 10, "every process ended")


@pytest.mark.parametrize("arguments", [("--infra", "moon"), ("--limit", "0"), ("--seed", "-1")])
def test_wrong_use_is_exit_2(start: Callable[..., subprocess.Popen[str]], arguments: tuple[str, ...]) -> None:
    demo = start(*arguments)
    demo.communicate(timeout=200)
    assert demo.returncode == 2
