"""The catalogue of experiments: topic `experiments`, compacted, key = name. Library: confluent-kafka."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from sluice.adapters.kafka import KafkaError, Message, producer
from sluice.adapters.reader import read_latest
from sluice.domain.experiment import Experiment, load_experiment
from sluice.errors import ConfigError, TransportError
from sluice.names import EXPERIMENTS
from sluice.settings import Settings

__all__ = ["apply", "load", "parse"]

log = logging.getLogger(__name__)


def apply(settings: Settings, experiments: Iterable[Experiment], timeout_s: float = 15.0) -> None:
    """Publish the experiments and return once the broker holds them all.

    Raises TransportError when that fails or takes longer than `timeout_s`.
    """
    problems: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            problems.append(error.str())

    out = producer(settings, {"message.timeout.ms": int(timeout_s * 1000)})
    for experiment in experiments:
        out.produce(EXPERIMENTS, key=experiment.name, value=msgspec.json.encode(experiment), on_delivery=delivered)
    missing = out.flush(timeout_s + 1)
    if problems or missing:
        reason = problems[0] if problems else f"{missing} records not acknowledged within {timeout_s:g} s"
        raise TransportError(f"topic {EXPERIMENTS}: {reason}")


def load(settings: Settings) -> dict[str, Experiment]:
    """Name → experiment as applied last. Records that are no experiment are skipped, with one log line a key."""
    found: dict[bytes, Experiment] = {}
    refused: dict[bytes, ConfigError] = {}

    def accept(key: bytes, value: bytes) -> bool:
        refused.pop(key, None)
        try:
            found[key] = _decoded(key, value)
        except ConfigError as error:
            refused[key] = error
        return key not in refused

    valid = read_latest(settings, EXPERIMENTS, accept)
    for key, error in sorted(refused.items()):
        _skipped(key, error)
    return {found[key].name: found[key] for key in sorted(valid)}


def parse(key: bytes | None, value: bytes | None) -> Experiment | None:
    """The experiment of one record of the topic, or None, with one log line, when it is not one."""
    try:
        return _decoded(key, value)
    except ConfigError as error:
        _skipped(key, error)
        return None


def _decoded(key: bytes | None, value: bytes | None) -> Experiment:
    experiment = load_experiment(value or b"")
    if experiment.name.encode() != key:
        raise ConfigError(f"record: name: {experiment.name!r} differs from the key")
    return experiment


def _skipped(key: bytes | None, error: ConfigError) -> None:
    log.warning("topic %s: skipped the record of key %.80r: %s", EXPERIMENTS, key, error)
