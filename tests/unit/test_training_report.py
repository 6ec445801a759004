"""What an evaluation says: the verdict in words, the page, `sluice evaluate` as a person and a program meet it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from movielens_files import write_movielens
from openmp import without_openmp

from sluice.cli import main
from sluice.pages.drawing import inline
from training.charts import dots
from training.delong import Difference
from training.evaluate import Comparison
from training.evaluation import Evaluation, run_evaluation
from training.fairness import GroupFigures
from training.prepare import PrepareOptions, prepare
from training.report import make_report
from training.report_tables import tables, to_csv
from training.report_words import fairness_words
from training.simultaneous import Interval
from training.verdict import p_value, verdict


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("evaluate") / "ml-tiny", users=50, each=60)


@pytest.fixture(scope="module")
def found(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    data, _ = prepare(str(source), tmp_path_factory.mktemp("prepared"), PrepareOptions())
    return run_evaluation(data, notice=pytest.fail)


@pytest.fixture(scope="module")
def page(found: Evaluation) -> str:
    return make_report(found, {"numpy": "2.0"}).page


def compared(value: float, low: float, high: float, p: float = 0.5) -> Comparison:
    return Comparison(
        "PolicyB", "PolicyA", {"ctr_at_1": value, "auc": 0.01}, {"ctr_at_1": (low, high), "auc": (-0.01, 0.02)},
        {"ctr_at_1": 0.9, "auc": 0.8}, Difference(0.01, 0.01, 1.0, p),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "outcome", "headline"),
    [
        ((0.03, 0.01, 0.05), "better", "PolicyB is better than PolicyA"),
        ((-0.03, -0.05, -0.01), "better", "PolicyA is better than PolicyB"),
        ((0.003, 0.001, 0.0049), "slightly-better", "PolicyB is better than PolicyA, by too little to matter"),
        ((0.001, -0.002, 0.004), "equal", "PolicyB and PolicyA are practically equal"),
        ((0.001, -0.006, 0.004), "undecided", "These data cannot tell PolicyB and PolicyA apart"),
        ((0.0, 0.0, 0.0), "equal", "PolicyB and PolicyA are practically equal"),
    ],
)
def test_verdict(ends: tuple[float, float, float], outcome: str, headline: str) -> None:
    said = verdict(compared(*ends))
    assert (said.outcome, said.headline) == (outcome, headline)


def test_the_verdict_says_how_sure_it_is() -> None:
    first, second = verdict(compared(0.03, 0.01, 0.05, p=0.0004)).sentences
    assert "+3.00 percentage points, between +1.00 and +5.00 with 95 %" in first
    assert "PolicyB leads in 90 %" in first
    assert "PolicyB separates clicks from the rest better" in second and "p < 0.001" in second
    (_, second) = verdict(compared(0.03, 0.01, 0.05, p=0.06)).sentences
    assert "no evidence of a difference" in second


class Outside(HTMLParser):
    """Collects what a browser would fetch, and what a page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action") and not (value or "").startswith("#"):
                self.found.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
            self.refers += re.findall(r"url\(#([^)]+)\)", value or "")
            if name == "href" and (value or "").startswith("#"):
                self.refers.append((value or "")[1:])


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert len(outside.ids) == len(set(outside.ids))
    assert set(outside.refers) <= set(outside.ids)


def test_the_page_says_it_all(found: Evaluation, page: str) -> None:
    for text in (found.verdict.headline, found.data.fingerprint, "Caveats", "numpy 2.0", "Rolling origin"):
        assert text in page, text
    for name in ("Figures", "Differences", "Curves", "Segments", "Folds", "Fairness", "Data and method"):
        assert f"<h2>{name}" in page, name
    assert page.count('role="img" aria-label="') == page.count("<svg")


def test_texts_are_escaped(found: Evaluation) -> None:
    hostile = "<script>alert(1)</script>"
    data = replace(found.data, name=hostile)
    parts = [one._replace(name=hostile) for one in found.segments]
    page = make_report(replace(found, data=data, segments=parts), {}, title=hostile).page
    assert hostile not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_charts_of_hostile_labels_are_escaped() -> None:
    chart = dots("labels", 'alt "<b>"', ["<b>&", "$x_1$"], {"": [Interval(0.5, 0.4, 0.6)] * 2}, "AUC")
    svg = inline(chart)
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg and 'aria-label="alt &quot;&lt;b&gt;&quot;"' in svg
    assert "$x_1$" in svg  # not taken for a formula
    assert dots("labels", 'alt "<b>"', ["<b>&", "$x_1$"], {"": [Interval(0.5, 0.4, 0.6)] * 2}, "AUC") == chart


def group(low: float, high: float) -> GroupFigures:
    ends = {k: Interval((low + high) / 2, low, high) for k in (1, 3)}
    return GroupFigures(
        "gender", "F", 133, {1: 0.66, 3: 0.61}, {1: 0.5, 3: 0.5}, ends, {1: ends[1], 3: Interval(0, -1, 1)}
    )


