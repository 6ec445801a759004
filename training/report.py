"""The report of an evaluation: one HTML file that needs nothing else. Library: jinja2, by `sluice.pages`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sluice.pages.drawing import Chart, inline
from sluice.pages.page import render
from training.evaluate import DRAWS
from training.evaluation import Evaluation
from training.report_charts import charts
from training.report_tables import Cell, Column, Table, tables, to_csv
from training.report_words import caveats, fairness_words, fold_words, segment_words
from training.simultaneous import Interval
from training.train import MODELS

__all__ = ["Report", "make_report"]

TEMPLATES = Path(__file__).with_name("templates")


class Report(NamedTuple):
    page: str
    """HTML, one file that needs nothing else"""
    tables: Mapping[str, Table]
    charts: Mapping[str, Chart]

    def write(self, folder: Path) -> None:
        """`report.html`, a CSV file a table, an SVG file a chart."""
        (folder / "report.html").write_text(self.page, encoding="utf-8")
        for name, table in self.tables.items():
            (folder / f"{name}.csv").write_text(to_csv(table), encoding="utf-8")
        pictures = folder / "charts"
        pictures.mkdir()
        for name, chart in self.charts.items():
            (pictures / f"{name}.svg").write_text(chart.svg, encoding="utf-8")


def make_report(found: Evaluation, versions: Mapping[str, str], title: str = "") -> Report:
    """versions: of what the figures depend on, by name."""
    made, drawn = tables(found), charts(found)
    return Report(
        _render(found, versions, title or f"Offline comparison on {found.data.name}", made, drawn), made, drawn
    )


def _render(
    found: Evaluation, versions: Mapping[str, str], title: str, made: Mapping[str, Table], drawn: Mapping[str, Chart]
) -> str:
    from markupsafe import Markup

    def chart(name: str) -> Markup:
        # The SVG comes from matplotlib, which escapes the texts in it.
        return Markup(inline(drawn[name]))

    values = {
        "title": title,
        "found": found,
        "key_table": _key_table(found, made["ranking"]),
        "tables": made,
        "charts": drawn,
        "chart": chart,
        "segment_kinds": {
            kind: [name for name in drawn if name.startswith(f"segments-{_slug(kind)}-")]
            for kind in dict.fromkeys(one.kind for one in found.segments)
        },
        "segment_words": segment_words(found),
        "fold_words": {kind: fold_words(found, kind) for kind in ("rolling", "grouped")},
        "fairness_words": fairness_words(found),
        "caveats": caveats(found),
        "models": {one.name: MODELS[one.name].text for one in found.trained},
        "facts": _facts(found),
        "versions": versions,
        "draws": DRAWS,
    }
    filters = {"number": _number, "ends": _ends, "interval": lambda cell: isinstance(cell, Interval)}
    return render(TEMPLATES / "report.html.j2", values, filters)


def _key_table(found: Evaluation, ranking: Table) -> Table:
    keys = ("model", "ctr_at_1", "auc")
    places = [[column.key for column in ranking.columns].index(key) for key in keys]
    values = {model: one.values["ctr_at_1"] for model, one in found.figures.items()}
    best_first = sorted(ranking.rows, key=lambda row: (row[0] == "best_possible", -values[str(row[0])]))
    rows = [[row[place] for place in places] for row in best_first]
    return Table("key", [ranking.columns[place] for place in places], rows)


def _facts(found: Evaluation) -> dict[str, str]:
    data, log = found.data, found.data.log
    tested = data.rows(data.test)
    return {
        "data": f"{data.name}, fingerprint {data.fingerprint}",
        "log": f"{len(data.users):,} users, {len(log.items):,} items, {len(log.item):,} ratings in {len(log):,} slates",
        "trained on": f"{len(data.train):,} slates requested from {_day(log.at_ms[0])}, all ended before the test part",
        "tested on": (
            f"{len(data.test):,} later slates of {len(set(log.user[data.test].tolist())):,} users, "
            f"{len(tested):,} rows from {_day(log.at_ms[data.test_from])} to {_day(log.at_ms[-1])}; "
            f"{log.liked[tested].mean():.1%} are clicks"
        ),
        "seed": str(found.seed),
    }


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(int(at_ms) / 1000, UTC).strftime("%Y-%m-%d")


def _slug(kind: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in kind)


def _number(cell: Cell, column: Column) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    value = cell.value if isinstance(cell, Interval) else cell
    if column.key == "delong_p" and value < 0.0001:
        return "< 0.0001"
    return _minus(f"{value:{'+' if column.signed else ''}z.{column.digits}f}")


def _ends(cell: Interval, column: Column) -> str:
    sign = "+" if column.signed else ""
    return _minus(f"{cell.low:{sign}z.{column.digits}f} to {cell.high:{sign}z.{column.digits}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
