"""Decision records of every kind become something that can be shown, and nothing raises but what must."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from decisions import decision, record, result
from hypothesis import given
from hypothesis import strategies as st

from dashboard.decision_view import decision_view
from dashboard.density import POINTS, posterior
from dashboard.records import MAX_VARIANTS, Recorded, read_decision
from dashboard.views import DecisionView, ResultView
from sluice.domain.events import StatsCell, encode
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.errors import InvalidEvent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(msgspec.to_builtins(decision(1)))


def view(data: bytes) -> DecisionView:
    return decision_view(read_decision(data), 5)


def changed(**given: Any) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(decision(3)) | given)


def test_a_whole_record_is_shown_whole() -> None:
    shown = view(record(3))
    assert (shown.version, shown.verdict, shown.wall_ms, shown.missing) == (3, "continue", 5, ())
    assert shown.results[1].contrast is not None and shown.results[1].contrast.always_valid_p == 0.04
    assert (shown.control, shown.metric.outcome, shown.sample_ratio.status) == ("a", "click", "ok")
    assert set(shown.density) == {"a", "b"} and shown.guardrails[0].status == "open"


def test_a_record_of_the_first_version_is_shown_as_far_as_it_goes() -> None:
    old = {
        "type": "decision", "experiment": "demo", "version": 2, "at_ms": 9, "allocation": {"a": 100}, "verdict": "ship",
        "results": [{"variant": "a", "impressions": 10, "outcomes": 5, "rate": 0.5}], "unheard_of": [1, {"x": None}],
    }  # fmt: skip
    shown = view(msgspec.json.encode(old))
    assert (shown.verdict, shown.results[0].rate, shown.results[0].p_best) == ("ship", 0.5, None)
    assert set(shown.missing) >= {"reasons", "offsets", "config", "seed"} and "guardrails" not in shown.missing
    assert shown.sample_ratio.status == "unknown" and shown.density == {}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"verdict": "explode"}, "verdict"),
        ({"reasons": "a text"}, "reasons"),
        ({"allocation": {"a": 1000}}, "allocation"),
        ({"at_ms": 10**30}, "at_ms"),
        ({"offsets": {"0": [1, 2, 3]}}, "offsets"),
        ({"canary": {"place": 1}}, "canary"),
        ({"seed": 10**30}, "seed"),
    ],
)
def test_what_cannot_be_read_costs_itself_alone(given: dict[str, Any], missing: str) -> None:
    shown = view(changed(**given))
    assert shown.missing == (missing,)
    assert len(msgspec.json.decode(msgspec.json.encode(shown))["results"]) == 2


def test_a_broken_field_of_a_variant_leaves_the_others() -> None:
    rows = msgspec.to_builtins(decision(3).results)
    rows[0]["rate"], rows[1]["contrast"], rows[1]["units"] = "much", {"difference": "x"}, 10**30
    shown = view(changed(results=rows))
    assert "results" in shown.missing and shown.results[1].units is None
    assert [(r.variant, r.rate, r.impressions, r.contrast) for r in shown.results] == [
        ("a", None, 30, None), ("b", 0.6, 30, None),
    ]  # fmt: skip


@pytest.mark.parametrize("data", [None, b"", b"[]", b"{", b'{"version":1}', b'{"experiment":"e"}', b"\xff",
                                  b'{"experiment":"","version":1}', b'{"experiment":"e","version":-1}'])  # fmt: skip
def test_what_is_no_decision_is_refused(data: bytes | None) -> None:
    with pytest.raises(InvalidEvent):
        read_decision(data)


@given(given=st.dictionaries(st.sampled_from([name for name in FIELDS if name not in ("experiment", "version")]), JSON))
def test_no_field_can_break_the_view(given: dict[str, Any]) -> None:
    shown = view(changed(**given))
    msgspec.json.decode(msgspec.json.encode(shown), type=DecisionView)
    assert set(shown.missing) <= set(given)


def test_too_many_variants_are_cut() -> None:
    many = tuple(result(f"v{i}", 10, 5) for i in range(100))
    found = read_decision(encode(decision(1, results=many, allocation={f"v{i}": 1 for i in range(100)})))
    assert len(found.results) == len(found.variants) == MAX_VARIANTS and found.missing == ("variants beyond 32",)


@pytest.mark.parametrize(("p", "status"), [(None, "unknown"), (1.0, "ok"), (0.01, "warning"), (0.0001, "mismatch")])
def test_the_sample_ratio_has_a_light(p: float | None, status: str) -> None:
    assert view(record(1, sample_ratio_always_valid_p=p)).sample_ratio.status == status


@given(alpha=st.floats(0.05, 1e6), beta=st.floats(0.05, 1e6))
def test_a_posterior_is_a_density(alpha: float, beta: float) -> None:
    found = posterior(ResultView(variant="a", alpha=alpha, beta=beta))
    if found is None:  # all of it at one end
        assert min(alpha, beta) < 1 or max(alpha, beta) / min(alpha, beta) > 1e4
        return
    x, y = np.array(found.x), np.array(found.y)
    assert len(x) == len(y) == POINTS and (np.diff(x) > 0).all() and (y >= 0).all() and np.isfinite(y).all()
    if min(alpha, beta) >= 5:
        assert np.trapezoid(y, x) == pytest.approx(0.999, abs=2e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [1e-300, 1e-5, 1.0, 1e15, 1e300, math.inf, math.nan, -5.0])
@pytest.mark.parametrize("beta", [1e-300, 1e-5, 1e300])
def test_no_numbers_of_a_posterior_are_too_odd(alpha: float, beta: float) -> None:
    found = posterior(ResultView(variant="a", alpha=alpha, beta=beta))
    assert found is None or all(map(math.isfinite, (*found.x, *found.y)))


def test_the_posterior_of_a_value_is_normal() -> None:
    found = posterior(ResultView(variant="a", interval=(8.04, 11.96)))
    assert found is not None
    assert found.x[0] + found.x[-1] == pytest.approx(20) and max(found.y) == pytest.approx(0.3989, abs=1e-3)


def test_totals_are_those_of_all_evidence() -> None:
    def cell(variant: str, allocation: str, impressions: int, clicks: int) -> StatsCell:
        outcomes = {"click": OutcomeStatistics(clicks), "rating": OutcomeStatistics(impressions)}
        statistics = CellStatistics(1, impressions, impressions**2, outcomes)
        return StatsCell(experiment="demo", variant=variant, allocation=allocation, statistics=statistics)

    evidence = (cell("a", "x", 100, 40), cell("a", "y", 10, 5), cell("b", "x", 30, 20))
    assert read_decision(record(3, evidence=evidence)).totals == {"a": (110, 45), "b": (30, 20)}
    assert read_decision(record(3)).totals == {"a": (30, 15), "b": (30, 18)}  # as the results have it
    assert read_decision(changed(evidence=[{"variant": 1}])).totals == {"a": (30, 15), "b": (30, 18)}


def test_the_leader_is_the_first_of_equals() -> None:
    assert Recorded(experiment="e", version=1).leader is None
    assert read_decision(record(1)).leader == "a"
