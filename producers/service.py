"""Wiring of the replay: settings and options in, a summary out."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from producers.candidates import LIKED_MILLI, Candidates, RankedSlates
from producers.delays import parse_delay
from producers.emitter import Emitter
from producers.faults import Faults
from producers.pacing import MAX_BATCH, MAX_SPEED, LagGate, Pace, Speed
from producers.rankings import RankingLog
from producers.releases import Releases
from producers.replay import OUTCOMES, Plan, Replay
from producers.slates import base36, cut_slates
from producers.sources import SYNTHETIC, Notice, find_data, read_ratings
from producers.synthetic import SyntheticSlates, parse_synthetic
from producers.totals import Totals
from producers.truth import write_truth
from producers.worlds import Drift, Poison, drifted, poisoned
from router import Exposures, Router, allocation_readings, build, count_assignments, is_model, make_ranker
from sluice.adapters import catalogue
from sluice.adapters.checkpoints import ReplayCheckpoint, ReplayStore
from sluice.adapters.kafka import missing_topics, partition_count, producer, wait_for_broker
from sluice.adapters.log_ends import log_reaches
from sluice.adapters.metrics import Metrics, Reading
from sluice.adapters.redis import wait_for_redis
from sluice.domain.events import AssignmentMade
from sluice.domain.experiment import Experiment, config_hash
from sluice.errors import ConfigError
from sluice.names import CLICKS, IMPRESSIONS, RANKINGS, Keys
from sluice.settings import Settings

__all__ = ["ReplayOptions", "candidates_of", "replay", "truth"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What `sluice replay` was asked for. Shares are in [0, 1], times in event-time milliseconds."""

    data: str | None = None
    columns: dict[str, str] | None = None
    speed: Speed = MAX_SPEED
    start_ms: int | None = None
    from_share: float = 0.0
    """Share of the slates, the first by time, that are left out; 0.6 leaves what training did not see"""
    stop_ms: int | None = None
    limit: int | None = None
    seed: int = 0
    slate_size: int = 10
    top_k: int = 3
    click_from: float = LIKED_MILLI / 1000
    """A rating from here on is a click"""
    delay: str = "exponential:30s"
    outcomes: Sequence[str] = OUTCOMES
    disorder: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    max_lag: int | None = None
    final_heartbeat: bool = True
    restart: bool = False
    name: str = ""
    """Replays of other names have other checkpoints"""
    drift: Drift | None = None
    poison: Poison | None = None


@contextmanager
def candidates_of(
    settings: Settings, options: ReplayOptions, experiment: Experiment, notice: Notice
) -> Iterator[Candidates]:
    """The slates of the data, ranked by the rules and models of `experiment`.

    Raises ConfigError, and TransportError when models are wanted and MLflow is away.
    """
    data = find_data(options.data, notice=notice)
    if data.partition(":")[0] == SYNTHETIC:
        if options.drift or options.poison:
            raise ConfigError("--drift and --poison change ratings: synthetic data have none (FROM..TO drifts there)")
        names = [variant.name for variant in experiment.variants]
        yield SyntheticSlates(parse_synthetic(data), names, k=options.top_k, seed=options.seed)
        return
    rankers = {variant.name: variant.ranker or variant.name for variant in experiment.variants}
    uris = {name: ranker for name, ranker in rankers.items() if is_model(ranker)}
    ratings = read_ratings(data, options.columns)
    rules = {
        name: make_ranker(ranker, options.seed, ratings.genres) for name, ranker in rankers.items() if name not in uris
    }
    slates = cut_slates(ratings, size=options.slate_size, top_k=options.top_k, seed=options.seed)
    liked_milli = round(options.click_from * 1000)
    if options.drift:
        slates = drifted(slates, options.drift)
    sent = poisoned(slates, options.poison, liked_milli) if options.poison else slates
    with ExitStack() as closing:
        models = None
        if uris:
            # Imported late: only models need scipy and MLflow.
            from producers.scoring import LogModels
            from sluice.adapters.mlflow import Registry

            models = LogModels(slates, liked_milli, Registry(settings), uris)
            closing.callback(models.close)
            slate = {"slate_size": options.slate_size, "click_from": options.click_from}
            for line in models.trained_otherwise(slate):
                notice(line)
        yield RankedSlates(sent, rules, k=options.top_k, liked_milli=liked_milli, models=models)


