"""The import contracts of pyproject.toml, and that `sluice --help` stays quick because it loads nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sluice.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_import_contracts_hold() -> None:
    done = run(Path(sys.executable).with_name("lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_loads_no_client_and_no_service() -> None:
    script = """
import sys
from sluice.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"confluent_kafka", "redis", "faust", "mlflow", "numpy", "scipy", "lightgbm"}
heavy |= {"producers", "router", "stream_processors", "analyzer", "infra"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = run(sys.executable, "-c", script)
    assert done.stdout.rstrip().endswith("loaded: []"), done.stdout + done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
