"""`sluice bench count` runs and says what it promises. Its figures are looked at by people, not asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

KEYS = {"events", "consume_per_second", "faust_per_second", "sluice_per_second"}
KEYS |= {"ratio_to_consume", "ratio_to_faust", "infra", "cpu_us_per_event"}


@pytest.mark.slow
def test_bench_count_prints_the_figures_of_one_run():
    command = [sys.executable, "-m", "sluice", "bench", "count"]
    command += ["--infra", "embedded", "--events", "80000", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() >= KEYS
    assert result["infra"] == "embedded"
    assert 79_000 < result["events"] < 81_000
    assert result["ratio_to_faust"] > 1
