"""The demo while it runs, for a person: one calm picture that fits 80 columns. Libraries: click, rich."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sluice.console import text
from sluice.console.demo.observer import Seen

__all__ = ["LiveView", "PlainView", "SilentView", "picture"]

MIN_BAR, MAX_BAR = 8, 30
BESIDE_BARS = 58
"""Columns that everything but the two bars takes."""
REASON_LINES = 3


class SilentView:
    """Shows nothing: for --json. What somebody must know goes to stderr."""

    def phase(self, words: str) -> None:
        """Something new begins."""

    def note(self, words: str) -> None:
        """A line that stays."""
        click.echo(words, err=True)

    def tick(self, seconds: float) -> None:
        """Nothing new but the time since the start."""

    def update(self, seen: Seen, seconds: float, share: float | None) -> None:
        """One look; `share` in [0, 1] of the replay is over, None when that is not known."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class PlainView(SilentView):
    """A line for each phase: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def phase(self, words: str) -> None:
        self._console.print(words, highlight=False)

    def note(self, words: str) -> None:
        self.phase(words)

    def update(self, seen: Seen, seconds: float, share: float | None) -> None:
        for move in moves(seen):
            self._console.print(move, highlight=False)


class LiveView(SilentView):
    """A picture that is drawn anew in its place."""

    def __init__(self, console: Console, infra: str, variants: Sequence[str]) -> None:
        self._infra, self._variants = infra, variants
        self._words = ""
        self._seen: Seen | None = None
        self._seconds = 0.0
        self._share: float | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def phase(self, words: str) -> None:
        self._words = words
        self._draw()

    def note(self, words: str) -> None:
        self._live.console.print(words, highlight=False, soft_wrap=True)  # above the picture

    def tick(self, seconds: float) -> None:
        self._seconds = seconds
        self._draw()

    def update(self, seen: Seen, seconds: float, share: float | None) -> None:
        self._seen, self._seconds, self._share = seen, seconds, share
        for move in moves(seen):  # they stay, above the picture
            self._live.console.print(move, highlight=False)
        self._draw()

    def _draw(self) -> None:
        width = self._live.console.width
        shown = picture(self._infra, self._words, self._variants, self._seen, self._seconds, self._share, width)
        self._live.update(shown, refresh=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def moves(seen: Seen) -> list[Text]:
    """What a canary has just done, with its reason."""
    return [
        Text.assemble((text.moment(one.at_ms), "dim"), f"  {one.canary.move.reason}")
        for one in seen.decisions
        if one.canary is not None and one.canary.move is not None and one.canary.move.because != "evidence"
    ]


def picture(
    infra: str,
    words: str,
    variants: Sequence[str],
    seen: Seen | None,
    seconds: float,
    share: float | None,
    width: int = 80,
) -> RenderableType:
    """The height never changes from the first look on, so that nothing jumps. `width`: columns of the terminal."""
    bar = max(MIN_BAR, min(MAX_BAR, (width - BESIDE_BARS) // 2))
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text.assemble(("sluice demo", "bold"), (f"  {infra}  ", "dim"), words), Text(f"{seconds:.0f} s", style="dim")
    )
    parts: list[RenderableType] = [head, Text()]
    if seen is not None:
        parts += [_variants(variants, seen, bar), Text(), _pulse(seen, share, bar), Text(), _decision(seen)]
    return Group(*parts)


def _variants(names: Sequence[str], seen: Seen, bar: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("variant", no_wrap=True, overflow="ellipsis", max_width=12, min_width=10)
    table.add_column("shown", justify="right", no_wrap=True, min_width=7)
    table.add_column("clicks", justify="right", no_wrap=True, min_width=7)
    table.add_column("rate", justify="right", no_wrap=True, min_width=6)
    table.add_column("P(best)", no_wrap=True, width=bar + 6)
    table.add_column("allocation", no_wrap=True, width=bar + 6)
    decision = seen.decision
    p_best = {result.variant: result.p_best for result in decision.results} if decision is not None else {}
    allocation = decision.allocation if decision is not None else {}
    for name in names:
        row = seen.counts.variants.get(name)
        if row is None:  # it has no model
            continue
        table.add_row(
            name,
            text.count(row.impressions),
            text.count(row.clicks),
            text.percent(row.ctr),
            _bar(p_best.get(name), bar, "cyan", f"{p_best.get(name, 0):.2f}"),
            _bar(allocation[name] / 100 if name in allocation else None, bar, "green", f"{allocation.get(name, 0)} %"),
        )
    return table


def _bar(share: float | None, width: int, style: str, label: str) -> Text:
    if share is None:
        return Text("–", style="dim")
    return text.bar(share, width, style).append(f" {label}", style="default")


def _pulse(seen: Seen, share: float | None, bar: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(6):
        grid.add_column(no_wrap=True)
    replay = Text("at full speed".ljust(bar)) if share is None else text.bar(share, bar, "magenta")
    grid.add_row(
        Text("replay", style="dim"), replay,
        Text("counting", style="dim"), Text(f"{text.count(round(seen.per_second)):>7} events/s"),
        Text("lag", style="dim"), Text(f"{text.count(seen.lag):>6} events"),
    )  # fmt: skip
    return grid


def _decision(seen: Seen) -> RenderableType:
    decision = seen.decision
    if decision is None:
        return Group(Text("no decision yet", style="dim"), _Lines(Text(), REASON_LINES))
    line = text.verdict(decision.verdict).append(f"  decision {decision.version}", style="dim")
    # The first reason is the verdict in words; `--json` and `sluice explain` have them all.
    return Group(line, _Lines(Text(next(iter(decision.reasons), ""), style="dim"), REASON_LINES))


class _Lines:
    """A text of always the same height."""

    def __init__(self, content: Text, height: int) -> None:
        self._content, self._height = content, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._content.wrap(console, options.max_width)[: self._height]
        yield from lines
        yield from [Text()] * (self._height - len(lines))
