"""dvc.yaml and MLproject call commands that exist, with options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sluice.cli import sluice

ROOT = Path(__file__).parents[2]


def stages() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert isinstance(found, dict)
    return found


def commands() -> list[str]:
    found = [stage["cmd"] for stage in stages()["stages"].values()]
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    return found + [entry["command"] for entry in entries.values()]


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_of_ours(command: str) -> None:
    text = command.rpartition("&&")[2].partition(">")[0]
    plain = re.sub(r"\{(seed|trials)\}", "3", text)
    program, name, *arguments = shlex.split(re.sub(r"\$?\{\w+\}", "some", plain))
    assert program == "sluice"
    found = sluice.get_command(click.Context(sluice), name)
    assert found is not None
    found.make_context(name, arguments)  # raises for an option that is not there


def test_a_stage_depends_on_what_exists_or_on_what_an_earlier_one_makes() -> None:
    made = {"${data}"}
    for name, stage in stages()["stages"].items():
        for need in stage["deps"]:
            assert need in made or (ROOT / need).exists(), f"{name}: {need}"
        for out in [*stage.get("outs", ()), *stage.get("metrics", ())]:
            made |= {out} if isinstance(out, str) else set(out)