def test_fairness_in_words(found: Evaluation) -> None:
    leader, rival = found.compared
    judged = replace(found, fairness={leader: [group(-0.05, -0.01)], rival: [group(-0.05, 0.01)]})
    said = fairness_words(judged)
    assert said[0] == (
        f"{leader}: click rates differ for women at 1 (−3.00 points), women at 3 (−3.00 points); "
        "what the model adds above chance differs for women at 1 (−3.00 points)."
    )
    assert said[1].startswith(f"{rival}: no evidence that click rates differ in any of 1 comparisons")
    assert said[2] == (
        "Women (133 users): fewer clicks than all others at 1, fewer clicks than all others at 3 "
        "(at 1 −0.030 [−0.050, −0.010], at 3 −0.030 [−0.050, −0.010])."
    )
    assert "−0.030 <small>−0.050 to −0.010</small>" in make_report(judged, {}).page


def test_what_is_shown_as_zero_is_no_difference(found: Evaluation) -> None:
    small = {name: [group(-2e-4, -1e-16)] for name in found.compared}
    said = " ".join(fairness_words(replace(found, fairness=small)))
    assert "no evidence of a difference (at 1 +0.000 [+0.000, +0.000]" in said
    assert "−0.000" not in said and not Interval(-1e-16, -2e-16, -1e-17).excludes_zero
    assert "+0.00 percentage points, between +0.00 and" in verdict(compared(-1e-9, -2e-9, 0.1)).sentences[0]


@pytest.mark.parametrize(("p", "said"), [(1e-9, "p < 0.001"), (0.0244, "p = 0.024")])
def test_no_p_value_is_zero(p: float, said: str) -> None:
    assert p_value(p) == said


def test_without_known_groups_nothing_can_be_said(found: Evaluation) -> None:
    (said,) = fairness_words(found)
    assert "no gender, no age, no occupation" in said and "nothing can be said of fairness" in said
    (said,) = fairness_words(replace(found, small_groups=["gender F (10 users)"]))
    assert "too small to judge (gender F (10 users))" in said


def test_csv_has_the_ends_of_intervals(found: Evaluation) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(tables(found)["ranking"]))))
    assert [row["model"] for row in rows] == list(found.figures)
    for row in rows:
        assert float(row["auc_low"]) <= float(row["auc"]) <= float(row["auc_high"])
        assert float(row["auc"]) == found.figures[row["model"]].values["auc"]


def test_differences_are_of_the_policies_first(found: Evaluation) -> None:
    assert (found.differences[0].first, found.differences[0].second) == ("PolicyB", "PolicyA")
    assert {one.first for one in found.differences[1:]} == {found.verdict.leader}
    assert {one.kind for one in found.folds} == {"rolling", "grouped"}
    ahead = found.differences[-1]
    assert ahead.second == "random" and ahead.ahead["auc"] == 1


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Path:
    """With an empty store of MLflow, shared."""
    state = tmp_path_factory.mktemp("state")
    mlflow_store(state)
    return state


@pytest.fixture(autouse=True)
def own_state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(state))
    monkeypatch.delenv("SLUICE_MLFLOW", raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_command(source: Path, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--data", source, "--report", tmp_path / "report.html", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["verdict"]["leader"] in ("PolicyA", "PolicyB")
    for name in ("PolicyA", "PolicyB", "item_based", "content", "random", "most_rated", "popularity"):
        low, high = said["models"][name]["intervals"]["ctr_at_1"]
        assert low <= said["models"][name]["ctr_at_1"] <= high
    assert said["differences"][0]["auc"] == pytest.approx(
        said["models"]["PolicyB"]["auc"] - said["models"]["PolicyA"]["auc"]
    )
    assert set(said["segments"][0]["auc"]) == {"value", "low", "high"}
    assert said["fairness"] == []
    assert said["verdict"]["headline"] in (tmp_path / "report.html").read_text()

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    logged = client.get_run(said["run_id"])
    assert logged.info.run_name == f"evaluate ml-tiny {said['fingerprint'][:8]}"
    assert logged.data.metrics["PolicyB_auc"] == pytest.approx(said["models"]["PolicyB"]["auc"])
    kept = {one.path for one in client.list_artifacts(said["run_id"])}
    assert {"report.html", "ranking.csv", "segments.csv", "folds.csv", "charts"} <= kept


def test_without_openmp_the_other_models_are_measured(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_openmp(monkeypatch)
    notices: list[str] = []
    data, _ = prepare(str(source), tmp_path, PrepareOptions())
    found = run_evaluation(data, notice=notices.append)
    assert len(notices) == 1 and notices[0].startswith("PolicyB is left out")
    assert (found.verdict.outcome, found.verdict.headline) == ("alone", "PolicyA was measured alone")
    assert found.compared == ("PolicyA", "popularity")
    assert {one.first for one in found.differences} == {"PolicyA"}
    assert "PolicyB" not in make_report(found, {}).page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/no/such"], "--data: /no/such: no such file or folder"),
        (["--report", "/no/such/report.html"], "--report: the folder /no/such does not exist"),
        (["--click-from", "6"], "one class only"),
    ],
)
def test_wrong_use_is_one_line(
    source: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = arguments if "--data" in arguments else ["--data", str(source), *arguments]
    code, out, err = run(capsys, *given)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_mlflow_that_is_away_is_told_before_the_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path))
    monkeypatch.setenv("SLUICE_MLFLOW", "http://127.0.0.1:9")
    code, out, err = run(capsys, "--data", source)
    assert (code, out) == (1, "")
    assert "does not answer" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "training").exists()
