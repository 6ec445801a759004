"""Who is in an experiment: targeting, holdouts, layers, traffic and forced variants. Pure.

A unit outside an experiment sees the control and carries no assignment. Whether it is outside depends on nothing but
the unit, the attributes of the request and the configuration, so every process says the same without asking anybody.
Layers, holdouts and traffic each look at a place of their own (`sluice.domain.bucketing`), independent of the one by
which the variant is drawn: being in an experiment says nothing about the variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from sluice.domain.bucketing import bucket
from sluice.domain.events import Id, Name

__all__ = [
    "Forced",
    "Holdout",
    "Layer",
    "Outside",
    "Rule",
    "Where",
    "forced_variant",
    "holds",
    "outside",
    "problem_between",
    "problem_with",
]

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Outside: TypeAlias = Literal["draft", "paused", "stopped", "shipped", "forced", "not targeted", "holdout", "layer",
                             "traffic"]  # fmt: skip
"""Why a unit carries no assignment of an experiment"""

MAX_RULES = 16
MAX_VALUES = 200
Value: TypeAlias = Annotated[str, Meta(max_length=128)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | float
"""Whole numbers that a double holds exactly, so that they survive JSON"""
Attribute: TypeAlias = Annotated[str, Meta(min_length=1, max_length=40)]


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition on one attribute of the request. It does not hold where the attribute is missing."""

    attribute: Attribute
    operator: Literal["in", "not_in", "at_least", "below"]
    """`at_least` and `below` compare as numbers, with one value; text that is no number does not hold."""
    values: Annotated[tuple[Value, ...], Meta(min_length=1, max_length=MAX_VALUES)]


class Layer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the units of a named layer, [from, to). Experiments of one layer never share a unit."""

    name: Name
    range: tuple[Share, Share]


class Holdout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named share of users that sees no experiment that names it: the same users in each, whatever their units."""

    name: Name
    share: Annotated[float, Meta(gt=0, le=0.5)]


class Forced(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant to be shown to named units, or where all rules hold: for trying it out. It is no evidence."""

    variant: str
    units: Annotated[tuple[Id, ...], Meta(max_length=MAX_VALUES)] = ()
    when: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()


class Where(Struct, frozen=True, kw_only=True):
    """Everything that decides whether a unit is in: the fields of an experiment of the same names."""

    salt: str
    targeting: tuple[Rule, ...] = ()
    holdout: Holdout | None = None
    layer: Layer | None = None
    traffic: float = 1.0


def holds(rules: Sequence[Rule], attributes: Mapping[str, str]) -> bool:
    """Whether all rules hold; none: yes."""
    return all(_holds(rule, attributes.get(rule.attribute)) for rule in rules)


def outside(where: Where) -> Callable[[str, str, Mapping[str, str]], Outside | None] | None:
    """(unit, user id, attributes) → why the unit is outside, None when it is in. No function: all are in."""
    targeting, holdout, layer, traffic = where.targeting, where.holdout, where.layer, where.traffic
    if not targeting and holdout is None and layer is None and traffic == 1:
        return None

    def answer(unit: str, user_id: str, attributes: Mapping[str, str]) -> Outside | None:
        if targeting and not holds(targeting, attributes):
            return "not targeted"
        if holdout is not None and bucket(f"holdout/{holdout.name}", user_id) < holdout.share:
            return "holdout"
        if layer is not None and not layer.range[0] <= bucket(f"layer/{layer.name}", unit) < layer.range[1]:
            return "layer"
        if traffic < 1 and bucket(f"{where.salt}/traffic", unit) >= traffic:
            return "traffic"
        return None

    return answer


def forced_variant(forced: Iterable[Forced], unit: str, attributes: Mapping[str, str]) -> str | None:
    """The variant of the first entry that names the unit or whose rules hold."""
    for entry in forced:
        if unit in entry.units or (entry.when and holds(entry.when, attributes)):
            return entry.variant
    return None


def problem_with(rules: Sequence[Rule]) -> str | None:
    """What is wrong with a rule beyond its types, as `[index].field: …`; None when nothing is."""
    for index, rule in enumerate(rules):
        if rule.operator in ("at_least", "below"):
            if len(rule.values) != 1:
                return f"[{index}].values: {len(rule.values)} values: `{rule.operator}` takes one number"
            (value,) = rule.values
            if isinstance(value, str) or not math.isfinite(value):
                return f"[{index}].values[0]: {value!r}: `{rule.operator}` takes a number"
        for position, value in enumerate(rule.values):
            if rule.operator in ("in", "not_in") and isinstance(value, float):
                return f"[{index}].values[{position}]: {value!r}: `{rule.operator}` takes text and whole numbers"
    return None


def problem_between(first: tuple[str, str, Layer | None, Holdout | None],
                    other: tuple[str, str, Layer | None, Holdout | None]) -> str | None:  # fmt: skip
    """Why two experiments, each (name, unit kind, layer, holdout), cannot run beside each other; None when they can."""
    (name, unit, layer, holdout), (name2, unit2, layer2, holdout2) = first, other
    if holdout is not None and holdout2 is not None and holdout.name == holdout2.name and holdout != holdout2:
        return (
            f"holdout.share: {name} holds {holdout.share:g} of {holdout.name!r} out and {name2} {holdout2.share:g}; "
            "a holdout is the same share wherever it is named"
        )
    if layer is None or layer2 is None or layer.name != layer2.name:
        return None
    if unit != unit2:
        return f"layer: {name} ({unit}) and {name2} ({unit2}) of layer {layer.name!r} must randomise the same unit"
    if max(layer.range[0], layer2.range[0]) < min(layer.range[1], layer2.range[1]):
        return (
            f"layer.range: {name} [{layer.range[0]:g}, {layer.range[1]:g}) and {name2} [{layer2.range[0]:g}, "
            f"{layer2.range[1]:g}) of layer {layer.name!r} overlap; give each its own part"
        )
    return None


def _holds(rule: Rule, found: str | None) -> bool:
    if found is None:
        return False
    if rule.operator == "in":
        return any(found == str(value) for value in rule.values)
    if rule.operator == "not_in":
        return all(found != str(value) for value in rule.values)
    try:
        number, limit = float(found), float(rule.values[0])
    except ValueError:
        return False
    return number >= limit if rule.operator == "at_least" else number < limit
