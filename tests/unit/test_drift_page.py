"""The page of a drift report: what it says first, and that it needs nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from drift_pages import drift_report
from msgspec.structs import replace

from sluice.domain.drift import DriftReport, SettlingSeen
from stream_processors.drift_charts import MOST_BARS, pooled
from stream_processors.drift_page import MOST_PICTURES, drift_page


@pytest.fixture(scope="module")
def report() -> DriftReport:
    return drift_report(shift=0.8)


def test_what_drifted_comes_first_with_a_picture_each(report: DriftReport) -> None:
    page = drift_page(report)
    drifted = [one.name for one in report.features if one.drifted]
    assert re.findall(r"<h3>(.*?)</h3>", page) == drifted
    assert drifted[0] == "item_quality" and "higher than before" in page
    assert page.count("<svg") == len(drifted)
    assert "has drifted</h1>" in page and "✕ drifted" in page
    assert drift_page(report) == page


def test_names_are_escaped_and_nothing_is_fetched(report: DriftReport) -> None:
    first = replace(report.features[0], name="<script>alert(1)</script>")
    page = drift_page(replace(report, model="<b>films</b>", features=(first, *report.features[1:])))
    assert "<script" not in page and "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_without_drift_it_says_so_and_shows_what_moved_most() -> None:
    same = drift_report(shift=0.0)
    assert not same.drifted
    page = drift_page(same)
    assert "has not drifted</h1>" in page and "None of these is drift" in page
    assert 0 < page.count("<svg") <= 4


def test_before_the_first_window_there_is_nothing_to_show(report: DriftReport) -> None:
    page = drift_page(drift_report(shift=0.0, hours=0))
    assert "No window of rankings is complete yet" in page and "<svg" not in page


def test_a_version_that_settles_says_how_far_it_is(report: DriftReport) -> None:
    seen = SettlingSeen(users=23, needed=100, rows=310, since_ms=0)
    page = drift_page(replace(drift_report(shift=0.0, hours=0), settling=seen, part="variant=b history=new"))
    assert "(variant=b history=new) settles</h1>" in page and "310 rows of 23 users; 100 users are needed" in page
    assert "--variant=b --segment=history=new --json" in page
    assert "as it was" not in page and "<svg" not in page and "click rate" not in page
    settled = drift_page(replace(report, settled_ms=86_400_000))
    assert "until 1970-01-02" in settled and "at training" not in settled


def test_a_page_has_room_for_so_many_pictures(report: DriftReport) -> None:
    many = tuple(replace(report.features[0], name=f"f{number}") for number in range(40))
    page = drift_page(replace(report, features=many))
    assert page.count("<svg") == MOST_PICTURES and f"first {MOST_PICTURES} of 40" in page
    assert len(set(re.findall(r'id="([^"]+)"', page))) == len(re.findall(r'id="([^"]+)"', page))


def test_bins_that_are_joined_keep_their_shares(report: DriftReport) -> None:
    for one in report.features:
        edges, before, after = pooled(one)
        assert len(before) == len(after) == len(edges) + 1 <= MOST_BARS
        assert np.isclose(before.sum(), sum(one.distribution.before))
        assert np.isclose(after.sum(), sum(one.distribution.after))
        below = [share for edge, share in zip(one.distribution.edges, one.distribution.after[1:], strict=True)
                 if edges and edge < edges[0]]  # fmt: skip
        if edges:
            assert np.isclose(after[0], one.distribution.after[0] + sum(below))
