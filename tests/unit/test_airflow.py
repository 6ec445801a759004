"""`infra/airflow`: the DAG runs what the CronJob runs. It is read, not run. Libraries: ast, click."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import kustomized
import pytest

from sluice.cli import sluice

FILE = Path(__file__).parents[2] / "infra/airflow/sluice_retrain.py"


@pytest.fixture(scope="module")
def calls() -> dict[str, dict[str, Any]]:
    """Name of what is called → its arguments, as far as they are plain values, by name (the first: `0`)."""
    tree = ast.parse(FILE.read_text())
    found: dict[str, dict[str, Any]] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        given = {"0": call.args[0]} if call.args else {}
        given |= {word.arg: word.value for word in call.keywords if word.arg is not None}
        assert isinstance(call.func, ast.Name)
        found[call.func.id] = {name: _value(node) for name, node in given.items()}
    return found


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def test_it_runs_the_command_of_the_cronjob(calls: dict[str, dict[str, Any]]) -> None:
    (cronjob,) = (one for one in kustomized.base() if one["kind"] == "CronJob")
    assert calls["DAG"]["schedule"] == cronjob["spec"]["schedule"]
    (container,) = kustomized.holder(cronjob)["template"]["spec"]["containers"]
    model = calls["Param"]["0"]
    command = calls["BashOperator"]["bash_command"].replace("$MODEL", model)
    assert shlex.split(command) == ["exec", "sluice", *container["args"]]


def test_the_command_exists_with_its_options(calls: dict[str, dict[str, Any]]) -> None:
    _, program, name, *words = shlex.split(calls["BashOperator"]["bash_command"])
    command = sluice.get_command(click.Context(sluice), name)
    assert program == "sluice" and command is not None
    command.make_context(name, words)


def test_what_somebody_types_is_never_a_part_of_the_script(calls: dict[str, dict[str, Any]]) -> None:
    task = calls["BashOperator"]
    assert "{{" not in task["bash_command"]
    assert task["env"] == {"MODEL": "{{ params.model }}"} and task["append_env"] is True
    assert re.fullmatch(calls["Param"]["pattern"], calls["Param"]["0"])


def test_trainings_do_not_pile_up(calls: dict[str, dict[str, Any]]) -> None:
    assert calls["DAG"]["catchup"] is False and calls["DAG"]["max_active_runs"] == 1
    assert "execution_timeout" in calls["BashOperator"]
