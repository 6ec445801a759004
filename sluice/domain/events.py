"""Every record that crosses Kafka, as frozen msgspec structs (JSON on the wire).

Events are tagged by `type`, carry a schema version `v` and event time `at_ms` in integer
milliseconds since 1970. Unknown fields are ignored and new fields have defaults, so producers and
consumers can be upgraded in any order. JSON Schemas are generated from here into `docs/schemas/`.

Library: msgspec (decoding and validation in one pass).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from sluice.domain.canary import CanaryReport
from sluice.domain.epochs import Epoch
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
    degraded: bool = False
    """True when Redis was away: drawn by hash alone, without looking whether the unit was given another one before."""
    outside: str = ""
    """`holdout`: the user is held out of the experiment, with this probability, and was shown the control."""
    v: int = SCHEMA_VERSION


class StatsCell(Struct, frozen=True, kw_only=True):
    """Totals of one (experiment, variant, allocation) within one partition."""

    experiment: str
    variant: str
    allocation: str
    statistics: CellStatistics


class MovedUnits(Struct, frozen=True, kw_only=True):
    """Users and sessions that were shown this variant after another one of the experiment: no evidence for either.

    They stay in the cell of their first impression, and what they were shown here counts in no cell.
    """

    experiment: str
    variant: str
    units: int
    impressions: int


class VariantDelays(Struct, frozen=True, kw_only=True):
    """One (experiment, variant): impressions that count, by cohort, and their outcomes without a value, by delay.

    Position k is the cohort of impressions at start_ms + k·cohort_ms up to, not including, the next. Zeros at the end
    are left out.
    """

    experiment: str
    variant: str
    impressions: tuple[int, ...]
    ahead: int = 0
    """Impressions of later cohorts than the watermark's: nothing can have followed them yet"""
    outcomes: dict[str, tuple[tuple[int, ...], ...]] = {}
    """Name → by cohort → by delay, in 16 bins of cohort_ms; a delay of the whole window falls into the last bin"""


class DelayCohorts(Struct, frozen=True, kw_only=True):
    """The impressions that may still have outcomes to come, and those of the window before them."""

    start_ms: int
    cohort_ms: int
    variants: tuple[VariantDelays, ...]
    """In order of (experiment, variant)"""
    left_out: int = 0
    """Variants with impressions that there was no room for, those with the fewest"""


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
    moved: tuple[MovedUnits, ...] = ()
    """In order of (experiment, variant); only variants that units moved to"""
    delays: DelayCohorts | None = None
    """Null before both topics had an event"""
    v: int = SCHEMA_VERSION


Interval: TypeAlias = tuple[float, float]


class Contrast(Struct, frozen=True, kw_only=True):
    """A variant against the control. Estimates weigh each unit with 1 / its propensity and cluster on the unit."""

    difference: float
    """Absolute, in the unit of the metric"""
    interval: Interval
    """Confidence sequence: holds the true difference at all times at once with 1 − alpha over all variants"""
    always_valid_p: float
    """Of "no difference", valid whenever somebody looks, Bonferroni over the variants"""
    lift: float | None
    """Relative difference; null when the control's rate is 0"""
    lift_interval: Interval | None
    """Valid at all times, as `interval`; null while it has no finite ends"""
    p_better: float
    """Posterior probability that the variant beats the control"""
    p_rope: float | None
    """Posterior probability that the difference lies within ±`stopping.rope`; null where none is set"""
    fixed_horizon_p: float
    """Two-sided z test, clustered; right only for one look, at the planned sample size"""


class VariantResult(Struct, frozen=True, kw_only=True):
    """What the analyzer concluded about one variant, on the experiment's primary metric."""

    variant: str
    units: int
    impressions: int
    outcomes: int
    rate: float
    """Of everything counted: outcomes (or their value) per impression"""
    alpha: float | None
    """Beta posterior of the rate; null where the metric is a value (Normal posterior)"""
    beta: float | None
    design_effect: float
    """Variance of the unit-clustered rate over the variance of independent impressions; ≥ 1 as used."""
    effective_impressions: float
    interval: Interval
    """Central 95 % interval of the posterior."""
    p_best: float
    expected_loss: float
    """Expected regret, in the unit of the metric, of choosing this variant for good."""
    effective_units: float = 0.0
    """Units of equal size and weight that would weigh as much"""
    weighted_rate: float | None = None
    """Hájek estimate: each unit weighs 1 / its propensity, so a moving allocation does not distort it"""
    sequence: Interval | None = None
    """Confidence sequence of the weighted rate: holds the true rate at all times at once with 95 %"""
    contrast: Contrast | None = None
    """Null for the control, and until there is enough to compare"""


