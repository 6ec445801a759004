"""`sluice shadow`: how models compare that score beside the variants. Libraries: click, rich."""

from __future__ import annotations

import click
import msgspec

from sluice.adapters.redis import wait_for_redis
from sluice.adapters.shadow import ShadowStore
from sluice.console import text
from sluice.domain.shadow import Mean, ShadowFigures
from sluice.errors import ConfigError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["shadow", "words"]

TOLD_APART = 0.11
"""Two latencies, each right within 5 %, may differ by so much and be the same"""


@click.group()
def shadow() -> None:
    """What models say that score every ranking request beside the variant that is shown.

    An experiment names them under `shadow`; `sluice route` asks them, `sluice process` sums up what they said.
    """


@shadow.command()
@click.argument("experiment", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(experiment: str | None, as_json: bool) -> None:
    """Agreement, score distance, errors and latency of each shadow beside each variant, by model versions.

    Intervals are of 95 %, for one look, and allow for users who are much alike from request to request.
    """
    settings = Settings.load()
    with wait_for_redis(settings) as client:
        found = ShadowStore(client, Keys(settings.prefix)).figures(experiment)
    if as_json:
        click.echo(msgspec.json.encode({"shadows": found}))
        return
    if not found and experiment is not None:
        raise ConfigError(f"experiment {experiment!r}: nothing was compared; `shadow` in its file names models")
    click.echo("\n\n".join("\n".join(words(one)) for one in found) or "nothing was compared yet")


def words(found: ShadowFigures) -> list[str]:
    """Lines for a person."""
    lines = [
        f"{found.experiment}: shadow {found.shadow}{_version(found.shadow_version)} beside "
        f"{found.variant}{_version(found.version)}",
        f"  compared    {text.count(found.compared)} of {text.count(found.requests)} requests asked"
        + (f"; {text.count(found.dropped)} more were dropped unasked" if found.dropped else ""),
    ]
    failed = sum(found.errors.values())
    by_kind = ", ".join(f"{kind} {text.count(number)}" for kind, number in found.errors.items())
    lines.append(
        f"  errors      {text.percent(failed / found.requests, 2)} ({by_kind})" if failed else "  errors      none"
    )
    if not found.compared:
        return lines
    lines += [
        f"  top k       {_mean(found.overlap, percent=True)} of the best k are the same",
        f"  ranks       {_mean(found.rank_correlation)} Kendall's tau: 1 the same order, 0 no relation",
    ]
    if found.score_distance is not None:
        lines.append(f"  scores      {found.score_distance:.3f} Jensen–Shannon distance: 0 alike, 1 nothing in common")
    for name, shadow_ms in found.shadow_ms.items():
        served_ms = found.served_ms[name]
        lines.append(f"  {name:<10}  {shadow_ms:.1f} ms, {_beside(shadow_ms, served_ms)} ({served_ms:.1f} ms)")
    return lines


def _beside(shadow_ms: float, served_ms: float) -> str:
    difference = shadow_ms - served_ms
    if abs(difference) <= TOLD_APART * served_ms:
        return "as fast as what is shown"
    return f"{abs(difference):.1f} ms {'slower' if difference > 0 else 'faster'} than what is shown"


def _version(version: str) -> str:
    return f" (version {version})" if version else ""


def _mean(found: Mean, *, percent: bool = False) -> str:
    def told(value: float) -> str:
        return text.percent(value) if percent else f"{value:+.3f}"

    if found.mean is None:
        return "no"
    between = "" if found.interval is None else f" ({told(found.interval[0])} to {told(found.interval[1])})"
    return told(found.mean) + between
