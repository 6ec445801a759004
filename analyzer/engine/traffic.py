"""Where the next units go. Pure.

Library: numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analyzer.engine.bandit import convergence, moved_enough, thompson_shares, top_two
from analyzer.engine.evaluate import Evaluation, among
from analyzer.engine.guardrails import breached
from analyzer.engine.quadrature import Comparison
from analyzer.engine.verdict import Finding
from sluice.domain.allocation import whole_percents
from sluice.domain.events import GuardrailResult, VariantResult
from sluice.domain.experiment import Experiment

__all__ = ["allocate", "convergence_note"]


def allocate(
    experiment: Experiment,
    figures: Evaluation,
    finding: Finding,
    guardrails: Sequence[GuardrailResult],
    before: Mapping[str, int],
) -> dict[str, int]:
    """Shares for new units: the start until all have enough, then the policy's; none where a guardrail is breached."""
    start = experiment.starting_allocation
    kept = dict(before) if before.keys() == start.keys() else start
    rule = experiment.bandit
    if finding.verdict == "invalid":
        return kept
    out = breached(guardrails)
    names = [name for name in start if name not in out]
    waits = not all(figures.ready)
    if waits or rule.policy == "fixed":
        # A guardrail does not wait for the others: a variant nobody clicks on would never have enough.
        left_shares = {name: start[name] for name in names}
        # Where all of it went to variants that are out, the control takes it.
        wanted = whole_percents(left_shares) if any(left_shares.values()) else {experiment.control_name: 100}
    else:
        shares = _shares(experiment, figures, names)
        wanted = thompson_shares(dict(zip(names, shares, strict=True)), min(rule.floor, 1 / len(names)))
    wanted = dict.fromkeys(start, 0) | wanted
    # A variant comes and goes at once; other moves must be worth a new allocation.
    same = all(bool(wanted[name]) == bool(kept[name]) for name in start)
    bandit = not waits and rule.policy != "fixed"
    return kept if same and bandit and not moved_enough(wanted, kept, rule.min_change) else wanted


def _shares(experiment: Experiment, figures: Evaluation, names: Sequence[str]) -> list[float]:
    """Shares of the variants `names`, before floors and whole percents."""
    p_best = np.maximum(among(experiment, figures, names).p_best, 0.0)
    shares: list[float] = (top_two(p_best) if experiment.bandit.policy == "top-two" else p_best).tolist()
    return shares


def convergence_note(
    experiment: Experiment, figures: Evaluation, finding: Finding, left: Sequence[VariantResult]
) -> tuple[str, ...]:
    """A sentence once nothing is left to gain from exploring further. `left`: as `verdict.conclude` takes them."""
    settled = ("invalid", "no-traffic", "insufficient-data", "rollback")
    if finding.verdict in settled or experiment.bandit.policy == "fixed":
        return ()
    first, second = np.array(figures.first), np.array(figures.second)
    means = first if experiment.measure == "value" else first / (first + second)
    names = [variant.name for variant in experiment.variants]
    found = convergence(
        Comparison(
            np.array([result.p_best for result in left]),
            np.array([result.expected_loss for result in left]),
            np.zeros(()),
        ),
        means[[names.index(result.variant) for result in left]],
    )
    if not found.converged:
        return ()
    return (
        f"The bandit has converged on {left[int(found.leader)].variant}: exploring further could still gain "
        f"{100 * float(found.relative):.2g} % of its {experiment.measure} on average.",
    )
