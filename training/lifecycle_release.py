"""The experiments of releases: what a shadow must show, what the analyzer said of a canary, and none is left behind.

Libraries: confluent-kafka (through sluice.adapters).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sluice.adapters import catalogue
from sluice.domain.events import DecisionMade
from sluice.domain.experiment import Experiment, config_hash
from sluice.domain.lifecycle_waits import Waits
from sluice.domain.shadow import ShadowFigures
from sluice.errors import TransportError
from sluice.names import DECISIONS
from sluice.settings import Settings
from sluice.subscription import Subscription
from training.lifecycle_plan import CANDIDATE, CONTROL, Plan, ShadowRule

__all__ = ["BY", "Decided", "Decisions", "ShadowVerdict", "hold", "judge_shadow", "stop_others"]

BY = "sluice lifecycle"
WAIT_S = 30.0


class Decided(NamedTuple):
    """Of one experiment."""

    latest: DecisionMade
    moved: DecisionMade
    """The last one that moved its canary, and says why; the latest where none did"""


class Decisions:
    """What was decided of every experiment. Nothing is read before the first question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: Subscription[DecisionMade] | None = None
        self._found: dict[str, Decided] = {}

    def of(self, experiment: Experiment) -> Decided | None:
        """Of the experiment as it is configured: what was decided of another one of its name is no decision of it.

        Raises TransportError when the topic cannot be read to its end.
        """
        if self._read is None:
            self._read = Subscription(DECISIONS, from_start=True, settings=self._settings)
        for decision in self._new(self._read):
            before = self._found.get(decision.experiment)
            move = decision.canary.move if decision.canary is not None else None
            told = move is not None and move.because != "evidence"
            goes_on = before is not None and before.latest.config_hash == decision.config_hash
            moved = before.moved if before is not None and goes_on and not told else decision
            self._found[decision.experiment] = Decided(decision, moved)
        found = self._found.get(experiment.name)
        return found if found is not None and found.latest.config_hash == config_hash(experiment) else None

    @staticmethod
    def _new(read: Subscription[DecisionMade]) -> Iterator[DecisionMade]:
        deadline = time.monotonic() + WAIT_S
        while True:
            yield from read.poll(0.2)
            if read.caught_up:
                return
            if time.monotonic() > deadline:
                raise TransportError(f"topic {DECISIONS}: its end is not reached")

    def close(self) -> None:
        if self._read is not None:
            self._read.close()


class ShadowVerdict(NamedTuple):
    """What came of a shadow; no reasons: it has passed."""

    reasons: tuple[str, ...]
    figures: dict[str, float]


def judge_shadow(found: Sequence[ShadowFigures], rule: ShadowRule, version: str) -> ShadowVerdict | Waits:
    """found: what was summed up of the release of `version`."""
    # A candidate that cannot even be loaded tells no version: all that is asked in this experiment is of it.
    own = [one for one in found if one.shadow_version in (version, "")]
    compared, failed = sum(one.compared for one in own), sum(sum(one.errors.values()) for one in own)
    if compared + failed < rule.requests:
        words = f"the shadow of version {version} was asked in {compared + failed:,} of {rule.requests:,} requests"
        return Waits(reason="shadow", words=words)
    errors = failed / (compared + failed)
    p99_ms = max((one.shadow_ms.get("p99", 0.0) for one in own), default=0.0)
    overlap = min((one.overlap.mean for one in own if one.overlap.mean is not None), default=0.0)
    reasons = []
    if errors > rule.max_errors:
        reasons.append(f"{errors:.1%} of its rankings failed, more than {rule.max_errors:.1%}")
    if p99_ms > rule.max_p99_ms:
        reasons.append(f"99 % of its rankings take up to {p99_ms:.0f} ms, more than {rule.max_p99_ms:g}")
    if overlap < rule.min_overlap:
        reasons.append(f"{overlap:.1%} of the best items are those of the version in force: too few")
    return ShadowVerdict(
        tuple(reasons), {"compared": float(compared), "errors": errors, "p99_ms": p99_ms, "overlap": overlap}
    )


def hold(settings: Settings, name: str, why: str) -> None:
    """While a release is held everybody sees the version in force, and its canary does not grow."""
    known = catalogue.load(settings).get(name)
    if known is not None and known.canary is not None and known.state.status == "running":
        catalogue.change(settings, name, "pause", by=BY, why=why)


def stop_others(settings: Settings, plan: Plan, version: str, why: str) -> None:
    """Stop the releases of this plan but that of `version`: everybody sees the version in force."""
    for name, one in catalogue.load(settings).items():
        rankers = one.rankers
        candidate = rankers.get(CANDIDATE, "").removeprefix(f"models:/{plan.model}/")
        ours = rankers.get(CONTROL) == plan.serving and name == f"{plan.name}-{candidate}"
        if ours and candidate != version and one.state.status in ("running", "paused"):
            catalogue.change(settings, name, "stop", by=BY, why=why)
