"""`sluice plan` as people use it."""

from __future__ import annotations

import json

import pytest

from analyzer.plan import power_chart
from sluice.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    return err if code else out


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    found = json.loads(run(capsys, *arguments, "--json"))
    assert isinstance(found, dict)
    return found


EFFECT = ("--baseline", "0.18", "--mde-relative", "-0.10")


def test_the_worked_number(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *EFFECT, "--alpha", "0.05", "--power", "0.8")
    assert (found["n_per_variant"], found["n_total"], found["days"]) == (6868, 13736, None)
    assert (found["mde_absolute"], found["mde_relative"]) == (pytest.approx(-0.018), -0.1)
    assert planned(capsys, "--baseline", "0.18", "--mde-absolute", "-0.018")["n_per_variant"] == 6868
    conventions = {"unpooled": 6865, "baseline": 6869, "arcsine": 6864}
    for name, n in conventions.items():
        assert planned(capsys, *EFFECT, "--convention", name)["n_per_variant"] == n


def test_variants_ratio_and_days(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *EFFECT, "--variants", "3", "--ratio", "2", "--units-per-day", "5000")
    n = found["n_per_variant"]
    assert found["n"] == [n, 2 * n, 2 * n]
    assert found["days"] == -(-found["n_total"] // 5000)
    assert found["alpha_each"] == pytest.approx(0.025)


def test_a_sequential_test_has_a_maximum_and_a_mean(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *EFFECT, "--sequential", "--units-per-day", "2000")
    assert found["expected_n_per_variant"] < found["fixed_n_per_variant"] == 6868 < found["n_per_variant"]
    assert found["expected_days"] < found["days"]


@pytest.mark.parametrize("sequential", [[], ["--sequential"]])
def test_the_smallest_effect_of_a_given_traffic(capsys: pytest.CaptureFixture[str], sequential: list[str]) -> None:
    traffic = ("--baseline", "0.18", "--units-per-day", "2000", "--days", "14")
    found = planned(capsys, *traffic, *sequential)
    assert (found["n_per_variant"], found["days"]) == (14000, 14)
    back = planned(capsys, "--baseline", "0.18", "--mde-absolute", repr(found["mde_absolute"]), *sequential)
    assert back["n_per_variant"] == pytest.approx(14000, abs=1)
    down = repr(found["mde_decrease_absolute"])
    back = planned(capsys, "--baseline", "0.18", "--mde-absolute", down, *sequential)
    assert back["n_per_variant"] == pytest.approx(14000, abs=1)
    assert (
        planned(capsys, "--baseline", "0.18", "--units", "14000", *sequential)["mde_absolute"] == found["mde_absolute"]
    )


def test_a_mean(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--baseline", "10", "--sd", "30", "--mde-relative", "0.1")
    assert found["n_per_variant"] == 14128
    # Only a lift needs a baseline above 0.
    assert planned(capsys, "--baseline", "0", "--sd", "1", "--mde-absolute", "0.1")["mde_relative"] is None


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, *EFFECT, "--sequential", "--units-per-day", "2000", "--variants", "3")
    for part in ("0.18 against 0.162", "at most", "on average", "days", "units per variant", "█", "0.025 each"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
    text = run(capsys, "--baseline", "0.18", "--units", "300")
    assert "+0.0" in text
    assert "-0.0" in text


def test_the_chart() -> None:
    assert power_chart([1, 2, 3, 4], [0.0, 0.25, 0.5, 1.0], planned=3, wanted=0.8) == [
        "  100 % │   █",
        "        │┄┄┄█",
        "   80 % │   █",
        "        │   █",
        "   60 % │   █",
        "        │  ██",
        "   40 % │  ██",
        "        │ ▄██",
        "   20 % │ ███",
        "        │ ███",
        "  power └──┴─",
        "         3 units per variant",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--baseline", "0.5"], "--mde-relative: give an effect"),
        (["--baseline", "0.5", "--units-per-day", "5"], "--mde-relative: give an effect"),
        ([*EFFECT, "--mde-absolute", "0.1"], "--mde-relative, --mde-absolute: give one"),
        ([*EFFECT, "--days", "3"], "--days, --units: the effect is given"),
        (["--baseline", "0.5", "--days", "3", "--units", "5"], "--days, --units: give one"),
        (["--baseline", "0.5", "--units", "0"], "--units: must be > 0"),
        (["--baseline", "0.5", "--units", "nan"], "--units: must be > 0"),
        (["--baseline", "0.5", "--units", "3"], "--units: 3 of the control find no effect"),
        (["--baseline", "0.5", "--units", "1e16"], "--units: must lie in"),
        (["--baseline", "nan", "--units", "50"], "--baseline: must lie in (0, 1)"),
        (["--baseline", "1.2", "--mde-relative", "0.1"], "--baseline: must lie in (0, 1)"),
        (["--baseline", "0.5", "--mde-absolute", "0.6"], "--mde: takes the rate from 0.5 to 1.1"),
        (["--baseline", "0.5", "--mde-absolute", "0"], "--mde: must be finite and not 0"),
        (["--baseline", "0.5", "--mde-absolute", "1e-12"], "--mde: more than 1e+15 units"),
        ([*EFFECT, "--alpha", "0"], "--alpha: must lie in (0, 1)"),
        ([*EFFECT, "--power", "1"], "--power: must lie in (0, 1)"),
        ([*EFFECT, "--variants", "1"], "--variants: at least two"),
        ([*EFFECT, "--design-effect", "0"], "--design-effect: must be ≥ 1"),
        ([*EFFECT, "--sd", "0"], "--sd: must be > 0"),
        ([*EFFECT, "--convention", "other"], "--convention"),
    ],
)
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert line in run(capsys, *arguments, code=2)
