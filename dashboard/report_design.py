"""What an experiment was set up to find out, in words, from the configuration that its decision carries. Pure.

Libraries: msgspec.
"""

from __future__ import annotations

import msgspec

from dashboard.report_format import Metric, count, duration
from sluice.domain.audience import Rule
from sluice.domain.events import DecisionMade
from sluice.domain.experiment import Experiment
from sluice.domain.experiment_parts import Bandit, Guardrail, Stopping

__all__ = ["Design", "audience", "design_of", "design_rows", "planned_rows"]

_MOST_NAMED = 8
_LONGEST = 500


class Design(msgspec.Struct, frozen=True):
    """The configuration of a decision, as far as this version of Sluice can read it."""

    metric: Metric
    control: str
    unit: str
    experiment: Experiment | None
    """None for a configuration of another version: what is above was then read one by one"""
    raw: dict[str, str]
    """Field → its JSON, for a configuration that could not be read"""


def design_of(decision: DecisionMade) -> Design:
    """Never fails: what cannot be read is shown as it stands in the record."""
    try:
        experiment = msgspec.convert(decision.config, Experiment)
    except msgspec.ValidationError:
        config = decision.config
        names = [result.variant for result in decision.results]
        control = str(config.get("control") or (names[0] if names else ""))
        raw = {str(key): msgspec.json.encode(value).decode()[:_LONGEST] for key, value in config.items()}
        metric = Metric(str(config.get("primary", "click")), config.get("measure", "rate") == "rate")
        return Design(metric, control, str(config.get("unit", "unit")), None, raw)
    metric = Metric(experiment.primary, experiment.measure == "rate")
    return Design(metric, experiment.control_name, experiment.unit, experiment, {})


def design_rows(design: Design, decision: DecisionMade) -> dict[str, str]:
    """Title → text, in the order in which people ask."""
    it = design.experiment
    if it is None:
        return {"configuration": f"{decision.config_hash}, of another version of Sluice, as recorded"} | design.raw
    others = [variant.name for variant in it.variants if variant.name != it.control_name]
    rows = {
        "question": _question(it, design.metric, others),
        "primary metric": (
            f"{design.metric.name}: "
            + (f"impressions with {it.primary}, per impression" if design.metric.is_rate
               else f"sum of the values of {it.primary}, per impression")
        ),
        "unit": f"the {it.unit} is randomised; variances allow for what one {it.unit} has in common",
        "traffic": _traffic(it),
        "verdict": _verdict(it, design.metric),
        "guardrails": "; ".join(_guardrail(one) for one in it.guardrails) or "none",
        "who takes part": "; ".join(audience(it)) or "everybody",
        "assignment": _assignment(it),
    }  # fmt: skip
    if it.segments:
        rows["looked at apart"] = ", ".join(it.segments)
    if it.shadow:
        rows["shadows"] = ", ".join(f"{one.name} ({one.ranker})" for one in it.shadow)
    return rows | {"configuration": f"hash {decision.config_hash}, seed {decision.seed}"}


def planned_rows(design: Design, decision: DecisionMade, lasted_ms: int | None) -> dict[str, str]:
    """What was planned beside what came. lasted_ms: event time from the first evidence to the last."""
    it, metric = design.experiment, design.metric
    rows: dict[str, str] = {}
    if it is not None:
        rule = it.stopping
        named = "named in the configuration" if rule.planned_effect else "none is named, so this usual one"
        rows["planned effect"] = (
            f"{metric.size(it.planned_effect)} ({named}): at such differences the intervals are tightest"
        )
        steps = ", ".join(f"{one.share} %" for one in it.canary.steps) if it.canary is not None else ""
        rows["planned sample"] = f"steps of {steps}, then all traffic" if steps else f"none: {_open_end(rule)}"
    units = sum(result.units for result in decision.results)
    shown = sum(result.impressions for result in decision.results)
    outcomes = sum(result.outcomes for result in decision.results)
    rows["actual sample"] = (
        ("of the step: " if decision.canary is not None else "")
        + f"{count(units)} {design.unit}s, {count(shown)} impressions, {count(outcomes)} × {metric.outcome}"
        + ("" if lasted_ms is None or decision.canary is not None else f", over {duration(lasted_ms)} of event time")
    )
    if it is not None:
        rows["enough to compare"] = _gate(it, decision)
    reached = [
        f"{result.variant} ±{metric.size((result.contrast.interval[1] - result.contrast.interval[0]) / 2)}"
        for result in decision.results
        if result.contrast is not None
    ]
    if reached:
        rows["precision reached"] = (
            f"{', '.join(reached[:_MOST_NAMED])}: half the interval of the difference to the control, at all times"
        )
    return rows


