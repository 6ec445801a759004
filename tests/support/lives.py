"""A model's life on a real broker and a real registry: versions that are there already, and processes that die.

`Stand` is the world around one life: what its drift monitor, its shadow and its canary would say is said by the test,
through the topics and sums that they write to. `killed` leads that life in a process of its own, which SIGKILL ends
at a moment of its first step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from mlflow import MlflowClient
from registered_models import NAME, likes, register

from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.canary import CanaryPlace, CanaryReport, CanaryState
from sluice.domain.events import DecisionMade, encode
from sluice.domain.experiment import config_hash
from sluice.domain.lifecycle import Policy, event_id
from sluice.domain.lifecycle_events import DriftDetected, LifecycleEvent, ModelTrained, RetrainRequested
from sluice.domain.shadow import ShadowCompared, ShadowKey, ShadowSums, compare
from sluice.features import make_catalogue
from sluice.names import DECISIONS, LIFECYCLE, Keys
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import CANDIDATE, CONTROL, Plan
from training.retrain import ATTEMPT_TAG, RESULT_TAG, Result

__all__ = ["ALIAS", "CATALOGUE", "NAME", "PLAN", "Moment", "Stand", "killed"]

ALIAS = "PolicyA"
PLAN = Plan(name="films", model=NAME, alias=ALIAS, policy=Policy(cooldown_s=0, shadow=False))
CATALOGUE = make_catalogue(["1", "2", "3"], {"1": ("Drama",)}, {})
RELEASE = "films-2"

PATIENCE_S = 120
Moment = Literal["turn", "deed", "moving", "moved", "done", "sent", "over"]
"""Nothing is read; it knows what is due; before and after the one call that moves an alias; it is done and not said; it
is said and not read back; the turn is over"""


class Stand:
    """A topic and a registry in which version 1 is in force and version 2 was trained."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        register(settings.mlflow_uri, folder / "1", ALIAS, likes("item_history", CATALOGUE))
        register(settings.mlflow_uri, folder / "2", "Other", likes("item_history", CATALOGUE, sign=-1.0))
        self.client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
        self.at_ms = 1000

    @property
    def alias(self) -> str:
        return str(self.client.get_model_version_by_alias(NAME, ALIAS).version)

    @property
    def kinds(self) -> list[str]:
        """Tags of what happened, in order."""
        with Journal(self.settings, NAME, ALIAS) as journal:
            return [str(event.__struct_config__.tag) for event in journal.events]

    @property
    def records(self) -> list[str]:
        """The same of the topic's records, with those that say again what was said."""
        with TopicReader(self.settings, LIFECYCLE, from_start=True) as reader:
            return [msgspec.json.decode(message.value() or b"")["type"] for message in reader.rest()]

    def say(self, event: LifecycleEvent) -> None:
        with Journal(self.settings, NAME, ALIAS) as journal:
            journal.append(event)

    drift = DriftDetected(id="d1", model=NAME, at_ms=1, version="1", since_ms=0, until_ms=1)

    def trained(self) -> str:
        """Id of an attempt whose version 2 is registered."""
        self.say(self.drift)
        request = self.turn()
        assert isinstance(request, RetrainRequested)
        assert (request.cause, request.against) == ("d1", "1")
        self.say(self.training(request.id))
        return request.id

    def training(self, attempt: str) -> ModelTrained:
        """What the process itself would say of version 2."""
        told = event_id(NAME, ALIAS, "trained", attempt)
        return ModelTrained(id=told, model=NAME, alias=ALIAS, at_ms=2, attempt=attempt, version="2")

    def judged(self, *, passed: bool, attempt: str = "") -> None:
        """Version 2 carries a verdict, and the attempt that it was trained for."""
        result = Result(
            model=NAME, alias=ALIAS, against="1", policy="PolicyA", fingerprint="f", rows_hash="r", offsets={},
            window_ms=1, slates=1, users=1, train_rows=1, test_rows=1, click_rate=0.5, random_share=0.1,
            effective_share=1.0, effective_test_rows=1.0, dropped={}, passed=passed,
            refusals=() if passed else ("AUC fell",),
        )  # fmt: skip
        tags = {RESULT_TAG: msgspec.json.encode(result).decode(), ATTEMPT_TAG: attempt}
        for name, value in tags.items():
            self.client.set_model_version_tag(NAME, "2", name, value)

    def turn(self, plan: Plan = PLAN) -> LifecycleEvent | None:
        """One step by a process that has just begun, as after a kill."""
        with Journal(self.settings, NAME, ALIAS) as journal:
            life = Lifecycle(self.settings, plan, journal, clock_ms=lambda: self.at_ms)
            try:
                return life.turn()
            finally:
                life.close()

    def decide(self, version: int, state: CanaryState, share: int) -> None:
        """What the analyzer would say of the canary."""
        place = CanaryPlace(state=state, step=1, since_ms=0, plan="p")
        report = CanaryReport(
            place=place, share=share, move=None, metrics=(), needed_units=None, before=None, orders=()
        )
        decided_of = config_hash(PLAN.release("2", canary=True))
        decision = DecisionMade(
            experiment=RELEASE, version=version, at_ms=0, offsets={}, config_hash=decided_of, config={}, seed=0,
            evidence=(), results=(), sample_ratio_p=None, allocation={CONTROL: 100 - share, CANDIDATE: share},
            allocation_version=version, verdict="continue", reasons=("as it is",), canary=report,
        )  # fmt: skip
        self.write(decision)

    def write(self, decision: DecisionMade) -> None:
        client = producer(self.settings)
        client.produce(DECISIONS, key=decision.experiment, value=encode(decision))
        assert client.flush(10) == 0

    def shadowed(self, requests: int, *, version: str = "2", error: str = "", us: int = 900) -> None:
        """What was summed up of so many requests that the shadow of version 2 was asked."""
        key = ShadowKey(RELEASE, CONTROL, "1", "candidate", version)
        with connect(self.settings) as client:
            store = ShadowStore(client, Keys(self.settings.prefix))
            offset, known = store.load(0)
            sums = known.get(key, ShadowSums())
            for number in range(requests):
                record: dict[str, Any] = {"error": error} if error else {
                    "shadow_us": us, "agreement": compare([0.1, 0.2, 0.3], [0.1, 0.3, 0.2], 1)
                }  # fmt: skip
                sums.take(ShadowCompared(
                    experiment=key.experiment, variant=key.variant, version=key.version, shadow=key.shadow,
                    shadow_version=version, user_id=f"u{number}", slate_id="", at_ms=0, served_us=500, **record,
                ))  # fmt: skip
            store.commit(0, offset, offset + requests, {key: sums})


