"""Rules and alerts: promtool accepts them, each alert fires when it should and not before, all they name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from observability import PROMETHEUS, ROOT, RULE_TESTS, RULES, alerts, loaded, promtool, rules, unknown_in
from promql import named

ALERTS = alerts()
RUNBOOKS = ROOT / "docs" / "alerts.md"


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_cases_of_rules_hold(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_that_fires_and_one_that_must_not(alert: str) -> None:
    """The one that must not has data of what the alert looks at: silence alone proves nothing."""
    looked_at = _metrics_below(ALERTS[alert]["expr"])
    fires = quiet = 0
    for group in (group for path in RULE_TESTS for group in loaded(path)["tests"]):
        cases = [case for case in group.get("alert_rule_test", []) if case["alertname"] == alert]
        series = {re.split(r"[{ ]", entry["series"])[0] for entry in group["input_series"]}
        fires += any(case.get("exp_alerts") for case in cases)
        quiet += bool(cases) and not any(case.get("exp_alerts") for case in cases) and bool(series & looked_at)
    assert fires and quiet, f"{alert}: {fires} groups in which it fires, {quiet} in which it must not"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_everything_a_rule_names_is_exported(rule: dict[str, Any]) -> None:
    assert not list(unknown_in(rule["expr"]))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_happens_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert "for" in rule
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook"}
    assert len(told["summary"]) <= 120 and told["description"].endswith(".")
    assert told["runbook"] == f"docs/alerts.md#{alert.lower()}"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    titles = re.findall(r"^### (Sluice\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(titles) == sorted(ALERTS)


def _metrics_below(expression: str) -> set[str]:
    """What is scraped for it, recording rules resolved."""
    made_from = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    found: set[str] = set()
    for metric in named(expression).metrics:
        found |= _metrics_below(made_from[metric]) if metric in made_from else {metric}
    return found
