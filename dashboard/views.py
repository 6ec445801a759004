"""What the page is told, as frozen structs: the JSON contract of `sluice dashboard`. Library: msgspec.

Times are integer milliseconds: `at_ms` is event time (−1: none yet), `wall_ms`, `updated_ms`, `since_ms` and `now_ms`
are clock time. A number that is not known is null; rates are shares in [0, 1].
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from sluice.domain.canary import CanaryMetric
from sluice.domain.events import Contrast, GuardrailResult, Interval, MovedUnits, SegmentResult

__all__ = ["CanaryView", "Counters", "DecisionLine", "DecisionLog", "DecisionView", "DelayView", "Density", "Detail"]
__all__ += ["Entry", "Explanation", "Lag", "MetricView", "MoveView", "Overview", "ResultView", "SampleRatioView"]
__all__ += [
    "Series",
    "ShadowView",
    "Source",
    "Sources",
    "Truth",
    "VariantCount",
    "VariantSeries",
    "VariantTruth",
    "Whole",
]

Whole = Annotated[int, Meta(ge=0, le=2**53)]
"""What JavaScript holds exactly"""
Kind = Literal["bandit", "fixed", "canary"]
Light = Literal["ok", "warning", "mismatch", "unknown"]


class Source(Struct, frozen=True, kw_only=True):
    """Kafka or Redis, as the server sees it."""

    ok: bool
    since_ms: int
    """Since when it is so"""
    error: str | None = None


class Sources(Struct, frozen=True, kw_only=True):
    kafka: Source
    redis: Source


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the list of experiments."""

    name: str
    status: str
    """draft, running, paused, stopped or shipped; `unknown` for one that the catalogue does not have"""
    kind: Kind
    verdict: str | None
    reason: str | None
    """The first reason of the last decision: its verdict in words"""
    version: int | None
    at_ms: int
    updated_ms: int
    """When the last decision or change was read or written, by the clock"""
    variants: tuple[str, ...]
    control: str
    metric: str
    """Name of the primary outcome"""
    impressions: int
    """As of the last decision, as `clicks`"""
    clicks: int
    """The primary outcome, whatever its name"""
    leader: str | None
    """The variant that is most probably the best"""
    defined: bool
    """Whether the catalogue has it"""
    spark: tuple[float, ...] = ()
    """Rates of the leader over the decisions, the oldest first: a few, to be drawn small"""


class Overview(Struct, frozen=True, kw_only=True):
    experiments: tuple[Entry, ...]
    now_ms: int
    server: str
    """Another one after every start of the server"""
    sources: Sources
    skipped: int
    """Records of `decisions` and `experiments` that are none"""


class MetricView(Struct, frozen=True, kw_only=True):
    outcome: str
    unit: str
    """What is randomised: user, session or slate"""
    measure: str
    """`rate` or `value`"""


class ResultView(Struct, frozen=True, kw_only=True):
    """One variant of a decision: the fields of `VariantResult` of topic `decisions`, each null where it is missing."""

    variant: str
    units: Whole | None = None
    impressions: Whole | None = None
    outcomes: Whole | None = None
    rate: float | None = None
    weighted_rate: float | None = None
    sequence: Interval | None = None
    interval: Interval | None = None
    p_best: float | None = None
    expected_loss: float | None = None
    alpha: float | None = None
    beta: float | None = None
    design_effect: float | None = None
    effective_impressions: float | None = None
    effective_units: float | None = None
    contrast: Contrast | None = None


