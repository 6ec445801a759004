"""Better parameters for the policies, looked for in the train part alone. Library: optuna (imported when it is used).

Objective: mean log loss over folds with a rolling origin. Each fold fits on what had ended before its stretch of the
train part began, and measures on that stretch; nothing of the test part is seen. Source: Bergstra et al. 2011 (TPE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sluice.errors import ConfigError
from sluice.features.definition import Ints
from sluice.models.trees import lightgbm
from training.metrics import point
from training.models import PARAMS_A, PARAMS_B, Examples
from training.options import Steps
from training.tracking import Subject, Tracking
from training.train import Tuned, fit, scored

if TYPE_CHECKING:
    import optuna

__all__ = ["FOLDS", "Fold", "rolling_folds", "tune"]

FOLDS = 3
FIRST_SHARE = 0.4
"""Of the train slates, by time: what the first fold fits on at most."""


class Fold(NamedTuple):
    fit: Ints
    """Slates"""
    measure: Ints


class Space(NamedTuple):
    """A policy's parameters, and where they are looked for."""

    defaults: Mapping[str, Any]
    suggest: Callable[[optuna.trial.BaseTrial], dict[str, Any]]


def _suggest_a(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    return {"C": trial.suggest_float("C", 1e-4, 10.0, log=True)}


def _suggest_b(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 3, 63, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 20, 1000, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.01, 100.0, log=True),
    }


SPACES = {"PolicyA": Space(PARAMS_A, _suggest_a), "PolicyB": Space(PARAMS_B, _suggest_b)}


def rolling_folds(examples: Examples, folds: int = FOLDS) -> list[Fold]:
    """Inside the train part; the latest of its slates are measured in the last fold."""
    log, train = examples.data.log, examples.data.train
    cuts = np.linspace(FIRST_SHARE * len(train), len(train), folds + 1).astype(int)
    found = []
    for low, high in pairwise(cuts.tolist()):
        begin = log.at_ms[train[low]]
        earlier = train[:low]
        found.append(Fold(earlier[log.end_ms[earlier] < begin], train[low:high]))
    return found


def tune(
    tracking: Tracking, parent: str, subject: Subject, examples: Examples, *, trials: int,
    progress: Steps,
) -> Tuned:  # fmt: skip
    """The best parameters of `trials` trials for each policy; the first trial has the default ones.

    PolicyB is tuned on top of the best PolicyA. Every study is a run below `parent`, every trial one below that.
    A policy whose library cannot be loaded has no study.
    """
    folds = rolling_folds(examples)
    tuned: dict[str, Mapping[str, Any]] = {}
    for name in [name for name in SPACES if name != "PolicyB" or _has_lightgbm()]:
        study = _Study(tracking, subject, examples, name, folds, dict(tuned))
        tuned[name] = study.run(parent, trials, progress)
    return tuned


def _has_lightgbm() -> bool:
    try:
        lightgbm()
    except ConfigError:
        return False
    return True


class _Study:
    """Trials of one policy."""

    def __init__(
        self, tracking: Tracking, subject: Subject, examples: Examples, name: str, folds: list[Fold], tuned: Tuned
    ) -> None:
        self._tracking, self._subject, self._examples = tracking, subject, examples
        self._name, self._folds, self._tuned = name, folds, tuned

    def run(self, parent: str, trials: int, progress: Steps) -> Mapping[str, Any]:
        """The parameters of the best trial."""
        import mlflow
        import optuna

        from training.study_charts import history_chart, importances_chart

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = SPACES[self._name]
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self._subject.seed))
        names = list(space.suggest(optuna.trial.FixedTrial(dict(space.defaults))))
        study.enqueue_trial({name: space.defaults[name] for name in names})
        note = (
            f"{trials} trials (TPE) of {self._name}: mean log loss over {len(self._folds)} folds with a rolling "
            "origin, inside the train part. The first trial has the default parameters."
        )
        losses = []
        with self._tracking.run(
            f"{self._name} study", "study", self._subject, note=note, tags={"sluice.model": self._name}, parent=parent
        ) as run_id:
            for number in range(trials):
                progress(f"{self._name}: trial {number + 1} of {trials}", number / trials)
                trial = study.ask()
                losses.append(self._try(trial, run_id))
                study.tell(trial, losses[-1])
            mlflow.log_params({"trials": trials, "folds": len(self._folds), **study.best_params})
            mlflow.log_metrics({"rolling_log_loss": study.best_value, "default_log_loss": losses[0]})
            mlflow.log_figure(history_chart(self._name, losses), "history.png")
            if len(names) > 1 and trials > 1:
                importance = optuna.importance.get_param_importances(study)
                mlflow.log_figure(importances_chart(self._name, importance), "parameter_importances.png")
            mlflow.log_text(study.trials_dataframe().to_csv(index=False), "trials.csv")
        return study.best_params

    def _try(self, trial: optuna.Trial, parent: str) -> float:
        """The objective; a run with its parameters and figures."""
        import mlflow

        params = SPACES[self._name].suggest(trial)
        tags = {"sluice.model": self._name, "sluice.trial": str(trial.number)}
        with self._tracking.run(
            f"{self._name} trial {trial.number:03}", "trial", self._subject, tags=tags, parent=parent
        ):
            mlflow.log_params(params)
            found = [self._figures(fold, params) for fold in self._folds]
            for step, one in enumerate(found, 1):
                mlflow.log_metrics({f"fold_{name}": one[name] for name in ("log_loss", "auc", "ctr_at_1")}, step=step)
            mean = {name: float(np.mean([one[name] for one in found])) for name in ("log_loss", "auc", "ctr_at_1")}
            mlflow.log_metrics({f"rolling_{name}": value for name, value in mean.items()})
        return mean["log_loss"]

    def _figures(self, fold: Fold, params: Mapping[str, Any]) -> dict[str, float]:
        tuned = {**self._tuned, self._name: params}
        model, _ = fit(self._name, self._examples, fold.fit, self._subject.seed, tuned)
        return point(scored(self._examples, fold.measure, model.predict(self._examples, fold.measure)))
