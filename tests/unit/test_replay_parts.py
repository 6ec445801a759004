"""Delays, draws, planted faults, speeds, the lag gate, totals."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from producers.candidates import Shown
from producers.columns import parse_columns, to_ms
from producers.delays import parse_delay, parse_duration_ms
from producers.draws import uniform
from producers.faults import Faults, send_times
from producers.pacing import LagGate, Speed, parse_speed
from producers.totals import Accounting, Totals, result_of
from sluice.errors import ConfigError

INDEX = np.arange(20_000, dtype=np.int64)


def test_draws_are_uniform_and_independent_of_what_else_is_drawn() -> None:
    draws = uniform(1, 2, INDEX)
    assert (draws > 0).all() and (draws < 1).all()
    assert abs(draws.mean() - 0.5) < 4 * 0.2887 / np.sqrt(len(INDEX))
    assert np.histogram(draws, 10, (0, 1))[0].min() > 1800
    assert (uniform(1, 2, INDEX[500:600]) == draws[500:600]).all()
    for other in (uniform(2, 2, INDEX), uniform(1, 3, INDEX)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("text", "median_ms"),
    [
        ("none", 0),
        ("fixed:2s", 2000),
        ("exponential:30s", 30_000 * np.log(2)),
        ("uniform:1s,3s", 2000),
        ("lognormal:30s,1.5", 30_000),
    ],
)
def test_delay_distributions(text: str, median_ms: float) -> None:
    delays = parse_delay(text)(uniform(0, 0, INDEX))
    assert delays.dtype == np.int64
    assert (delays >= 0).all()
    assert np.median(delays) == pytest.approx(median_ms, rel=0.05)


BAD_DELAYS = ["", "exp:3s", "fixed", "fixed:3", "none:1s", "lognormal:30s", "lognormal:30s,-1", "exponential:-1s"]


@pytest.mark.parametrize("text", BAD_DELAYS)
def test_a_wrong_delay_lists_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        parse_delay(text)


def test_durations_speeds_and_times() -> None:
    assert [parse_duration_ms(t) for t in ("500ms", "1.5s", "2m", "1h", "1d")] == [500, 1500, 120_000, 3.6e6, 86.4e6]
    assert parse_speed("max") == Speed()
    assert parse_speed("60×") == parse_speed("60x") == Speed(multiple=60)
    assert parse_speed("20s").over(100) == parse_speed("5/s")
    assert parse_speed("2000/s") == Speed(slates_per_second=2000)
    for text in ("fast", "0x", "-1x", "10", ""):
        with pytest.raises(ConfigError, match="--speed"):
            parse_speed(text)
    assert to_ms("964982703") == to_ms("964982703000") == to_ms("2000-07-30T18:45:03") == 964982703000
    assert to_ms("2000-07-30T20:45:03+02:00") == 964982703000


def test_columns_are_checked() -> None:
    assert parse_columns("user=u,item=i,rating=r,time=t")["user"] == "u"
    for text, message in [("user=u", "item is missing"), ("who=u", "'who=u': allowed"), ("user", "'user': allowed")]:
        with pytest.raises(ConfigError, match=message):
            parse_columns(text)


def test_planted_faults_have_their_shares_and_their_reach() -> None:
    # event time 0 |--disorder--| lateness |--late--| 2 × lateness
    faults = Faults(disorder=0.2, duplicates=0.1, late=0.05, lateness_ms=1000)
    sent, again = send_times(faults, 1, 0, INDEX, np.zeros(len(INDEX), dtype=np.int64))
    late, disordered = sent > 1000, (sent > 0) & (sent < 1000)
    assert late.mean() == pytest.approx(0.05, abs=0.01)
    assert disordered.mean() == pytest.approx(0.2, abs=0.02)
    assert sent.max() <= 2001
    assert (again >= 0).mean() == pytest.approx(0.1, abs=0.01)
    later = (again - sent)[again >= 0]
    assert later.min() >= 0 and later.max() <= 1000
    assert later.mean() == pytest.approx(500, abs=50)
    same = send_times(faults, 1, 0, INDEX[7:9], np.zeros(2, dtype=np.int64))
    assert same[0].tolist() == sent[7:9].tolist()


def gate(counted: Iterator[int], limit: int, stop: threading.Event, calls: list[str]) -> LagGate:
    return LagGate(
        limit,
        stop,
        counted=lambda: {0: (next(counted), 0), 1: (0, 0)},
        written=lambda: {0: (100, 0), 1: (5, 5)},
        poll=lambda: calls.append("poll"),
        beat=lambda: calls.append("beat"),
    )


def test_the_lag_gate_opens_when_the_counting_has_come_near() -> None:
    calls: list[str] = []
    counts = iter([0, 50, 80, 90])  # lag 110, 60, 30, 20
    gate(counts, 30, threading.Event(), calls).wait()
    assert calls.count("poll") == 2
    assert next(counts) == 90


def test_the_lag_gate_says_when_the_counting_stands_still(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.pacing.STILL_S", 0.05)
    monkeypatch.setattr("producers.pacing.HEARTBEAT_EVERY_S", 0.02)
    stop, calls = threading.Event(), []  # type: ignore[var-annotated]

    def counted() -> Iterator[int]:
        while not caplog.records:
            yield 10
        stop.set()
        while True:
            yield 10

    gate(counted(), 30, stop, calls).wait()
    assert "100 records behind" in caplog.text
    assert "beat" in calls


def shown(*ratings: int) -> list[Shown]:
    return [Shown(place, str(place), rating * 1000) for place, rating in enumerate(ratings)]


def test_totals_know_truth_and_regret() -> None:
    accounting = Accounting(Totals())
    slates = [("a", {"a": shown(5, 1), "b": shown(5, 4)}), ("b", {"a": shown(1, 1), "b": shown(4, 1)})]
    for number, (variant, everything) in enumerate(slates):
        accounting.add(result_of(number, variant, everything, ("click", "rating")))
    assert accounting.settle(1).summary(["a", "b"])["slates"] == 1
    summary = accounting.settle(2).summary(["a", "b"])
    # b would have had 3 clicks, a 1; shown were 1 + 1; an equal split would have had 2.
    assert summary == {
        "slates": 2, "impressions": 4, "clicks": 2, "outcomes": 6, "outside": {},
        "variants": {
            "a": {"impressions": 2, "clicks": 1, "ctr": 0.5, "true_ctr": 0.25},
            "b": {"impressions": 2, "clicks": 1, "ctr": 0.5, "true_ctr": 0.75},
        },
        "regret": 1, "regret_fixed_split": 1.0,
    }  # fmt: skip
