"""The wheel, which is what the image installs, holds every file that our code reads at run time. Library: hatchling."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"sluice", "producers", "router", "stream_processors", "analyzer", "training", "dashboard", "infra"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def test_every_module_and_every_file_beside_them_is_in_it(names: set[str]) -> None:
    """Templates, static files, experiments: whatever lies in a package."""
    there = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {str(path) for path in there if "__pycache__" not in path.parts}
    assert {name for name in wanted if name.startswith(("dashboard/static/", "sluice/experiments/"))}
    assert wanted - names == set()


def test_no_test_and_nothing_of_a_build_is_in_it(names: set[str]) -> None:
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == PACKAGES
    assert not [name for name in names if "__pycache__" in name or name.endswith((".lock.json", ".env"))]
