"""The table of metrics: names that say what they are, and the page that is written from it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from sluice.adapters import telemetry
from sluice.adapters.metrics import Metrics
from sluice.adapters.telemetry import METRICS, SERVICES, Service

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == telemetry.page(), "python -m sluice.adapters.telemetry > docs/metrics.md"


@pytest.mark.parametrize("name", METRICS)
def test_names_say_kind_and_unit(name: str) -> None:
    told = METRICS[name]
    assert name.startswith("sluice_")
    assert name.endswith("_total") == (told.kind == "counter")
    if told.unit in ("seconds", "bytes"):
        assert name.removesuffix("_total").endswith(f"_{told.unit}")
    assert bool(told.buckets) == (told.kind == "histogram")
    assert not (told.read and told.kind == "histogram")
    assert told.services and set(told.services) <= set(SERVICES)
    assert told.meaning


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_its_own_and_no_other(service: Service) -> None:
    text = Metrics(service).text().decode()
    kinds = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE sluice_")}
    assert kinds == {name: told.kind for name, told in METRICS.items() if service in told.services}


def test_what_is_read_and_not_described_is_no_metric() -> None:
    metrics = Metrics("router")
    metrics.read_from(lambda: [("sluice_nonsense", (), 1.0)], ready=lambda: True)
    with pytest.raises(KeyError):
        metrics.text()


def test_once_reading_was_stopped_nothing_is_read() -> None:
    def closed() -> list[tuple[str, tuple[str, ...], float]]:
        raise AssertionError("read after it was closed")

    metrics = Metrics("router")
    metrics.read_from(closed, ready=lambda: cast(bool, closed()))
    metrics.stop_reading()
    assert "sluice_ready 0.0" in metrics.text().decode()
    assert not metrics.is_ready()
