"""`sluice experiment` as people use it to control what runs: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sluice.settings import Settings

TWO = """
experiments:
  - {name: checkout, variants: [{name: old}, {name: new}], layer: {name: page, range: [0, 0.5]}}
  - {name: search, variants: [{name: a}, {name: b}], layer: {name: page, range: [0.5, 1]}}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(service_env: Callable[[Settings], dict[str, str]], make_stack: Callable[..., Settings]) -> Run:
    env = service_env(make_stack("embedded"))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sluice", "experiment", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)

    return run


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sluice: ") and said in line


def test_from_a_draft_to_a_shipped_variant(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    created = run("create", file, "--by", "ann", "--why", "reviewed")
    assert created.returncode == 0, created.stderr
    assert [line.partition(" (")[0] for line in created.stdout.splitlines()] == [
        f"{file}: checkout is draft, revision 1",
        f"{file}: search is draft, revision 1",
    ]
    refused(run("create", file), "checkout exists and is draft; `apply` changes its configuration")
    assert run("start", "checkout", "--by", "bob").stdout == "checkout is running (revision 2)\n"
    refused(
        run("pause", "checkout", "--revision", "1"), "not at revision 1 any more: it is running at revision 2 by bob"
    )
    refused(run("pause", "nope"), "experiment 'nope': not in the catalogue; there are: checkout, search")
    refused(run("ship", "checkout", "newest"), "variant: 'newest': allowed are old, new")
    paused = json.loads(run("pause", "checkout", "--by", "eve", "--why", "two\nlines", "--json").stdout)
    assert (paused["status"], paused["revision"], paused["change"]["by"]) == ("paused", 3, "eve")
    assert run("ship", "checkout", "new").stdout == "checkout is shipped new (revision 4)\n"
    refused(run("start", "checkout"), "checkout is shipped: cannot start it")
    assert [(row["name"], row["status"], row["shipped"]) for row in json.loads(run("list", "--json").stdout)] == [
        ("checkout", "shipped", "new"),
        ("search", "draft", None),
    ]
    shown = run("show", "checkout").stdout
    assert "# shipped new, revision 4\n" in shown
    assert "create by ann: reviewed\n" in shown and "pause by eve: two lines\n" in shown
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert yaml.safe_load(shown)["name"] == "checkout"
    assert run("apply", again).stdout.startswith(f"{again}: checkout is shipped new, revision 4"), "nothing changed"


def test_what_overlaps_in_two_files_is_refused_before_anything_is_published(run: Run, tmp_path: Path) -> None:
    (first := tmp_path / "first.yaml").write_text(yaml.safe_dump(yaml.safe_load(TWO)["experiments"][0]))
    (other := tmp_path / "other.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(TWO)["experiments"][1], "layer": {"name": "page", "range": [0.4, 1]}})
    )
    for command in ("validate", "apply"):
        refused(run(command, first, other), "checkout [0, 0.5) and search [0.4, 1) of layer 'page' overlap")
    assert run("list").stdout.startswith("no experiments yet")
