"""Which variants the demo compares, by what `sluice register` says of their models."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

from sluice.console.demo.models import without_missing
from sluice.domain.experiment import load_experiments

DEFINITION = (resources.files("sluice") / "experiments" / "demo.yaml").read_text(encoding="utf-8")


def registered(state_a: str, state_b: str, **in_force: str) -> dict[str, Any]:
    return {"PolicyA": {"state": state_a}, "PolicyB": {"state": state_b}, "in_force": in_force}


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (registered("moved", "moved", PolicyA="1", PolicyB="2"), ["random", "PolicyA", "PolicyB"]),
        (registered("in force", "refused", PolicyA="1", PolicyB="2"), ["random", "PolicyA", "PolicyB"]),
        (registered("moved", "refused", PolicyA="1"), ["random", "PolicyA"]),
        (registered("moved", "left out", PolicyA="1", PolicyB="2"), ["random", "PolicyA"]),
        (registered("refused", "refused"), None),
    ],
    ids=["both", "the one before stays", "none before", "cannot be loaded here", "nothing to compare"],
)
def test_a_variant_needs_a_model_that_is_in_force(found: dict[str, Any], names: list[str] | None) -> None:
    kept = without_missing(DEFINITION, found)
    if names is None:
        assert kept is None
        return
    assert kept is not None
    (experiment,) = load_experiments(kept, "demo.yaml")
    (whole,) = load_experiments(DEFINITION, "demo.yaml")
    assert [variant.name for variant in experiment.variants] == names
    assert (experiment.name, experiment.unit, experiment.control) == (whole.name, whole.unit, whole.control)
