"""What a replay did and what was true: clicks, regret, per variant."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from producers.candidates import LIKED_MILLI, Shown
from sluice.adapters.checkpoints import ReplayTruth

__all__ = ["Accounting", "SlateResult", "Totals", "result_of"]


class SlateResult(NamedTuple):
    number: int
    variant: str
    outcomes: int
    """Records on topic `clicks`: clicks and named outcomes"""
    clicks_by_variant: dict[str, int]
    impressions_by_variant: dict[str, int]
    outside: str = ""
    """Why the slate was outside the experiment and is no evidence"""


class Totals(Struct):
    """Sums over slates; planted duplicates are not counted twice."""

    slates: int = 0
    outcomes: int = 0
    impressions: dict[str, int] = {}
    """Variant → items it showed"""
    clicks: dict[str, int] = {}
    true_impressions: dict[str, int] = {}
    """Variant → items it would have shown, had every slate been its own"""
    true_clicks: dict[str, int] = {}
    outside: dict[str, int] = {}
    """Why → slates that were outside the experiment: shown, but no evidence"""

    def add(self, result: SlateResult) -> None:
        self.slates += 1
        self.outcomes += result.outcomes
        if result.outside:
            self.outside[result.outside] = self.outside.get(result.outside, 0) + 1
        clicks, impressions = result.clicks_by_variant, result.impressions_by_variant
        variant = result.variant
        self.impressions[variant] = self.impressions.get(variant, 0) + impressions[variant]
        self.clicks[variant] = self.clicks.get(variant, 0) + clicks[variant]
        for name, count in clicks.items():
            self.true_clicks[name] = self.true_clicks.get(name, 0) + count
            self.true_impressions[name] = self.true_impressions.get(name, 0) + impressions[name]

    def truth(self, variants: Sequence[str]) -> ReplayTruth:
        """What is true so far, for whoever watches; the best variant is the one that is best so far."""
        true = [self.true_clicks.get(name, 0) for name in variants]
        return ReplayTruth(
            slates=self.slates,
            true_rates={
                name: _rate(self.true_clicks.get(name, 0), self.true_impressions.get(name, 0)) for name in variants
            },
            regret=max(true) - sum(self.clicks.values()),
            regret_fixed_split=round(max(true) - sum(true) / len(true), 3),
        )

    def summary(self, variants: Sequence[str]) -> dict[str, object]:
        """Rates per variant and regret in clicks; rates are null where nothing was shown.

        regret = clicks of the truly best variant, had it ranked every slate − clicks of what was shown;
        regret_fixed_split = the same with the mean over the variants for what was shown.
        """
        known = self.truth(variants)
        return {
            "slates": self.slates,
            "impressions": sum(self.impressions.values()),
            "clicks": sum(self.clicks.values()),
            "outcomes": self.outcomes,
            "outside": dict(sorted(self.outside.items())),
            "variants": {
                name: {
                    "impressions": self.impressions.get(name, 0),
                    "clicks": self.clicks.get(name, 0),
                    "ctr": _rate(self.clicks.get(name, 0), self.impressions.get(name, 0)),
                    "true_ctr": known.true_rates[name],
                }
                for name in variants
            },
            "regret": known.regret,
            "regret_fixed_split": known.regret_fixed_split,
        }


class Accounting:
    """Totals up to a slate that may still move on: results wait until everything before them is acknowledged."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals
        self._waiting: deque[SlateResult] = deque()

    def add(self, result: SlateResult) -> None:
        self._waiting.append(result)

    def settle(self, next_slate: int) -> Totals:
        """Totals over the slates before `next_slate`."""
        while self._waiting and self._waiting[0].number < next_slate:
            self.totals.add(self._waiting.popleft())
        return self.totals


def result_of(
    number: int,
    variant: str,
    shown: Mapping[str, Sequence[Shown]],
    outcomes: Sequence[str],
    liked_milli: int = LIKED_MILLI,
    outside: str = "",
) -> SlateResult:
    """What one slate contributes when `variant` was shown and `outcomes` are recorded."""
    clicks = {name: sum([item.rating_milli >= liked_milli for item in items]) for name, items in shown.items()}
    return SlateResult(
        number,
        variant,
        clicks[variant] * ("click" in outcomes) + len(shown[variant]) * ("rating" in outcomes),
        clicks,
        {name: len(items) for name, items in shown.items()},
        outside,
    )


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
