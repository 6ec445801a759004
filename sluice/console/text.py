"""How values look in a terminal: the same in every command. Library: rich."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["bar", "count", "moment", "percent", "print_whole", "shares", "verdict"]

_EIGHTHS = " ▏▎▍▌▋▊▉"

_VERDICT_STYLE = {
    "ship": "bold green",
    "rollback": "bold red",
    "invalid": "bold red",
    "stop": "bold yellow",
    "continue": "cyan",
}


def bar(share: float, width: int, style: str = "") -> Text:
    """`share` in [0, 1] as a bar of at most `width` cells, in eighths; what is beyond is cut."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    filled = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text(filled.ljust(width), style=style)


def count(number: int) -> str:
    """12345 → `12,345`."""
    return f"{number:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.4215 → `42.2 %`; None → `–`."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def moment(at_ms: int) -> str:
    """Event time as UTC text; `–` before the first event."""
    return "–" if at_ms < 0 else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def shares(allocation: Mapping[str, int]) -> str:
    """`affinity 70 % · random 30 %`, largest first."""
    ordered = sorted(allocation.items(), key=lambda item: (-item[1], item[0]))
    return " · ".join(f"{name} {share} %" for name, share in ordered)


def verdict(word: str) -> Text:
    return Text(word, style=_VERDICT_STYLE.get(word, "dim"))


def print_whole(table: Table, console: Console) -> None:
    """A table as wide as its figures are: rather a long line than half a number."""
    wide = Console(width=1000)
    natural = Measurement.get(wide, wide.options, table).maximum
    Console(file=console.file, highlight=False, width=max(console.width, natural)).print(table)
