"""`sluice replay --truth`: the file holds what the replay's own accounting would sum up to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from producers.cli import bundled_experiments
from producers.service import ReplayOptions, candidates_of
from producers.totals import Totals, result_of
from sluice.cli import main
from sluice.settings import Settings

SOURCE = "synthetic:slates=1500,users=40,random=0.5,PolicyA=0.6,PolicyB=0.7"
NAMES = ["random", "PolicyA", "PolicyB"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["replay", *arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_the_file_sums_to_the_truth_of_the_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "truth.parquet"
    code, out, _ = run(capsys, "--data", SOURCE, "--seed", "3", "--truth", str(file), "--json")
    assert code == 0
    table = parquet.read_table(file)

    options, totals = ReplayOptions(data=SOURCE, seed=3), Totals()
    with candidates_of(Settings(), options, bundled_experiments()[0], print) as candidates:
        slates = candidates.block(0, 1500)
        for slate, shown in zip(slates, candidates.shown(slates), strict=True):
            totals.add(result_of(slate.number, "random", shown, ("click",)))
    for name in NAMES:
        assert table[f"clicks.{name}"].to_numpy().sum() == totals.true_clicks[name]
        assert table[f"shown.{name}"].to_numpy().sum() == totals.true_impressions[name]
        assert json.loads(out)["variants"][name] == {
            "impressions": totals.true_impressions[name], "clicks": totals.true_clicks[name],
        }  # fmt: skip
    assert (table["slate"].to_numpy() == np.arange(1500)).all()
    assert (table["at_ms"].to_numpy() == candidates.at_ms).all()


def test_only_the_part_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "truth.parquet"
    assert run(capsys, "--data", SOURCE, "--limit", "7", "--truth", str(file))[0] == 0
    assert parquet.read_table(file).num_rows == 7


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--data", SOURCE, "--truth", str(tmp_path / "no" / "truth.parquet"))
    assert code == 2
    assert "--truth" in err and len(err.strip().splitlines()) == 1
