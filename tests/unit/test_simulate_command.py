"""`sluice simulate`: JSON, tables, CSV, PNG, and wrong use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sluice.cli import main

USERS, SLATES, VARIANTS = 300, 2000, "abc"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", *arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    file = tmp_path_factory.mktemp("truth") / "truth.parquet"
    users = rng.permutation(np.concatenate([np.arange(USERS), rng.integers(USERS, size=SLATES - USERS)]))
    columns = {"user_id": [f"u{user}" for user in users.tolist()]}
    for name in VARIANTS:
        shown = rng.integers(1, 4, SLATES)
        columns |= {f"shown.{name}": shown, f"clicks.{name}": rng.binomial(shown, 0.6)}
    parquet.write_table(pa.table(columns), file)
    return file


KEYS = {
    "aa": {"false_positive_rate", "false_positive_rate_naive", "power", "spoke"},
    "coverage": {"coverage", "coverage_naive", "spoke", "posterior"},
    "bandit": {"regret", "regret_fixed_split", "regret_interval"},
    "delay": {"bias", "bias_failures", "bias_ratio"},
    "drift": {"regret", "regret_plain", "recovered", "recovered_plain"},
}


@pytest.mark.parametrize("command", KEYS)
def test_the_command_prints_json_and_writes_curves(
    command: str, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, picture = tmp_path / "curves.csv", tmp_path / "curves.png"
    arguments = ["--runs", "20", "--looks", "5", "--seed", "3", "--data", str(truth), "--jobs", "1", "--json"]
    code, out, err = run(capsys, command, *arguments, "--csv", str(table), "--png", str(picture))
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert KEYS[command] <= figures.keys()
    assert figures["runs"] == 20
    if command not in ("delay", "drift"):
        assert figures["users"] == USERS
        assert any(name.startswith("recorded slates") for name in figures["settings"])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["look"] for row in rows} == {"1", "2", "3", "4", "5"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(capsys, command, *arguments)[1] == out


def test_a_table_for_people(truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bandit", "--runs", "5", "--looks", "4", "--data", str(truth), "--jobs", "1")
    assert code == 0 and "below it" in out and "recorded users" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aa", "--runs", "0"], "--runs"),
        (["aa", "--data", "/no/such/place"], "no such file"),
        (["aa", "--alpha", "0"], "--alpha"),
        (["coverage", "--looks", "1"], "--looks"),
    ],
)
def test_wrong_use_is_one_clear_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2 and said in err


def test_a_file_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"a": [1]}), other)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet")
    for file in (other, broken):
        code, _, err = run(capsys, "aa", "--data", str(file))
        assert code == 2 and file.name in err and len(err.strip().splitlines()) == 1
