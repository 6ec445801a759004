"""Where the next units go. Pure.

Library: numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analyzer.engine.bandit import convergence, moved_enough, thompson_shares, top_two
from analyzer.engine.evaluate import Evaluation, best_of
from analyzer.engine.quadrature import Comparison
from analyzer.engine.verdict import Finding
from sluice.domain.allocation import whole_percents
from sluice.domain.events import GuardrailResult
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
    if not figures.ready.all():
        return start
    breached = {found.variant for found in guardrails if found.status == "breached"}
    left = [i for i, name in enumerate(start) if name not in breached]
    if rule.policy == "fixed":
        left_shares = {name: share for name, share in start.items() if name not in breached}
        # Where all of it went to variants that are out, the control takes it.
        wanted = whole_percents(left_shares) if any(left_shares.values()) else {experiment.control_name: 100}
    else:
        shares = _shares(experiment, figures, left)
        names = [name for name in start if name not in breached]
        wanted = thompson_shares(dict(zip(names, shares, strict=True)), min(rule.floor, 1 / len(names)))
    wanted = dict.fromkeys(start, 0) | wanted
    # A variant comes and goes at once; other moves must be worth a new allocation.
    same = all(bool(wanted[name]) == bool(kept[name]) for name in start)
    return kept if same and rule.policy != "fixed" and not moved_enough(wanted, kept, rule.min_change) else wanted


def _shares(experiment: Experiment, figures: Evaluation, left: list[int]) -> list[float]:
    """Shares of the variants `left`, before floors and whole percents."""
    first, second = figures.posterior
    p_best = np.maximum(best_of(experiment.measure, (first[left], second[left])).p_best, 0.0)
    shares: list[float] = (top_two(p_best) if experiment.bandit.policy == "top-two" else p_best).tolist()
    return shares


def convergence_note(experiment: Experiment, figures: Evaluation, finding: Finding) -> tuple[str, ...]:
    """A sentence once nothing is left to gain from exploring further."""
    if finding.verdict in ("invalid", "no-traffic", "insufficient-data") or experiment.bandit.policy == "fixed":
        return ()
    mean = figures.posterior[0] / (figures.posterior[0] + figures.posterior[1])
    if experiment.measure == "value":
        mean = figures.posterior[0]
    found = convergence(Comparison(figures.p_best, figures.expected_loss, np.zeros(())), mean)
    name = experiment.variants[int(found.leader)].name
    if not found.converged:
        return ()
    return (
        f"The bandit has converged on {name}: exploring further could still gain "
        f"{100 * float(found.relative):.2g} % of its {experiment.measure} on average.",
    )
