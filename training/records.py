"""What a training leaves in MLflow: a nested run per model and per baseline. Library: mlflow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag

from training.dataset import MANIFEST, Dataset
from training.evaluate import Figures
from training.flavors import log_files
from training.metrics import Scored
from training.model_charts import confusion_chart, importance_chart
from training.models import Examples, Trained
from training.tracking import LoggedModel, Subject, Tracking, environment
from training.verdict import p_value

__all__ = ["ABOUT", "log_baseline", "log_model", "log_training", "test_metrics"]

ABOUT = {
    "PolicyA": "Logistic regression on point-in-time features.",
    "PolicyB": "LightGBM that starts from PolicyA's log odds: trees learn what is not linear.",
    "item_based": "Item-based collaborative filtering: items are alike when the same users rate them alike.",
    "content": "Compares titles, tags and genres with what the user rated above the own mean (TF-IDF).",
    "random": "Baseline: any order.",
    "most_rated": "Baseline: what was rated most often comes first.",
    "popularity": "Baseline: smoothed share of clicks of the item, whoever the user is.",
    "best_possible": "Not a model: it knows the outcomes. No model can do better on these slates.",
}
_METHOD = (
    "Figures `test_…` are of the later part of the log, which no choice has seen; `…_low` and `…_high` bound them "
    "with 95 % (bootstrap over users). `validation_…` are of the last fifth of the train part, of the model fitted "
    "without it."
)


def test_metrics(figures: Figures) -> dict[str, float]:
    """`test_auc`, `test_auc_low`, `test_auc_high` and so on; without those that are not defined."""
    found = {f"test_{name}": value for name, value in figures.values.items()}
    for name, (low, high) in figures.intervals.items():
        found |= {f"test_{name}_low": low, f"test_{name}_high": high}
    return _defined(found)


def log_model(
    tracking: Tracking, parent: str, subject: Subject, examples: Examples, place: Path, one: Trained, scored: Scored,
    figures: Figures,
) -> LoggedModel:  # fmt: skip
    """The run of a model. scored, figures: of the test part."""
    tags = {"sluice.model": one.name, "sluice.model_kind": ABOUT[one.name]}
    note = f"**{one.name}** on {subject.dataset}. {ABOUT[one.name]}\n\n{_METHOD}"
    with tracking.run(one.name, "model", subject, note=note, tags=tags, parent=parent) as run_id:
        _log_input(tracking, run_id, examples.data, place)
        mlflow.log_params({**one.params, "data": subject.dataset, "fingerprint": subject.fingerprint})
        model_id = log_files(one, examples, subject)
        metrics = test_metrics(figures) | {"seconds": one.seconds}
        metrics |= {f"validation_{name}": value for name, value in one.validation.items()}
        mlflow.log_metrics(_defined(metrics), model_id=model_id)
        mlflow.log_dict(environment(), "environment.json")
        _log_importance(one)
        _log_confusion(one.name, scored)
        logged = LoggedModel(run_id, f"models:/{model_id}")
        mlflow.set_tag("sluice.model_uri", logged.model_uri)
        return logged


def log_baseline(
    tracking: Tracking, parent: str, subject: Subject, data: Dataset, place: Path, name: str, figures: Figures
) -> None:
    """A run of its own, so that it stands beside the models in every table and chart."""
    note = f"{ABOUT[name]}\n\n{_METHOD}"
    with tracking.run(name, "baseline", subject, note=note, tags={"sluice.model": name}, parent=parent) as run_id:
        _log_input(tracking, run_id, data, place)
        mlflow.log_metrics(test_metrics(figures))


def log_training(
    tracking: Tracking, run_id: str, data: Dataset, place: Path, report: Mapping[str, Any], trials: int
) -> None:
    """What the run of the whole training says: how data were cut, what differs between the policies, in words."""
    _log_input(tracking, run_id, data, place)
    options = json.loads((place / MANIFEST).read_text())["options"]
    mlflow.log_params({**options, "trials": trials, "fingerprint": data.fingerprint})
    numbers = {name: report[name] for name in ("seconds", "features_per_second", "train_slates", "test_slates")}
    if difference := report.get("PolicyB - PolicyA"):
        wanted = ("auc", "ctr_at_1", "ndcg_at_3", "log_loss", "auc_p_value")
        numbers |= {f"difference_{name}": difference[name] for name in wanted if difference.get(name) is not None}
    numbers |= {f"best_possible_{name}": report["best_possible"][name] for name in ("ctr_at_1", "ctr_at_3")}
    mlflow.log_metrics(numbers)
    mlflow.log_dict(environment(), "environment.json")
    mlflow.log_dict(dict(report), "figures.json")
    mlflow.set_tag("mlflow.note.content", _summary(data, report))


def _summary(data: Dataset, report: Mapping[str, Any]) -> str:
    lines = [
        f"Models on {data.name}: trained on {len(data.train):,} slates, measured on {len(data.test):,} later ones.",
        "", "| | AUC | 95 % | click rate at 1 | 95 % |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in [name for name in ABOUT if name in report]:
        cells = [name]
        for figure in ("auc", "ctr_at_1"):
            low, high = report[name]["intervals"][figure]
            cells += [f"{report[name][figure]:.4f}", f"{low:.4f} to {high:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if difference := report.get("PolicyB - PolicyA"):
        auc, rate, p = difference["auc"], difference["ctr_at_1"], p_value(difference["auc_p_value"])
        lines += ["", f"PolicyB − PolicyA: AUC {auc:+.4f} (DeLong, by user: {p}), click rate at 1 {rate:+.4f}."]
    return "\n".join([*lines, "", _METHOD])


def _log_input(tracking: Tracking, run_id: str, data: Dataset, place: Path) -> None:
    """The prepared data at `place` as the input of a run, by fingerprint."""
    profile = {
        "slates": len(data.log),
        "rows": len(data.log.item),
        "users": len(data.users),
        "items": len(data.log.items),
    }
    entity = DatasetEntity(
        name=data.name, digest=data.fingerprint, source_type="local", source=json.dumps({"uri": str(place.absolute())}),
        profile=json.dumps(profile),
    )  # fmt: skip
    tracking.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def _log_importance(one: Trained) -> None:
    mlflow.log_figure(importance_chart(one.name, one.importance), "feature_importance.png")
    lines = [f"{name},{size!r}" for name, size in one.importance.items()]
    mlflow.log_text("\n".join(["feature,importance", *lines, ""]), "feature_importance.csv")


def _log_confusion(name: str, scored: Scored) -> None:
    said = scored.score >= 0.5
    counts = np.array([[np.sum((scored.liked == was) & (said == told)) for told in (0, 1)] for was in (0, 1)])
    mlflow.log_figure(confusion_chart(name, counts), "confusion_matrix.png")
    kinds = {"true_negative": (0, 0), "false_positive": (0, 1), "false_negative": (1, 0), "true_positive": (1, 1)}
    found: dict[str, Any] = {kind: int(counts[cell]) for kind, cell in kinds.items()}
    mlflow.log_dict(found | {"threshold": 0.5}, "confusion_matrix.json")


def _defined(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}
