"""Sluice: a streaming experimentation engine.

import sluice

for decision in sluice.subscribe("decisions", experiment="demo"):
    print(decision.version, decision.allocation, decision.verdict)

print(sluice.LiveCounters().experiment("demo").variants)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluice.client import AsyncClient, Client, RequestRefused
    from sluice.domain.events import (
        AssignmentMade,
        DeadLetter,
        DecisionMade,
        ImpressionShown,
        OutcomeObserved,
        RawImpressionShown,
        StatsPublished,
    )
    from sluice.domain.experiment import Experiment
    from sluice.errors import (
        ConfigError,
        Fenced,
        InvalidEvent,
        LogTruncated,
        SluiceError,
        TransportError,
    )
    from sluice.live import BucketCounts, ExperimentCounts, LiveCounters, RecordCounts, Snapshot, VariantCounts
    from sluice.settings import Settings
    from sluice.subscription import AsyncSubscription, Malformed, Subscription, subscribe, subscribe_async

__all__ = [
    "AssignmentMade",
    "AsyncClient",
    "AsyncSubscription",
    "BucketCounts",
    "Client",
    "ConfigError",
    "DeadLetter",
    "DecisionMade",
    "Experiment",
    "ExperimentCounts",
    "Fenced",
    "ImpressionShown",
    "InvalidEvent",
    "LiveCounters",
    "LogTruncated",
    "Malformed",
    "OutcomeObserved",
    "RawImpressionShown",
    "RecordCounts",
    "RequestRefused",
    "Settings",
    "SluiceError",
    "Snapshot",
    "StatsPublished",
    "Subscription",
    "TransportError",
    "VariantCounts",
    "subscribe",
    "subscribe_async",
]

# Loaded at first use: `import sluice` and `sluice --help` must not wait for the Kafka and Redis clients.
_HOMES = {
    "sluice.client": ("AsyncClient", "Client", "RequestRefused"),
    "sluice.domain.events": (
        "AssignmentMade",
        "DeadLetter",
        "DecisionMade",
        "ImpressionShown",
        "OutcomeObserved",
        "RawImpressionShown",
        "StatsPublished",
    ),
    "sluice.domain.experiment": ("Experiment",),
    "sluice.errors": ("ConfigError", "Fenced", "InvalidEvent", "LogTruncated", "SluiceError", "TransportError"),
    "sluice.live": ("BucketCounts", "ExperimentCounts", "LiveCounters", "RecordCounts", "Snapshot", "VariantCounts"),
    "sluice.settings": ("Settings",),
    "sluice.subscription": ("AsyncSubscription", "Malformed", "Subscription", "subscribe", "subscribe_async"),
}
_HOME = {name: module for module, exported in _HOMES.items() for name in exported}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
