"""What happens to a registered model: the records of topic `lifecycle`, keyed by the model. Pure. Library: msgspec."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from sluice.domain.events import SCHEMA_VERSION, Id, Percent, TimeMs

__all__ = [
    "Abandoned", "Aborted", "Approved", "Breach", "ByPerson", "CanaryAdvanced", "DriftDetected", "GatePassed",
    "GateRefused", "LifecycleEvent", "ModelTrained", "MovedByHand", "OfAttempt", "OfModel", "Paused", "Promoted",
    "Resumed", "RetrainRequested", "RolledBack", "ShadowJudged", "ShadowStarted", "Skipped",
]  # fmt: skip

ModelName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Version: TypeAlias = Annotated[str, Meta(max_length=32)]
Text: TypeAlias = Annotated[str, Meta(max_length=2000)]


class OfModel(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all of them say."""

    id: Id
    """Of this event: who says the same again, after a crash, says it with the same id"""
    model: ModelName
    alias: Annotated[str, Meta(max_length=256)] = ""
    """Whose version is in force; empty: whichever alias of the model it concerns"""
    at_ms: TimeMs
    """By the clock of who wrote it"""
    cause: Annotated[str, Meta(max_length=128)] = ""
    """Id of the event that asked for it"""
    v: int = SCHEMA_VERSION


class OfAttempt(OfModel, frozen=True, kw_only=True):
    """What belongs to one attempt to release a new version."""

    attempt: Id
    """Id of its `RetrainRequested`"""


class DriftDetected(OfModel, frozen=True, kw_only=True, tag="drift-detected"):
    """The world, or what a model makes of it, is not what it was when the model was trained."""

    version: Version
    since_ms: TimeMs
    """Event time from which on it was seen: what came before is of the old world"""
    until_ms: TimeMs
    features: tuple[str, ...] = ()
    """Those that drifted, the most important first; `score` for the score"""
    performance: bool = False
    """Whether clicks, calibration or log loss are not what the version let expect, or their relation to a feature"""
    worse: bool = False
    """Whether clicks are fewer or log loss is higher than the version let expect"""
    measures: dict[str, float] = {}
    reasons: tuple[str, ...] = ()
    """In words"""


class Breach(OfModel, frozen=True, kw_only=True, tag="breach-detected"):
    """A version that was promoted does worse than what it replaced, or a guardrail broke: take it back."""

    version: Version
    reason: Text
    measures: dict[str, float] = {}


class MovedByHand(OfModel, frozen=True, kw_only=True, tag="moved-by-hand"):
    """The alias points to a version that no event has put there: that one is in force, and nothing is taken back."""

    version: Version
    before: Version = ""
    """As the topic knew it; empty where it knew none"""


class RetrainRequested(OfModel, frozen=True, kw_only=True, tag="retrain-requested"):
    """An attempt begins. Its id is the attempt's."""

    against: Version
    """The version in force"""
    reason: Text
    since_ms: TimeMs = 0
    """Learn from what was shown from here on (event time)"""
    by: Annotated[str, Meta(max_length=256)] = ""
    """Who, where somebody asked"""


class ModelTrained(OfAttempt, frozen=True, kw_only=True, tag="model-trained"):
    """A new version is registered; no alias points to it."""

    version: Version
    run_id: Annotated[str, Meta(max_length=64)] = ""
    """Of MLflow"""
    fingerprint: Annotated[str, Meta(max_length=64)] = ""
    """Of the offsets it was trained from"""
    rows: int = 0
    model_hash: Annotated[str, Meta(max_length=64)] = ""


class GatePassed(OfAttempt, frozen=True, kw_only=True, tag="gate-passed"):
    version: Version
    figures: dict[str, float] = {}


class GateRefused(OfAttempt, frozen=True, kw_only=True, tag="gate-refused"):
    version: Version
    reasons: tuple[str, ...]
    figures: dict[str, float] = {}


class ShadowStarted(OfAttempt, frozen=True, kw_only=True, tag="shadow-started"):
    version: Version
    experiment: Annotated[str, Meta(max_length=64)]


class ShadowJudged(OfAttempt, frozen=True, kw_only=True, tag="shadow-judged"):
    version: Version
    passed: bool
    reasons: tuple[str, ...] = ()
    figures: dict[str, float] = {}


class CanaryAdvanced(OfAttempt, frozen=True, kw_only=True, tag="canary-advanced"):
    """The canary's share of the traffic has grown; 100: it has shown enough to be promoted."""

    version: Version
    share: Percent
    experiment: Annotated[str, Meta(max_length=64)] = ""
    decision: int = 0
    """Version of the decision that moved it"""


class Promoted(OfAttempt, frozen=True, kw_only=True, tag="promoted"):
    """The alias points to the new version."""

    version: Version
    before: Version


class RolledBack(OfAttempt, frozen=True, kw_only=True, tag="rolled-back"):
    """A canary was stopped, or the alias points to the version before again."""

    version: Version
    to: Version
    reasons: tuple[str, ...] = ()
    by: Annotated[str, Meta(max_length=256)] = ""


class Abandoned(OfAttempt, frozen=True, kw_only=True, tag="abandoned"):
    """An attempt has ended without a new version in force; the one before goes on serving."""

    reasons: tuple[str, ...]


class ByPerson(OfModel, frozen=True, kw_only=True):
    """What somebody did by hand."""

    by: Annotated[str, Meta(min_length=1, max_length=256)]
    why: Annotated[str, Meta(min_length=1, max_length=2000)]


class Paused(ByPerson, frozen=True, kw_only=True, tag="paused"):
    """No step is taken until it is resumed."""


class Resumed(ByPerson, frozen=True, kw_only=True, tag="resumed"):
    """Steps are taken again."""


class Approved(OfAttempt, frozen=True, kw_only=True, tag="approved"):
    """Users may be shown what the version ranks."""

    by: Annotated[str, Meta(min_length=1, max_length=256)]
    why: Annotated[str, Meta(min_length=1, max_length=2000)]


class Skipped(OfAttempt, frozen=True, kw_only=True, tag="skipped"):
    """A stage counts as passed."""

    stage: Literal["shadow", "canary"]
    by: Annotated[str, Meta(min_length=1, max_length=256)]
    why: Annotated[str, Meta(min_length=1, max_length=2000)]


class Aborted(OfAttempt, frozen=True, kw_only=True, tag="aborted"):
    """Somebody ended the attempt."""

    by: Annotated[str, Meta(min_length=1, max_length=256)]
    why: Annotated[str, Meta(min_length=1, max_length=2000)]


LifecycleEvent: TypeAlias = (
    DriftDetected | Breach | MovedByHand | RetrainRequested | ModelTrained | GatePassed | GateRefused | ShadowStarted
    | ShadowJudged | CanaryAdvanced | Promoted | RolledBack | Abandoned | Paused | Resumed | Approved | Skipped
    | Aborted
)  # fmt: skip
