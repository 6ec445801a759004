"""`sluice register`. Libraries: click, rich."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from sluice.errors import ConfigError
from sluice.settings import Settings
from training.options import DataOptions, data_options, needs_training, notice, progress_of

if TYPE_CHECKING:
    from training.dataset import Dataset
    from training.register import Outcome, Registration

__all__ = ["register"]


@click.command()
@data_options
@click.option("--dry-run", is_flag=True, help="Judge, and say what would happen; MLflow stays as it is.")
@click.option("--rollback", type=click.Choice(["PolicyA", "PolicyB"]),
              help="Only put this alias back to the version before; once more: forward again.")  # fmt: skip
@click.option("--features", type=click.Choice(["train", "all"]),
              help="Also write the features of users and items, as this part leaves them, to Redis.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what became of each alias, figures, refusals.")
def register(
    given: DataOptions, dry_run: bool, rollback: str | None, features: str | None, as_json: bool
) -> int:  # fmt: skip
    """Let the aliases PolicyA and PolicyB point to the models of these data, if they pass the gate.

    \b
    sluice register --data ml-100k
    sluice register --rollback PolicyB

    Takes the latest training of these data and trains where there is none. Every model becomes a version of
    movielens_ctr_ab, with figures and verdict; its alias moves when the version is at least as good as the one in
    force: AUC, click rate, calibration, speed, no segment that loses much. A refused version stays without alias: a
    line each says why, and the exit code is 1. The router with both policies becomes movielens_ctr_router@router.
    """
    if [bool(rollback), dry_run, bool(features)].count(True) > 1:
        raise ConfigError("--rollback, --dry-run and --features: only one of them")
    settings = Settings.load()
    if features:
        settings.require_redis()
    source = "" if rollback else given.source()
    with needs_training(), progress_of("register", quiet=as_json) as progress:
        # Imported late: mlflow takes seconds, which --help should not.
        from training import register as registering
        from training.tracking import Tracking

        progress("MLflow")
        tracking = Tracking(settings)
        if rollback:
            found = registering.roll_back(settings, tracking, rollback, notice=notice)
            about: dict[str, Any] = {}
        else:
            progress("data")
            data, place = given.prepare(source, settings)
            about = {"data": data.name, "fingerprint": data.fingerprint, "seed": given.seed, "dry_run": dry_run}
            found = registering.register(
                settings, tracking, data, place, seed=given.seed, dry_run=dry_run, notice=notice, progress=progress
            )
            if features:
                progress("features")
                about["features"] = _write_features(settings, data, features)
    if as_json:
        click.echo(msgspec.json.encode(about | _report(found)).decode())
    else:
        _print(about, found, Console(highlight=False, soft_wrap=True))
    refusals = [
        (policy, line) for policy, one in found.policies.items() if one.verdict for line in one.verdict.refusals
    ]
    for policy, line in refusals:
        notice(f"sluice: {policy} is refused: {line}")
    return 1 if refusals else 0


def _write_features(settings: Settings, data: Dataset, part: str) -> dict[str, int]:
    """What was written. `train`: as the first test request finds them, so that a replay of the test part goes on."""
    from sluice.adapters.features import FeatureKeeping, FeatureStore
    from sluice.adapters.redis import connect
    from sluice.features import learn_log
    from sluice.names import Keys

    log = data.log
    before_ms = int(log.at_ms[data.test_from] if part == "train" else log.end_ms.max() + 1)
    known = learn_log(log, data.users, data.catalogue, before_ms=before_ms)
    with connect(settings) as client:
        keys = Keys(settings.prefix)
        FeatureKeeping(client, keys).write_all(known.users, known.items, before_ms - 1)
        FeatureStore(client, keys).put_catalogue(data.catalogue)  # a keeper that waits for it begins now
    return {"users": len(known.users), "items": len(known.items), "until_ms": before_ms - 1}


def _report(found: Registration) -> dict[str, Any]:
    return {
        "run_id": found.run_id,
        **{policy: _outcome(one) for policy, one in found.policies.items()},
        "router": _outcome(found.router),
        "in_force": found.in_force,
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    known: dict[str, Any] = {"state": one.state, "version": one.version or None, "before": one.before or None}
    if one.verdict is not None:
        known |= {**one.verdict.figures, "segments": one.verdict.segments, "refusals": one.verdict.refusals}
    return known


def _print(about: Mapping[str, Any], found: Registration, console: Console) -> None:
    if about:
        run = f"training run {found.run_id}" if found.run_id else "not yet trained"
        console.print(f"{about['data']}, data {about['fingerprint']}, seed {about['seed']}: {run}")
    if written := about.get("features"):
        console.print(f"features {written['users']:,} users and {written['items']:,} items are in Redis")
    for name, one in (*found.policies.items(), ("router", found.router)):
        console.print(f"{name:8} {_line(one, dry_run=bool(about.get('dry_run')))}")
        if one.verdict is not None and one.verdict.figures:
            for line in _figures(one.verdict.figures):
                console.print(f"{'':8} {line}")


def _line(one: Outcome, *, dry_run: bool) -> str:
    from training.register import IN_FORCE, MOVED, REFUSED, ROLLED_BACK_BEFORE

    stays = f"version {one.before} stays in force" if one.before else "no version is in force"
    if one.state == IN_FORCE:
        return f"version {one.version} is in force: nothing to do"
    if one.state == MOVED:
        was = f" (before: version {one.before})" if one.before else ""
        if dry_run:
            return f"would move to {f'version {one.version}' if one.version else 'a new version'}{was}"
        return f"version {one.version} is in force now{was}"
    if one.state == REFUSED:
        made = f"version {one.version} is" if one.version else "would be"
        return f"{made} refused: {stays}"
    if one.state == ROLLED_BACK_BEFORE:
        return f"version {one.version} of this training was rolled back: {stays}"
    return f"left out: {stays}"


def _figures(figures: Mapping[str, float]) -> Iterator[str]:
    yield (
        f"AUC {figures['auc']:.4f} [{figures['auc_low']:.4f}, {figures['auc_high']:.4f}], "
        f"click rate at 1 {figures['ctr_at_1']:.4f}, calibration error {figures['calibration_error']:.4f}, "
        f"{figures['row_us']:.2f} µs a row"
    )
    if "auc_change" in figures:
        changes = f"AUC {figures['auc_change']:+.4f}, click rate at 1 {figures['ctr_at_1_change']:+.4f}"
        yield f"against the version before: {changes}"
