"""Trained models become versions of a registered model; aliases move to those that pass the gate. Library: mlflow.

Order of work: judge, make all versions, log the router of what will be in force, and only then move aliases. Whatever
fails before leaves versions without an alias, which nobody serves and the next call uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sluice.adapters.mlflow import ARTIFACT, ModelVersion, Registry
from sluice.errors import ConfigError, ModelUnusable
from sluice.models import TrainedModel, read_model
from sluice.models.trees import lightgbm
from sluice.settings import Settings
from training.aliases import ROLLED_BACK, Aliases
from training.assessment import Assessor
from training.dataset import Dataset
from training.gate import DEFAULT_LIMITS, Limits, Verdict
from training.lock import alone
from training.options import Steps
from training.tracking import LoggedModel, Subject, Tracking, TrainingRun, find_training

__all__ = [
    "IN_FORCE", "LEFT_OUT", "MODEL", "MOVED", "POLICIES", "REFUSED", "ROLLED_BACK_BEFORE", "ROUTER", "ROUTER_ALIAS",
    "Outcome", "Registration", "register", "roll_back",
]  # fmt: skip

MODEL, POLICIES = "movielens_ctr_ab", ("PolicyA", "PolicyB")
ROUTER, ROUTER_ALIAS = "movielens_ctr_router", "router"
IN_FORCE, MOVED, REFUSED, LEFT_OUT = "in force", "moved", "refused", "left out"
ROLLED_BACK_BEFORE = "rolled back before"
_ABOUT_MODEL = (
    "Models that say how likely a click is and rank slates by it. The aliases `PolicyA` and `PolicyB` are what the "
    "variants of an experiment serve; `sluice register` moves them to versions that pass its gate, and "
    "`sluice register --rollback PolicyB` back."
)
_ABOUT_ROUTER = (
    "Who gets which policy, and how that policy ranks: `user_id`, `items` → `variant`, `items` (best first), `scores`."
)
_POLICIES_TAG = "sluice.policies"
_LONGEST_TAG = 4000


@dataclass(frozen=True)
class Outcome:
    """What became of one alias."""

    state: str
    """IN_FORCE: it points to this very model already; MOVED; REFUSED; ROLLED_BACK_BEFORE; LEFT_OUT"""
    version: str = ""
    """Of this training's model; "" when there is none"""
    before: str = ""
    """The version the alias pointed to before; "" when there was none"""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Registration:
    """What became of all aliases."""

    run_id: str
    """Of the training; "" in a dry run that had to train"""
    policies: Mapping[str, Outcome]
    router: Outcome
    in_force: Mapping[str, str] = field(default_factory=dict)
    """Policy → the version its alias points to now"""


def register(
    settings: Settings, tracking: Tracking, data: Dataset, place: Path, *, seed: int = 0, dry_run: bool = False,
    limits: Limits = DEFAULT_LIMITS, notice: Callable[[str], None], progress: Steps = lambda name, share=None: None,
) -> Registration:  # fmt: skip
    """Register the models trained on the data prepared at `place`; train them first if that was never done.

    An alias that points to its model already stays as it is; whoever else registers is waited for. Raises
    TransportError when MLflow goes away, ConfigError when there is nothing to register.
    """
    notice = _once(notice)
    with nullcontext() if dry_run else alone(settings.state, notice):
        return _register(settings, tracking, data, place, seed, dry_run, limits, notice, progress)


def _register(
    settings: Settings, tracking: Tracking, data: Dataset, place: Path, seed: int, dry_run: bool, limits: Limits,
    notice: Callable[[str], None], progress: Steps,
) -> Registration:  # fmt: skip
    training = find_training(settings, data.fingerprint, seed)
    if training is None and not dry_run:
        # Imported late here and below: charts and data frames take seconds, and mostly nothing is to be done.
        from training.session import run_training

        training = run_training(tracking, data, place, seed=seed, notice=notice, progress=progress).run
    if training is not None and not set(POLICIES) & training.models.keys():
        raise ConfigError(f"training run {training.run_id} holds no models: run `sluice train` again")
    registrar = _Registrar(settings, tracking, data, seed, limits, dry_run, notice, progress)
    with tracking.errors():
        return registrar.run(training)


