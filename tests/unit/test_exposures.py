"""Impressions and clicks joined to a log of rewards, and that they agree with the definition of the counters."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest
from event_logs import BROKEN, click, impression

from analyzer.exposures import Exposures, Joined
from analyzer.ope import evaluate
from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, Heartbeat, UnitKind, encode
from stream_processors.recount import recount

WINDOW, LATENESS = 1000, 100


def joined(impressions: list[bytes | None], clicks: list[bytes | None], **options: Any) -> Joined:
    log = Exposures("e", **{"outcome": "click", "window_ms": WINDOW, "lateness_ms": LATENESS, **options})
    for value in impressions:
        log.impression(0, value)
    for value in clicks:
        log.click(0, value)
    return log.joined()


END = encode(Heartbeat(at_ms=10**9))


def rewards(*clicks: bytes, **options: Any) -> list[float]:
    """Of impressions 0 and 1, shown at 500 and 2000."""
    shown: list[bytes | None] = [impression(0, "u", 500), impression(1, "u", 2000)]
    return list(joined(shown, [*clicks, END], **options).table["reward"].to_pylist())


def test_a_click_belongs_within_the_window_both_ends_included() -> None:
    # impression 500 |----------- window -----------| 1500
    assert rewards(click(0, "u", 500)) == rewards(click(0, "u", 1500)) == [1, 0]
    assert rewards(click(0, "u", 499)) == rewards(click(0, "u", 1501)) == [0, 0]
    assert rewards(click(0, "u", 499), click(0, "u", 600)) == [1, 0]


def test_a_click_counts_once_and_other_outcomes_not() -> None:
    assert rewards(click(0, "u", 600), click(0, "u", 700), click(1, "u", 2000)) == [1, 1]
    assert rewards(click(0, "u", 600, outcome="rating", value=4000), click(7, "u", 600)) == [0, 0]


def test_values_are_summed_once_for_each_click_id() -> None:
    bought = [click(0, "u", at, outcome="buy", value=1500) for at in (600, 700)]
    other = click(0, "u", 800, outcome="buy", value=-250).replace(b'"c0"', b'"c9"')
    assert rewards(*bought, other, outcome="buy", value=True) == [1.25, 0]
    assert rewards(*bought, other, outcome="buy") == [1, 0]


def test_the_first_record_of_an_id_counts() -> None:
    first = impression(0, "u", 500, Assignment("e", "a", "a=50,b=50", "u", 0.5))
    again = impression(0, "u", 900, Assignment("e", "b", "a=50,b=50", "u", 0.5))
    found = joined([first, again], [click(0, "u", 1501), END]).table
    assert (found["variant"].to_pylist(), found["at_ms"].to_pylist(), found["reward"].to_pylist()) == (
        ["a"],
        [500],
        [0],
    )


def test_impressions_of_other_experiments_are_not_in_it() -> None:
    mine, other = Assignment("e", "a", "a=50,b=50", "u", 0.5), Assignment("f", "x", "x=100", "u", 1.0)
    found = joined([impression(0, "u", 1, other), impression(1, "u", 2, other, mine)], [END])
    assert found.table["impression_id"].to_pylist() == ["i1"]
    twice = joined([impression(0, "u", 1, mine, mine)], [END])
    assert (twice.table.num_rows, twice.malformed) == (0, 1)


def test_an_open_window_is_left_out() -> None:
    shown: list[bytes | None] = [impression(0, "u", 500), impression(1, "u", 2000)]
    # A click at 1500 may still come while the newest is at most 1600, a lateness after it.
    for newest, closed in ((1600, 0), (1601, 1), (3100, 1), (3101, 2)):
        found = joined(shown, [encode(Heartbeat(at_ms=newest))])
        assert (found.table.num_rows, found.open) == (closed, 2 - closed)
    assert joined(shown, []).open == 2


def test_a_partition_waits_for_its_own_clicks() -> None:
    log = Exposures("e", outcome="click", window_ms=WINDOW, lateness_ms=LATENESS)
    log.impression(0, impression(0, "u", 500))
    log.impression(1, impression(0, "v", 500))
    log.click(0, click(0, "v", 600))
    log.click(1, END)
    found = log.joined()
    assert (found.table["user_id"].to_pylist(), found.table["reward"].to_pylist(), found.open) == (["v"], [0], 1)


def test_records_that_are_no_events_are_counted_and_passed_over() -> None:
    found = joined([*BROKEN, impression(0, "u", 500)], [*BROKEN, END])
    assert (found.table.num_rows, found.malformed) == (1, 2 * len(BROKEN))


def test_units_are_those_of_the_counting() -> None:
    def unit(kind: Any, name: str, user: str, at_ms: int) -> str:
        given = Assignment("e", "a", "a=100", name, 1.0, kind)
        return str(joined([impression(0, user, at_ms, given)], [END]).table["unit"][0].as_py())

    assert unit("user", "u", "u", 1) == "u"
    different = {unit("user", "s", "u", 1), unit("session", "s", "v", 1), unit("slate", "s", "u", 1)}
    different |= {unit("slate", "s", "u", 2), unit("slate", "s", "v", 1), unit("session", "s,1", "v", 1)}
    assert len(different) == 6
    assert unit("session", "s", "u", 1) == unit("session", "s", "u", 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_well_formed_log_agrees_with_the_counters(seed: int) -> None:
    """In order of time within a topic; ids repeated, clicks early, late for the window, twice, and on nothing."""
    rng = random.Random(seed)
    shown, clicks = [], []
    for number in range(600):
        at_ms, user = 50 * number, f"u{rng.randrange(40)}"
        slate = rng.random() < 0.5
        place = number if slate else int(user[1:])
        share, variant = (20, 50)[place % 2], "ab"[place // 2 % 2]
        unit, kind = (f"s{number}", "slate") if slate else (user, "user")
        given = Assignment("e", variant, f"a={share},b={100 - share}", unit, 0.5, cast(UnitKind, kind))
        shown += [(at_ms, impression(number, user, at_ms, given))] * rng.choice([1, 1, 2])
        for _ in range(rng.choice([0, 0, 1, 2])):
            clicked = at_ms + rng.randrange(-300, 1300)
            clicks.append((max(clicked, 0), click(number, user, max(clicked, 0))))
    clicks.sort(key=lambda pair: pair[0])
    values: tuple[list[bytes | None], list[bytes | None]] = (
        [value for _, value in shown], [*(value for _, value in clicks), END]
    )  # fmt: skip
    found = joined(*values).table
    counted = recount(
        *([(offset, value, None) for offset, value in enumerate(log)] for log in values),
        Definitions(WINDOW, LATENESS, 0, 3600_000),
    )
    rows, sums = Counter[str](), Counter[str]()
    for variant, reward in zip(found["variant"].to_pylist(), found["reward"].to_pylist(), strict=True):
        rows[variant] += 1
        sums[variant] += reward
    cells: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for (_, variant, allocation), (_, n, _) in counted.cells.items():
        cells[0][variant] += n
        cells[1][variant] += counted.outcomes[("e", variant, allocation), "click"][0]
    assert (rows, sums) == cells
    assert evaluate(found, "uniform").logged.estimate == pytest.approx(sum(cells[1].values()) / sum(cells[0].values()))