class Density(Struct, frozen=True, kw_only=True):
    """Of the posterior of a variant's rate or value; equally long, at most 120."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class SampleRatioView(Struct, frozen=True, kw_only=True):
    p: float | None
    """Chi-square, right for one look"""
    always_valid_p: float | None
    status: Light
    """mismatch: always-valid p < 0.0005, the evidence is invalid; warning: below 0.05"""


class MoveView(Struct, frozen=True, kw_only=True):
    """A change of state or step of a canary."""

    version: int
    at_ms: int
    from_step: int
    step: int
    state: str
    because: str
    reason: str


class CanaryStepView(Struct, frozen=True, kw_only=True):
    share: int
    margin: float
    shortest_s: int
    longest_s: int


class CanaryView(Struct, frozen=True, kw_only=True):
    steps: tuple[CanaryStepView, ...]
    state: str
    step: int
    """1 is the first"""
    since_ms: int
    share: int
    """Of the candidate, in percent"""
    metrics: tuple[CanaryMetric, ...]
    needed_units: dict[str, int] | None
    moves: tuple[MoveView, ...]
    """Up to this decision, the oldest first; the last 100"""


class DelayView(Struct, frozen=True, kw_only=True):
    """Impressions whose window is open count in part."""

    immature: bool
    impressions: dict[str, float]
    """Variant → as many closed ones would weigh as much"""
    inflation: dict[str, float]


class DecisionView(Struct, frozen=True, kw_only=True):
    """One decision, as far as its record tells."""

    experiment: str
    version: int
    at_ms: int
    wall_ms: int
    verdict: str
    reasons: tuple[str, ...]
    allocation: dict[str, int]
    allocation_version: int
    previous_allocation: dict[str, int]
    results: tuple[ResultView, ...]
    density: dict[str, Density]
    sample_ratio: SampleRatioView
    guardrails: tuple[GuardrailResult, ...]
    canary: CanaryView | None
    moved: tuple[MovedUnits, ...]
    delay: DelayView | None
    segments: tuple[SegmentResult, ...]
    offsets: dict[str, tuple[int, int]]
    """Partition → (impressions, clicks) offset that the evidence includes, exclusive"""
    config_hash: str
    seed: int
    metric: MetricView
    control: str
    missing: tuple[str, ...]
    """Fields that the record does not have or has in another form: written by another version"""


class VariantSeries(Struct, frozen=True, kw_only=True):
    """Columns beside those of `Series`."""

    rate: tuple[float | None, ...]
    """The weighted rate, else the plain one"""
    lower: tuple[float | None, ...]
    """Of the confidence sequence: anytime-valid"""
    upper: tuple[float | None, ...]
    allocation: tuple[int | None, ...]
    """Whole percents"""
    p_best: tuple[float | None, ...]
    expected_loss: tuple[float | None, ...]
    impressions: tuple[int | None, ...]
    clicks: tuple[int | None, ...]


class Series(Struct, frozen=True, kw_only=True):
    """Decisions over time, in columns, oldest first: at most 600 of them in an answer."""

    version: tuple[int, ...]
    at_ms: tuple[int, ...]
    wall_ms: tuple[int, ...]
    """When the record was written, by the broker's clock"""
    verdict: tuple[str, ...]
    allocation_version: tuple[int, ...]
    variants: dict[str, VariantSeries]
    regret: tuple[float | None, ...] | None
    """Clicks lost up to here, by the true rates; null where nobody knows them"""
    decisions: int
    """How many there were; more than there are points where points were left out"""


class VariantCount(Struct, frozen=True, kw_only=True):
    impressions: int
    clicks: int
    """The primary outcome"""
    ctr: float | None
    units: int


class Lag(Struct, frozen=True, kw_only=True):
    """How far counting is behind the logs `impressions` and `clicks`."""

    events: int | None
    """Null while Kafka or Redis is away"""
    events_per_s: float | None
    """Counted, over the last two seconds or more"""
    counted: int | None
    produced: int | None
    updated_ms: int


class Counters(Struct, frozen=True, kw_only=True):
    """Live, from Redis."""

    variants: dict[str, VariantCount]
    impressions: dict[str, int]
    """Records of topic `impressions` of all experiments, by outcome: counted, duplicate, late, malformed"""
    clicks: dict[str, int]
    """The same of topic `clicks`, with unmatched"""
    events_per_s: float | None
    lag: int | None
    open_impressions: int
    waiting_clicks: int
    watermark_ms: int | None
    since_ms: int
    """When they last changed"""
    updated_ms: int
    """When they were last read"""


class VariantTruth(Struct, frozen=True, kw_only=True):
    rate: float | None
    """True click rate, had this variant ranked every slate so far"""


class Truth(Struct, frozen=True, kw_only=True):
    """What a replay knows, over the slates sent so far."""

    variants: dict[str, VariantTruth]
    best: str | None
    slates: int
    regret: float
    """Clicks of the truly best variant, had it ranked every slate − clicks of what was shown"""
    regret_fixed_split: float
    """The same with the mean over the variants for what was shown"""
    finished: bool
    updated_ms: int


class ShadowView(Struct, frozen=True, kw_only=True):
    variant: str
    version: str
    shadow: str
    shadow_version: str
    requests: int
    compared: int
    dropped: int
    errors: dict[str, int]
    overlap: float | None
    overlap_interval: Interval | None
    rank_correlation: float | None
    rank_correlation_interval: Interval | None
    score_distance: float | None
    served_ms: dict[str, float]
    """`p50`, `p95`, `p99`"""
    shadow_ms: dict[str, float]


class Detail(Struct, frozen=True, kw_only=True):
    """All of one experiment."""

    name: str
    entry: Entry
    experiment: dict[str, Any] | None
    """Its configuration; of one that the catalogue does not have, as its last decision tells it"""
    state: dict[str, Any] | None
    """status, variant, revision, changes: [{revision, action, status, by, why, at_ms, variant}]"""
    decision: DecisionView | None
    series: Series
    counters: Counters | None
    """Null until Redis has answered once"""
    shadow: tuple[ShadowView, ...] | None
    truth: Truth | None
    lag: Lag
    sources: Sources
    now_ms: int
    server: str


class DecisionLine(Struct, frozen=True, kw_only=True):
    """One line of the decision log."""

    version: int
    at_ms: int
    wall_ms: int
    verdict: str
    reason: str
    allocation: dict[str, int]
    allocation_version: int


class DecisionLog(Struct, frozen=True, kw_only=True):
    decisions: tuple[DecisionLine, ...]
    """The newest first"""
    more: bool


class Explanation(Struct, frozen=True, kw_only=True):
    """A decision, computed again from its own record by `sluice explain`."""

    version: int
    matches: bool
    """The same bytes"""
    difference: str | None
    seconds: float
    command: str
    text: str
    record: Any
    config_hash: str
    offsets: dict[str, tuple[int, int]]
    seed: int