def roll_back(settings: Settings, tracking: Tracking, policy: str, *, notice: Callable[[str], None]) -> Registration:
    """Let the alias `policy` and the version before it change places, and the router follow if it can.

    Raises ConfigError when there is no version to go back to, TransportError when MLflow goes away.
    """
    with alone(settings.state, notice), tracking.errors():
        aliases = Aliases(tracking, settings, MODEL, _ABOUT_MODEL)
        routers = Aliases(tracking, settings, ROUTER, _ABOUT_ROUTER)
        moved = aliases.roll_back(policy)
        in_force = _in_force(aliases)
        present = routers.in_force(ROUTER_ALIAS)
        before = present.version if present else ""
        found = routers.tagged({_POLICIES_TAG: _named(in_force)})
        router = Outcome(IN_FORCE if before else LEFT_OUT, before, before)
        if found is not None and found.version != before:
            routers.move(ROUTER_ALIAS, found)
            router = Outcome(MOVED, found.version, before)
        elif found is None and present is not None:
            held = dict(present.tags).get(_POLICIES_TAG)
            notice(f"router version {before} goes on with {held}: `sluice register` makes another")
    outcome = Outcome(MOVED, moved.after.version, moved.before.version)
    return Registration("", {policy: outcome}, router, {name: one.version for name, one in in_force.items()})


