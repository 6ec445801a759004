"""The course of `sluice demo loop`: a replay whose tastes change, and the services that notice and answer it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from sluice.adapters import catalogue
from sluice.console.demo.children import Child, ChildFailed, Children, printed
from sluice.console.demo.loop_result import LoopOutcome, loop_outcome
from sluice.console.demo.loop_seen import Witness, reigns
from sluice.console.demo.loop_view import LoopView
from sluice.console.demo.models import LEFT_OUT
from sluice.console.demo.run import DemoRun
from sluice.domain.lifecycle import LifecycleState, fold

__all__ = ["LoopPlan", "LoopRun", "at_work"]

MODEL, ALIAS = "movielens_ctr_ab", "PolicyA"
LOOK_EVERY_S = 0.2
WORK_S = 300.0
"""A training that nothing was heard of for so long has failed"""
LAST_WORD_S = 10.0
"""After the end of the log what is under way is waited for until nothing was heard for so long: no more slates come"""


class LoopPlan(NamedTuple):
    """What is replayed. Shares are of the slates of the log, by time."""

    source: Sequence[str]
    """Arguments that name the data"""
    train_share: float
    change: float
    amplitude: float
    bad: float
    """Share of the users who turn over with the change; 0: nobody"""
    seed: int
    speed: str

    @property
    def drift(self) -> str:
        return f"genres:amplitude={self.amplitude:g},at={self.change:g},seed={self.seed}"

    @property
    def replay(self) -> list[str]:
        poison = ["--poison", f"share={self.bad:g},at={self.change:g},seed={self.seed}"] if self.bad else []
        return [
            "replay", "--json", *self.source, "--speed", self.speed, "--seed", "0", "--drift", self.drift, *poison,
            "--from-share", str(self.train_share),
        ]  # fmt: skip


class LoopRun(DemoRun):
    """One run: servers, a model of the first part of the log, the replay of the rest with the loop around it."""

    def __init__(self, infra: str, plan: LoopPlan, children: Children, state: Path, view: LoopView) -> None:
        """state: folder where prepared data stay; models are of this run alone."""
        self._plan, self._loop_view = plan, view
        definition = _bundled("loop.yaml")
        register = ["register", "--json", *plan.source, "--train-share", str(plan.train_share)]
        super().__init__(infra, definition, plan.replay, register, None, children, state, view)

    def loop(self) -> LoopOutcome:
        """Raises ChildFailed for a child that fails, TransportError for servers that are away."""
        children, view = self._children, self._loop_view
        training = self._training()
        settings = self._servers()
        view.phase("starting the services")
        process = children.start("process", "process", "--loglevel", "warning")
        children.start("analyze", "analyze")
        self._until_counting(settings, process)
        first = self._wait_for_model(training)
        catalogue.apply(settings, [self._experiment])
        children.start("drift", "drift", f"{MODEL}@{ALIAS}", "--follow", "--every", "1")
        life = children.folder / "lifecycle.yaml"
        life.write_text(_bundled("lifecycle.yaml"), encoding="utf-8")
        lifecycle = children.start("lifecycle", "lifecycle", "run", str(life))
        with Witness(settings, self._experiment.name) as witness:
            summary = self._follow(witness, lifecycle)
            return loop_outcome(summary, witness, self._truth(first, witness), first, time.monotonic() - self._began_s)

    def _wait_for_model(self, training: Child | None) -> str:
        """The version that is in force first."""
        assert training is not None
        self._loop_view.phase("training the model that will be in force")
        self._to_end(training)
        found = printed(training) if training.output().strip() else {}
        if ALIAS not in found.get("in_force", {}) or found[ALIAS]["state"] == LEFT_OUT:
            raise ChildFailed(training, "left no model that could serve")
        return str(found["in_force"][ALIAS])

    def _follow(self, witness: Witness, lifecycle: Child) -> dict[str, Any]:
        """Until the replay has ended, and with it what the loop had begun. What the replay printed.

        Raises ChildFailed also for a training that goes on for ever: the replay would stand still as long.
        """
        view, children = self._loop_view, self._children
        replay = children.start("replay", *self._replay, "--experiment", str(self._experiment_file()), good=(0,))
        view.phase("reading the ratings")
        ended, held, heard_s = False, False, time.monotonic()
        while True:
            for event in witness.look():
                view.event(event, witness)
                heard_s = time.monotonic()
            if children.done(replay) and not ended:
                ended, heard_s = True, time.monotonic()
            silent_s = time.monotonic() - heard_s
            state = fold(witness.events)
            if at_work(state) != held:
                held = not held
                # Not SIGSTOP: standing still at any moment, it might hold the lock of MLflow's database.
                replay.signal(signal.SIGUSR1 if held else signal.SIGUSR2)
            if held and silent_s > WORK_S:
                raise ChildFailed(lifecycle, f"trains or judges for more than {WORK_S:g} s")
            if ended and not held and (state.running is None or silent_s > LAST_WORD_S):
                return printed(replay)
            view.look(witness, time.monotonic() - self._began_s)
            time.sleep(LOOK_EVERY_S)

    def _truth(self, first: str, witness: Witness) -> dict[str, Any]:
        self._loop_view.phase("working out what would have been earned without the loop")
        plan = self._plan
        told = [f"{reign.version}:{reign.begin}" for reign in reigns(witness.events, witness.ranked, first)]
        child = self._children.start(
            "truth", *plan.source, "--train-share", str(plan.train_share), "--drift", plan.drift, "--model", MODEL,
            *[part for one in told for part in ("--reign", one)], good=(0,), module="training.loop_truth",
        )  # fmt: skip
        self._to_end(child)
        return printed(child)


def at_work(state: LifecycleState) -> bool:
    """Whether a training is asked for, under way or judged. The replay stands still then: half a year of the log passes
    in two minutes, in which the seconds of a training would be weeks."""
    if state.running is None:
        return state.drift is not None and state.attempt is None
    return state.running.stage in ("requested", "trained")


def _bundled(name: str) -> str:
    return (resources.files("sluice") / "experiments" / name).read_text(encoding="utf-8")
