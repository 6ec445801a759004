"""What `sluice register` left for the demo: which variants have a model, and what is replayed. Library: PyYAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from sluice.console.demo.children import WRONG_USE, Child, ChildFailed, printed

__all__ = ["REGISTER_CODES", "Prepared", "with_models", "without_missing"]

TRAINED_SHARE = 0.6
"""Of the slates, by time: what `sluice register` trains on."""
REFUSED = 1
REGISTER_CODES = (0, REFUSED, WRONG_USE)
LEFT_OUT = "left out"
"""State of a model that this machine cannot make or serve."""


class Prepared(NamedTuple):
    definition: str
    """Of the experiment, without the variants that have no model"""
    replay: list[str]
    """Further arguments of `sluice replay`"""
    notices: list[str]


def with_models(definition: str, register: Child) -> Prepared:
    """What follows from how `sluice register` ended. Raises ChildFailed when there is nothing to compare."""
    if register.code == WRONG_USE:
        # No data to learn from: the replay needs no models then, or says what is wrong with them.
        return Prepared(definition, [], [])
    if register.code == REFUSED and not register.output().strip():
        raise ChildFailed(register, "ended with exit code 1")
    kept = without_missing(definition, printed(register))
    if kept is None:
        raise ChildFailed(register, "left no model that could be compared")
    return Prepared(kept, ["--from-share", str(TRAINED_SHARE)], register.logged())


def without_missing(definition: str, registered: Mapping[str, Any]) -> str | None:
    """The experiment without variants that have no model; None when fewer than two are left.

    `registered`: what `sluice register --json` printed. A model that was refused leaves the one in force, if any.
    """
    in_force = {name for name in registered["in_force"] if registered[name]["state"] != LEFT_OUT}
    content = yaml.safe_load(definition)
    kept = [one for one in content["variants"] if "ranker" not in one or one["name"] in in_force]
    if len(kept) == len(content["variants"]):
        return definition
    return yaml.safe_dump(content | {"variants": kept}) if len(kept) > 1 else None
