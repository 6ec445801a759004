"""What ranks in the service: registered models on online features, and the rules that need no memory of their own.

Rankings that wait for the same model are scored together. Whatever goes wrong with a model or its features, the
variant's fallback ranks, in the end the order of the request, and the answer says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.batching import Batcher
from router.degrading import Breaker
from router.models import ModelFollower, Served, follow_models
from router.rankers import PRIOR_IMPRESSIONS, Context, Random
from router.ranking import LiveRanking, RankRequest
from sluice.adapters.features import FeatureStore
from sluice.adapters.logs import Seldom
from sluice.adapters.metrics import Metrics
from sluice.domain.experiment import Experiment
from sluice.domain.rankings import columns_digest
from sluice.errors import ModelUnusable, SluiceError
from sluice.settings import Settings

__all__ = ["Job", "Knew", "Scored", "Scoring"]

log = logging.getLogger(__name__)

MODEL_TIMEOUT_S = 0.5
"""A model that takes longer has failed for the request"""
SLOW_S = 1.0
RETRY_S = 15.0
"""Between attempts to load a model that could not be loaded"""
_MODELS = "models:/"


class Job(NamedTuple):
    """Items that the ranker of a variant shall score."""

    experiment: str
    variant: str
    user_id: str
    items: Sequence[str]
    slate_id: str
    at_ms: int
    shown: bool = True
    """False: it is only asked what the variant would show"""


class Knew(NamedTuple):
    """What a model ranked by."""

    model: str
    """Registered name"""
    columns: str
    """Digest of the names of the features' columns"""
    features: NDArray[np.float32]
    """(k, f)"""


class Scored(NamedTuple):
    """One score an item, higher is better. `version` is that of the model, empty for a rule."""

    scores: Sequence[float]
    version: str
    failed: bool = False
    """True when the scores are those of the variant's fallback, or only the order of the request"""
    knew: Knew | None = None
    """Of the model; None when a rule, the fallback or the order of the request ranked"""


class _Task(NamedTuple):
    job: Job
    served: Served | None
    """None: by the click rates of the items"""


