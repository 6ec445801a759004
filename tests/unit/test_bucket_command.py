"""`sluice bucket`: published vectors of any tool can be run through it; bad input is one line."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from sluice.cli import main
from sluice.domain.bucketing import ALGORITHMS


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["bucket", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


class _Piped(io.TextIOWrapper):
    """A standard input that is no terminal."""


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda data: monkeypatch.setattr(sys, "stdin", _Piped(io.BytesIO(data), encoding="utf-8"))


def test_one_unit_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--algorithm", "growthbook-v2", "--seed", "seed", "--unit", "a", "--weights", "x=5,y=95", "--json") == 0
    # growthbook/growthbook-python, tests/cases.json, hash
    assert json.loads(capsys.readouterr().out) == {
        "algorithm": "growthbook-v2", "seed": "seed", "unit": "a",
        "bucket": 0.0505, "number": 505, "place": 0.0505, "variant": "y",
    }  # fmt: skip


def test_several_units_from_the_standard_input(capsys: pytest.CaptureFixture[str], piped: Any) -> None:
    piped(b"ppid1\nppid2\r\n\nppid3")
    assert run("--algorithm", "optimizely", "--seed", "1886780721", "--weights", "a=52.54,b=47.46") == 0
    # optimizely/python-sdk, tests/test_bucketing.py; a ends where ppid1 lies
    assert capsys.readouterr().out == "ppid1\t5254\tb\nppid2\t4299\ta\nppid3\t5439\tb\n"


def test_several_units_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--algorithm", "optimizely", "--seed", "1886780721", "--unit", "ppid1", "--unit", "ppid2", "--json") == 0
    assert [one["bucket"] for one in json.loads(capsys.readouterr().out)["units"]] == [5254, 4299]


def test_a_unit_that_the_tool_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    # growthbook/growthbook-python, tests/cases.json, run: coverage - 1 and 2
    arguments = ["--algorithm", "growthbook-v1", "--seed", "my-test", "--weights", "a=50,b=50", "--coverage", "0.4"]
    assert run(*arguments, "--unit", "1", "--unit", "2") == 0
    left_out, included = capsys.readouterr().out.splitlines()
    assert left_out.endswith("\t-")
    assert included.endswith("\ta")


def test_help_names_every_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name, rule in ALGORITHMS.items():
        assert f"{name:<14}  {rule.summary}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "a"], "Missing option '--seed'"),
        (["--seed", "s", "--unit", "a", "--algorithm", "md5"], "'md5' is not one of"),
        (["--seed", "s", "--unit", ""], "unit: 0 bytes"),
        (["--seed", "s", "--unit", "\udcff"], "not UTF-8"),
        (["--seed", "\udcff", "--unit", "a"], "--seed: '\\udcff': not UTF-8"),
        (["--seed", "s", "--unit", "a" * 10_001], "10001 bytes"),
        (["--seed", "s", "--unit", "a", "--algorithm", "split"], "seed: 's': Split"),
        (["--seed", "s", "--unit", "a", "--weights", "a"], "--weights: 'a': write name=percents"),
        (["--seed", "s", "--unit", "a", "--weights", "a=50,a=50"], "'a' stands there twice"),
        (["--seed", "s", "--unit", "a", "--weights", "a=50,b=40"], "sum to 100"),
        (["--seed", "s", "--unit", "a", "--weights", "a=50,b=50", "--coverage", "0.5"], "only GrowthBook"),
        (["--seed", "s", "--unit", "a", "--coverage", "0.5"], "goes with --weights"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    out, error = capsys.readouterr()
    assert not out
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_line_without_end_is_refused(capsys: pytest.CaptureFixture[str], piped: Any) -> None:
    piped(b"a" * 1_000_000)
    assert run("--seed", "s") == 2
    assert "allowed are 1 to 10000" in capsys.readouterr().err
