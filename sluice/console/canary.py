"""Where canaries stand, for `sluice experiment`: by their last decisions. Library: msgspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from msgspec import Struct

from sluice.domain.events import DecisionMade, decode
from sluice.domain.experiment import Experiment
from sluice.errors import InvalidEvent
from sluice.names import DECISIONS
from sluice.settings import Settings

__all__ = ["Standing", "standings"]

LATELY = 1000
"""Records of the topic that are looked at: whoever decides, decided lately"""


class Standing(Struct, frozen=True, kw_only=True):
    """Of one canary."""

    state: str
    step: int
    share: int
    """Percent of the candidate"""
    version: int
    """Of the decision"""
    needed_units: dict[str, int] | None
    reasons: tuple[str, ...]


def standings(settings: Settings, experiments: Mapping[str, Experiment]) -> dict[str, Standing]:
    """Name → where it stands, of the canaries among `experiments` that were decided on lately."""
    names = {name for name, item in experiments.items() if item.canary is not None}
    if not names:
        return {}
    from sluice.adapters.reader import TopicReader

    latest: dict[str, DecisionMade] = {}
    with TopicReader(settings, DECISIONS, from_start=False, last=LATELY) as reader:
        for message in reader.rest():
            if (message.key() or b"").decode(errors="replace") not in names:
                continue
            try:
                made = cast(DecisionMade, decode(message.value(), DecisionMade))
            except InvalidEvent:
                continue
            # Of equal versions the first stands.
            if made.experiment not in latest or made.version > latest[made.experiment].version:
                latest[made.experiment] = made
    return {
        name: Standing(
            state=made.canary.place.state,
            step=made.canary.place.step,
            share=made.canary.share,
            version=made.version,
            needed_units=made.canary.needed_units,
            reasons=made.reasons,
        )
        for name, made in latest.items()
        if made.canary is not None
    }
