"""`sluice demo canary`: one that is promoted and one that is rolled back, told as they go, with exact counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sluice.console.demo.canary import definition
from sluice.domain.experiment import load_experiments

DATA = "synthetic:slates=4000,users=200"


def demo(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sluice", "demo", "canary", "--data", DATA, "--speed", "8s", "--json", *arguments]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SLUICE_STATE": str(tmp_path / "state")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["verify"] == "exact"
    return found


def test_a_good_candidate_is_promoted_step_by_step(tmp_path: Path) -> None:
    found = demo(tmp_path)
    canary = found["canary"]
    assert (canary["state"], found["decision"]["verdict"]) == ("promoted", "ship")
    assert [move["because"] for move in canary["moves"]] == ["begun", "passed", "passed", "passed"]
    assert [move["allocation"]["PolicyB"] for move in canary["moves"]] == [10, 25, 50, 100]
    assert found["variants"]["PolicyB"]["impressions"] > found["variants"]["PolicyA"]["impressions"]


def test_a_bad_candidate_is_rolled_back_and_gets_no_traffic(tmp_path: Path) -> None:
    found = demo(tmp_path, "--bad")
    last = found["canary"]["moves"][-1]
    assert (found["canary"]["state"], found["decision"]["verdict"]) == ("rolled-back", "rollback")
    assert last["because"] == "worse" and "random is worse than PolicyA in click" in last["reason"]
    assert last["allocation"] == {"PolicyA": 100, "random": 0}
    assert found["variants"]["random"]["allocation"] == 0


def test_options_before_the_name_are_not_lost_in_silence() -> None:
    command = [sys.executable, "-m", "sluice", "demo", "--seed", "1", "canary"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == "sluice: options of `demo canary` stand after its name"


@pytest.mark.parametrize(
    ("models", "bad", "rankers"),
    [
        (True, False, ["models:/movielens_ctr_ab@PolicyA", "models:/movielens_ctr_ab@PolicyB"]),
        (True, True, ["random", "models:/movielens_ctr_ab@PolicyA"]),
        (False, False, ["popularity", "affinity"]),
        (False, True, ["random", "popularity"]),
    ],
)
def test_what_is_released(models: bool, bad: bool, rankers: list[str]) -> None:
    (found,) = load_experiments(definition(bad=bad, models=models), "test")
    assert [one.ranker or one.name for one in found.variants] == rankers
    assert found.starting_allocation[found.control_name] == 90