def killed(stand: Stand, plan: Plan, deed: str, moment: Moment) -> None:
    """Lead the life of `stand` in a process that is killed at `moment` of its first turn, in which `deed` is due."""
    context = multiprocessing.get_context("forkserver")
    # What takes seconds to import is imported once, for all of them.
    context.set_forkserver_preload(["training.lifecycle", "mlflow", "mlflow.store.model_registry.sqlalchemy_store"])
    arguments = dict(os.environ), stand.settings, plan, deed, moment, stand.at_ms
    process = context.Process(target=_lead, args=arguments)
    process.start()
    process.join(PATIENCE_S)
    try:
        assert process.exitcode == -signal.SIGKILL, f"{deed}, {moment}: ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _lead(environ: dict[str, str], settings: Settings, plan: Plan, deed: str, moment: Moment, at_ms: int) -> None:
    os.environ.update(environ)  # the server that forks has that of the first test
    with Journal(settings, plan.model, plan.alias) as journal:
        life = Lifecycle(settings, plan, journal, clock_ms=lambda: at_ms)
        sys.setprofile(_death(deed, moment))
        life.turn()


def _death(deed: str, moment: Moment) -> Callable[[Any, str, Any], None]:
    """For `sys.setprofile`: kills this process when it comes to `moment`."""
    inside = False

    def watch(frame: Any, event: str, called: Any) -> None:
        nonlocal inside
        here = event, frame.f_code.co_name
        ours = str(frame.f_globals.get("__name__", "")).startswith("training.lifecycle")
        if ours and here == ("call", deed):
            inside = True
        now = {
            "turn": ours and here == ("call", "turn"),
            "deed": ours and here == ("call", deed),
            "moving": inside and here == ("call", "set_registered_model_alias"),
            "moved": inside and here == ("return", "set_registered_model_alias"),
            "done": ours and here == ("return", deed),
            "sent": event == "c_return" and called.__name__ == "flush" and (ours or deed == "_tidy"),
            "over": ours and here == ("return", "turn"),
        }
        if now[moment]:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch
