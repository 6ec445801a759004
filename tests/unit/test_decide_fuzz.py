"""`decide` is total: whatever a log can hold, it gives a record that can be written, read and computed again.

Numbers come from whole units, since the counting makes no others; everything else is drawn to be unkind: variants that
nobody knows, allocations that are none, units where nothing was promised, values of any sign and size, counts up to
10^12, evidence that shrinks, experiments that are changed on the way. pytest turns every warning into an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.engine import Case, Previous, Snapshot, decide, decide_many, merge_cells, recompute, segment_sums
from sluice.domain.allocation import allocation_key, equal_percents
from sluice.domain.events import DecisionMade, MovedUnits, StatsCell, decode, encode
from sluice.domain.experiment import Experiment, load_experiment
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

OUTCOMES = ("click", "buy", "error")
NO_ALLOCATIONS = ("other", "", "x", "a=b", "v0=200,v1=-100", "v0=50,v1=49", "v0=0,v1=100")

stoppings = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["sequential", "bayesian"]),
        "alpha": st.sampled_from([1e-300, 0.05, 0.5]),
        "least_units": st.sampled_from([2, 20]),
        "least_outcomes": st.sampled_from([1, 20]),
        "expected_loss": st.sampled_from([1e-300, 0.001, 1e12]),
        "p_best": st.sampled_from([0.51, 0.99]),
        "planned_effect": st.sampled_from([1e-12, 0.05, 1e12]),
    },
    optional={"rope": st.sampled_from([1e-300, 0.02, 1e12])},
)
bandits = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(["thompson", "top-two", "fixed"]),
        "floor": st.sampled_from([0, 0.05, 0.25]),
        "min_change": st.sampled_from([1, 50]),
        "reserve": st.sampled_from([0, 0.1]),
        "prior": st.sampled_from([(1, 1), (0.02, 0.02), (0.5, 1e12)]),
    },
    optional={"half_life_s": st.sampled_from([1, 86_400])},
)
guardrails = st.lists(
    st.fixed_dictionaries(
        {
            "outcome": st.sampled_from(OUTCOMES),
            "margin": st.sampled_from([1e-12, 0.1]),
            "better": st.sampled_from(["higher", "lower"]),
        }
    ),
    max_size=2,
    unique_by=lambda one: one["outcome"],
)


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    k = draw(st.integers(2, 4))
    fields: dict[str, Any] = {
        "name": "e",
        "variants": [{"name": f"v{i}"} for i in range(k)],
        "control": draw(st.sampled_from(["", f"v{k - 1}"])),
        "unit": draw(st.sampled_from(["user", "slate"])),
        "measure": draw(st.sampled_from(["rate", "rate", "value"])),
        "aa": draw(st.sampled_from([False, False, False, True])),
        "guardrails": draw(guardrails),
        "bandit": draw(bandits),
        "stopping": draw(stoppings),
        "segments": draw(st.sampled_from([[], ["device"]])),
    }
    if fields["measure"] == "value":
        fields["bandit"].pop("half_life_s", None)
    if fields["bandit"]["policy"] == "fixed" and draw(st.booleans()):
        for i, variant in enumerate(fields["variants"]):
            variant["share"] = 100 * (i == k - 1)
    return load_experiment(msgspec.json.encode(fields))


def statistics(rng: np.random.Generator, units: int, copies: int, rates: dict[str, float]) -> CellStatistics:
    """Sums over `units` random units, each `copies` times."""
    shapes = (np.ones(units), rng.geometric(0.3, units), np.minimum(rng.pareto(1.0, units) + 1, 1000) // 1)
    n = shapes[rng.integers(3)].astype(np.int64)
    outcomes = {}
    for name, rate in rates.items():
        c = rng.binomial(n, rng.beta(5 * rate + 1e-9, 5 * (1 - rate) + 1e-9, units))
        c = c * 3 if rng.random() < 0.03 else c
        scale = rng.choice([0, 1, 1000, 10**9, -500]) * np.exp(rng.normal(0, rng.choice([0, 1, 2]), units))
        value = [round(float(one)) for one in scale * c * rng.choice([1, 1, 1, -1], units)]
        sums = (c.tolist(), value)
        outcomes[name] = OutcomeStatistics(
            *(
                copies * total
                for of in sums
                for total in (
                    sum(of),
                    sum(one * one for one in of),
                    sum(one * many for one, many in zip(of, n.tolist(), strict=True)),
                )
            )
        )
    return CellStatistics(units * copies, int(n.sum()) * copies, int((n * n).sum()) * copies, outcomes)


def cells(rng: np.random.Generator, names: Sequence[str]) -> list[StatsCell]:
    rates = {outcome: rng.choice([0, 0.01, 0.1, 0.5, 0.9, 1]) for outcome in OUTCOMES}
    found = []
    for _ in range(rng.choice([0, 1, 2, 6])):
        shares = equal_percents(names)
        if rng.random() < 0.5:
            shares = dict(zip(names, rng.multinomial(100, rng.dirichlet(np.ones(len(names)))).tolist(), strict=True))
        key = allocation_key(shares) if rng.random() < 0.9 else str(rng.choice(NO_ALLOCATIONS))
        drawn, copies = rng.choice([2, 60, 300, 1000]), int(rng.choice([1, 1, 1, 1000, 10**9]))
        for name in (*names, *(["ghost", "other"] if rng.random() < 0.2 else [])):
            units = round(int(drawn) * shares.get(name, 1) / 100)
            units = int(rng.choice([1, 2, 50])) if rng.random() < 0.05 else units
            if units:
                better = {outcome: min(1.0, rate * rng.choice([1, 1, 1.3, 0.5])) for outcome, rate in rates.items()}
                sums = statistics(rng, units, copies, better)
                found.append(StatsCell(experiment="e", variant=name, allocation=key, statistics=sums))
    return found


def runs(first: Experiment, second: Experiment, seed: int) -> Iterator[tuple[Case, DecisionMade]]:
    """Three looks, each with more evidence or, now and then, with none of the old."""
    rng = np.random.default_rng(seed)
    previous, counted, at_ms = None, list[StatsCell](), 0
    for experiment in (first, first, second):
        names = [variant.name for variant in experiment.variants]
        outcomes = {experiment.primary, *(guardrail.outcome for guardrail in experiment.guardrails)}
        counted = [*(counted if rng.random() < 0.8 else []), *cells(rng, names)]
        at_ms = max(-1, at_ms + int(rng.choice([-1000, 0, 1, 10**8])))
        places = {("device", f"d{i}"): merge_cells(cells(rng, names), "e", *outcomes) for i in range(3)}
        snapshot = Snapshot(
            merge_cells(counted, "e", *sorted(outcomes)),
            {1: (5, 6), 0: (3, 4)},
            at_ms,
            segment_sums(experiment, places) if experiment.segments else (),
            (MovedUnits(experiment="e", variant="v1", units=3, impressions=7),) if rng.random() < 0.2 else (),
        )
        case = Case(experiment, snapshot, previous)
        made = decide(*case)
        yield case, made
        previous = Previous(made.version, made.allocation, made.allocation_version, made.history)


def numbers(part: object) -> Iterator[float]:
    if isinstance(part, float):
        yield part
    elif isinstance(part, dict | list | tuple):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from numbers(inner)


def check(case: Case, made: DecisionMade) -> None:
    written = encode(made)
    assert all(math.isfinite(number) for number in numbers(msgspec.to_builtins(made)))
    read = decode(written, DecisionMade)
    assert isinstance(read, DecisionMade)
    assert encode(recompute(read)) == written
    assert list(made.allocation) == [variant.name for variant in case.experiment.variants]
    assert sum(made.allocation.values()) == 100
    assert all(reason.endswith(".") and "nan" not in reason and " inf" not in reason for reason in made.reasons)
    breached = {one.variant for one in made.guardrails if one.status == "breached"}
    if made.verdict == "ship":
        assert case.experiment.control_name not in made.reasons[0].partition(":")[0].split()
        assert not any(f"Ship {name}:" in made.reasons[0] for name in breached)
    if made.verdict != "invalid":
        assert all(made.allocation[name] == 0 for name in breached)
    if made.verdict not in ("invalid", "insufficient-data", "no-traffic"):
        assert all(one.contrast or one.variant == case.experiment.control_name for one in made.results) or (
            case.experiment.stopping.rule == "bayesian" or made.verdict != "ship"
        )


@settings(max_examples=60, deadline=None)
@given(experiments(), experiments(), st.integers(0, 2**32 - 1))
def test_any_evidence_gives_a_decision_that_explains_itself(first: Experiment, second: Experiment, seed: int) -> None:
    made = list(runs(first, second, seed))
    for case, decision in made:
        check(case, decision)
    together = decide_many([case for case, _ in made])
    assert [encode(one) for one in together] == [encode(one) for _, one in made]


def test_the_drawn_experiments_reach_every_verdict() -> None:
    """A fuzz test that only ever sees `invalid` would prove nothing."""
    wanted = {"continue", "ship", "stop", "rollback", "insufficient-data", "no-traffic", "invalid"}
    seen = set[str]()
    base: dict[str, Any] = {"name": "e", "variants": [{"name": "v0"}, {"name": "v1"}]}
    guarded = {**base, "guardrails": [{"outcome": "error", "margin": 0.001}]}
    settled = {**base, "stopping": {"rope": 0.1}}
    first, second, third = (load_experiment(msgspec.json.encode(fields)) for fields in (base, settled, guarded))
    for seed in range(100):
        for experiment in (first, second, third):
            seen |= {made.verdict for _, made in runs(experiment, experiment, seed)}
        if seen == wanted:
            return
    raise AssertionError(f"only {seen} within 100 seeds")
