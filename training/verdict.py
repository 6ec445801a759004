"""Which of two models is better and how sure that is, in words."""

from __future__ import annotations

from typing import NamedTuple

from training.evaluate import Comparison

__all__ = ["MARGIN", "Verdict", "alone", "p_value", "points", "verdict"]

MARGIN = 0.005
"""Of the click rate at 1: half a percentage point. A smaller difference changes no decision."""
FIGURE = "ctr_at_1"


class Verdict(NamedTuple):
    outcome: str
    """`better`, `slightly-better`, `equal`, `undecided` or `alone`"""
    leader: str
    """The model with the higher click rate at 1"""
    headline: str
    sentences: tuple[str, ...]


def verdict(found: Comparison) -> Verdict:
    """From the click rate at 1, which is what users meet; the AUC is told beside it."""
    value, (low, high) = found.values[FIGURE], found.intervals[FIGURE]
    leader, other = (found.first, found.second) if value >= 0 else (found.second, found.first)
    if low > 0 or high < 0:
        small = max(abs(low), abs(high)) < MARGIN
        outcome = "slightly-better" if small else "better"
        headline = f"{leader} is better than {other}" + (", by too little to matter" if small else "")
    elif low > -MARGIN and high < MARGIN:
        outcome, headline = "equal", f"{found.first} and {found.second} are practically equal"
    else:
        outcome, headline = "undecided", f"These data cannot tell {found.first} and {found.second} apart"
    return Verdict(outcome, leader, headline, (_click_rate(found, leader, outcome), _auc(found)))


def alone(name: str) -> Verdict:
    """When there is nothing to compare with."""
    return Verdict(
        "alone",
        name,
        f"{name} was measured alone",
        ("The other policy could not be trained here, so nothing is said of which is better.",),
    )


def points(value: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * value:+z.2f}".replace("-", "−")


def p_value(value: float) -> str:
    """`p = 0.024`; a small one is not said to be zero"""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _click_rate(found: Comparison, leader: str, outcome: str) -> str:
    value, (low, high) = found.values[FIGURE], found.intervals[FIGURE]
    ahead = found.ahead[FIGURE] if leader == found.first else 1 - found.ahead[FIGURE]
    text = (
        f"Click rate at 1: {found.first} minus {found.second} is {points(value)} percentage points, between "
        f"{points(low)} and {points(high)} with 95 %. {leader} leads in {100 * ahead:.0f} % of the "
        "resampled user populations."
    )
    limit = f"{100 * MARGIN:g} points"
    return text + {
        "better": "",
        "slightly-better": f" The whole interval stays within {limit}, the smallest difference that counts here.",
        "equal": f" The whole interval stays within ±{limit}, the smallest difference that counts here.",
        "undecided": f" The interval holds 0 as well as differences beyond {limit}, so it settles nothing.",
    }.get(outcome, "")


def _auc(found: Comparison) -> str:
    test, (low, high) = found.auc_test, found.intervals["auc"]
    value = found.values["auc"]
    if test.p_value < 0.05:
        better = found.first if value >= 0 else found.second
        said = f"AUC: {better} separates clicks from the rest better"
    else:
        said = "AUC: no evidence of a difference"
    return (
        f"{said} ({found.first} minus {found.second} is {_signed(value)}, between {_signed(low)} and {_signed(high)} "
        f"with 95 %; DeLong, by user: {p_value(test.p_value)})."
    )


def _signed(value: float) -> str:
    return f"{value:+z.4f}".replace("-", "−")
