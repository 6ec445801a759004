"""`analyzer.ope.evaluate` on tables, logs in files, and the command on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner
from pyarrow import csv

from analyzer.log_files import read_log
from analyzer.ope import METHODS, Report, evaluate, fields_of
from analyzer.ope_command import ope
from sluice.errors import ConfigError


def table(rows: int = 600, **columns: Any) -> pa.Table:
    """Units 0000 … 0099, variants 1 and 2 drawn 25 : 75, rewards 0 or 1 (mean 0.6, 0.3), a context x."""
    rng = np.random.default_rng(1)
    shown = (rng.random(rows) >= 0.25).astype(int)
    x = rng.integers(0, 3, rows)
    made = {
        "user": [f"{number:04d}" for number in rng.integers(0, 100, rows)],
        "variant": np.array(["1", "2"])[shown],
        "propensity": np.array([0.25, 0.75])[shown],
        "reward": (rng.random(rows) < np.array([0.6, 0.3])[shown]).astype(int),
        "x": x,
        "choice": np.array(["2", "1", "1"])[x],
    }
    return pa.table({**made, **columns})


def numbers(report: Report) -> dict[str, Any]:
    return dict(json.loads(report.encode()))


def test_a_report_in_json() -> None:
    report = evaluate(table(), "1=20,2=80", context=["x"])
    found = numbers(report)
    for method in (*METHODS, "logged"):
        assert list(found[method]) == ["estimate", "stderr", "interval", "sequence", "effective_size", "clip_bias"]
        low, high = found[method]["interval"]
        first, last = found[method]["sequence"]
        assert first < low < found[method]["estimate"] < high < last
        assert low < 0.2 * 0.6 + 0.8 * 0.3 < high
    assert (found["target"], found["rows"], found["units"], found["notes"]) == ("1=20,2=80", 600, 100, [])
    assert found["variants"]["1"]["mean_propensity"] == 0.25
    assert sum(rows["rows"] for rows in found["variants"].values()) == 600


def test_targets_that_say_the_same_are_worth_the_same() -> None:
    log = table()
    assert evaluate(log, "2").ips == evaluate(log, "2=100").ips == evaluate(log, "1=0,2=100").ips
    assert evaluate(log, "uniform").dr == evaluate(log, "1=50,2=50").dr == evaluate(log, " 2=50, 1=50").dr
    chosen = evaluate(log, "column:choice", context=["x"])
    shown = pa.array((np.array(log["variant"]) == np.array(log["choice"])).astype(float))
    # Of two variants the probability of one tells that of the other, here as numbers and as truth values.
    for column in (shown, shown.cast(pa.bool_())):
        same = evaluate(table(pi=column), "column:pi", context=["x"])
        assert numbers(same) | {"target": "column:choice"} == numbers(chosen)


def test_of_more_than_two_variants_the_shown_ones_do_not_tell_the_others() -> None:
    third = np.array(["1", "2", "3"] * 200)
    report = evaluate(table(variant=third, pi=np.full(600, 1 / 3), propensity=np.full(600, 1 / 3)), "column:pi")
    assert report.dm is None and report.dr is None
    assert "dm and dr need" in report.notes[0]
    assert numbers(report)["dr"] is None
    assert report.ips.estimate == pytest.approx(report.logged.estimate)


def test_the_unit_decides_how_sure() -> None:
    log = table()
    named = evaluate(log, "1")
    unnamed = evaluate(log.drop_columns(["user"]), "1")
    assert named.ips.estimate == unnamed.ips.estimate
    assert (named.units, unnamed.units) == (100, 600)
    assert unnamed.notes == ("No column names the unit: every row counts as a unit of its own.",)
    # Every row twice, by the same unit: twice the rows tell nothing new.
    twice = evaluate(pa.concat_tables([log, log]), "1")
    assert np.hstack(twice.ips) == pytest.approx(np.hstack(named.ips), rel=1e-9)


def test_columns_go_by_other_names() -> None:
    log = table().rename_columns(["who", "arm", "pscore", "paid", "x", "choice"])
    columns = {"unit": "who", "reward": "paid"}
    assert numbers(evaluate(log, "1", columns=columns)) == numbers(evaluate(table(), "1"))


def test_predictions_take_the_place_of_the_model() -> None:
    right = {"q_1": np.full(600, 0.6), "q_2": np.full(600, 0.3)}
    report = evaluate(table(**right), "1", predictions="q_")
    assert report.dm is not None and report.dm.estimate == pytest.approx(0.6)
    assert report.notes == ("dm takes the predictions as right: its intervals do not include their error.",)


def test_several_contexts_are_one_stratum_for_each_combination() -> None:
    log = table(y=pa.array(["a", None, "b"] * 200))
    combined = [f"{x}{y}" for x, y in zip(log["x"].to_pylist(), log["y"].to_pylist(), strict=True)]
    log = log.append_column("both", pa.array(combined))
    one, two = evaluate(log, "1", context=["both"]), evaluate(log, "1", context=["x", "y"])
    assert one.dm is not None and two.dm is not None
    assert one.dm.estimate == pytest.approx(two.dm.estimate, rel=1e-12)


def test_shares_of_zero_are_seen_in_the_allocation() -> None:
    early = np.arange(600) < 150
    log = table(allocation=np.where(early, "1=0,2=100", "1=25,2=75"))
    shown = pa.array(np.where(early, "2", np.array(log["variant"])))
    report = evaluate(log.set_column(1, "variant", shown), "1=60,2=40")
    assert report.overlap.unsupported == pytest.approx(0.25 * 0.6)
    assert "15 % of the target is on variants whose share was 0" in report.notes[0]
    assert "was not looked at" in evaluate(table(allocation=np.full(600, "north")), "1").notes[0]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"propensity": np.full(600, 0.9)}, {}, "The mean weight is"),
        ({}, {"clip": 1.5}, "Clipping at 1.5 removed"),
        ({"reward": np.zeros(600)}, {}, "All units earned the same"),
        ({"reward": np.linspace(-900, 900, 600)}, {}, "choose the effect that matters"),
        ({"user": ["a"] * 300 + ["b"] * 300}, {}, "no interval here is to be trusted"),
    ],
)
def test_what_to_be_wary_of_is_said(change: dict[str, Any], options: dict[str, float], said: str) -> None:
    assert any(said in note for note in evaluate(table(**change), "1", **options).notes)


def test_numbers_that_cannot_be_had_are_null_in_json() -> None:
    found = numbers(evaluate(table(rows=1), "uniform"))
    assert found["ips"]["stderr"] is None
    assert found["ips"]["interval"] == [None, None]


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({}, {"target": "3"}, "target: '3': allowed are uniform, a variant the log shows (1, 2)"),
        ({}, {"target": "1=20,3=80"}, "80 % of it is on '3', which the log never shows"),
        ({}, {"target": "1=20,2=70"}, "sum to 90, not to 100 %"),
        ({}, {"target": "1=20,1=80"}, "each variant once"),
        ({}, {"target": "1=x,2=80"}, "'1=x': expected VARIANT=PERCENT"),
        ({}, {"target": "1=nan,2=80"}, "'1=nan': expected VARIANT=PERCENT"),
        ({}, {"target": "column:nope"}, "target: no column 'nope': the log has user, variant,"),
        ({"choice": ["1", "9"] * 300}, {"target": "column:choice"}, "choice holds '9', which the log never shows"),
        ({"choice": np.full(600, 1.5)}, {"target": "column:choice"}, "target: 1.5 in row 1"),
        ({"choice": np.full(600, 0)}, {"target": "column:choice"}, "target: no row of the log has a variant"),
        ({}, {"columns": {"reward": "gain"}}, "reward: no column 'gain'"),
        ({}, {"columns": {"rewards": "x"}}, "columns: 'rewards': allowed are unit, variant"),
        ({}, {"columns": {"propensity": "choice"}}, "propensity: 2.0 in row"),
        ({"propensity": ["a"] * 600}, {}, "propensity: numbers are needed, got string"),
        ({"propensity": [0.5] * 599 + [1.5]}, {}, "propensity: 1.5 in row 600"),
        ({"propensity": [None] + [0.5] * 599}, {}, "propensity: nan in row 1"),
        ({"reward": [float("nan")] * 600}, {}, "reward: nan in row 1"),
        ({"variant": ["1", None] * 300}, {}, "variant: nothing in row 2"),
        ({"variant": [[1]] * 600}, {}, "variant: names are needed"),
        ({}, {"context": ["z"]}, "context: no column 'z'"),
        ({}, {"predictions": "q_"}, "predictions: no column q_VARIANT"),
        ({"q_1": np.zeros(600)}, {"predictions": "q_"}, "predictions: no column for variant '2'; there are 1"),
        ({"q_1": np.zeros(600), "q_2": [np.nan] * 600}, {"predictions": "q_"}, "q_2: a prediction is no finite number"),
        ({}, {"clip": 0.0}, "clip: 0.0"),
        ({}, {"clip": 1e-300}, "clip: 1e-300: allowed are numbers from 1e-06"),
        ({}, {"alpha": 0.0}, "alpha: 0.0"),
        ({}, {"effect": -1.0}, "effect: -1.0"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate(table(**change), **{"target": "1", **arguments})
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


def test_a_log_without_rows() -> None:
    with pytest.raises(ConfigError, match="no rows"):
        evaluate(table().slice(0, 0))


# -- files --


def write(path: Path, log: pa.Table) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(log, path)
    elif path.suffix == ".gz":
        with pa.CompressedOutputStream(str(path), "gzip") as out:
            csv.write_csv(log, out)
    elif path.suffix in (".csv", ".tsv"):
        csv.write_csv(log, path, csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    else:
        feather.write_feather(log, path)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "a.csv", "a.tsv", "a.csv.gz", "B.PARQUET"])
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    log = table()
    file = write(tmp_path / name.lower(), log).rename(tmp_path / name)
    read = read_log(file, lambda names: fields_of(names, "column:choice", context=["x"]))
    assert set(read.column_names) == {"user", "variant", "propensity", "reward", "x", "choice"}
    assert numbers(evaluate(read, "1", context=["x"])) == numbers(evaluate(log, "1", context=["x"]))


def test_dictionaries_are_names_as_well() -> None:
    log = table()
    encoded = log.set_column(1, "variant", log["variant"].dictionary_encode())
    chunks = pa.concat_tables([encoded.slice(0, 100), encoded.slice(100)]).set_column(
        0, "user", log["user"].cast(pa.int64())
    )
    assert evaluate(chunks, "1").snips.estimate == evaluate(log, "1").snips.estimate


def test_only_the_columns_needed_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "log.csv", table(extra=["not, needed"] * 600))
    read = read_log(file, lambda names: fields_of(names, "uniform"))
    assert read.column_names == ["user", "variant", "propensity", "reward"]
    assert read["user"].to_pylist()[0] == table()["user"][0].as_py()  # 0047, not 47


def command(*arguments: str) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(ope, arguments)
    return done.exit_code, done.output, done.exception


def test_the_command_on_a_file(tmp_path: Path) -> None:
    file = str(write(tmp_path / "log.csv", table()))
    code, output, _ = command("--log", file, "--target", "1", "--context", "x", "--clip", "2", "--json")
    assert code == 0
    found = json.loads(output)
    assert {*METHODS} <= set(found)
    assert numbers(evaluate(table(), "1", context=["x"], clip=2)) == found
    code, output, _ = command("--log", file, "--columns", "unit=variant, reward=reward", "--target", "1")
    assert code == 0
    for word in (*METHODS, "logged", "always valid", "1 from 600 rows of 2 units", "! The rows that count"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name one source"),
        (("--log", "x.csv", "--experiment", "demo"), "name one source"),
        (("--log", "x.csv"), "x.csv: no such file"),
        (("--log", __file__), "read are files that end in .parquet, .feather"),
        (("--log", "x.csv", "--save", "y"), "--save goes with --experiment"),
        (("--log", "x.csv", "--outcome", "y"), "--outcome goes with --experiment"),
        (("--log", "x.csv", "--columns", "unit"), "--columns: 'unit': expected MEANING=COLUMN"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str) -> None:
    _, _, error = command(*arguments)
    assert isinstance(error, ConfigError)
    assert said in str(error)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"variant,propensity,reward\n1,0.5,yes\n"])
@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.feather"])
def test_a_file_that_is_no_log(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    _, _, error = command("--log", str(file))
    assert isinstance(error, ConfigError), error
    assert file.name in str(error) or "no column" in str(error)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("unit,variant,propensity,reward,reward\nu,1,0.5,0,1\nv,2,0.5,1,0\n")
    _, _, error = command("--log", str(tmp_path / "twice.csv"))
    assert isinstance(error, ConfigError)
    assert "2 columns are called 'reward'" in str(error)


def test_the_table_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = tmp_path / "log.parquet"
    parquet.write_table(table(), path)
    _, output, _ = command("--log", str(path), "--clip", "1.5")
    assert "effective units" in output and "clip bias" in output and "…" not in output
