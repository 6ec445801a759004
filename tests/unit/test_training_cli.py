"""`sluice train` as a person and a program meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from movielens_files import write_movielens

from sluice.cli import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("cli") / "ml-tiny", users=50, each=60)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--data", source, "--out", tmp_path, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    for name in ("PolicyA", "PolicyB", "item_based", "content", "random", "most_rated", "popularity"):
        low, high = report[name]["intervals"]["auc"]
        assert low <= report[name]["auc"] <= high, name
        assert 0 < report[name]["ctr_at_1"] < 1
    assert "log_loss" not in report["random"]
    assert report["best_possible"]["ctr_at_1"] >= report["PolicyB"]["ctr_at_1"]
    difference = report["PolicyB - PolicyA"]
    assert difference["auc"] == pytest.approx(report["PolicyB"]["auc"] - report["PolicyA"]["auc"])
    assert 0 <= difference["auc_p_value"] <= 1
    assert report["seconds"] > 0
    assert Path(report["folder"]) == tmp_path / report["fingerprint"]
    assert (tmp_path / report["fingerprint"] / "impressions.parquet").exists()


def test_table(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--data", source, "--out", tmp_path, "--seed", 3)
    assert code == 0
    for text in ("ml-tiny", "PolicyA", "PolicyB", "popularity", "click rate at 1", "(DeLong, by user)"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such"], "--data: /no/such: no such file or folder"),
        (["--data", "synthetic"], "synthetic logs"),
        (["--train-share", "2"], "--train-share"),
        (["--click-from", "6"], "one class only"),
        (["--click-from", "nan"], "--click-from: a rating, got nan"),
        (["--seed", "9999999999"], "--seed"),
    ],
)
def test_wrong_use_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = arguments if "--data" in arguments else ["--data", str(source), *arguments]
    code, out, err = run(capsys, "--out", tmp_path, *given)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
