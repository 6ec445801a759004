"""Drift of what a model sees and of how well it does, without false alarms over time. Pure: no I/O, no clock."""

from __future__ import annotations

from sluice.domain.drift.make import LEAST_USERS, make_reference
from sluice.domain.drift.monitor import DriftOptions, Monitor, check
from sluice.domain.drift.reference import DRIFT_FILE, Reference
from sluice.domain.drift.report import DriftReport, DriftWindow, FeatureDrift, PerformanceDrift, PerformanceMeasure
from sluice.domain.drift.samples import Outcomes, Rows
from sluice.domain.drift.state import dump_monitor, restore_monitor

__all__ = [
    "DRIFT_FILE", "LEAST_USERS", "DriftOptions", "DriftReport", "DriftWindow", "FeatureDrift", "Monitor", "Outcomes",
    "PerformanceDrift", "PerformanceMeasure", "Reference", "Rows", "check", "dump_monitor",
    "make_reference", "restore_monitor",
]  # fmt: skip