class _Registrar:
    def __init__(
        self, settings: Settings, tracking: Tracking, data: Dataset, seed: int, limits: Limits, dry_run: bool,
        notice: Callable[[str], None], progress: Steps,
    ) -> None:  # fmt: skip
        self._tracking, self._data, self._seed, self._dry_run = tracking, data, seed, dry_run
        self._notice, self._progress = notice, progress
        self._registry = Registry(settings)
        self._assessor = Assessor(data, self._registry, limits, notice)
        self._aliases = Aliases(tracking, settings, MODEL, _ABOUT_MODEL)
        self._routers = Aliases(tracking, settings, ROUTER, _ABOUT_ROUTER)
        self._subject = Subject(data.name, data.fingerprint, seed)

    def run(self, training: TrainingRun | None) -> Registration:
        outcomes: dict[str, Outcome] = {}
        moves: dict[str, ModelVersion] = {}
        for policy in POLICIES:
            self._progress(policy)
            outcomes[policy], made = self._policy(policy, training)
            if made is not None and outcomes[policy].state == MOVED:
                moves[policy] = made
        in_force = _in_force(self._aliases) | moves
        router, made = self._router(in_force, training, moves=any(one.state == MOVED for one in outcomes.values()))
        # Everything is complete: only now does anything change for whoever serves.
        for policy, version in moves.items():
            self._aliases.move(policy, version)
        if made is not None:
            self._routers.move(ROUTER_ALIAS, made)
        versions = {policy: version.version for policy, version in in_force.items()}
        return Registration(training.run_id if training else "", outcomes, router, versions)

    def _policy(self, policy: str, training: TrainingRun | None) -> tuple[Outcome, ModelVersion | None]:
        """What becomes of it, and the version that was made."""
        present = self._aliases.in_force(policy)
        before = present.version if present else ""
        logged = training.models.get(policy) if training else None
        if logged is not None:
            made = self._aliases.made_from(logged.run_id)
            if present is not None and present.run_id == logged.run_id:
                return Outcome(IN_FORCE, present.version, before), None
            if made is not None and ROLLED_BACK in dict(made.tags):
                return Outcome(ROLLED_BACK_BEFORE, made.version, before), None
        try:
            model = self._model(policy, training)
        except (ConfigError, ModelUnusable) as error:
            self._notice(f"{policy} is left out: {error}")
            return Outcome(LEFT_OUT, before=before), None
        verdict = self._assessor.verdict(model, present)
        state = MOVED if verdict.passed else REFUSED
        if self._dry_run or logged is None:
            return Outcome(state, before=before, verdict=verdict), None
        made = self._version(policy, logged, verdict)
        return Outcome(state, made.version, before, verdict), made

    def _model(self, policy: str, training: TrainingRun | None) -> TrainedModel:
        """The candidate. Raises ConfigError or ModelUnusable when it cannot be had."""
        from mlflow.artifacts import download_artifacts

        if training is None:
            return self._assessor.train(policy, self._seed)
        if policy not in training.models:
            lightgbm()  # says what this machine lacks, if that is why
            raise ConfigError("the training run has none: run `sluice train` again")
        source = training.models[policy].model_uri
        with tempfile.TemporaryDirectory() as folder:
            found = download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=self._tracking.uri)
            return read_model(Path(found) / "artifacts" / ARTIFACT)

    def _version(self, policy: str, logged: LoggedModel, verdict: Verdict) -> ModelVersion:
        from training.records import ABOUT

        gate = "passed" if verdict.passed else f"refused: {'; '.join(verdict.refusals)}"
        figures = {name: f"{value:.4f}" for name, value in verdict.figures.items()}
        tags = self._subject.tags | {"sluice.model": policy, "sluice.gate": gate[:_LONGEST_TAG]}
        tags |= {f"sluice.{name}": value for name, value in figures.items()}
        description = (
            f"**{policy}** of {self._data.name} (data {self._data.fingerprint}, seed {self._seed}). {ABOUT[policy]}\n\n"
            f"On later slates: AUC {figures.get('auc', '–')}, click rate at 1 {figures.get('ctr_at_1', '–')}, "
            f"calibration error {figures.get('calibration_error', '–')}.\n\nGate: {gate}."
        )
        return self._aliases.make(logged, description, tags)

    def _router(
        self, policies: Mapping[str, ModelVersion], training: TrainingRun | None, *, moves: bool
    ) -> tuple[Outcome, ModelVersion | None]:
        """The version that serves `policies` after this log, made unless there is one. Its alias is not moved here."""
        present = self._routers.in_force(ROUTER_ALIAS)
        before = present.version if present else ""
        wanted = {_POLICIES_TAG: _named(policies), "sluice.fingerprint": self._data.fingerprint}
        if self._dry_run and moves:
            return Outcome(MOVED, before=before), None
        if not policies:
            return Outcome(LEFT_OUT, before=before), None
        if present is not None and wanted.items() <= dict(present.tags).items():
            return Outcome(IN_FORCE, present.version, before), None
        found = self._routers.tagged(wanted)
        if found is None and not self._dry_run:
            self._progress("router")
            found = self._make_router(policies, wanted, training.run_id if training else "")
        return Outcome(MOVED, found.version if found else "", before), None if self._dry_run else found

    def _make_router(
        self, policies: Mapping[str, ModelVersion], wanted: Mapping[str, str], parent: str
    ) -> ModelVersion:
        from training.router_model import log_router

        folders = {policy: self._registry.fetch(version) / ARTIFACT for policy, version in policies.items()}
        with self._tracking.run("router", "router", self._subject, note=_ABOUT_ROUTER, parent=parent) as run_id:
            model_id = log_router(folders, self._data)
        description = f"Serves {_named(policies)}; users and items begin as {self._data.name} leaves them."
        logged = LoggedModel(run_id, f"models:/{model_id}")
        return self._routers.make(logged, description, {**self._subject.tags, **wanted})


def _once(notice: Callable[[str], None]) -> Callable[[str], None]:
    """What a training has said need not be said again."""
    said: set[str] = set()

    def tell(line: str) -> None:
        if line not in said:
            said.add(line)
            notice(line)

    return tell


def _in_force(aliases: Aliases) -> dict[str, ModelVersion]:
    found = {policy: aliases.in_force(policy) for policy in POLICIES}
    return {policy: version for policy, version in found.items() if version is not None}


def _named(policies: Mapping[str, ModelVersion]) -> str:
    """`PolicyA=3,PolicyB=4`: policy and version"""
    return ",".join(f"{policy}={policies[policy].version}" for policy in sorted(policies))
