"""The wheel, which is what the image installs, holds every file that our code reads at run time. Library: hatchling."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("dashboard/static", "dashboard/templates", "training/templates", "sluice/pages", "sluice/experiments")
"""Folders of files that are no modules"""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


@pytest.mark.parametrize("folder", NEEDED)
def test_files_that_are_no_modules_are_in_it(names: set[str], folder: str) -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert there and there <= names


def test_every_module_is_in_it_and_no_test(names: set[str]) -> None:
    packages = {name.partition("/")[0] for name in names if name.endswith(".py")}
    assert packages == {
        "sluice", "producers", "router", "stream_processors", "analyzer", "training", "dashboard", "infra",
    }  # fmt: skip
    for package in packages:
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert modules <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".lock.json", ".env"))]