def replay(
    settings: Settings,
    experiments: Sequence[Experiment],
    options: ReplayOptions,
    *,
    stop: threading.Event,
    notice: Notice,
    held: threading.Event | None = None,
    progress: Callable[[int, int, int], None] = lambda first, next_, last: None,
    metrics: Metrics | None = None,
) -> dict[str, object]:
    """Replay the data to Kafka and return the summary. The first experiment's variants rank; all are recorded.

    Continues after the checkpoint of an earlier run with the same options. It ends early once `stop` is set, and stands
    still between slates while `held` is. `progress` gets (first slate, next slate, last slate + 1), `metrics` are told
    what is sent. Raises ConfigError, and TransportError when the broker or
    Redis stays away.
    """
    settings.require_kafka(), settings.require_redis()
    with candidates_of(settings, options, experiments[0], notice) as candidates:
        told = metrics or Metrics("replay")
        return _replay(
            settings, experiments, options, candidates, told, stop=stop, held=held, notice=notice, progress=progress
        )


def truth(
    settings: Settings,
    experiment: Experiment,
    options: ReplayOptions,
    path: Path,
    *,
    notice: Notice,
    progress: Callable[[int, int, int], None] = lambda first, next_, last: None,
) -> dict[str, object]:
    """Write what each variant would have earned on each slate to `path`; nothing is sent. Raises ConfigError."""
    with candidates_of(settings, options, experiment, notice) as candidates:
        plan = _plan(settings, options, candidates)
        return write_truth(
            path, candidates, [variant.name for variant in experiment.variants],
            first=plan.first, stop=plan.stop, liked_milli=plan.liked_milli, progress=progress,
        )  # fmt: skip


def _replay(
    settings: Settings,
    experiments: Sequence[Experiment],
    options: ReplayOptions,
    candidates: Candidates,
    metrics: Metrics,
    *,
    stop: threading.Event,
    held: threading.Event | None,
    notice: Notice,
    progress: Callable[[int, int, int], None],
) -> dict[str, object]:
    plan = _plan(settings, options, candidates)
    wait_for_broker(settings)
    if experiments[0].rankings and RANKINGS in missing_topics(settings):
        raise ConfigError(
            f"topic {RANKINGS}, which {experiments[0].name} logs to, is missing: see `sluice infra topics`"
        )
    client = wait_for_redis(settings)
    store = ReplayStore(client, Keys(settings.prefix))
    name = _name(options, candidates, experiments, plan)
    plan = replace(plan, tag=f"{base36(int(name, 16) % 36**4)}.")
    resume = None if options.restart else _checkpoint(settings, store, name, notice)
    began_s = time.monotonic()
    if resume is not None and resume.finished:
        notice("this replay has finished before; nothing was sent (--restart sends it again)")
        totals, done = msgspec.convert(resume.totals, Totals), True
        emitter = None
    else:
        if resume is None:
            _warn_if_behind(settings, store, int(candidates.at_ms[plan.first]), notice)
        _publish(settings, experiments)
        progress(plan.first, plan.first if resume is None else resume.next_slate, plan.stop)
        out = producer(settings, {"linger.ms": 5, "queue.buffering.max.messages": 100_000})
        emitter = Emitter(out, partition_count(out, IMPRESSIONS))
        run = _Run(settings, experiments, options, candidates, plan, emitter, store, name, stop, held, metrics)
        totals, done = run.start(resume, lambda next_: progress(plan.first, next_, plan.stop))
    client.close()
    seconds = time.monotonic() - began_s
    return _summary(candidates, experiments[0], totals, emitter, seconds, done, resume)


