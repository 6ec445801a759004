"""A model trained again from the log of what was shown. Library: mlflow (imported when it is used).

The same offsets give the same model: rows lie in one order, seeds and settings are fixed, one thread sums up. `Result`
says so by `fingerprint` (what was read, and how it was cut), `rows_hash` (what stood there) and `model_hash`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry
from sluice.domain.rankings import columns_digest
from sluice.errors import ConfigError, ModelUnusable
from sluice.features import VERSION
from sluice.models import TrainedModel, Trees
from sluice.settings import Settings
from training.aliases import Aliases
from training.assessment import row_us
from training.gate import Verdict
from training.model_tests import DEFAULT_BOUNDS, Bounds, Holdout, judge
from training.models import FeatureModel, Trained, validation_split
from training.options import Steps
from training.retrain_data import LoggedData, effective_share, join
from training.retrain_log import Offsets, fingerprint_of, log_offsets, read_log
from training.segments import segments
from training.tracking import LoggedModel, Subject, Tracking
from training.train import train_one
from training.weighted import Shown

__all__ = ["ATTEMPT_TAG", "RESULT_TAG", "Job", "Result", "check_enough", "judged", "model_hash", "retrain"]

POLICIES = ("PolicyA", "PolicyB")
ATTEMPT_TAG, RESULT_TAG = "sluice.attempt", "sluice.result"
_LONGEST_TAG = 4900
_TIMED_ROWS = 10_000


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `sluice retrain` was asked for."""

    model: str
    alias: str
    """The version it points to is in force: its kind of model is trained again, by its columns and catalogue"""
    offsets: Offsets | None = None
    """What of the log to read; None: all that it holds"""
    since_ms: Annotated[int, Meta(ge=0)] = 0
    """Only what was shown from here on (event time)"""
    experiment: str = ""
    outcome: str = "click"
    holdout: Annotated[float, Meta(ge=0.05, le=0.9)] = 0.25
    """Share of the slates, the last by time, that judge"""
    weights: bool = False
    """Train with weights 1 / probability, at most 20"""
    min_effective: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Share of the rows that weighted ones must be worth"""
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    bounds: Bounds = DEFAULT_BOUNDS
    attempt: str = ""
    """Of the lifecycle: a version that was registered for it before is not trained again"""
    cause: str = ""
    dry_run: bool = False
    """Only say what would be read and learned from"""


class Result(Struct, frozen=True, kw_only=True):
    """What came of it."""

    model: str
    alias: str
    against: str
    """The version in force"""
    policy: str
    fingerprint: str
    rows_hash: str
    offsets: Offsets
    window_ms: int
    slates: int
    users: int
    train_rows: int
    test_rows: int
    click_rate: float
    random_share: float
    """Of the slates to judge by, those that were ordered by chance"""
    effective_share: float
    """What the rows to learn from are worth with weights 1 / probability, at most 20, as a share of their number"""
    effective_test_rows: float
    """What the rows to judge by are worth with weights 1 / probability"""
    dropped: Mapping[str, int]
    truncated: tuple[str, ...] = ()
    """Where the log no longer begins at its first record"""
    version: str = ""
    """The new one; empty when nothing was registered"""
    run_id: str = ""
    model_hash: str = ""
    passed: bool | None = None
    """Whether it may replace the version in force; null when nothing was trained"""
    refusals: tuple[str, ...] = ()
    figures: Mapping[str, float] = {}
    seconds: float = 0.0


def retrain(settings: Settings, job: Job, progress: Steps = lambda name, share=None: None) -> Result:
    """Train the model of `job` again, judge it, and register it as a version without alias.

    Raises ConfigError when the log holds nothing to learn from or is too unequal, ModelUnusable when there is no
    version in force, LogTruncated, naming the offsets that are missing, and TransportError.
    """
    began_s = time.monotonic()
    registry = Registry(settings)
    progress("version in force")
    present = registry.resolve(ModelRef(job.model, alias=job.alias))
    if job.attempt and not job.dry_run:
        found = _before(settings, job)
        if found is not None:
            return found
    served = registry.load(present)
    if served.name not in POLICIES:
        raise ModelUnusable(f"{present}: {served.name!r} cannot be trained here: allowed are {', '.join(POLICIES)}")
    progress("log")
    offsets = job.offsets or log_offsets(settings)
    data = _read(settings, job, served, offsets, progress)
    result = _described(settings, job, present, served, offsets, data)
    if job.weights and result.effective_share < job.min_effective:
        raise ConfigError(
            f"weights: {result.train_rows:,} rows are worth {result.effective_share:.1%} of their number, less than "
            f"{job.min_effective:.0%}: hardly anything but what the variants chose was shown (train without weights)"
        )
    if job.dry_run:
        return result
    progress("training")
    trained = train_one(served.name, data.examples, data.data.train, seed=job.seed)
    assert isinstance(trained.model, FeatureModel)
    model = TrainedModel(served.name, trained.model.model, served.catalogue)
    if trained.reference is not None:
        # What it was trained on was shown by others, and is not what it will show: a monitor must see that first.
        reference = msgspec.structs.replace(trained.reference, shown_by="others")
        trained = replace(trained, reference=reference)
    progress("model tests")
    verdict = judged(data, model, served, job)
    result = msgspec.structs.replace(
        result, model_hash=model_hash(model), passed=verdict.passed, refusals=verdict.refusals, figures=verdict.figures,
    )  # fmt: skip
    progress("MLflow")
    result = _registered(settings, job, data, trained, result)
    return msgspec.structs.replace(result, seconds=round(time.monotonic() - began_s, 3))


def model_hash(model: TrainedModel) -> str:
    """16 hex digits of what scores: numbers and trees, without what LightGBM notes of how they were made."""
    start = model.model.start if isinstance(model.model, Trees) else model.model
    digest = hashlib.sha256("\0".join(model.columns).encode())
    for numbers in (start.mean, start.scale, start.weights, np.array([start.intercept])):
        digest.update(np.ascontiguousarray(numbers, dtype=np.float64).tobytes())
    if isinstance(model.model, Trees):
        digest.update(model.model.booster.model_to_string().partition("\nparameters:")[0].encode())
    return digest.hexdigest()[:16]


def _read(settings: Settings, job: Job, served: TrainedModel, offsets: Offsets, progress: Steps) -> LoggedData:
    columns = columns_digest(served.columns)
    logged = read_log(
        settings, offsets, columns=columns, features_version=VERSION, width=len(served.columns), outcome=job.outcome,
        since_ms=job.since_ms, experiment=job.experiment, progress=lambda share: progress("log", share),
    )  # fmt: skip
    if logged.foreign and not logged.slates:
        raise ModelUnusable(
            f"{logged.foreign:,} rankings of the log have features of other columns than {job.model}@{job.alias}: they "
            "were served by a model of another catalogue"
        )
    cut = {
        "window_ms": settings.window_ms, "since_ms": job.since_ms, "experiment": job.experiment,
        "outcome": job.outcome, "holdout": job.holdout, "columns": columns, "weights": job.weights,
    }  # fmt: skip
    about = {name: float(served.about[name]) for name in ("slate_size", "click_from") if name in served.about}
    data = join(
        logged, served.catalogue, window_ms=settings.window_ms, holdout=job.holdout,
        name=f"log of {job.experiment or 'all experiments'}", fingerprint=fingerprint_of(offsets, cut),
        options={"slate_size": 10.0, "click_from": 4.0, **about}, weighted=job.weights,
    )  # fmt: skip
    check_enough(data)
    return data


def check_enough(data: LoggedData) -> None:
    """Raises ConfigError unless there are clicks and none, of several users, wherever they are needed."""
    slates = data.data
    early, late = validation_split(slates, slates.train) if len(slates.train) > 1 else (slates.train, slates.train)
    parts = {"to learn from": slates.train, "to judge by": slates.test, "to begin with": early, "to stop by": late}
    for name, part in parts.items():
        liked = data.examples.liked[slates.rows(part)]
        users = len(np.unique(slates.log.user[part]))
        if users < 2 or not liked.any() or liked.all():
            raise ConfigError(
                f"the log has too little {name}: {len(liked):,} rows of {users} users with {int(liked.sum()):,} "
                "clicks: let it grow, or ask for an earlier --since"
            )


def _described(
    settings: Settings, job: Job, present: ModelVersion, served: TrainedModel, offsets: Offsets, data: LoggedData
) -> Result:
    slates = data.data
    train, test = slates.rows(slates.train), slates.rows(slates.test)
    weight = 1 / data.shown
    truncated = [
        f"{topic}[{partition}] begins at offset {start}"
        for topic, partitions in offsets.items() for partition, (start, _) in partitions.items() if start
    ]  # fmt: skip
    return Result(
        model=job.model, alias=job.alias, against=present.version, policy=served.name,
        fingerprint=slates.fingerprint, rows_hash=data.rows_hash, offsets=offsets, window_ms=settings.window_ms,
        slates=len(slates.log), users=len(slates.users), train_rows=len(train), test_rows=len(test),
        click_rate=float(data.examples.liked.mean()), random_share=float(data.random[slates.test].mean()),
        effective_share=effective_share(np.minimum(weight[train], 20.0)),
        effective_test_rows=effective_share(weight[test]) * len(test), dropped=data.dropped,
        truncated=tuple(truncated) if job.offsets is None else (),
    )  # fmt: skip


def judged(data: LoggedData, model: TrainedModel, served: TrainedModel, job: Job) -> Verdict:
    slates = data.data
    rows = slates.rows(slates.test)
    user = np.repeat(slates.log.user[slates.test], np.diff(slates.log.offsets)[slates.test])
    features = data.examples.features[rows]
    holdout = Holdout(
        Shown(data.examples.liked[rows], np.unique(user, return_inverse=True)[1], 1 / data.shown[rows]),
        features, model.columns, float(data.random[slates.test].mean()),
        {f"{one.kind} {one.name}": one.rows for one in segments(data.examples, slates.test)},
    )  # fmt: skip
    taken_us = row_us(model, features[:_TIMED_ROWS])
    return judge(holdout, model.score, served.score, row_us=taken_us, bounds=job.bounds, seed=job.seed)


def _registered(settings: Settings, job: Job, data: LoggedData, trained: Trained, result: Result) -> Result:
    # Imported late: it loads mlflow.
    import mlflow

    from training.flavors import log_files

    tracking = Tracking(settings)
    subject = Subject(data.data.name, result.fingerprint, job.seed)
    gate = "passed" if result.passed else f"refused: {'; '.join(result.refusals)}"
    tags = {
        **subject.tags, "sluice.model": trained.name, "sluice.gate": gate[:_LONGEST_TAG],
        "sluice.rows_hash": result.rows_hash, "sluice.model_hash": result.model_hash, "sluice.against": result.against,
    }  # fmt: skip
    tags |= {name: value for name, value in ((ATTEMPT_TAG, job.attempt), ("sluice.cause", job.cause)) if value}
    note = (
        f"**{trained.name}** trained again from the log: {result.train_rows:,} shown items to learn from, "
        f"{result.test_rows:,} later ones to judge by. Gate: {gate}"
    )
    with tracking.run(f"retrain {job.model}@{job.alias}", "retraining", subject, note=note, tags=tags) as run_id:
        mlflow.log_params({**trained.params, "since_ms": job.since_ms, "holdout": job.holdout, "weights": job.weights})
        model_id = log_files(trained, data.examples, subject)
        numbers = {f"test_{name}": value for name, value in result.figures.items()}
        numbers |= {"effective_share": result.effective_share, "effective_test_rows": result.effective_test_rows}
        mlflow.log_metrics(numbers)
        mlflow.log_dict(msgspec.to_builtins(result, str_keys=True), "retraining.json")
        logged = LoggedModel(run_id, f"models:/{model_id}")
        mlflow.set_tag("sluice.model_uri", logged.model_uri)
    with tracking.errors():
        told = msgspec.json.encode(msgspec.structs.replace(result, run_id=run_id, offsets={})).decode()
        aliases = Aliases(tracking, settings, job.model, "")
        made = aliases.make(logged, note, tags | ({RESULT_TAG: told} if len(told) <= _LONGEST_TAG else {}))
    return msgspec.structs.replace(result, run_id=run_id, version=made.version)


def _before(settings: Settings, job: Job) -> Result | None:
    """What an earlier process registered for the same attempt."""
    tracking = Tracking(settings)
    with tracking.errors():
        found = Aliases(tracking, settings, job.model, "").tagged({ATTEMPT_TAG: job.attempt})
    told = dict(found.tags).get(RESULT_TAG) if found is not None else None
    if found is None or told is None:
        return None
    return msgspec.structs.replace(msgspec.json.decode(told, type=Result), version=found.version)
