"""The analyzer as a service: snapshots in, decisions out. It keeps nothing of its own: a restart reads the topics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from analyzer.engine import Case, Previous, Snapshot, decide_many
from analyzer.engine.canary import due
from analyzer.journal import Journal
from analyzer.readings import decision_readings, evidence_readings
from analyzer.totals import Totals, parse_snapshot
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.catalogue import Catalogue
from sluice.adapters.kafka import KafkaError, KafkaException, Message, Producer, producer, wait_for_broker
from sluice.adapters.metrics import Metrics, Reading, experiment_readings
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import wait_for_redis
from sluice.domain.events import DeadLetter, DecisionMade, DelayEvidence, encode
from sluice.domain.experiment import Experiment, config_hash
from sluice.domain.status import Change
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DEAD_LETTERS, EXPERIMENTS, VARIANT_STATS, Keys
from sluice.settings import Settings

__all__ = ["Analyzer", "build"]

log = logging.getLogger(__name__)

STANDBY_S = 5.0
"""Another analyzer that has left new counts without a decision for so long is taken to be gone."""
LONGEST_WAIT_S = 5.0


class Analyzer:
    """Reads `variant-stats` and `experiments`, writes `decisions`, and puts allocations where routers read them."""

    def __init__(
        self,
        settings: Settings,
        store: AllocationStore,
        *,
        every_ms: int,
        timeout_s: float,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics or Metrics("analyze")
        self._store = store
        self._every_s = every_ms / 1000
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self.ready = threading.Event()
        """Set once everything that was in the topics at the start has been read."""
        self.decisions = 0
        self.malformed = 0
        self.longest_ms = 0.0
        """Longest time that one decision took to compute."""
        # Where allocations still have to go: experiment → (version, shares).
        self._unstored: dict[str, tuple[int, dict[str, int]]] = {}
        self._store_again_at = 0.0
        self._store_wait_s = 0.0
        self._dead_letters: Producer | None = None
        self._pending_s: dict[str, float] = {}
        """Experiment → since when there is evidence that no decision includes"""
        self._forget()
        self._metrics.read_from(self._readings, ready=lambda: self._caught_up)

    def stop(self) -> None:
        """Ask `run` to return; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`. Raises TransportError when the broker does not answer at the start."""
        wait_s = 0.1
        while not self._stop.is_set():
            try:
                self._session()
            except (TransportError, KafkaException) as error:
                if not self.ready.is_set():
                    raise TransportError(str(error)) from error
                if self._caught_up:
                    wait_s = 0.1
                log.warning("starting over in %.1f s: %s", wait_s, error)
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _forget(self) -> None:
        self._totals = Totals()
        self._catalogue = Catalogue()
        self._changed: set[str] = set()
        self._maturing: set[str] = set()
        """Experiments whose latest evidence is still to be completed by clicks that are on their way"""
        self._standby: dict[str, float | None] = {}
        self._undefined: set[str] = set()
        self._refused: set[str] = set()
        self._caught_up = False
        self._journal: Journal | None = None

    def _session(self) -> None:
        self._forget()
        timeout_s = self._timeout_s
        with (
            TopicReader(self._settings, VARIANT_STATS, from_start=True, timeout_s=timeout_s) as stats,
            TopicReader(self._settings, EXPERIMENTS, from_start=True, timeout_s=timeout_s) as experiments,
            Journal(self._settings, timeout_s=timeout_s) as journal,
        ):
            while not self._stop.is_set():
                self._read_stats(stats)
                self._read_experiments(experiments)
                self._read_journal(journal)
                if not self._caught_up:
                    # Part of the partitions would look like a loss of traffic.
                    if not (stats.caught_up and experiments.caught_up and journal.caught_up):
                        continue
                    self._resume(journal)
                    self._caught_up, self._journal = True, journal
                    self.ready.set()
                self._decide(journal)
                self._store_allocations()

    def _resume(self, journal: Journal) -> None:
        self._changed |= self._catalogue.experiments.keys()
        for name in self._catalogue.experiments:
            last = journal.recall(name)
            if last is not None:  # Redis may have been emptied, or the last process died in between
                self._unstored[name] = (last.allocation_version, last.allocation)
        log.info("analyzing %d experiments, %d decided before", len(self._catalogue.experiments), len(self._unstored))

    def _read_stats(self, reader: TopicReader) -> None:
        bad: list[tuple[Message, InvalidEvent]] = []
        for message in reader.poll(self._every_s):
            if message.value() is None:
                continue
            try:
                self._changed |= self._totals.offer(parse_snapshot(message.value()))
                # Time may move a canary, too, and tell that no more clicks will come.
                self._changed |= {name for name, one in self._catalogue.experiments.items() if one.canary is not None}
                self._changed |= self._maturing
            except InvalidEvent as error:
                bad.append((message, error))
        if bad:
            self.malformed += len(bad)
            first, reason = bad[0]
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            extra = {"topic": VARIANT_STATS, "partition": first.partition(), "offset": first.offset()}
            log.warning(
                "topic %s: offset %s is no snapshot: %s%s", VARIANT_STATS, first.offset(), reason, more, extra=extra
            )
            self._metrics.count("sluice_dead_letters_total", VARIANT_STATS, "malformed", by=len(bad))
            self._bury(bad)

    def _bury(self, bad: Sequence[tuple[Message, InvalidEvent]]) -> None:
        """To the dead letters, all in one go. The client is made when it is needed first: this is rare."""
        if self._dead_letters is None:
            large = {"message.max.bytes": 10_000_000, "message.timeout.ms": 30_000}
            self._dead_letters = producer(self._settings, large)
        failed: list[str] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error.str())

        for message, reason in bad:
            letter = DeadLetter(
                topic=VARIANT_STATS,
                partition=message.partition() or 0,
                offset=message.offset() or 0,
                reason="malformed",
                detail=str(reason)[:500],
                key=message.key() or b"",
                value=message.value() or b"",
            )
            while True:
                try:
                    self._dead_letters.produce(
                        DEAD_LETTERS, key=message.key(), value=encode(letter), on_delivery=delivered
                    )
                    break
                except BufferError:
                    self._dead_letters.poll(0.1)
        missing = self._dead_letters.flush(31)
        if missing or failed:
            reason_said = failed[0] if failed else "no answer"
            log.error("topic %s: %d not delivered: %s", DEAD_LETTERS, missing + len(failed), reason_said)

    def _read_experiments(self, reader: TopicReader) -> None:
        for message in reader.poll(0):
            name = self._catalogue.take(message)
            if name is not None:
                self._changed.add(name)

    def _read_journal(self, journal: Journal) -> None:
        accepted, others = journal.poll()
        for decision in accepted:
            self.decisions += 1
            self._metrics.count("sluice_decisions_total", decision.experiment)
            self._pending_s.pop(decision.experiment, None)
            self._unstored[decision.experiment] = (decision.allocation_version, decision.allocation)
        for name in sorted(others):
            if name not in self._standby:
                log.warning(
                    "another analyzer decides on %s (version %d): standing by until it is silent for %g s",
                    name,
                    journal.last[name].version,
                    STANDBY_S,
                    extra={"experiment": name},
                )
            self._standby[name] = None
            self._changed.add(name)

    def _decide(self, journal: Journal) -> None:
        """Decide on all experiments whose evidence asks for it, in one go."""
        cases = [case for name in sorted(self._changed) if (case := self._case(name, journal)) is not None]
        if not cases:
            return
        started = time.perf_counter()
        decisions = self._decisions(cases)
        took_s = time.perf_counter() - started
        self.longest_ms = max(self.longest_ms, 1000 * took_s)
        self._metrics.observe("sluice_decision_seconds", took_s)
        for decision in decisions:
            name = decision.experiment
            try:
                journal.append(decision)
            except KafkaException as error:
                if name not in self._refused:
                    self._refused.add(name)
                    log.error(
                        "experiment %s: decision %d cannot be written: %s", name, decision.version, error,
                        extra={"experiment": name, "version": decision.version},
                    )  # fmt: skip

    def _case(self, name: str, journal: Journal) -> Case | None:
        """What to decide from; None when there is nothing to decide on, or not yet (then it stays changed)."""
        experiment = self._catalogue.experiments.get(name)
        if experiment is None:
            if name in self._totals.experiments and name not in self._undefined:
                self._undefined.add(name)
                log.warning("experiment %s is counted but not defined: no decisions", name, extra={"experiment": name})
            self._settle(name)
            return None
        if not journal.settled(name):
            return None
        last = journal.recall(name)
        orders = _orders(experiment, last)
        if experiment.state.status != "running" and not (orders and last is not None and last.canary is not None):
            self._settle(name)  # a change of its status brings it back
            return None
        snapshot = self._totals.snapshot(experiment)
        (self._maturing.add if _immature(snapshot.delay) else self._maturing.discard)(name)
        if last is not None and not orders and _decided(experiment, snapshot, last):
            self._settle(name)
            if name in self._standby:
                self._standby[name] = None
            return None
        self._pending_s.setdefault(name, time.monotonic())
        if self._stands_by(name):
            return None
        self._changed.discard(name)
        return Case(experiment, snapshot, self._previous(experiment, last), orders)

    def _settle(self, name: str) -> None:
        self._changed.discard(name)
        self._pending_s.pop(name, None)

    def _decisions(self, cases: Sequence[Case]) -> list[DecisionMade]:
        try:
            return decide_many(cases)
        except ValueError as error:
            if len(cases) == 1:
                name = cases[0].experiment.name
                log.error("experiment %s: no decision: %s", name, error, extra={"experiment": name})
                return []
            # One cannot be decided on: the others must not wait for it.
            return [decision for case in cases for decision in self._decisions([case])]

    def _stands_by(self, name: str) -> bool:
        if name not in self._standby:
            return False
        now = time.monotonic()
        since = self._standby[name]
        if since is None:
            self._standby[name] = now
            return True
        if now - since < STANDBY_S:
            return True
        del self._standby[name]
        log.warning("the other analyzer is silent: deciding on %s again", name, extra={"experiment": name})
        return False

    def _previous(self, experiment: Experiment, last: DecisionMade | None) -> Previous | None:
        if last is not None:
            place = last.canary.place if last.canary is not None else None
            return Previous(last.version, last.allocation, last.allocation_version, last.history, place)
        try:
            found = self._store.get(experiment.name)
        except (TransportError, InvalidEvent) as error:
            log.warning("%s; starting from the allocation of the configuration", error)
            return None
        # The topic was lost and Redis was not: routers hold this version, and would refuse a smaller one.
        return None if found is None else Previous(0, found[1], found[0])

    def _store_allocations(self) -> None:
        """Pass allocations on. Redis is a copy: while it is away decisions go on, and the newest follows later."""
        if not self._unstored or time.monotonic() < self._store_again_at:
            return
        try:
            for name in list(self._unstored):
                self._store.put(name, *self._unstored[name])
                del self._unstored[name]
        except TransportError as error:
            if not self._store_wait_s:
                log.warning("%s; decisions go on, and allocations follow when Redis answers", error)
            self._store_wait_s = min(max(0.1, 2 * self._store_wait_s), LONGEST_WAIT_S)
            self._store_again_at = time.monotonic() + self._store_wait_s
            return
        if self._store_wait_s:
            log.info("Redis answers again")
        self._store_wait_s = 0.0

    def _readings(self) -> Reading:
        """On any thread."""
        experiments, journal = tuple(self._catalogue.experiments.values()), self._journal
        if journal is None:  # part of what was counted would look like counters that began anew
            return
        yield from experiment_readings(experiments)
        yield from evidence_readings(self._totals, experiments)
        yield from decision_readings(journal.last, experiments)
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        for experiment in experiments:
            name = experiment.name
            yield "sluice_analyzer_standby", (name,), name in self._standby
            yield "sluice_decision_pending_seconds", (name,), now_s - self._pending_s.get(name, now_s)
            if name in journal.made_ms:
                yield "sluice_decision_age_seconds", (name,), max(0, now_ms - journal.made_ms[name]) / 1000


def _orders(experiment: Experiment, last: DecisionMade | None) -> tuple[Change, ...]:
    """Changes that a canary has not obeyed yet."""
    if experiment.canary is None:
        return ()
    obeyed = last.canary.place.revision if last is not None and last.canary is not None else 0
    return tuple(change for change in experiment.state.changes if change.revision > obeyed)


def _decided(experiment: Experiment, snapshot: Snapshot, last: DecisionMade) -> bool:
    """Whether the last decision is what this evidence comes to."""
    if last.evidence != snapshot.cells or last.config_hash != config_hash(experiment):
        return False
    if _immature(last.delay) and not _immature(snapshot.delay):
        return False
    place = last.canary.place if last.canary is not None else None
    if place is None or experiment.canary is None:
        return True
    # Without anything new counted, clicks become complete, and durations pass.
    delays = (last.delay, last.metric_delays) == (snapshot.delay, snapshot.metric_delays)
    return delays and not due(experiment, place, last.at_ms, snapshot.at_ms)


def _immature(delay: DelayEvidence | None) -> bool:
    return delay is not None and delay.immature


def build(
    settings: Settings, *, every_ms: int = 100, timeout_s: float = 15.0, metrics: Metrics | None = None
) -> Analyzer:
    """An analyzer whose broker and Redis have answered; it tells `metrics` what it does.

    Raises TransportError after `timeout_s`, ConfigError.
    """
    settings.require_kafka()
    settings.require_redis()
    wait_for_broker(settings, timeout_s)
    client = wait_for_redis(settings, timeout_s)
    store = AllocationStore(client, Keys(settings.prefix))
    return Analyzer(settings, store, every_ms=every_ms, timeout_s=timeout_s, metrics=metrics)