class _Run:
    """The objects of one run, made in order and closed in reverse."""

    def __init__(
        self,
        settings: Settings,
        experiments: Sequence[Experiment],
        options: ReplayOptions,
        candidates: Candidates,
        plan: Plan,
        emitter: Emitter,
        store: ReplayStore,
        name: str,
        stop: threading.Event,
        held: threading.Event | None,
        metrics: Metrics,
    ) -> None:
        self._settings, self._experiments, self._options = settings, experiments, options
        self._candidates, self._plan, self._emitter = candidates, plan, emitter
        self._store, self._name, self._metrics = store, name, metrics
        self._stop, self._held = stop, held

    def start(self, resume: ReplayCheckpoint | None, progress: Callable[[int], None]) -> tuple[Totals, bool]:
        ranking = self._experiments[0]
        # The parts know each other in a circle (router → exposure log → run → pace → heartbeats): late binding.
        run: Replay
        with ExitStack() as closing:
            router = closing.enter_context(self._router(self._experiments, lambda made: self._expose(run, made)))
            releases = self._releases(lambda made: self._expose(run, made))
            if releases is not None:
                closing.callback(releases.close)
            run = Replay(
                self._plan,
                self._candidates,
                router,
                self._emitter,
                Pace(
                    self._options.speed.over(self._plan.stop - self._plan.first),
                    self._stop,
                    lambda at_ms: run.beat(at_ms),
                    most=self._batch(),
                    held=self._held,
                ),
                stop=self._stop,
                gate=self._gate(lambda: run.beat()),
                rankings=RankingLog(ranking, self._candidates) if ranking.rankings else None,
                releases=releases,
                save=self._save,
                progress=progress,
            )
            self._metrics.read_from(lambda: _readings(run, router), ready=lambda: True)
            try:
                return run.run(resume)
            finally:
                self._metrics.stop_reading()

    def _router(self, experiments: Sequence[Experiment] | None, exposures: Exposures) -> Router:
        # A Redis that goes away is waited for.
        return build(self._settings, experiments, exposures=exposures, retry_s=math.inf, stop=self._stop)

    def _releases(self, exposures: Exposures) -> Releases | None:
        """What follows releases of models, where what is shown is logged, by which they are judged."""
        ranking, candidates = self._experiments[0], self._candidates
        if not ranking.rankings or not isinstance(candidates, RankedSlates) or candidates.models is None:
            return None
        return Releases(ranking, self._router(None, exposures), candidates.models, top_k=self._options.top_k)

    def _expose(self, run: Replay, made: Sequence[AssignmentMade]) -> None:
        count_assignments(self._metrics, made)
        run.expose(made)

    def _save(self, checkpoint: ReplayCheckpoint) -> None:
        self._store.save(self._name, checkpoint)
        experiment = self._experiments[0]
        known = msgspec.convert(checkpoint.totals, Totals).truth([variant.name for variant in experiment.variants])
        self._store.save_truth(experiment.name, msgspec.structs.replace(known, finished=checkpoint.finished))

    def _batch(self) -> int:
        """Slates at once: a small part of the lag that is allowed, which else would be overshot by a batch."""
        if self._options.max_lag is None:
            return MAX_BATCH
        records = self._options.top_k * (1 + len(self._options.outcomes))
        return max(1, min(MAX_BATCH, self._options.max_lag // (4 * records)))

    def _gate(self, beat: Callable[[], None]) -> LagGate | None:
        if self._options.max_lag is None:
            return None
        emitter, partitions = self._emitter, range(self._emitter.partitions)
        impressions, clicks = emitter.offsets[IMPRESSIONS], emitter.offsets[CLICKS]
        return LagGate(
            self._options.max_lag,
            self._stop,
            counted=lambda: self._store.counted(partitions),
            written=lambda: {p: (impressions.get(p, 0), clicks.get(p, 0)) for p in partitions},
            poll=lambda: emitter.producer.poll(0),
            beat=beat,
        )


def _readings(run: Replay, router: Router) -> Reading:
    yield from run.readings()
    yield from allocation_readings(router)


def _plan(settings: Settings, options: ReplayOptions, candidates: Candidates) -> Plan:
    at_ms = candidates.at_ms
    first = int(len(at_ms) * options.from_share)
    if options.start_ms is not None:
        first = max(first, int(np.searchsorted(at_ms, options.start_ms, side="left")))
    stop = len(at_ms) if options.stop_ms is None else int(np.searchsorted(at_ms, options.stop_ms, side="left"))
    if options.limit is not None:
        stop = min(stop, first + options.limit)
    if first >= stop:
        raise ConfigError(
            f"no slates between --start (or --from-share) and --stop: {candidates.name} goes "
            f"from {_moment(at_ms[0])} to {_moment(at_ms[-1])}"
        )
    faults = Faults(options.disorder, options.duplicates, options.late, settings.lateness_ms)
    if options.disorder + options.late > 1:
        raise ConfigError("--disorder and --late are shares of the same records: together at most 1")
    return Plan(
        tag="",
        first=first,
        stop=stop,
        seed=options.seed,
        delay=parse_delay(options.delay),
        outcomes=options.outcomes,
        liked_milli=round(options.click_from * 1000),
        faults=faults,
        # Beyond the window and both latenesses, so that everything is settled and closed (strictly).
        settle_ms=settings.window_ms + 2 * settings.lateness_ms + 1 if options.final_heartbeat else None,
    )


def _name(options: ReplayOptions, candidates: Candidates, experiments: Sequence[Experiment], plan: Plan) -> str:
    """Equal for runs that send the same records, so that one continues the other and no other does."""
    same = replace(options, data=None, columns=None, speed=MAX_SPEED, max_lag=None, restart=False)
    parts = [repr(same), candidates.fingerprint, repr((plan.first, plan.stop, plan.faults, plan.settle_ms))]
    parts += [config_hash(experiment) for experiment in experiments]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _checkpoint(settings: Settings, store: ReplayStore, name: str, notice: Notice) -> ReplayCheckpoint | None:
    """Where an earlier run of this replay stopped; None when there is none or its log is gone."""
    found = store.load(name)
    if found is None:
        return None
    if not log_reaches(settings, found.offsets):
        notice("the log of an earlier run of this replay is gone: starting again")
        return None
    if not found.finished:
        notice(f"continuing an earlier run at slate {found.next_slate}")
    return found


def _warn_if_behind(settings: Settings, store: ReplayStore, first_ms: int, notice: Notice) -> None:
    """Event time never goes back: what was counted before makes an older replay late."""
    reached_ms = store.reached_ms()
    if reached_ms is not None and first_ms < reached_ms - settings.lateness_ms:
        notice(
            f"the counting has reached {_moment(reached_ms)} and this replay begins at {_moment(first_ms)}: "
            "what lies before counts as late (a fresh `sluice infra up` counts everything)"
        )


def _moment(at_ms: int) -> str:
    """Event time, in a form that --start and --stop take."""
    return datetime.fromtimestamp(int(at_ms) // 1000, UTC).isoformat().replace("+00:00", "Z")


def _publish(settings: Settings, experiments: Sequence[Experiment]) -> None:
    """Put experiments that the catalogue does not know into it; an existing definition is left alone."""
    known = catalogue.load(settings)
    catalogue.apply(settings, [e for e in experiments if e.name not in known])
    for experiment in experiments:
        if experiment.name in known and config_hash(known[experiment.name]) != config_hash(experiment):
            log.warning(
                "experiment %s: the catalogue holds another definition; `sluice experiment apply` replaces it",
                experiment.name,
            )


def _summary(
    candidates: Candidates,
    experiment: Experiment,
    totals: Totals,
    emitter: Emitter | None,
    seconds: float,
    done: bool,
    resume: ReplayCheckpoint | None,
) -> dict[str, object]:
    sent = dict(emitter.sent) if emitter is not None else {}
    return {
        "data": candidates.name,
        "experiment": experiment.name,
        "ratings": candidates.ratings,
        "dropped_slates": candidates.dropped,
        **totals.summary([variant.name for variant in experiment.variants]),
        "records": sent,
        "resumed_from": resume.next_slate if resume is not None else None,
        "finished": done,
        "seconds": round(seconds, 3),
        "events_per_second": round(sum(sent.values()) / seconds) if seconds else 0,
    }
