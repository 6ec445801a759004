"""A training from features to figures, remembered in MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.dataset import Dataset
from training.evaluate import Comparison, Figures, compare, evaluate, figures
from training.metrics import Scored
from training.models import Examples, Trained
from training.options import Steps
from training.tracking import Subject, Tracking, TrainingRun
from training.train import train_models

__all__ = ["Session", "run_training"]

POLICIES = ("PolicyA", "PolicyB")
BEST = "best_possible"
"""No model: its figures belong to the whole training, for no sorting should put it first."""


class Session(NamedTuple):
    run: TrainingRun
    report: Mapping[str, Any]
    """Figures by model and baseline, the difference of the policies, seconds: what `sluice train --json` prints"""


def run_training(
    tracking: Tracking, data: Dataset, place: Path, *, seed: int = 0, trials: int = 0, notice: Callable[[str], None],
    progress: Steps = lambda name, share=None: None,
) -> Session:  # fmt: skip
    """Train every model on the data prepared at `place`, measure it on the test part and log it.

    trials: of parameters, for each policy; 0 takes the default ones. Raises TransportError when MLflow goes away; what
    it has by then belongs to a FAILED run.
    """
    # Imported late: they load mlflow.
    from training.records import log_baseline, log_model, log_training
    from training.study import tune

    subject = Subject(data.name, data.fingerprint, seed)
    with tracking.run(subject.name, "training", subject) as parent:
        progress("features")
        begin = time.perf_counter()
        examples = Examples.of(data)
        feature_seconds = time.perf_counter() - begin
        tuned = tune(tracking, parent, subject, examples, trials=trials, progress=progress) if trials else {}
        trained = train_models(examples, seed=seed, tuned=tuned, notice=notice, progress=progress)
        progress("figures")
        results = evaluate(examples, trained, data.test, seed)
        found = figures(results, seed)
        report = _report(found, trained, _difference(results, seed))
        policies = sum(one.seconds for one in trained if one.name in POLICIES)
        report |= {
            "seconds": round(feature_seconds + policies, 3),
            "features_per_second": round(len(examples.features) / feature_seconds),
            "train_slates": len(data.train), "test_slates": len(data.test),
        }  # fmt: skip
        progress("MLflow")
        models = {
            one.name: log_model(tracking, parent, subject, examples, place, one, results[one.name], found[one.name])
            for one in trained
        }
        for name in [name for name in found if name not in models and name != BEST]:
            log_baseline(tracking, parent, subject, data, place, name, found[name])
        log_training(tracking, parent, data, place, report, trials)
    return Session(TrainingRun(parent, models), report)


def _report(found: Mapping[str, Figures], trained: Sequence[Trained], difference: Comparison | None) -> dict[str, Any]:
    report = {name: _figures(one) for name, one in found.items()}
    for one in trained:
        report[one.name] |= {"seconds": round(one.seconds, 3)}
    if difference is not None:
        report["PolicyB - PolicyA"] = {**_figures(difference), "auc_p_value": difference.auc_test.p_value}
    return report


def _difference(results: Mapping[str, Scored], seed: int) -> Comparison | None:
    return compare(results, "PolicyB", "PolicyA", seed) if set(POLICIES) <= set(results) else None


def _figures(one: Figures | Comparison) -> dict[str, Any]:
    return {**_defined(one.values), "intervals": {key: list(ends) for key, ends in one.intervals.items()}}


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
