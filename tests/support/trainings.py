"""Trainings in MLflow with models of one's own, without the time that training takes."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow

from sluice.models import Linear, Trees
from training.flavors import log_files
from training.models import Examples, FeatureModel, Trained
from training.tracking import Subject, Tracking


def log_policies(tracking: Tracking, examples: Examples, models: Mapping[str, Linear | Trees], seed: int = 0) -> str:
    """A finished training of these data that gave `models`; the id of its run."""
    subject = Subject(examples.data.name, examples.data.fingerprint, seed)
    with tracking.run(subject.name, "training", subject) as parent:
        for name, model in models.items():
            with tracking.run(name, "model", subject, tags={"sluice.model": name}, parent=parent):
                model_id = log_files(Trained(name, FeatureModel(model), {}, {}), examples, subject)
                mlflow.set_tag("sluice.model_uri", f"models:/{model_id}")
    return parent
