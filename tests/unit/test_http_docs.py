"""docs/http.md names what there is: metrics, routes, options, statuses."""

from __future__ import annotations

import re
from pathlib import Path

from router.cli import route
from router.metrics import METRICS

TEXT = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def test_every_metric_stands_there_as_it_is() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `sluice_")]
    assert rows == [
        f"| `{name}` | {told.kind} | {told.unit or '–'} | {', '.join(f'`{label}`' for label in told.labels) or '–'} "
        f"| {told.meaning} |"
        for name, told in METRICS.items()
    ]


def test_names_say_kind_and_unit() -> None:
    for name, told in METRICS.items():
        assert name.endswith("_total") == (told.kind == "counter"), name
        if told.unit in ("seconds", "bytes"):
            assert name.endswith(f"_{told.unit}"), name


def test_every_option_is_told() -> None:
    options = {option for parameter in route.params for option in parameter.opts}
    assert options <= set(re.findall(r"--[a-z-]+", TEXT))
