"""The catalogue of experiments: topic `experiments`, compacted, key = name. Library: confluent-kafka.

Kafka has no compare-and-set, so each record carries a revision, and of two records with the same one the first stands.
Everybody reads by that rule (`Catalogue`). Whoever writes reads on until the own record comes by: where the last record
of an experiment is not the one that stands, that is written again, since compaction keeps the last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sluice.adapters.kafka import KafkaError, Message, producer
from sluice.adapters.reader import TopicReader
from sluice.domain.experiment import Experiment, check_together, config_hash, load_experiment
from sluice.domain.status import ACTIONS, Action, changed
from sluice.errors import ConfigError, Conflict, TransportError
from sluice.names import EXPERIMENTS
from sluice.settings import Settings

__all__ = ["Catalogue", "apply", "change", "create", "load"]

log = logging.getLogger(__name__)

Edit = Callable[[Mapping[str, Experiment]], list[Experiment]]
_AT_WORK = ("running", "paused")
"""Those that keep their part of a layer"""


class Catalogue:
    """What the records of the topic add up to, one at a time."""

    def __init__(self) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.behind: set[str] = set()
        """Names whose last record is not the one that stands"""

    def offer(self, key: bytes | None, value: bytes | None) -> str | None:
        """Name of the experiment that this record adds, changes or deletes; None when it changes nothing.

        Raises ConfigError when the record is no experiment: what stood before goes on to stand.
        """
        if value is None:
            name = (key or b"").decode(errors="replace")
            self.behind.discard(name)
            return name if self.experiments.pop(name, None) is not None else None
        experiment = load_experiment(value)
        name = experiment.name
        if name.encode() != key:
            raise ConfigError(f"record: name: {name!r} differs from the key")
        before = self.experiments.get(name)
        if before is not None and experiment.state.revision <= before.state.revision != 0:
            (self.behind.discard if experiment == before else self.behind.add)(name)
            return None
        self.behind.discard(name)
        self.experiments[name] = experiment
        return name

    def take(self, message: Message) -> str | None:
        """`offer` for a record that was read; one that is no experiment is logged and passed over."""
        try:
            return self.offer(message.key(), message.value())
        except ConfigError as error:
            _skipped(message.key(), error)
            return None


def load(settings: Settings) -> dict[str, Experiment]:
    """Name → experiment as it stands now. Records that are no experiment are skipped, with one log line a key."""
    with TopicReader(settings, EXPERIMENTS, from_start=True) as reader:
        return _read(reader).experiments


def apply(
    settings: Settings, experiments: Iterable[Experiment], timeout_s: float = 15.0, *, by: str = "", why: str = ""
) -> list[Experiment]:
    """Publish configurations and return them as they stand once the broker holds them all.

    A new experiment runs; one that exists keeps its status. What is configured so already is left alone. Raises
    ConfigError when they cannot run beside each other or what runs, Conflict when somebody changed one at the same
    moment, TransportError when publishing fails or takes longer than `timeout_s`.
    """
    return _publish(settings, list(experiments), "apply", timeout_s, by, why)


def create(
    settings: Settings, experiments: Iterable[Experiment], timeout_s: float = 15.0, *, by: str = "", why: str = ""
) -> list[Experiment]:
    """Publish new experiments as drafts. Raises Conflict when one exists, and as `apply`."""
    return _publish(settings, list(experiments), "create", timeout_s, by, why)


def change(
    settings: Settings,
    name: str,
    action: Action,
    *,
    by: str,
    why: str = "",
    expected_revision: int | None = None,
    variant: str = "",
    timeout_s: float = 15.0,
) -> Experiment:
    """`start`, `pause`, `stop` or `ship` an experiment (`sluice.domain.status.ACTIONS`); returns it as it stands.

    expected_revision: the one the caller has seen; another one in force is refused. variant: what is shipped.
    Raises ConfigError for an unknown name, action or variant, Conflict when the experiment is not in a state for it
    or was changed meanwhile, TransportError when the broker does not take it within `timeout_s`.
    """
    if action not in ACTIONS:
        raise ConfigError(f"action: {action!r}: allowed are {', '.join(ACTIONS)}")

    def edit(known: Mapping[str, Experiment]) -> list[Experiment]:
        experiment = known.get(name)
        if experiment is None:
            raise ConfigError(f"experiment {name!r}: not in the catalogue; there are: {', '.join(known) or 'none yet'}")
        if expected_revision not in (None, experiment.state.revision):
            raise _conflict(experiment, f"is not at revision {expected_revision} any more")
        arms = [arm.name for arm in experiment.variants]
        if action == "ship" and variant not in arms:
            raise ConfigError(f"variant: {variant!r}: allowed are {', '.join(arms)}")
        if action != "ship" and variant:
            raise ConfigError(f"variant: {variant!r}: only `ship` takes one")
        state = changed(name, experiment.state, action, by=by, why=why, at_ms=_now_ms(), variant=variant)
        after = msgspec.structs.replace(experiment, state=state)
        if action == "start":
            _check_beside(known, [after])
        return [after]

    return _write(settings, edit, timeout_s)[0]


def _publish(
    settings: Settings, experiments: list[Experiment], action: Action, timeout_s: float, by: str, why: str
) -> list[Experiment]:
    def edit(known: Mapping[str, Experiment]) -> list[Experiment]:
        edited = []
        for experiment in experiments:
            before = known.get(experiment.name)
            if action == "apply" and before is not None and config_hash(before) == config_hash(experiment):
                edited.append(before)
                continue
            state = changed(
                experiment.name, None if before is None else before.state, action, by=by, why=why, at_ms=_now_ms()
            )
            arms = [arm.name for arm in experiment.variants]
            if state.variant and state.variant not in arms:
                raise Conflict(
                    f"experiment {experiment.name} has shipped {state.variant!r}: it must stay among its variants"
                )
            edited.append(msgspec.structs.replace(experiment, state=state))
        _check_beside(known, edited)
        return edited

    return _write(settings, edit, timeout_s)


def _check_beside(known: Mapping[str, Experiment], edited: Sequence[Experiment]) -> None:
    beside = {**known, **{experiment.name: experiment for experiment in edited}}
    check_together([e for e in beside.values() if e.state.status in _AT_WORK], "catalogue")


def _write(settings: Settings, edit: Edit, timeout_s: float) -> list[Experiment]:
    """What `edit` makes of the catalogue, published and standing."""
    with TopicReader(settings, EXPERIMENTS, from_start=True) as reader:
        known = _read(reader)
        edited = edit(dict(known.experiments))
        wanted = [e for e in edited if known.experiments.get(e.name) != e]
        if not wanted:
            return edited
        ends = _produce(settings, wanted, timeout_s)
        deadline = time.monotonic() + timeout_s
        while not all(reader.reached(partition, end) for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise TransportError(f"topic {EXPERIMENTS}: what was written did not come back in {timeout_s:g} s")
            for message in reader.poll(0.05):
                known.take(message)
    standing = [found for e in wanted if (found := known.experiments.get(e.name)) is not None]
    ours = {e.name: e.state.changes[-1] for e in wanted}
    lost = [e for e in standing if ours[e.name] not in e.state.changes]
    if known.behind:
        _produce(settings, [known.experiments[name] for name in sorted(known.behind)], timeout_s)
    if lost:
        raise _conflict(lost[0], "was changed at the same moment")
    return edited


def _produce(settings: Settings, experiments: Iterable[Experiment], timeout_s: float) -> dict[int, int]:
    """Partition → offset after the last of the records, once the broker holds them all."""
    problems: list[str] = []
    ends: dict[int, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            problems.append(error.str())
            return
        partition, offset = message.partition() or 0, message.offset() or 0
        ends[partition] = max(ends.get(partition, 0), offset + 1)

    # An idempotent producer waits half a second for its number. A copy that a retry leaves does no harm: see `behind`.
    config = {"message.timeout.ms": int(timeout_s * 1000), "enable.idempotence": False, "linger.ms": 0}
    out = producer(settings, config)
    for experiment in experiments:
        out.produce(EXPERIMENTS, key=experiment.name, value=msgspec.json.encode(experiment), on_delivery=delivered)
    missing = out.flush(timeout_s + 1)
    if problems or missing:
        reason = problems[0] if problems else f"{missing} records not acknowledged within {timeout_s:g} s"
        raise TransportError(f"topic {EXPERIMENTS}: {reason}")
    return ends


def _read(reader: TopicReader) -> Catalogue:
    """The catalogue as the topic held it when the reader was made."""
    found, refused = Catalogue(), dict[bytes, ConfigError]()
    for message in reader.rest():
        key = message.key() or b""
        refused.pop(key, None)
        try:
            found.offer(key, message.value())
        except ConfigError as error:
            refused[key] = error
    for key, reason in sorted(refused.items()):
        _skipped(key, reason)
    found.experiments = dict(sorted(found.experiments.items()))
    return found


def _conflict(experiment: Experiment, what: str) -> Conflict:
    state = experiment.state
    last = state.changes[-1] if state.changes else None
    by = f" by {last.by}" if last is not None and last.by else ""
    return Conflict(
        f"experiment {experiment.name} {what}: it is {state.status} at revision {state.revision}{by}; look again"
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _skipped(key: bytes | None, error: ConfigError) -> None:
    log.warning("topic %s: skipped the record of key %.80r: %s", EXPERIMENTS, key, error)
