"""Grafana's dashboards: valid JSON of one shape, all they query is exported, promtool can parse every query."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from observability import DASHBOARDS, GRAFANA, alerts, loaded, promtool, unknown_in

SOURCE = loaded(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
OF_GRAFANA = {"__rate_interval": "5m", "__range": "1h"}
"""Variables that Grafana fills in, with a value for promtool"""
every_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def panels(dashboard: dict[str, Any], *, drawn: bool = True) -> list[dict[str, Any]]:
    """All of them, rows aside if they shall be `drawn`."""
    return [panel for panel in dashboard["panels"] if not (drawn and panel["type"] in {"row", "text"})]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Expressions of panels and annotations, variables filled in."""
    found = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    found += [entry["expr"] for entry in dashboard["annotations"]["list"] if "expr" in entry]
    values = OF_GRAFANA | {variable["name"]: "filled_in" for variable in dashboard["templating"]["list"]}
    return [re.sub(r"\$(\w+)", lambda match: values[match[1]], expression) for expression in found]


def test_the_three_are_there() -> None:
    assert [path.stem for path in DASHBOARDS] == ["experiment", "operations", "overview"]
    assert [loaded(path)["uid"] for path in DASHBOARDS] == [f"sluice-{path.stem}" for path in DASHBOARDS]


@every_dashboard
def test_a_dashboard_is_complete(path: Path) -> None:
    dashboard = loaded(path)
    assert dashboard["id"] is None and dashboard["schemaVersion"] == 41
    assert dashboard["title"] and dashboard["description"] and "sluice" in dashboard["tags"]
    assert dashboard["timezone"] == "browser" and dashboard["refresh"] and dashboard["time"]["to"] == "now"
    ids = [panel["id"] for panel in panels(dashboard, drawn=False)]
    assert len(set(ids)) == len(ids)


@every_dashboard
def test_a_panel_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    for panel in panels(loaded(path)):
        name = panel["title"]
        assert name and panel["description"].endswith("."), name
        assert panel["fieldConfig"]["defaults"]["unit"], name
        assert panel["fieldConfig"]["defaults"]["noValue"], f"{name}: what an empty panel means"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0, name
        if panel["type"] in {"timeseries", "stat", "bargauge"}:
            assert all(target["legendFormat"] for target in panel["targets"]), name


@every_dashboard
def test_all_data_come_from_the_provisioned_source(path: Path) -> None:
    dashboard = loaded(path)
    users = [*panels(dashboard), *(target for panel in panels(dashboard) for target in panel["targets"])]
    users += [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
    users += [entry for entry in dashboard["annotations"]["list"] if "expr" in entry]
    for user in users:
        assert user["datasource"] == {"type": SOURCE["type"], "uid": SOURCE["uid"]}, user.get("title")


@every_dashboard
def test_panels_do_not_overlap(path: Path) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in panels(loaded(path), drawn=False)]
    for title, at in places:
        assert at["x"] in range(25 - at["w"]), title
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one} and {other}"


@every_dashboard
def test_everything_queried_is_exported(path: Path) -> None:
    dashboard = loaded(path)
    assert [fault for query in queries(dashboard) for fault in unknown_in(query)] == []
    for variable in dashboard["templating"]["list"]:
        asked = re.fullmatch(r"label_values\((\w+(?:\{.*\})?), (\w+)\)", variable["query"]["query"])
        assert asked, variable["name"]
        assert not list(unknown_in(f"sum by ({asked[2]}) ({asked[1]})")), variable["name"]


@every_dashboard
def test_every_query_is_valid(path: Path, tmp_path: Path) -> None:
    """As recording rules, because that is what promtool reads."""
    made = [{"record": f"query:{at}", "expr": query} for at, query in enumerate(queries(loaded(path)))]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": made}]}))
    promtool("check", "rules", file)


@every_dashboard
def test_links_lead_to_dashboards_that_exist(path: Path) -> None:
    uids = {loaded(other)["uid"] for other in DASHBOARDS}
    linked = set(re.findall(r"/d/([\w-]+)", path.read_text(encoding="utf-8")))
    assert linked <= uids and linked - {loaded(path)["uid"]}, "a dashboard without a way to another"


def test_alerts_named_in_queries_exist() -> None:
    for path in DASHBOARDS:
        for query in queries(loaded(path)):
            assert set(re.findall(r'alertname="(\w+)"', query)) <= set(alerts())