class Scoring:
    """Scores of `random`, of `popularity` (the items' click rates in Redis) and of `models:/…`."""

    def __init__(self, settings: Settings, store: FeatureStore, breaker: Breaker, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._live = LiveRanking(store)
        self._breaker = breaker
        self._metrics = metrics
        self._seldom = Seldom()
        self._rankers: dict[tuple[str, str], str] = {}
        self._fallbacks: dict[tuple[str, str], str] = {}
        self._random: dict[str, Random] = {}
        self._followers: list[ModelFollower] = []
        self._asked: set[str] = set()
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="router-load")
        self._loads: list[Future[None]] = []
        self._failed: dict[str, str] = {}
        self._again: threading.Timer | None = None
        self._batches: Batcher[_Task, Scored] = Batcher(self._work, name="router-rank")

    def __len__(self) -> int:
        """Rankings that wait"""
        return len(self._batches)

    def follow(self, experiments: Iterable[Experiment]) -> None:
        """Rank for these from now on; models that are new are loaded in the background."""
        served = tuple(experiments)
        self._rankers = {(e.name, v.name): v.ranker or v.name for e in served for v in e.variants}
        self._fallbacks = {(e.name, v.name): v.fallback for e in served for v in e.variants}
        self._random = {e.name: Random(e.seed) for e in served}
        for uri in sorted({uri for experiment in served for uri in _models_of(experiment)} - self._asked):
            self._asked.add(uri)
            self._loads.append(self._loading.submit(self._load, uri))

    def wait(self) -> None:
        """Return once every model that was asked for is loaded, or cannot be for now."""
        for load in self._loads:
            load.result()

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._loading.shutdown(cancel_futures=True)
        self._batches.close()
        for follower in self._followers:
            follower.close()

    def version(self, experiment: str, variant: str) -> str:
        """Version of the variant's model that serves now; empty for a rule"""
        served = self._served(self._rankers.get((experiment, variant), ""))
        return "" if served is None else str(served.version.version)

    def unserved(self) -> dict[str, str]:
        """Model → why it cannot be served for now; the fallbacks of its variants rank"""
        wanted = set(self._rankers.values())
        return {uri: reason for uri, reason in self._failed.items() if uri in wanted}

    def versions(self) -> dict[str, str]:
        """Model → version that serves now"""
        served = [item for follower in self._followers for item in follower.in_force.items()]
        return {uri: str(one.version.version) for uri, one in served}

    async def score(self, job: Job) -> Scored:
        """The scores of the job's variant. Never fails: what does is counted, and the variant's fallback ranks."""
        begun = time.perf_counter()
        try:
            return await self._by(self._rankers.get((job.experiment, job.variant), ""), job)
        except Exception as error:  # noqa: BLE001 - whatever a model does, the request is answered
            if not isinstance(error, SluiceError | TimeoutError):
                self._tell(job, type(error).__name__, error)
            if job.shown:
                self._metrics.count("sluice_ranking_fallbacks_total", job.experiment, job.variant)
            return await self._fall_back(job, stuck=isinstance(error, TimeoutError))
        finally:
            if job.shown:
                took_s = time.perf_counter() - begun
                self._metrics.observe("sluice_ranking_seconds", took_s, job.experiment, job.variant)

    async def _by(self, ranker: str, job: Job) -> Scored:
        rule = self._random.get(job.experiment)
        if ranker == "random" and rule is not None:
            return Scored(rule.rank(job.user_id, job.items, Context(job.slate_id, job.at_ms)), "")
        served = self._served(ranker)
        if served is None and ranker != "popularity":
            raise ModelUnusable(f"ranker {ranker}: not served over HTTP")
        return await asyncio.wait_for(self._batches.ask(_Task(job, served)), MODEL_TIMEOUT_S)

    async def _fall_back(self, job: Job, *, stuck: bool) -> Scored:
        """`stuck`: the thread that scores has not answered, and would not for another ranker either."""
        ranker = self._fallbacks.get((job.experiment, job.variant), "")
        if ranker == "random" or (ranker and not stuck):
            try:
                return (await self._by(ranker, job))._replace(failed=True)
            except Exception as error:  # noqa: BLE001 - there is still the order of the request
                self._tell(job, f"fallback {ranker}", error)
        count = len(job.items)
        return Scored([(count - place) / count for place in range(count)], "", failed=True)

    def _tell(self, job: Job, what: str, error: Exception) -> None:
        more = self._seldom((job.experiment, job.variant, what))
        if more is not None:
            extra = {"experiment": job.experiment, "variant": job.variant}
            log.error("variant %s of %s: %s: %s%s", job.variant, job.experiment, what, error, more, extra=extra)

    def _served(self, ranker: str) -> Served | None:
        return next((f.in_force[ranker] for f in self._followers if ranker in f.in_force), None)

    def _load(self, uri: str) -> None:
        """A model that cannot be loaded stops nobody: it is tried again, until then the fallbacks rank."""
        try:
            self._followers.append(follow_models(self._settings, {uri: uri}))
        except SluiceError as error:
            if self._failed.get(uri) != str(error):
                log.error("%s: not served, the fallbacks of its variants rank: %s", uri, error)
            self._failed[uri] = str(error)
            if self._again is None or not self._again.is_alive():
                self._again = threading.Timer(RETRY_S, self._load_again)
                self._again.daemon = True
                self._again.start()
        else:
            self._failed.pop(uri, None)

    def _load_again(self) -> None:
        with suppress(RuntimeError):  # closed meanwhile
            for uri in list(self._failed):
                self._loading.submit(self._load, uri)

    def _work(self, tasks: Sequence[_Task]) -> list[Scored | Exception]:
        """In the thread of the batches."""
        begun = time.perf_counter()
        found: dict[int, Scored | Exception] = {}
        by_model: dict[int, list[int]] = {}
        for place, task in enumerate(tasks):
            by_model.setdefault(id(task.served), []).append(place)
        for places in by_model.values():
            # One round trip a model, so that a model that fails takes no other with it.
            try:
                found |= zip(places, self._of_one_model([tasks[place] for place in places]), strict=True)
            except Exception as error:  # noqa: BLE001 - it reaches those who wait for it
                found |= dict.fromkeys(places, error)
        self._metrics.observe("sluice_ranking_batch_seconds", time.perf_counter() - begun)
        return [found[place] for place in range(len(tasks))]

    def _of_one_model(self, tasks: Sequence[_Task]) -> list[Scored]:
        served = tasks[0].served
        if served is None:
            return self._breaker.call(lambda: self._click_rates(tasks), SLOW_S)
        requests = [RankRequest(job.user_id, job.items, job.at_ms, served.model) for job, _ in tasks]
        ranked = self._breaker.call(lambda: self._live.rank(requests), SLOW_S)
        name, version, columns = served.version.name, str(served.version.version), columns_digest(served.model.columns)
        for (job, _), one in zip(tasks, ranked, strict=True):
            for score in one.scores.tolist() if job.shown else ():
                self._metrics.observe("sluice_ranking_scores", score, job.experiment, job.variant)
        return [Scored(one.scores.tolist(), version, knew=Knew(name, columns, one.features)) for one in ranked]

    def _click_rates(self, tasks: Sequence[_Task]) -> list[Scored]:
        """Shrunk to a half as by five observations: no overall rate is at hand."""
        items = list(dict.fromkeys(item for task in tasks for item in task.job.items))
        _, states = self._store.read([], items)
        rate = {
            item: (state.likes + PRIOR_IMPRESSIONS / 2) / (state.count + PRIOR_IMPRESSIONS)
            for item, state in zip(items, states, strict=True)
        }
        return [Scored([rate[item] for item in task.job.items], "") for task in tasks]


def _models_of(experiment: Experiment) -> set[str]:
    """Those that somebody may be ranked by now."""
    state, control = experiment.state, experiment.control_name
    shown = {"shipped": {state.variant or control}, "stopped": {control}, "paused": {control}}.get(state.status)
    rankers = {v.ranker or v.name for v in experiment.variants if shown is None or v.name in shown}
    return {ranker for ranker in rankers if ranker.startswith(_MODELS)}
