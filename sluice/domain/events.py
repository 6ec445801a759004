"""Every record that crosses Kafka, as frozen msgspec structs (JSON on the wire).

Events are tagged by `type`, carry a schema version `v` and event time `at_ms` in integer
milliseconds since 1970. Unknown fields are ignored and new fields have defaults, so producers and
consumers can be upgraded in any order. JSON Schemas are generated from here into `docs/schemas/`.

Library: msgspec (decoding and validation in one pass).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sluice.domain.statistics import CellStatistics
from sluice.errors import InvalidEvent

SCHEMA_VERSION = 1
MAX_EVENT_BYTES = 65_536
"""A larger record is malformed before it is parsed."""
MAX_ASSIGNMENTS = 32
"""Of one impression"""
VALUE_SCALE = 1000
"""Values of outcomes travel as integers of thousandths: sums of floats would depend on their order."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
# With room for a segment: experiment, attribute and value (`sluice.domain.segments`).
CountedName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=160)]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
# Up to the year 2286; more is a unit mistake (micro- or nanoseconds).
TimeMs: TypeAlias = Annotated[int, Meta(ge=0, le=9_999_999_999_999)]
UnitKind: TypeAlias = Literal["user", "session", "slate"]
Percent: TypeAlias = Annotated[int, Meta(ge=0, le=100)]
Verdict: TypeAlias = Literal["continue", "ship", "stop", "rollback", "insufficient-data", "no-traffic", "invalid"]


class Assignment(Struct, frozen=True, array_like=True, gc=False):
    """Unit → variant, as an impression carries it. An array on the wire, in this order.

    `allocation` is the key of the allocation vector it was drawn from (`sluice.domain.allocation`).
    `unit_kind` says what was randomised. All impressions of one `slate` unit share one event time:
    a slate unit is identified by (user, unit, event time).
    """

    experiment: CountedName
    variant: Name
    allocation: Annotated[str, Meta(max_length=1024)]
    unit: Id
    propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0
    unit_kind: UnitKind = "user"


class ImpressionShown(Struct, frozen=True, kw_only=True, tag_field="type", tag="impression", gc=False):
    """One item shown to a user, under any number of experiments at once. Topic `impressions`."""

    impression_id: Id
    user_id: Id
    item_id: Id
    at_ms: TimeMs
    assignments: Annotated[tuple[Assignment, ...], Meta(max_length=MAX_ASSIGNMENTS)]
    slate_id: Annotated[str, Meta(max_length=128)] = ""
    position: int = 0
    v: int = SCHEMA_VERSION


class RawImpressionShown(Struct, frozen=True, kw_only=True, tag_field="type", tag="impression", gc=False):
    """An impression of an existing click stream that does not know its assignments. Topic `raw-impressions`."""

    impression_id: Id
    user_id: Id
    item_id: Id
    at_ms: TimeMs
    session_id: Annotated[str, Meta(max_length=128)] = ""
    slate_id: Annotated[str, Meta(max_length=128)] = ""
    position: int = 0
    v: int = SCHEMA_VERSION


class OutcomeObserved(Struct, frozen=True, kw_only=True, tag_field="type", tag="outcome", gc=False):
    """What followed an impression: a click, or a named outcome. Topic `clicks`.

    Without `value_milli` an outcome is counted once an impression. With it (thousandths), it is
    counted and summed once per `click_id` within the impression.
    """

    click_id: Id
    impression_id: Id
    user_id: Id
    at_ms: TimeMs
    outcome: Name = "click"
    value_milli: Annotated[int, Meta(ge=-(10**15), le=10**15)] | None = None
    v: int = SCHEMA_VERSION


