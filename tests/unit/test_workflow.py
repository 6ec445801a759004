"""`.github/workflows/ci.yml` runs our own recipes, with no more rights than it needs. `actionlint` says the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / ".github/workflows/ci.yml"


@pytest.fixture(scope="module")
def workflow() -> Any:
    # YAML 1.1 takes the word `on` for a truth.
    return yaml.safe_load(FILE.read_text().replace("\non:\n", "\n'on':\n"))


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_it_reads_and_no_more(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "pull_request_target" not in workflow["on"]
    assert "secrets." not in FILE.read_text()
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_actions_are_pinned_to_a_version_and_jobs_end(workflow: Any) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and [name for name in used if not re.fullmatch(r"(actions|docker)/[a-z-]+@v\d+", name)] == []
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())
    assert workflow["concurrency"]["cancel-in-progress"] is True


def test_every_python_that_the_package_names_is_tested(workflow: Any) -> None:
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == ["3.11", "3.12", "3.13"]
    assert f'requires-python = ">={tested[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_what_it_makes_is_in_the_makefile(workflow: Any) -> None:
    made = re.findall(r"^\s*make (\w[\w-]*)", "\n".join(step.get("run", "") for step in steps(workflow)), re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(made) == {"lint", "install", "docs"} <= targets
    assert (ROOT / ".ci/run").is_file()


@pytest.mark.skipif(not shutil.which("actionlint"), reason="needs actionlint")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint", str(FILE)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
