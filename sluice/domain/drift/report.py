"""What a monitor says. Library: msgspec."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "Distribution", "DriftReport", "DriftWindow", "FeatureDrift", "PerformanceDrift", "PerformanceMeasure",
    "SettlingSeen",
]  # fmt: skip


class DriftWindow(Struct, frozen=True, kw_only=True):
    """The latest closed windows that together hold a thousand rows; distances are of these."""

    start_ms: int
    end_ms: int
    number: int
    """Windows since the monitor began"""
    rows: int
    users: int
    """Cells of users, which is a little less"""
    late: int
    """Rows since the monitor began whose window was closed already"""


class Distribution(Struct, frozen=True, kw_only=True):
    """For a picture: before and after, at equal age of the users' histories."""

    edges: tuple[float, ...]
    before: tuple[float, ...]
    """Shares of the bins in the reference"""
    after: tuple[float, ...]


class FeatureDrift(Struct, frozen=True, kw_only=True):
    """One feature against its reference. Distances are null where there was nothing to compare."""

    name: str
    kind: str
    """`rank`; `growing`: changes with the age of the log, checked for missing values only"""
    psi: float | None
    ks: float | None
    ks_p_value: float | None
    """Of one look at independent rows, as the next: they decide nothing"""
    chi2: float | None
    """Cramér's V"""
    chi2_p_value: float | None
    js: float | None
    p_value: float
    """Valid at any time, for users as blocks; of this feature alone"""
    relation_p_value: float | None
    """The same, of clicks beyond the score that go with the feature: what the model learned of it no longer holds"""
    effect: float | None
    """Cliff's delta: P(higher than before) − P(lower), −1 to 1"""
    missing: float
    """Share of rows where it was missing or a value that had never been seen"""
    importance: float
    drifted: bool
    since_ms: int | None
    """When that was seen"""
    began_ms: int | None
    """With which window it most likely began"""
    distribution: Distribution


class PerformanceMeasure(Struct, frozen=True, kw_only=True):
    """`click_rate`; `calibration`: clicks − scores; `log_loss`: above what scores let expect."""

    name: str
    value: float | None
    expected: float
    effect: float | None
    """(value − expected) / standard deviation between users"""
    p_value: float
    drifted: bool
    since_ms: int | None
    began_ms: int | None


class PerformanceDrift(Struct, frozen=True, kw_only=True):
    """Of slates whose clicks can no longer come. Values are null before the first."""

    impressions: int
    clicks: int
    click_rate: float | None
    expected_click_rate: float
    mean_score: float | None
    log_loss: float | None
    expected_log_loss: float
    measures: tuple[PerformanceMeasure, ...]
    drifted: bool


class SettlingSeen(Struct, frozen=True, kw_only=True):
    """How far a version is that first learns what is normal from what it shows itself."""

    users: int
    """Whose outcomes are known"""
    needed: int
    """Users; then the window is ended, and watching begins"""
    rows: int
    since_ms: int
    """When the first of them was shown"""


class DriftReport(Struct, frozen=True, kw_only=True):
    """All that a monitor knows, the worst features first."""

    model: str
    version: str
    window: DriftWindow
    features: tuple[FeatureDrift, ...]
    performance: PerformanceDrift
    drifted: bool
    alpha: float
    """The probability of any alarm, ever, while nothing changes by more than is tolerated, is at most this"""
    since_ms: int | None
    """When the first alarm came"""
    began_ms: int | None
    """With which window what was alarmed first most likely began"""
    settling: SettlingSeen | None = None
    """While it settles nothing is compared; null when it watches"""
    part: str = ""
    """Of what the version shows, as `variant=b history=new`; empty for all of it"""
    settled_ms: int | None = None
    """What was shown before is the reference; null when that of the training is"""