def audience(it: Experiment) -> list[str]:
    """Why not everybody takes part; empty when everybody does."""
    said = [_rule(rule) for rule in it.targeting]
    if it.traffic < 1:
        said.append(f"{100 * it.traffic:g} % of the eligible {it.unit}s")
    if it.layer is not None:
        low, high = it.layer.range
        said.append(f"{100 * low:g} to {100 * high:g} % of layer {it.layer.name}")
    if it.holdout is not None:
        said.append(f"without the {100 * it.holdout.share:g} % of users in holdout {it.holdout.name}")
    if it.forced:
        said.append(f"{len(it.forced)} rules force a variant, and what they show is no evidence")
    return said


def _question(it: Experiment, metric: Metric, others: list[str]) -> str:
    if it.aa:
        return f"A/A test: the variants are the same on purpose, so {metric.name} must not differ"
    named = ", ".join(others[:_MOST_NAMED]) + (" …" if len(others) > _MOST_NAMED else "")
    if it.canary is not None:
        return f"can {named} replace {it.control_name} without a worse {metric.name}?"
    which = f"is {named}" if len(others) == 1 else f"is one of {named}"
    return f"{which} better than the control {it.control_name}, by {metric.name}?"


def _traffic(it: Experiment) -> str:
    rule: Bandit = it.bandit
    if it.canary is not None:
        return "canary: the candidate gets more step by step, as long as it is known not to be worse"
    if rule.policy == "fixed":
        return "fixed shares"
    said = [{"thompson": "Thompson sampling: shares follow the probability of being the best",
             "top-two": "top-two Thompson sampling"}.get(rule.policy, rule.policy)]  # fmt: skip
    said.append(f"at least {100 * rule.floor:g} % each")
    if rule.reserve:
        said.append(f"{100 * rule.reserve:g} % of the {it.unit}s are drawn uniformly whatever it learns")
    if rule.half_life_s:
        said.append(f"evidence counts half after {duration(1000 * rule.half_life_s)}")
    if rule.window_s:
        said.append(f"evidence older than {duration(1000 * rule.window_s)} moves nothing")
    return ", ".join(said)


def _verdict(it: Experiment, metric: Metric) -> str:
    rule = it.stopping
    if it.aa:
        return f"a difference at level {rule.alpha:g} makes the evidence invalid"
    if it.canary is not None:
        margins = ", ".join(f"{one.share} % until {metric.name} is known not to be worse by {metric.size(one.margin)}"
                            for one in it.canary.steps)  # fmt: skip
        return f"{margins}; what is worse for certain at level {rule.alpha:g}, over all steps and metrics, rolls back"
    risk = f"and choosing it may cost {metric.size(rule.expected_loss)} on average"
    rope = f"; differences up to {metric.size(rule.rope)} do not matter" if rule.rope else ""
    if rule.rule == "bayesian":
        return f"when a variant is the best with {100 * rule.p_best:g} % {risk}; errors are not bounded{rope}"
    return (
        f"when a difference is certain at level {rule.alpha:g}, however often somebody looks, over all variants, "
        f"{risk}{rope}"
    )


def _open_end(rule: Stopping) -> str:
    if rule.rule == "bayesian":
        return "the Bayesian rule ends when it is sure"
    return "a sequential comparison may go on until it knows"


def _guardrail(one: Guardrail) -> str:
    word = "fall" if one.better == "higher" else "rise"
    return f"{one.outcome} must not {word} by more than {100 * one.margin:.3g} points"


def _rule(rule: Rule) -> str:
    values = ", ".join(str(value) for value in rule.values[:_MOST_NAMED])
    more = " …" if len(rule.values) > _MOST_NAMED else ""
    word = {"in": "is", "not_in": "is not", "at_least": "at least", "below": "below"}[rule.operator]
    return f"{rule.attribute} {word} {values}{more}"


def _assignment(it: Experiment) -> str:
    kept = (
        f"a {it.unit} keeps its variant for {duration(1000 * it.assignment_ttl_s)}" if it.assignment == "sticky"
        else f"all {it.unit}s follow new shares; a moved one stays evidence of its first variant"
    )  # fmt: skip
    if it.unit == "slate":
        kept = "every request draws anew"
    tool = it.bucketing.algorithm
    return kept + (f"; placed as by {tool}" if tool != "sluice" else "; placed by hash")


def _gate(it: Experiment, decision: DecisionMade) -> str:
    rule = it.stopping
    short = [
        result.variant
        for result in decision.results
        if result.effective_units < rule.least_units or result.outcomes < rule.least_outcomes
    ]
    asked = f"{rule.least_units} effective {it.unit}s and {rule.least_outcomes} × {it.primary} of every variant"
    return f"{asked}: " + (f"not yet {', '.join(short[:_MOST_NAMED])}" if short else "reached")
