"""`sluice compare` as people use it: counts or a file in, every figure out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tea_tasting as tt
from scipy.stats import norm, ttest_ind
from tea_tasting.aggr import Aggregates

from analyzer import unit_rows
from analyzer.compare import spread_values
from analyzer.engine.bootstrap import Replicates, difference_interval, replicates, unit_keys
from analyzer.engine.frequentist import proportions, ratios
from analyzer.engine.mixtures import equal_rates_p
from analyzer.engine.moments import moments
from analyzer.engine.sequential import contrasts
from sluice.cli import main

WORKED = ("--clicks", "1380", "1545", "--impressions", "8500", "8200")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    return err if code else out


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found = json.loads(run(capsys, *arguments, "--json"))
    assert isinstance(found, dict)
    return found


def rows(seed: int = 1, users: int = 300) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    n = rng.geometric(0.15, users)
    c = rng.binomial(n, rng.beta(2, 5, users))
    return np.arange(users) % 2, n, c, np.round(c * rng.lognormal(0, 1, users), 3)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_worked_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *WORKED)
    assert found["z"] == pytest.approx(4.42964, abs=5e-6)
    assert found["p_value"] == pytest.approx(9.439e-06, abs=5e-10)
    assert found["cohens_h"] == pytest.approx(0.068573, abs=5e-7)
    assert found["effect_size"] == "negligible"
    assert found["lift"] == pytest.approx(0.160525, abs=5e-7)
    assert found["lift_interval"] == pytest.approx([0.083986, 0.237064], abs=5e-7)
    assert found["p_better"] == pytest.approx(0.999995274, abs=5e-10)
    assert found["p_best"] == pytest.approx([4.726e-06, 0.999995274], abs=5e-10)
    # Difference and lift of 4·10⁶ posterior draws, numpy 2.4 (standard errors of the ends 2e-5 and 1e-4).
    rng = np.random.default_rng(1)
    a, b = rng.beta(1381, 7121, 4_000_000), rng.beta(1546, 6656, 4_000_000)
    assert found["credible_difference"] == pytest.approx(np.quantile(b - a, [0.025, 0.975]).tolist(), abs=8e-5)
    assert found["credible_lift"] == pytest.approx(np.quantile(b / a - 1, [0.025, 0.975]).tolist(), abs=5e-4)
    assert found["ready"] is True
    arms = moments([8500, 8200], [8500, 8200], [1380, 1545])
    wanted = contrasts(arms, 0)
    assert found["always_valid_p"] == pytest.approx(wanted.p[1])
    assert found["confidence_sequence"] == pytest.approx([wanted.low[1], wanted.high[1]])
    assert found["chi_square"]["statistic"] == pytest.approx(found["z"] ** 2)
    assert any("planned" in reason for reason in found["reasons"])


def test_more_variants_give_lists(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, "--clicks", "30", "45", "70", "--impressions", "300", "310", "305")
    wanted = proportions([30, 45, 70], [300, 310, 305])
    assert found["variants"] == ["A", "B", "C"]
    for key, of in (("z", wanted.z), ("p_value", wanted.p), ("lift", wanted.lift), ("observed_power", wanted.power)):
        assert found[key] == [None, *(pytest.approx(value) for value in of[1:])]
    assert found["p_value_holm"][1] == pytest.approx(wanted.p[1])
    assert found["p_value_holm"][2] == pytest.approx(2 * wanted.p[2])
    assert found["chi_square"]["degrees"] == 2
    assert sum(found["p_best"]) == pytest.approx(1)
    assert found["p_better"][0] is None


def test_a_file_is_clustered_on_its_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arm, n, c, v = rows()
    lines = ["user,variant,value,clicks,impressions"]
    lines += [f"u{i},{'old' if a == 0 else 'new'},{v[i]},{c[i]},{n[i]}" for i, a in enumerate(arm)]
    path = write(tmp_path / "units.csv", "\n".join([*lines, "u-none,new,0,0,0"]))
    found = compared(capsys, "--csv", path, "--expected-shares", "1", "1", "--planned-value-effect", "0.5")
    parts = (np.ones_like(n), n, c, n * n, c * c, n * c)
    wanted = ratios(moments(*(np.bincount(arm, part) for part in parts)))
    assert found["variants"] == ["old", "new"]
    assert (found["units"], found["clustered"]) == ([150, 150], True)
    assert (found["z"], found["p_value"]) == pytest.approx((wanted.statistic[1], wanted.p[1]))
    assert found["lift_interval"] == pytest.approx([wanted.lift_low[1], wanted.lift_high[1]])
    assert min(found["design_effect"]) > 1.2
    assert found["sample_ratio_p"] == pytest.approx(1)
    parts = (np.ones_like(n), n, v, n * n, v * v, n * v)
    values = moments(*(np.bincount(arm, part) for part in parts))
    wanted = ratios(values)
    assert found["value"]["difference"] == pytest.approx(wanted.difference[1])
    assert found["value"]["p_value"] == pytest.approx(wanted.p[1])
    assert found["value"]["always_valid_p"] == pytest.approx(contrasts(values, 0, tau=0.5).p[1])
    assert sum(found["value"]["p_best"]) == pytest.approx(1)
    assert found["value"]["p_best"][1] == pytest.approx(norm.sf(-wanted.statistic[1]), abs=0.01)
    assert any("1 rows without impressions" in reason for reason in found["reasons"])
    # The other way round, and as if the impressions were independent: too sure.
    back = compared(capsys, "--csv", path, "--control", "new")
    assert back["difference"] == pytest.approx(-found["difference"])
    assert back["value"]["always_valid_p"] is None
    text = run(capsys, "--csv", path)
    assert "observed power" in text
    assert "planned-value-effect" in text


def test_one_impression_a_row_is_the_same_as_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clicks = {"a": (30, 200), "b": (52, 210)}
    lines = [f"{name},1,{int(i < c)}" for name, (c, n) in clicks.items() for i in range(n)]
    path = write(tmp_path / "u.csv", "\n".join(["variant,impressions,clicks", *lines]))
    found = compared(capsys, "--csv", path)
    plain = compared(capsys, "--clicks", "30", "52", "--impressions", "200", "210")
    for key in (
        "rates",
        "p_best",
        "expected_loss",
        "always_valid_p",
        "confidence_sequence",
        "lift",
        "credible_intervals",
    ):
        assert np.ravel(found[key]) == pytest.approx(np.ravel(plain[key]), rel=1e-9)
    assert found["design_effect"] == pytest.approx([1, 1], rel=1e-12)


def test_the_exact_p_value_of_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *WORKED)
    assert found["exact_always_valid_p"] == pytest.approx(float(equal_rates_p([1380, 1545], [8500, 8200])))
    assert compared(capsys, "--clicks", "90", "180", "--impressions", "500", "1000")["exact_always_valid_p"] == 1
    found = compared(capsys, "--clicks", "30", "90", "70", "--impressions", "300", "310", "305")
    wanted = [2 * float(equal_rates_p([30, c], [300, n])) for c, n in ((90, 310), (70, 305))]
    assert found["exact_always_valid_p"] == [None, *(pytest.approx(p) for p in wanted)]
    assert wanted[0] < 1e-5


def past(arm: np.ndarray, count: int = 400) -> dict[str, np.ndarray]:
    """Users with a rate of their own, before and in the experiment; some of them are new."""
    rng = np.random.default_rng(5)
    rate = rng.beta(2, 5, count)
    n0, n = rng.geometric(0.05, count) * (rng.random(count) < 0.9), rng.geometric(0.05, count)
    c0, c = rng.binomial(n0, rate), rng.binomial(n, np.minimum(rate + 0.05 * arm, 1))
    return {"impressions": n, "clicks": c, "pre_impressions": n0, "pre_clicks": c0}


def test_cuped_is_that_of_tea_tasting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # tea-tasting 1.14: RatioOfMeans with both covariates; θ from both variants together, unequal variances.
    arm = np.arange(400) % 2
    columns = past(arm)

    def aggregates(which: int) -> Aggregates:
        own = {name: values[arm == which].astype(float) for name, values in columns.items()}
        return Aggregates(
            200,
            mean_={name: values.mean() for name, values in own.items()},
            var_={name: values.var(ddof=1) for name, values in own.items()},
            cov_={(a, b): float(np.cov(own[a], own[b])[0, 1]) for a in own for b in own if a < b},
        )

    metric = tt.RatioOfMeans("clicks", "impressions", "pre_clicks", "pre_impressions")
    wanted = metric.analyze_aggregates(aggregates(0), aggregates(1))
    lines = ["variant," + ",".join(columns), "b,0,0,7,7"]
    lines += [",".join(map(str, ("ab"[a], *row))) for a, *row in zip(arm, *columns.values(), strict=True)]
    path = write(tmp_path / "units.csv", "\n".join(lines))
    found = compared(capsys, "--csv", path, "--control", "a")
    assert found["cuped_difference"] == pytest.approx(wanted.effect_size, rel=1e-9)
    assert found["cuped_p_value"] == pytest.approx(wanted.pvalue, rel=1e-6)
    assert found["cuped_interval"] == pytest.approx(
        [wanted.effect_size_ci_lower, wanted.effect_size_ci_upper], rel=1e-9
    )  # fmt: skip
    widths = [np.ptp(found[key]) for key in ("cuped_interval", "difference_interval")]
    assert found["variance_reduction"] == pytest.approx(1 - (widths[0] / widths[1]) ** 2, abs=0.005)
    assert found["variance_reduction"] > 0.1
    assert (found["bootstrap_interval"], found["exact_always_valid_p"]) == (None, None)
    shown = run(capsys, "--csv", path)
    assert "CUPED" in shown
    assert "bootstrap  " not in shown


def test_bootstrap_and_welch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arm, n, c, v = rows()
    lines = [f"u{i},{'ab'[a]},{n[i]},{c[i]},{v[i]}" for i, a in enumerate(arm)]
    head = "unit,variant,impressions,clicks,value"
    found = compared(capsys, "--csv", write(tmp_path / "u.csv", "\n".join([head, *lines])))
    keys = unit_keys((f"u{i}" for i in range(len(arm))), unit_rows.SALT)

    def wanted(outcome: np.ndarray) -> np.ndarray:
        arms = [replicates(keys[arm == i], n[arm == i], outcome[arm == i]) for i in (0, 1)]
        interval = difference_interval(Replicates(*(np.stack(part) for part in zip(*arms, strict=True))))
        return np.array([interval.low[1], interval.high[1]])

    assert found["bootstrap_interval"] == pytest.approx(wanted(c), rel=1e-9)
    thousandths = np.rint(1000 * v).astype(int)
    assert found["value"]["bootstrap_interval"] == pytest.approx(wanted(thousandths) / 1000, rel=1e-7)
    assert found["bootstrap_interval"] == pytest.approx(found["difference_interval"], abs=0.02)
    # scipy 1.17: Welch's test of the units' totals.
    assert found["value"]["welch_p_value"] == pytest.approx(
        ttest_ind(v[arm == 0], v[arm == 1], equal_var=False).pvalue, rel=1e-9
    )
    back = compared(capsys, "--csv", write(tmp_path / "r.csv", "\n".join([head, *lines[::-1]])), "--control", "a")
    assert back["bootstrap_interval"] == found["bootstrap_interval"]
    assert back["value"]["bootstrap_interval"] == found["value"]["bootstrap_interval"]
    assert found["cuped_interval"] is None


def test_figures_of_units_are_null_where_they_cannot_be_known(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    head = "unit,variant,impressions,clicks,value,pre_impressions,pre_clicks\n"
    for text in ("1,a,0,0,0,5,1\n2,b,9,3,1,0,0\n", "1,a,1,0,0,0,0\n2,b,1,1,0,0,0\n3,c,0,0,0,1,1\n"):
        found = compared(capsys, "--csv", write(tmp_path / "u.csv", head + text))
        assert not np.any(found["cuped_interval"])
        assert not np.any(found["value"]["welch_p_value"])
        run(capsys, "--csv", str(tmp_path / "u.csv"))
    huge = "1,a,1e12,1e12,1e12,1e12,0\n2,a,1,1,1,1,1\n3,b,1e12,5e11,-1e12,1e12,1e12\n4,b,1e12,0,1e-9,9,9\n"
    found = compared(capsys, "--csv", write(tmp_path / "u.csv", head + huge))
    assert found["bootstrap_interval"] is None  # some replicate of a has hardly an impression


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, *WORKED, "--expected-shares", "50", "50")
    for part in ("16.24 %", "+16.05", "9.44e-06", "negligible", "planned beforehand", "always-valid p", "0.0203"):
        assert part in text
    assert "chi-square" in run(capsys, "--clicks", "1", "2", "3", "--impressions", "9", "9", "9")


@pytest.mark.parametrize(
    ("clicks", "impressions", "reason"),
    [
        (["0", "0"], ["0", "0"], "A: no impressions"),
        (["0", "5"], ["0", "50"], "A: no impressions"),
        (["0", "0"], ["500", "500"], "A: not ready, 0 clicks of 20"),
        (["0", "30"], ["500", "500"], "the control has no clicks"),
        (["500", "500"], ["500", "500"], "0 impressions without a click of 20"),
        (["1", "1"], ["1", "1"], "effective units of 20"),
    ],
)
def test_what_cannot_be_known_is_null_with_a_reason(
    capsys: pytest.CaptureFixture[str], clicks: list[str], impressions: list[str], reason: str
) -> None:
    arguments = ("--clicks", *clicks, "--impressions", *impressions, "--expected-shares", "1", "1")
    found = compared(capsys, *arguments)
    assert found["ready"] is False
    assert any(reason in text for text in found["reasons"])
    assert all(0 <= p <= 1 for p in found["p_best"])
    assert found["always_valid_p"] == 1
    run(capsys, *arguments)


def test_trillions(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, "--clicks", "3e11", "300001000000", "--impressions", "1000000000000", "1e12")
    assert found["z"] == pytest.approx(1e6 / np.sqrt(2 * 0.3 * 0.7 * 1e12), rel=1e-5)
    assert found["p_best"][1] > 0.9


def test_tables_keep_every_name_and_figure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wide = run(capsys, "--clicks", "5e11", "4e11", "--impressions", "1e12", "1e12").splitlines()
    assert wide[1].split()[:4] == ["A", "1,000,000,000,000", "1,000,000,000,000", "500,000,000,000"]
    lines = "".join(f"{name},{1 + i % 3},{i % 2},{i % 7}\n" for name in ("NA", "[red]b", "c" * 90) for i in range(90))
    path = write(tmp_path / "u.csv", "variant,impressions,clicks,value\n" + lines)
    shown = run(capsys, "--csv", path, "--planned-value-effect", "1")
    tables = [line for line in shown.splitlines() if not line.startswith("!")]
    assert sum(line.startswith("NA ") for line in tables) == 3
    assert sum(line.startswith("[red]b ") for line in tables) == 7
    assert "…  " not in shown.replace("c" * 23 + "…", "")  # nothing but the long name is cut
    assert max(map(len, run(capsys, *WORKED).splitlines()[:12])) <= 80


def test_shares_that_do_not_match(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *WORKED, "--expected-shares", "60", "40")
    assert found["sample_ratio_p"] < 1e-9
    assert any("do not trust" in reason for reason in found["reasons"])
    few = compared(capsys, "--clicks", "1", "1", "--impressions", "3", "3", "--expected-shares", "1", "1")
    assert few["sample_ratio_p"] is None


def test_values_of_an_option_are_spread() -> None:
    several = {"--clicks", "--impressions"}
    given = "--clicks 1 -2 3 --alpha 0.1 --impressions=5 6 --json -- 7 8"
    wanted = "--clicks 1 --clicks -2 --clicks 3 --alpha 0.1 --impressions=5 --impressions 6 --json -- 7 8"
    assert " ".join(spread_values(given.split(), several)) == wanted


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--clicks: at least two numbers"),
        (["--clicks", "1", "2"], "--impressions: at least two numbers"),
        (["--clicks", "1", "--impressions", "5"], "--clicks: at least two numbers"),
        (["--clicks", "1", "2", "3", "--impressions", "5", "5"], "--clicks: 3 numbers, but --impressions: 2"),
        (["--clicks", "1", "6", "--impressions", "5", "5"], "--clicks: 6 of 5 impressions (variant B)"),
        (["--clicks", "1", "-2", "--impressions", "5", "5"], "--clicks: whole numbers from 0 to 10^12, got -2"),
        (["--clicks", "1", "nan", "--impressions", "5", "5"], "--clicks: whole numbers"),
        (["--clicks", "1", "2", "--impressions", "5", "inf"], "--impressions: whole numbers"),
        (["--clicks", "1", "0.5", "--impressions", "5", "5"], "--clicks: whole numbers"),
        (["--clicks", "1", "2", "--impressions", "5", "1e13"], "--impressions: whole numbers"),
        (["--clicks", "1", "x", "--impressions", "5", "5"], "'x' is not a valid float"),
        ([*WORKED, "9"], "--clicks: 2 numbers, but --impressions: 3"),
        ([*WORKED, "--alpha", "0"], "--alpha: must lie in [1e-12, 1)"),
        ([*WORKED, "--planned-effect", "0"], "--planned-effect: must lie in [1e-12, 1e+12]"),
        ([*WORKED, "--alpha", "1e-300"], "--alpha: must lie in [1e-12, 1)"),
        ([*WORKED, "--planned-effect", "1e300"], "--planned-effect: must lie in [1e-12, 1e+12]"),
        ([*WORKED, "--planned-value-effect", "3"], "--planned-value-effect: there are no values"),
        ([*WORKED, "--expected-shares", "1e300", "1e300"], "--expected-shares: must lie in [1e-12, 1e+12]"),
        ([*WORKED, "--prior", "0", "1"], "--prior: both must lie"),
        ([*WORKED, "--expected-shares", "1"], "--expected-shares: 1 for 2 variants"),
        ([*WORKED, "--expected-shares", "1", "0"], "--expected-shares: must lie in [1e-12, 1e+12]"),
        ([*WORKED, "--control", "B"], "--control: only with --csv"),
        ([*WORKED, "--csv", "x.csv"], "--csv: the counts are in the file"),
        (["--csv", "/no/such.csv"], "--csv: /no/such.csv: "),
    ],
)
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    text = run(capsys, *arguments, code=2)
    assert line in text
    assert "Traceback" not in text


HEADER = "variant,impressions,clicks\n"
PAST = "variant,impressions,clicks,pre_impressions,pre_clicks\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "Empty CSV file"),
        ("a,b\n1,2\n", "one column 'variant' is needed, there are: a, b"),
        (HEADER, "at least two variants are needed, there is only none"),
        (HEADER + "a,1,0\n", "at least two variants are needed, there is only a"),
        (HEADER + "a,1,0\nb,2,-1\n", "row 3: clicks is not a whole number ≥ 0"),
        (HEADER + "a,1,0\nb,2.5,1\n", "row 3: impressions is not a whole number ≥ 0"),
        (HEADER + "a,1,0\nb,2,3\n", "row 3: clicks is more than impressions"),
        (HEADER + "a,1,0\nb,,0\n", "row 3: impressions is empty or not finite"),
        (HEADER + "a,1,0\nb,inf,0\n", "row 3: impressions is empty or not finite"),
        (HEADER + "a,1,0\n,1,0\n", "row 3: variant is empty"),
        (HEADER + "a,1,0\nb,1e308,0\n", "row 3: impressions is beyond 1e+12"),
        ("variant,impressions,clicks,value\na,1,0,1\nb,1,0,-1e13\n", "row 3: value is beyond 1e+12"),
        (HEADER + "a,1,0\nb,x,0\n", "column 'impressions'"),
        (HEADER + "a,1,0\nb,1\n", "Expected 3 columns, got 2"),
        ("variant,impressions,clicks,value\na,1,0,1\nb,1,0,nan\n", "row 3: value is empty or not finite"),
        (HEADER + "".join(f"v{i},1,0\n" for i in range(40)), "40 variants; at most 32"),
        ("variant,impressions,clicks,pre_clicks\na,1,0,0\nb,1,0,0\n", "go together, there is only pre_clicks"),
        (PAST + "a,1,0,1,0\nb,1,0,1,2\n", "row 3: pre_clicks is more than pre_impressions"),
        (PAST + "a,1,0,1,0\nb,1,0,0.5,0\n", "row 3: pre_impressions is not a whole number ≥ 0"),
        ("unit,variant,impressions,clicks\n7,a,1,0\n8,b,1,0\n7,b,2,0\n", "row 4: unit is that of an earlier row"),
        ("unit,variant,impressions,clicks\n7,a,1,0\n,b,1,0\n", "row 3: unit is empty"),
        ("variant,impressions,clicks,value,value\na,1,0,1,1\nb,1,0,1,1\n", "more than one column 'value'"),
    ],
)
def test_a_broken_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, line: str) -> None:
    told = run(capsys, "--csv", write(tmp_path / "u.csv", text), code=2)
    assert line in told
    assert told.count("\n") == 1


def test_other_wrong_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "u.csv", HEADER + "a,1,0\nb,1,0\n")
    assert "has no variant 'c', only a, b" in run(capsys, "--csv", path, "--control", "c", code=2)
    assert "--csv: " in run(capsys, "--csv", str(tmp_path), code=2)
    monkeypatch.setattr(unit_rows, "MAX_BYTES", 10)
    assert "at most 10 are read" in run(capsys, "--csv", path, code=2)
