"""What one experiment does with one unit: outside, forced, or drawn from the allocation in force. Pure.

Each experiment may keep a *reserve* (`bandit.reserve`): units whose place under the salt `{salt}/reserve` lies below
it are drawn uniformly, whatever the allocation in force, and say so by key and propensity. Membership depends on
nothing but the unit and the salt, so within either part the propensity is that of the allocation it names. Their
allocation version is 0, as nothing that was decided later has a say in them. Library: hashlib.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from sluice.domain.allocation import allocation_key, equal_percents
from sluice.domain.assignment import StoredAssignment
from sluice.domain.audience import Outside, Where, forced_variant, outside
from sluice.domain.bucketing import Bucketing, bucket, drawing
from sluice.domain.experiment import Experiment

__all__ = ["Plan", "make_plan"]

Draw = Callable[[str], StoredAssignment | None]
Shunt = Callable[[str, str, Mapping[str, str]], tuple[str, Outside] | None]

_PERCENT = 100 * 2.0**-53


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment with the allocation in force. It is made anew when either changes, and never altered."""

    experiment: Experiment
    version: int
    shares: Mapping[str, int]
    """Variant → whole percents, in the order of the experiment"""
    closed: tuple[str, Outside] | None
    """(variant that everybody sees, why) of an experiment that gives no assignments"""
    draw: Draw
    """Unit → what is remembered of it; None where the bucketing leaves it out"""
    shunts: Shunt | None
    """(unit, user id, attributes) → (variant it sees, why it is outside), None when it is in. None: all are in"""
    leaves_out: bool
    """Whether `draw` may answer None"""
    variants: frozenset[str]
    sticky: bool
    ttl_ms: int


def make_plan(experiment: Experiment, version: int, shares: Mapping[str, int]) -> Plan:
    """The plan of `experiment` while `shares` (variant → whole percents that sum to 100), version `version`, stand."""
    names = [variant.name for variant in experiment.variants]
    ordered = {name: shares[name] for name in names}
    return Plan(
        experiment=experiment,
        version=version,
        shares=ordered,
        closed=_closed(experiment),
        draw=_with_reserve(experiment, version, ordered),
        shunts=_shunts(experiment),
        leaves_out=experiment.bucketing != Bucketing(),
        variants=frozenset(names),
        sticky=experiment.assignment == "sticky",
        ttl_ms=experiment.assignment_ttl_s * 1000,
    )


def _closed(experiment: Experiment) -> tuple[str, Outside] | None:
    state, control = experiment.state, experiment.control_name
    names = [variant.name for variant in experiment.variants]
    match state.status:
        case "running":
            return None
        case "draft":
            return None if experiment.forced else (control, "draft")
        case "shipped":
            return (state.variant if state.variant in names else control), "shipped"
        case "paused" | "stopped":
            return control, state.status


def _shunts(experiment: Experiment) -> Shunt | None:
    salt, control, forced = experiment.salt or experiment.name, experiment.control_name, experiment.forced
    ask = outside(
        Where(
            salt=salt,
            targeting=experiment.targeting,
            holdout=experiment.holdout,
            layer=experiment.layer,
            traffic=experiment.traffic,
        )
    )
    draft = experiment.state.status == "draft"
    if ask is None and not forced and not draft:
        return None

    def shunt(unit: str, user_id: str, attributes: Mapping[str, str]) -> tuple[str, Outside] | None:
        variant = forced_variant(forced, unit, attributes)
        if variant is not None:
            return variant, "forced"
        if draft:
            return control, "draft"
        why = ask(unit, user_id, attributes) if ask is not None else None
        return None if why is None else (control, why)

    return shunt


def _with_reserve(experiment: Experiment, version: int, shares: Mapping[str, int]) -> Draw:
    reserve, salt = experiment.bandit.reserve, experiment.salt or experiment.name
    draw = _drawing(experiment, version, shares)
    if not reserve:
        return draw
    uniform = experiment.uniform_allocation
    if version:
        # A variant that a guardrail has taken out of the traffic is not shown for the sake of a comparison.
        uniform = dict.fromkeys(shares, 0) | equal_percents([name for name, share in shares.items() if share])
    draw_uniform, place = _drawing(experiment, 0, uniform), f"{salt}/reserve"
    return lambda unit: draw_uniform(unit) if bucket(place, unit) < reserve else draw(unit)


def _drawing(experiment: Experiment, version: int, shares: Mapping[str, int]) -> Draw:
    key, salt, rule = allocation_key(shares), experiment.salt or experiment.name, experiment.bucketing
    stored = {name: StoredAssignment(name, key, version, share / 100) for name, share in shares.items() if share}
    if rule.algorithm != "sluice" or rule.gates:
        variant = drawing(rule, shares, salt)
        # A tool that counts a variant's upper bound in may draw one without a share: it has no propensity.
        return lambda unit: stored.get(variant(unit) or "")
    # `choose(shares, bucket(salt, unit))`, with what is the same for all units done once.
    names = sorted(stored)
    bounds = list(accumulate(shares[name] for name in names))
    answers = [stored[name] for name in names]
    seeded = blake2b((rule.seed or salt).encode() + b"\xff", digest_size=8)

    def draw(unit: str) -> StoredAssignment:
        hashed = seeded.copy()
        hashed.update(unit.encode())
        return answers[bisect_right(bounds, (int.from_bytes(hashed.digest(), "big") >> 11) * _PERCENT)]

    return draw
