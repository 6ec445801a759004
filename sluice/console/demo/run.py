"""The course of a demo: servers, services, replay, until everything is counted, decided on and verified."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sluice.adapters import catalogue
from sluice.adapters.log_ends import LogEnds
from sluice.console.demo.children import Child, ChildFailed, Children, printed
from sluice.console.demo.models import REGISTER_CODES, with_models
from sluice.console.demo.observer import Observer, Seen, includes
from sluice.console.demo.result import Outcome, outcome
from sluice.console.demo.view import SilentView
from sluice.domain.events import DecisionMade
from sluice.domain.experiment import load_experiments
from sluice.errors import ConfigError, SluiceError
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings
from sluice.subscription import subscribe

__all__ = ["DemoRun"]

LOOK_EVERY_S = 0.2
STILL_S = 30.0
"""Counting or deciding that does not move for so long has failed."""


class DemoRun:
    """One run of the experiment that `definition` describes in YAML.

    `replay` and `register` are arguments of `sluice`, `duration_s` how long the replay will take, if known.
    Without `register` no models are needed; with it the replay begins after the part that they were trained on.
    """

    def __init__(
        self,
        infra: str,
        definition: str,
        replay: Sequence[str],
        register: Sequence[str],
        duration_s: float | None,
        children: Children,
        state: Path,
        view: SilentView,
        *,
        browser: bool | None = None,
    ) -> None:
        """state: folder where models and prepared data stay, for the next demo.

        browser: serve the dashboard, and open it in one or not; None: no dashboard.
        """
        self._infra = infra
        self._define(definition)
        self._replay = list(replay)
        self._register = register
        self._state = state
        self._duration_s = duration_s
        self._children = children
        self._view = view
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        """When the first record was seen in the logs."""
        self._browser = browser
        self.dashboard = ""
        """Its address; empty when there is none."""
        self.data = ""
        """What was replayed."""
        self.decisions: list[DecisionMade] = []
        """All that were made, in order."""
        self.notices: list[str] = []
        """What training and replay said beside their results: that there are no data, for example."""

    def run(self) -> Outcome:
        """Raises ChildFailed for a child that fails, TransportError for servers that are away."""
        children, view = self._children, self._view
        training = self._training()
        settings = self._servers()
        view.phase("starting the services")
        process = children.start("process", "process", "--loglevel", "warning")
        analyze = children.start("analyze", "analyze")
        page = self._page()
        self._until_counting(settings, process)
        self._tell_address(page)
        self._models(training)
        catalogue.apply(settings, [self._experiment])
        replay = children.start("replay", *self._replay, "--experiment", str(self._experiment_file()), good=(0,))
        with Observer(settings, self._experiment) as observer:
            view.phase("reading the ratings")
            while not children.done(replay):
                self._look(observer)
            summary = printed(replay)
            self.data = summary["data"]
            self.notices += replay.logged()
            view.phase("counting the rest")
            self._until(observer, lambda seen: seen.lag == 0, process, "has not counted everything")
            counted_s = time.monotonic()
            view.phase("waiting for the decision on all of it")
            seen = self._until(
                observer,
                lambda seen: includes(seen.decision, seen.counts, self._experiment.primary),
                analyze,
                "has not decided on everything counted",
            )
        view.phase("recounting the log")
        verify = self._verify()
        return outcome(
            summary,
            seen,
            verify=verify,
            infra=self._infra,
            seconds=time.monotonic() - self._began_s,
            rate=seen.counted / (counted_s - (self._first_s or self._began_s)),
        )

    def _page(self) -> Child | None:
        if self._browser is None:
            return None
        how = "--open" if self._browser else "--no-browser"
        return self._children.start("dashboard", "dashboard", "--port", "0", how, "--json")

    def _tell_address(self, page: Child | None) -> None:
        if page is None:
            return
        self._until_line(page)
        # A browser that was opened may have written more.
        self.dashboard = json.loads(page.output().splitlines()[0])["url"]
        self._view.note(f"dashboard at {self.dashboard}")

    def _training(self) -> Child | None:
        """Beside the servers, which take their time as well."""
        if not self._register:
            return None
        return self._children.start(
            "register", *self._register, good=REGISTER_CODES, env={"SLUICE_STATE": str(self._state)}
        )

    def _models(self, training: Child | None) -> None:
        if training is None:
            return
        self._view.phase("training the models, or finding those of an earlier demo")
        self._to_end(training)
        found = with_models(self._definition, training)
        self._define(found.definition)
        self._replay += found.replay
        self.notices += found.notices

    def _define(self, definition: str) -> None:
        self._definition = definition
        (self._experiment,) = load_experiments(definition, "demo.yaml")

    def _experiment_file(self) -> Path:
        """What is compared, for the replay."""
        file = self._children.folder / "demo.yaml"
        file.write_text(self._definition, encoding="utf-8")
        return file

    def _servers(self) -> Settings:
        """Where they are, once they answer and the topics exist. Those of others must be empty."""
        children = self._children
        if self._infra == "external":
            self._view.phase("looking at the servers")
            settings = Settings.load(children.env)
            settings.require_kafka()
            settings.require_redis()
            self._to_end(children.start("topics", "infra", "topics", good=(0,)))
            _require_empty(settings)
            return settings
        self._view.phase("starting broker and Redis")
        child = children.start("infra", "infra", "run", "--infra", self._infra)
        self._until_line(child)
        return Settings.load(children.env)

    def _until_line(self, child: Child) -> None:
        """Wait until it has printed one."""
        while not child.output().endswith("\n"):
            self._children.check()
            self._view.tick(time.monotonic() - self._began_s)
            time.sleep(0.05)

    def _until_counting(self, settings: Settings, process: Child) -> None:
        """A worker that owns a partition publishes where it stands, before the first record too."""
        with LogEnds(settings, (IMPRESSIONS,)) as ends:
            waiting = set(ends.read())
        deadline_s = time.monotonic() + STILL_S
        with subscribe("variant-stats", from_start=True, settings=settings) as snapshots:
            while waiting:
                waiting -= {snapshot.partition for snapshot in snapshots.poll(0.05)}
                self._view.tick(time.monotonic() - self._began_s)
                self._children.check()
                if time.monotonic() > deadline_s:
                    raise ChildFailed(process, f"does not count partitions {sorted(waiting)} after {STILL_S:g} s")

    def _look(self, observer: Observer) -> Seen:
        began_s = time.monotonic()
        self._children.check()
        try:
            seen = observer.look()
        except SluiceError:
            self._children.check()  # a server that ended is the better explanation
            raise
        self.decisions += seen.decisions
        if self._first_s is None and seen.produced:
            self._first_s = began_s
            self._view.phase("replaying")
        share = None
        if self._duration_s is not None:
            share = 0.0 if self._first_s is None else min(1.0, (began_s - self._first_s) / self._duration_s)
        self._view.update(seen, began_s - self._began_s, share)
        time.sleep(max(0.0, began_s + LOOK_EVERY_S - time.monotonic()))
        return seen

    def _until(self, observer: Observer, reached: Callable[[Seen], bool], child: Child, problem: str) -> Seen:
        """Look until it is `reached`. Raises ChildFailed when nothing moves any more."""
        last: object = None
        moved_s = time.monotonic()
        while not reached(seen := self._look(observer)):
            state = (seen.counted, seen.decision.version if seen.decision else 0)
            if state != last:
                last, moved_s = state, time.monotonic()
            elif time.monotonic() - moved_s > STILL_S:
                raise ChildFailed(child, f"{problem} and stands still: {seen.lag:,} records behind")
        return seen

    def _verify(self) -> str:
        child = self._children.start("verify", "verify", "--json", good=(0, 1))
        self._to_end(child)
        if child.code == 1 and not child.output().strip():
            raise ChildFailed(child, "ended with exit code 1")
        found = printed(child)
        if found["verify"] == "exact" and child.code == 0:
            return "exact"
        wrong = [(part["partition"], item) for part in found["partitions"] for item in part["differences"]]
        partition, first = wrong[0]
        return (
            f"differs in {len(wrong)} integers, such as {first['name']} of partition {partition}: "
            f"stored {first['stored']}, recounted {first['recounted']}"
        )

    def _to_end(self, job: Child) -> None:
        while not self._children.done(job):
            self._view.tick(time.monotonic() - self._began_s)
            job.wait(0.1)


def _require_empty(settings: Settings) -> None:
    """What earlier runs left would be counted, too, and the repeated event ids would be duplicates."""
    with LogEnds(settings, (IMPRESSIONS, CLICKS)) as ends:
        there = sum(sum(of_partition) for of_partition in ends.read().values())
    if there:
        raise ConfigError(
            f"topics {IMPRESSIONS} and {CLICKS} already hold {there:,} records: the demo compares all that is counted "
            "with what it sends, so it needs empty ones; `sluice replay` adds to a running system"
        )
