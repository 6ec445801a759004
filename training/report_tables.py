"""Tables of an evaluation: the same ones in the report and as CSV. Library: csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.curves import gain, precision_recall, reliability, roc
from training.evaluation import Evaluation
from training.gate import calibration_error
from training.metrics import CUTOFFS, Scored
from training.simultaneous import Interval

__all__ = ["Cell", "Column", "Table", "tables", "to_csv"]

Cell = str | int | float | Interval | None


class Column(NamedTuple):
    key: str
    """In CSV files"""
    label: str
    digits: int = 4
    signed: bool = False
    """A difference: the sign is always shown"""


class Table(NamedTuple):
    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


LABELS = {
    "ctr_at_1": "click rate at 1", "ctr_at_3": "click rate at 3", "ndcg_at_1": "NDCG@1", "ndcg_at_3": "NDCG@3",
    "auc": "AUC", "pr_auc": "PR-AUC", "log_loss": "log loss", "brier": "Brier", "accuracy": "accuracy",
    "precision": "precision", "recall": "recall", "f1": "F1",
}  # fmt: skip
RANKING = ("ctr_at_1", "ctr_at_3", "ndcg_at_1", "ndcg_at_3", "auc", "pr_auc")
PROBABILITY = ("log_loss", "brier", "accuracy", "precision", "recall", "f1")


def tables(found: Evaluation) -> dict[str, Table]:
    """By name."""
    made = [
        _figures(found, "ranking", RANKING), _probabilities(found), _differences(found), _calibration(found),
        _segments(found), _folds(found), _fold_summary(found), _fairness(found), _curves(found),
    ]  # fmt: skip
    return {one.name: one for one in made}


def to_csv(table: Table) -> str:
    """Intervals become three columns: `auc`, `auc_low`, `auc_high`."""
    wide = {
        column.key: any(isinstance(row[place], Interval) for row in table.rows)
        for place, column in enumerate(table.columns)
    }
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([
        name for key, ends in wide.items() for name in ((key, f"{key}_low", f"{key}_high") if ends else (key,))
    ])  # fmt: skip
    for row in table.rows:
        cells: list[Cell] = []
        for cell, ends in zip(row, wide.values(), strict=True):
            cells += list(cell) if isinstance(cell, Interval) else [cell, None, None] if ends else [cell]
        writer.writerow(cells)
    return target.getvalue()


def _figures(found: Evaluation, name: str, keys: Sequence[str]) -> Table:
    rows = [[model, *(_interval(found, model, key) for key in keys)] for model in found.figures]
    return Table(name, [Column("model", "model"), *(Column(key, LABELS[key]) for key in keys)], rows)


def _probabilities(found: Evaluation) -> Table:
    plain = _figures(found, "probability", PROBABILITY)
    errors = {
        model: calibration_error(scored) if scored.is_probability else None for model, scored in found.results.items()
    }
    rows = [[*row, errors[str(row[0])]] for row in plain.rows if row[1] is not None]
    return Table("probability", [*plain.columns, Column("ece", "calibration error")], rows)


def _interval(found: Evaluation, model: str, key: str) -> Interval | None:
    figures = found.figures[model]
    value = figures.values.get(key, math.nan)
    return None if math.isnan(value) else Interval(value, *figures.intervals[key])


def _differences(found: Evaluation) -> Table:
    keys = (*RANKING, *PROBABILITY)
    rows: list[list[Cell]] = []
    for one in found.differences:
        cells: list[Cell] = [
            Interval(one.values[key], *one.intervals[key]) if key in one.values else None for key in keys
        ]
        rows.append([f"{one.first} − {one.second}", one.auc_test.p_value, *cells])
    columns = [Column("pair", "pair"), Column("delong_p", "p of AUC (DeLong)")]
    return Table("differences", [*columns, *(Column(key, LABELS[key], signed=True) for key in keys)], rows)


def _calibration(found: Evaluation) -> Table:
    rows: list[list[Cell]] = [
        [model, one.predicted, one.observed, one.rows]
        for model, scored in _probable(found)
        for one in reliability(scored, seed=found.seed)
    ]
    columns = [Column("model", "model"), Column("predicted", "said", 3), Column("observed", "observed", 3)]
    return Table("calibration", [*columns, Column("rows", "rows")], rows)


def _segments(found: Evaluation) -> Table:
    leader, rival = found.compared
    rows: list[list[Cell]] = [
        [one.kind, one.name, one.users, one.rows, one.click_share, one.auc[0], one.auc_difference,
         one.ctr_at_1[0] if one.ctr_at_1 else None, one.ctr_at_1_difference]
        for one in found.segments
    ]  # fmt: skip
    columns = [
        Column("kind", "by"), Column("segment", "segment"), Column("users", "users"), Column("rows", "rows"),
        Column("click_share", "share of clicks", 3), Column("auc", f"AUC, {leader}", 3),
        Column("auc_difference", f"AUC, {leader} − {rival}", 4, True),
        Column("ctr_at_1", f"click rate at 1, {leader}", 3),
        Column("ctr_at_1_difference", f"click rate at 1, {leader} − {rival}", 3, True),
    ]  # fmt: skip
    return Table("segments", columns, rows)


def _folds(found: Evaluation) -> Table:
    columns = [
        Column("split", "split"), Column("fold", "fold"), Column("model", "model"), Column("auc", "AUC"),
        Column("ctr_at_1", "click rate at 1"), Column("train_slates", "slates to train"),
        Column("test_slates", "slates tested"),
    ]  # fmt: skip
    return Table("folds", columns, [list(one) for one in found.folds])


def _fold_summary(found: Evaluation) -> Table:
    """Mean, smallest and largest over the folds; not an interval, for folds share training slates."""
    columns = [
        Column("split", "split"), Column("model", "model"), Column("folds", "folds"),
        Column("auc_mean", "AUC, mean"), Column("auc_min", "lowest"), Column("auc_max", "highest"),
        Column("ctr_at_1_mean", "click rate at 1, mean"), Column("ctr_at_1_min", "lowest"),
        Column("ctr_at_1_max", "highest"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for kind, model in dict.fromkeys((one.kind, one.model) for one in found.folds):
        own = [one for one in found.folds if (one.kind, one.model) == (kind, model)]
        cells: list[Cell] = [kind, model, len(own)]
        for values in (np.array([one.auc for one in own]), np.array([one.ctr_at_1 for one in own])):
            cells += [float(values.mean()), float(values.min()), float(values.max())]
        rows.append(cells)
    return Table("fold_summary", columns, rows)


def _fairness(found: Evaluation) -> Table:
    rows: list[list[Cell]] = [
        [model, one.attribute, one.group, one.users,
         *(cell for k in CUTOFFS for cell in (one.rates[k], one.chance[k], one.difference[k], one.gain_difference[k]))]
        for model, groups in found.fairness.items() for one in groups
    ]  # fmt: skip
    columns = [
        Column("model", "model"), Column("attribute", "attribute"), Column("group", "group"), Column("users", "users"),
    ]  # fmt: skip
    for k in CUTOFFS:
        columns += [
            Column(f"ctr_at_{k}", f"click rate at {k}", 3), Column(f"chance_at_{k}", "by chance", 3),
            Column(f"difference_at_{k}", "minus the others", 3, True),
            Column(f"gain_difference_at_{k}", "above chance, minus the others", 3, True),
        ]  # fmt: skip
    return Table("fairness", columns, rows)


def _curves(found: Evaluation) -> Table:
    rows: list[list[Cell]] = []
    for model, scored in _probable(found):
        for name, curve in (("roc", roc), ("precision_recall", precision_recall), ("gain", gain)):
            rows += [[model, name, float(x), float(y)] for x, y in zip(*curve(scored), strict=True)]
    columns = [Column("model", "model"), Column("curve", "curve"), Column("x", "x"), Column("y", "y")]
    return Table("curves", columns, rows)


def _probable(found: Evaluation) -> list[tuple[str, Scored]]:
    return [(model, scored) for model, scored in found.results.items() if scored.is_probability]
