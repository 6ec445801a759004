"""A training from features to figures, remembered in MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from training.dataset import Dataset
from training.evaluate import compare, evaluate, figures
from training.tracking import Subject, Tracking, TrainingRun
from training.train import train_all

__all__ = ["Session", "run_training"]


class Session(NamedTuple):
    run: TrainingRun
    report: Mapping[str, Any]
    """Figures by model and baseline, the difference of the policies, seconds: what `sluice train --json` prints"""


def run_training(
    tracking: Tracking, data: Dataset, place: Path, *, seed: int = 0, notice: Callable[[str], None],
    progress: Callable[[str], None] = lambda name: None,
) -> Session:  # fmt: skip
    """Train every model on the data prepared at `place`, measure it on the test part and log it.

    Raises TransportError when MLflow goes away; what it has by then belongs to a FAILED run.
    """
    # Imported late: it loads mlflow.
    from training.records import log_baseline, log_input, log_model

    subject = Subject(data.name, data.fingerprint, seed)
    with tracking.run(subject.name, "training", subject, note=_note(data)) as parent:
        log_input(tracking, parent, data, place)
        examples, trained, feature_seconds = train_all(data, seed=seed, notice=notice, progress=progress)
        progress("figures")
        results = evaluate(examples, trained, data.test, seed)
        found = figures(results, seed)
        report: dict[str, Any] = {
            name: {**_defined(one.values), "intervals": {key: list(ends) for key, ends in one.intervals.items()}}
            for name, one in found.items()
        }
        for one in trained:
            report[one.name] |= {"seconds": round(one.seconds, 3)}
        policies = [one for one in trained if one.name.startswith("Policy")]
        if len(policies) == 2:
            difference = compare(results, "PolicyB", "PolicyA", seed)
            report["PolicyB - PolicyA"] = {
                **_defined(difference.values),
                "intervals": {key: list(ends) for key, ends in difference.intervals.items()},
                "auc_p_value": difference.auc_test.p_value,
            }
        report["seconds"] = round(feature_seconds + sum(one.seconds for one in policies), 3)
        report["features_per_second"] = round(len(examples.features) / feature_seconds)
        report["train_slates"], report["test_slates"] = len(data.train), len(data.test)
        progress("MLflow")
        models = {
            one.name: log_model(tracking, parent, subject, examples, place, one, results[one.name], found[one.name])
            for one in trained
        }
        for name in [name for name in found if name not in models]:
            log_baseline(tracking, parent, subject, name, found[name])
    return Session(TrainingRun(parent, models), report)


def _note(data: Dataset) -> str:
    return (
        f"All models on {data.name}: trained on {len(data.train):,} slates, measured on {len(data.test):,} later ones. "
        f"Nested: a run per model and baseline."
    )


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
