"""`sluice demo loop` while it runs: every event stays as a line, below them where the replay is. Library: rich."""

from __future__ import annotations

from types import TracebackType

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from sluice.console import text
from sluice.console.demo.loop_result import reasons_of
from sluice.console.demo.loop_seen import Witness
from sluice.console.demo.view import SilentView
from sluice.domain.lifecycle_events import (
    CanaryAdvanced,
    DriftDetected,
    GatePassed,
    LifecycleEvent,
    ModelTrained,
    Promoted,
)

__all__ = ["LoopView", "words"]

REASON = 160


class LoopView(SilentView):
    """Shows nothing: for --json. With a console it tells events; where that is a terminal, also where the replay is."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._status = Status("", console=console) if console is not None and console.is_terminal else None
        self._words = ""

    def phase(self, words: str) -> None:
        self._words = words
        if self._status is not None:
            self._status.update(words)
        elif self._console is not None:
            self._console.print(words, style="dim", highlight=False)

    def note(self, words: str) -> None:
        if self._console is None:
            click.echo(words, err=True)
        else:
            self._console.print(words, highlight=False)

    def event(self, event: LifecycleEvent, witness: Witness) -> None:
        """A line that stays, at the event time that the replay had reached."""
        if self._console is None:
            return
        moment = text.moment(witness.at_ms) if witness.at_ms else "–"
        self._console.print(Text.assemble((moment, "dim"), "  ", words(event)), highlight=False)

    def look(self, witness: Witness, seconds: float) -> None:
        if self._status is None or not witness.ranked:
            return
        latest = max(witness.ranked)
        self._status.update(
            f"{text.moment(witness.at_ms)}  {len(witness.ranked):,} slates ranked, now by version {latest.version}"
            f"  {seconds:.0f} s"
        )

    def __enter__(self) -> LoopView:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()


def words(event: LifecycleEvent) -> Text:
    """An event in one line, or two with its reasons."""
    name = str(event.__struct_config__.tag).replace("-", " ")
    style = {"promoted": "bold green", "gate refused": "bold yellow", "rolled back": "bold yellow"}.get(name, "bold")
    told = Text(name, style=style)
    match event:
        case DriftDetected():
            told.append(f"  of version {event.version}, since {text.moment(event.since_ms)}", style="default")
        case ModelTrained():
            told.append(f"  version {event.version}, from {event.rows:,} shown items", style="default")
        case GatePassed():
            change = event.figures.get("auc_change")
            told.append(f"  version {event.version}", style="default")
            told.append("" if change is None else f", AUC {change:+.3f} against the version in force", style="default")
        case CanaryAdvanced():
            told.append(f"  version {event.version} gets {event.share} %", style="default")
        case Promoted():
            told.append(f"  version {event.version}, before it version {event.before}", style="default")
        case _ if getattr(event, "version", ""):
            told.append(f"  version {event.version}", style="default")  # type: ignore[union-attr]
    reasons = reasons_of(event)
    if reasons:
        told.append(
            "\n                     " + (reasons if len(reasons) < REASON else reasons[:REASON] + " …"), style="dim"
        )
    return told
