"""The parts of an experiment that are configured one by one: its variants, how traffic moves, when it is called."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["MAX_TTL_S", "Bandit", "Guardrail", "Shadow", "Stopping", "Variant"]

MAX_TTL_S = 10 * 365 * 24 * 3600
Weight = Annotated[float, Meta(ge=0.02, le=1e12)]


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm: a ranker known to the router, by name. `share` is its starting share in whole percents."""

    name: str
    ranker: str = ""
    """Defaults to `name`."""
    fallback: Literal["", "random", "popularity"] = ""
    """What the HTTP service ranks with while `ranker` fails; by default the order of the request."""
    share: Annotated[int, Meta(ge=0, le=100)] | None = None


class Bandit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How traffic moves, once every variant has enough (`Stopping.least_units`). `fixed` never moves it."""

    policy: Literal["thompson", "top-two", "fixed"] = "thompson"
    floor: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    """Smallest share of a variant, so that every variant stays measured."""
    prior: tuple[Weight, Weight] = (1.0, 1.0)
    """Beta prior of a rate: (successes, failures)."""
    half_life_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    """For rates that drift: evidence so old (event time) counts half as much in the posteriors, which move the
    traffic. Confidence sequences rest on all of it."""
    window_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    """The same with a sharp edge: older evidence does not move traffic. Not together with `half_life_s`."""
    min_change: Annotated[int, Meta(ge=1, le=50)] = 2
    """Percentage points by which some share must change before a new allocation is published."""
    reserve: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Share of units that the bandit never reaches: they are drawn uniformly, for an honest comparison beside it."""


class Stopping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a verdict is given. `sequential` bounds the share of wrong calls however often somebody looks."""

    rule: Literal["sequential", "bayesian"] = "sequential"
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    """Share of experiments without a difference in which one may ever be called (`sequential`)."""
    planned_effect: Annotated[float, Meta(ge=1e-12, le=1e12)] | None = None
    """Absolute difference that the experiment is planned for; 0.05 for rates. It makes intervals tightest there."""
    rope: Annotated[float, Meta(gt=0, le=1e12)] | None = None
    """Differences up to this (absolute, both ways) do not matter: once all are known to be smaller, `stop`."""
    p_best: Annotated[float, Meta(gt=0.5, lt=1)] = 0.99
    """Probability of being the best that a winner needs (`bayesian`)."""
    expected_loss: Annotated[float, Meta(gt=0, le=1e12)] = 0.001
    """What choosing the winner for good may cost on average, in the metric's unit (both rules)."""
    least_units: Annotated[int, Meta(ge=2)] = 20
    """Effective units every variant needs before traffic moves and before any verdict but `insufficient-data`."""
    least_outcomes: Annotated[int, Meta(ge=1)] = 20
    """The same for impressions with the outcome, and for those without it."""


class Guardrail(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outcome whose rate per impression must not get worse than the control's by more than `margin` (absolute)."""

    outcome: str
    margin: Annotated[float, Meta(ge=1e-12, le=1)]
    better: Literal["higher", "lower"] = "higher"


class Shadow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registered model that is asked what the variants are asked, and never shown to anybody."""

    name: str
    ranker: Annotated[str, Meta(pattern="^models:/")]
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`"""