class Heartbeat(Struct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat", gc=False):
    """Moves the watermark of one topic partition on while nothing happens there."""

    at_ms: TimeMs
    v: int = SCHEMA_VERSION


class AssignmentMade(Struct, frozen=True, kw_only=True, tag_field="type", tag="assignment"):
    """The exposure log: one unit was given a variant. Topic `assignments`."""

    experiment: Name
    variant: Name
    unit: Id
    unit_kind: UnitKind
    user_id: Id
    allocation: str
    allocation_version: int
    propensity: float
    at_ms: TimeMs
    sticky: bool = False
    """True when the variant came from an earlier assignment of the unit, not from this draw."""
    v: int = SCHEMA_VERSION


class StatsCell(Struct, frozen=True, kw_only=True):
    """Totals of one (experiment, variant, allocation) within one partition."""

    experiment: str
    variant: str
    allocation: str
    statistics: CellStatistics


class StatsPublished(Struct, frozen=True, kw_only=True, tag_field="type", tag="variant-stats"):
    """A snapshot of one partition: totals and the offsets they include, never deltas. Topic `variant-stats`.

    `window_ms` and `lateness_ms` are the definitions it was counted with; `watermark_ms` is the smaller
    of the two topics' watermarks, `at_ms` the larger (−1 before the first event).
    """

    partition: int
    impressions_offset: int
    clicks_offset: int
    window_ms: int
    lateness_ms: int
    at_ms: int
    watermark_ms: int
    cells: tuple[StatsCell, ...]
    records: dict[str, int]
    """Outcome of every record read, by `impressions.counted`, `clicks.late`, …"""
    v: int = SCHEMA_VERSION


class VariantResult(Struct, frozen=True, kw_only=True):
    """What the analyzer concluded about one variant, on the experiment's primary metric."""

    variant: str
    units: int
    impressions: int
    outcomes: int
    rate: float
    alpha: float
    beta: float
    design_effect: float
    """Variance of the unit-clustered rate over the variance of independent impressions; ≥ 1 as used."""
    effective_impressions: float
    interval: tuple[float, float]
    """Central 95 % interval of the posterior."""
    p_best: float
    expected_loss: float
    """Expected regret, in rate, of choosing this variant for good."""


class DecisionMade(Struct, frozen=True, kw_only=True, tag_field="type", tag="decision"):
    """One versioned conclusion of the analyzer, with everything needed to compute it again. Topic `decisions`.

    `at_ms` is the event time the evidence reaches to, not the clock: equal evidence gives equal bytes.
    """

    experiment: Name
    version: int
    at_ms: int
    offsets: dict[str, tuple[int, int]]
    """Partition → (impressions offset, clicks offset) that the evidence includes, exclusive."""
    config_hash: str
    config: dict[str, object]
    """The experiment as it was configured, so that the record explains itself."""
    seed: int
    evidence: tuple[StatsCell, ...]
    """Sufficient statistics, summed over partitions, in order of (variant, allocation)."""
    results: tuple[VariantResult, ...]
    sample_ratio_p: float | None
    """p-value of the units seen against the units each allocation promised; null while there are too few."""
    allocation: dict[str, Percent]
    allocation_version: int
    """Moves only when `allocation` changes; assignments carry it."""
    verdict: Verdict
    reasons: tuple[str, ...]
    guardrails: tuple[dict[str, object], ...] = ()
    previous_allocation: dict[str, Percent] = {}
    """Of the decision before this one, whose version is `version` − 1; empty when this is the first."""
    previous_allocation_version: int = 0
    v: int = SCHEMA_VERSION


class DeadLetter(Struct, frozen=True, kw_only=True, tag_field="type", tag="dead-letter"):
    """A record that could not be counted, whole, once per (topic, partition, offset). Topic `dead-letters`."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    key: bytes
    """Base64 on the wire, as `value`."""
    value: bytes
    v: int = SCHEMA_VERSION


Impressions: TypeAlias = ImpressionShown | Heartbeat
Clicks: TypeAlias = OutcomeObserved | Heartbeat

impressions_decoder: msgspec.json.Decoder[Impressions] = msgspec.json.Decoder(Impressions)
clicks_decoder: msgspec.json.Decoder[Clicks] = msgspec.json.Decoder(Clicks)
encode = msgspec.json.Encoder().encode

# These grow with what they describe, and only the broker's own limit bounds them.
_WRITTEN_BY_US = (StatsPublished, DecisionMade, DeadLetter)


def decode(data: bytes | None, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """One event of type `kind`. Raises InvalidEvent with the reason when the bytes are not one."""
    if data is None:
        raise InvalidEvent("empty record")
    if len(data) > MAX_EVENT_BYTES and kind not in _WRITTEN_BY_US:
        raise InvalidEvent(f"{len(data)} bytes exceed the limit of {MAX_EVENT_BYTES}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(str(error)) from error