class GuardrailResult(Struct, frozen=True, kw_only=True):
    """One guardrail of one variant: non-inferior to the control by its margin, or not, or not known yet."""

    outcome: str
    variant: str
    margin: float
    difference: float | None
    """Against the control; positive is better whatever the outcome's direction. Null until there is enough"""
    interval: Interval | None
    status: Literal["passed", "breached", "open"]


class SegmentSums(Struct, frozen=True, kw_only=True):
    """Evidence of one variant within one segment: sums over its units, weighted with 1 / propensity."""

    key: str
    value: str
    variant: str
    units: int
    impressions: float
    outcomes: float
    impressions_squared: float
    outcomes_squared: float
    impressions_outcomes: float


class SegmentResult(Struct, frozen=True, kw_only=True):
    """One variant against the control within one segment. Exploratory: found by looking in many places."""

    key: str
    value: str
    variant: str
    units: int
    difference: float
    interval: Interval
    """Confidence sequence of this segment alone, not corrected for the number of segments"""
    p: float
    """Always-valid, of this segment alone"""
    p_holm: float
    """Corrected for all segments and variants of this decision (family-wise)"""
    p_fdr: float
    """Corrected by Benjamini–Hochberg (false discovery rate)"""


class DelayEvidence(Struct, frozen=True, kw_only=True):
    """What the delay cohorts of all partitions came to: impressions whose window is open count in part."""

    immature: bool
    """No impression is as old as the attribution window yet: nobody knows how many clicks come last"""
    impressions: dict[str, float]
    """Variant → as many closed ones would weigh as much"""
    inflation: dict[str, float]
    """Variant → how many times larger the variance of its rate is, since the delays are estimated; ≥ 1"""


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
    """Sums of the primary outcome and the guardrails over all partitions, in order of (variant, allocation)."""
    results: tuple[VariantResult, ...]
    sample_ratio_p: float | None
    """p-value (chi-square, one look) of the units seen against what each allocation promised; null while too few."""
    allocation: dict[str, Percent]
    allocation_version: int
    """Moves only when `allocation` changes; assignments carry it."""
    verdict: Verdict
    reasons: tuple[str, ...]
    sample_ratio_always_valid_p: float | None = None
    """The same, valid whenever somebody looks: what makes the evidence `invalid`"""
    guardrails: tuple[GuardrailResult, ...] = ()
    uniform: tuple[VariantResult, ...] = ()
    """The same comparison on the units that were drawn uniformly alone, where `bandit.reserve` keeps some"""
    moved: tuple[MovedUnits, ...] = ()
    """Users and sessions that were seen under another variant than their first: what they saw then is no evidence"""
    delay: DelayEvidence | None = None
    """Null where no cohorts were told: all impressions then count in full"""
    history: tuple[Epoch, ...] = ()
    """When the evidence was counted, coarsely; kept where `bandit.half_life_s` or `window_s` asks for it"""
    segment_evidence: tuple[SegmentSums, ...] = ()
    segments: tuple[SegmentResult, ...] = ()
    previous_allocation: dict[str, Percent] = {}
    """Of the decision before this one, whose version is `version` − 1; empty when this is the first."""
    previous_allocation_version: int = 0
    canary: CanaryReport | None = None
    """What became of the canary; null where the experiment is none"""
    metric_delays: dict[str, DelayEvidence] = {}
    """`delay` of the guardrails of a canary, by outcome"""
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


T = TypeVar("T")


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | None) -> T | None:
    """The event, or None when the bytes are none of those that `decoder` knows."""
    if data is None or len(data) > MAX_EVENT_BYTES:
        return None
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


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
