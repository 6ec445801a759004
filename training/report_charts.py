"""Which charts the report of an evaluation has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sluice.pages.drawing import Chart
from training.charts import boxes, curves, dots, reliability_chart
from training.curves import Curve, gain, lift, precision_recall, reliability, roc
from training.evaluation import Evaluation
from training.folds import GROUPED, ROLLING, FoldFigures
from training.metrics import Scored
from training.report_tables import LABELS
from training.segments import SegmentFigures
from training.simultaneous import Interval

__all__ = ["charts"]

_CHANCE = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def charts(found: Evaluation) -> dict[str, Chart]:
    """By name; those without data are left out."""
    made = [_of_models(found, "ctr_at_1"), _of_models(found, "auc"), *_curves(found)]
    for kind in dict.fromkeys(one.kind for one in found.segments):
        made += _of_segments(found, kind, [one for one in found.segments if one.kind == kind])
    for kind in (ROLLING, GROUPED):
        own = [one for one in found.folds if one.kind == kind]
        if own:
            made += [_of_folds(kind, own, "auc"), _of_folds(kind, own, "ctr_at_1")]
    if any(found.fairness.values()):
        made.append(_of_groups(found))
    return {one.name: one for one in made}


def _of_models(found: Evaluation, key: str) -> Chart:
    known = {name: one for name, one in found.figures.items() if not math.isnan(one.values[key])}
    shown = sorted(known, key=lambda name: -known[name].values[key])
    values = [Interval(known[name].values[key], *known[name].intervals[key]) for name in shown]
    said = "; ".join(f"{name} {one.value:.3f}" for name, one in zip(shown, values, strict=True))
    alt = f"{LABELS[key]} by model with 95 % intervals, best first: {said}."
    return dots(f"models-{key}", alt, shown, {"": values}, LABELS[key])


def _curves(found: Evaluation) -> list[Chart]:
    scored = {name: one for name, one in found.results.items() if one.is_probability}
    share = float(next(iter(scored.values())).liked.mean())
    level = Curve(np.array([0.0, 1.0]), np.array([share, share]))
    # Precision and lift of the first few rows are noise that hides everything else.
    lifts = {name: _from(lift(one), 0.01) for name, one in scored.items()}
    precisions = {name: _from(precision_recall(one), 0.01) for name, one in scored.items()}
    policies = {name: one for name, one in scored.items() if name in found.compared}
    return [
        curves("roc", _alt("ROC curves", found, "auc", "AUC"), _all(scored, roc), "share of non-clicks above",
               "share of clicks above", reference=_CHANCE),
        curves("precision-recall", _alt("Precision-recall curves", found, "pr_auc", "area"), precisions, "recall",
               "precision", reference=level, bottom=None),
        reliability_chart(
            "calibration", "Calibration: observed share of clicks against P(click), ten groups of rows a model, with "
            "95 % intervals; numbers in the table.",
            {name: reliability(one, seed=found.seed) for name, one in policies.items()},
        ),
        curves("gain", "Cumulative gain: share of the clicks found among the rows of the highest score, by model.",
               _all(scored, gain), "share of rows, best first", "share of clicks found", reference=_CHANCE),
        curves("lift", "Lift: how many times more clicks than by chance among the rows of the highest score, by model.",
               lifts, "share of rows, best first", "lift", reference=Curve(np.array([0.0, 1.0]), np.ones(2)), top=None,
               bottom=None),
    ]  # fmt: skip


def _all(scored: Mapping[str, Scored], curve: Callable[[Scored], Curve]) -> dict[str, Curve]:
    return {name: curve(one) for name, one in scored.items()}


def _from(curve: Curve, low: float) -> Curve:
    return Curve(curve.x[curve.x >= low], curve.y[curve.x >= low])


def _alt(what: str, found: Evaluation, key: str, label: str) -> str:
    values = [(name, found.figures[name].values[key]) for name, one in found.results.items() if one.is_probability]
    return f"{what}; {label}: " + ", ".join(f"{name} {value:.3f}" for name, value in values) + "."


def _of_segments(found: Evaluation, kind: str, own: Sequence[SegmentFigures]) -> list[Chart]:
    leader = found.compared[0]
    names = [f"{one.name} ({one.users:,})" for one in own]
    slug = "".join(char if char.isalnum() else "-" for char in kind)
    series: dict[str, list[Interval | None]] = {
        "auc": [one.auc[0] for one in own],
        "ctr_at_1": [one.ctr_at_1[0] if one.ctr_at_1 else None for one in own],
    }
    made = []
    for key, values in series.items():
        said = "; ".join(f"{name} {one.value:.3f}" for name, one in zip(names, values, strict=True) if one)
        alt = f"{LABELS[key]} of {leader} by {kind} (users), with intervals that hold together: {said}."
        made.append(dots(f"segments-{slug}-{key}", alt, names, {"": values}, f"{LABELS[key]}, {leader}"))
    return made


def _of_folds(kind: str, own: Sequence[FoldFigures], key: str) -> Chart:
    models: dict[str, list[float]] = {}
    for one in own:
        models.setdefault(one.model, []).append(getattr(one, key))
    said = "; ".join(f"{name} {min(values):.3f} to {max(values):.3f}" for name, values in models.items())
    alt = f"{LABELS[key]} over {kind} folds, a box a model and a point a fold: {said}."
    return boxes(f"folds-{kind}-{key}", alt, models, LABELS[key])


def _of_groups(found: Evaluation) -> Chart:
    groups = found.fairness[found.compared[0]]
    names = [f"{one.attribute} {one.group} ({one.users:,})" for one in groups]
    series = {"click rate at 1": [one.difference[1] for one in groups],
              "above chance": [one.gain_difference[1] for one in groups]}  # fmt: skip
    said = "; ".join(f"{name} {one.difference[1].value:+.3f}" for name, one in zip(names, groups, strict=True))
    alt = f"Difference in click rate at 1 between each group and all other users, {found.compared[0]}: {said}."
    return dots("fairness", alt, names, series, "group minus all others", zero=True)
