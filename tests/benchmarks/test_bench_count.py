"""`sluice bench count` runs and says what it promises. Its figures are looked at by people, not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {"events", "consume_per_second", "faust_per_second", "sluice_per_second"}
KEYS |= {"ratio_to_consume", "ratio_to_faust", "infra", "cpu_us_per_event"}


@pytest.mark.slow
def test_bench_count_prints_the_figures_of_one_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sluice", "bench", "count"]
    command += ["--infra", "embedded", "--events", "80000", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() >= KEYS
    assert result["infra"] == "embedded"
    assert 79_000 < result["events"] < 81_000
    assert result["ratio_to_faust"] > 1
    assert not list(tmp_path.iterdir()), "nothing is left in the working directory"
