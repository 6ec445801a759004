"""Drift of what a model sees and of how well it does, without false alarms over time. Pure: no I/O, no clock."""

from __future__ import annotations

from sluice.domain.drift.make import LEAST_USERS, make_reference
from sluice.domain.drift.monitor import DriftOptions, Monitor, check
from sluice.domain.drift.reference import DRIFT_FILE, Reference
from sluice.domain.drift.report import (
    DriftReport,
    DriftWindow,
    FeatureDrift,
    PerformanceDrift,
    PerformanceMeasure,
    SettlingSeen,
)
from sluice.domain.drift.samples import Outcomes, Rows
from sluice.domain.drift.settling import SettlingMonitor, monitor_of

__all__ = [
    "DRIFT_FILE", "LEAST_USERS", "DriftOptions", "DriftReport", "DriftWindow", "FeatureDrift", "Monitor", "Outcomes",
    "PerformanceDrift", "PerformanceMeasure", "Reference", "Rows", "SettlingMonitor", "SettlingSeen", "check",
    "make_reference", "monitor_of",
]  # fmt: skip
