"""The files of Prometheus and Grafana, promtool, and whether an expression names only what is exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import ProcessCollector
from promql import named

from sluice.adapters.telemetry import METRICS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
OF_TARGETS = {"job", "instance"}
"""Labels that a scrape gives to every series"""
OF_PROCESSES = {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}
"""What prometheus-client tells of every process by itself"""
OF_PROMETHEUS: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "severity", "alertstate"}}
"""Metrics that Prometheus itself makes"""


def promtool(*arguments: str | Path) -> str:
    """What it says. The test fails when it finds fault. Not installed: a failure in CI, else skipped."""
    if shutil.which("promtool") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not installed: apt-get install prometheus")
        pytest.skip("promtool is not installed (it comes with Prometheus)")
    ran = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@cache
def loaded(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def recorded() -> dict[str, set[str]]:
    """Metric of each recording rule → labels it may have: those of what it is made from, and its own."""
    found: dict[str, set[str]] = {}
    for rule in rules():
        if "record" in rule:
            found.setdefault(rule["record"], set()).update(_labels_in(rule["expr"], found), rule.get("labels", {}))
    return found


@cache
def exported() -> dict[str, set[str]]:
    """Series name → labels, as they are scraped from the services."""
    found = {name: set(OF_TARGETS) for name in OF_PROCESSES}
    for name, told in METRICS.items():
        labels = {*told.labels, *OF_TARGETS}
        if told.kind == "histogram":
            found |= {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def unknown_in(expression: str) -> Iterator[str]:
    """Metrics that nobody exports, and labels they do not have."""
    recordings = recorded()
    known = {**exported(), **recordings, **{name: {*own, *OF_TARGETS} for name, own in OF_PROMETHEUS.items()}}
    parts = named(expression)
    for metric, matchers in parts.selectors:
        if metric not in known:
            yield f"metric {metric}"
        else:
            yield from (f"label {label} of {metric}" for label in matchers if label not in known[metric])
    of_all = set().union(*(known.get(metric, set()) for metric in parts.metrics))
    yield from (f"label {label} in {expression}" for label in parts.grouped - of_all - parts.made)


def _labels_in(expression: str, before: dict[str, set[str]]) -> set[str]:
    known = {**exported(), **before, **OF_PROMETHEUS}
    parts = named(expression)
    return set().union(parts.made, *(known.get(metric, set()) for metric in parts.metrics))
