"""The data behind the charts, as CSV and JSON. Pure. Libraries: csv, msgspec."""

from __future__ import annotations

import csv
import io
import re

from dashboard.views import Series

__all__ = ["attachment", "series_csv"]

_COLUMNS = ("rate", "lower", "upper", "allocation", "p_best", "expected_loss", "impressions", "clicks")


def series_csv(series: Series) -> str:
    """One row for each decision and variant; empty cells for what is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    head = ("version", "at_ms", "wall_ms", "verdict", "allocation_version")
    writer.writerow([*head, "variant", *_COLUMNS, "regret"])
    for row in range(len(series.version)):
        decision = [getattr(series, name)[row] for name in head]
        regret = None if series.regret is None else series.regret[row]
        for variant, columns in series.variants.items():
            cells = [getattr(columns, name)[row] for name in _COLUMNS]
            writer.writerow([*decision, _text(variant), *cells, regret])
    return out.getvalue()


def attachment(name: str, ending: str) -> str:
    """Value of Content-Disposition: a file name that is one on every system."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:64].strip(".") or "experiment"
    return f'attachment; filename="{safe}.{ending}"'


def _text(name: str) -> str:
    """A spreadsheet takes a text that begins so for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name
