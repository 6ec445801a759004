"""What a drift monitor says, for tests."""

from __future__ import annotations

from sluice.domain.api_drift import DriftSeen
from sluice.domain.drift.report import (
    Distribution,
    DriftReport,
    DriftWindow,
    FeatureDrift,
    PerformanceDrift,
    PerformanceMeasure,
)


def drift_seen(model: str, version: str, *, drifted: bool = False) -> DriftSeen:
    """One feature and one measure."""
    feature = FeatureDrift(
        name="item_history", kind="rank", psi=0.1, ks=0.1, ks_p_value=0.5, chi2=None, chi2_p_value=None, js=0.1,
        p_value=0.5, relation_p_value=None, effect=0.4, missing=0.0, importance=0.5, drifted=drifted, since_ms=None,
        began_ms=None, distribution=Distribution(edges=(), before=(), after=()),
    )  # fmt: skip
    measure = PerformanceMeasure(
        name="click_rate", value=0.4, expected=0.5, effect=-0.2, p_value=0.2, drifted=drifted, since_ms=None,
        began_ms=None,
    )  # fmt: skip
    report = DriftReport(
        model=model, version=version, alpha=0.05, drifted=drifted, since_ms=None, began_ms=None, features=(feature,),
        window=DriftWindow(start_ms=0, end_ms=1, number=1, rows=1000, users=100, late=0),
        performance=PerformanceDrift(
            impressions=1000, clicks=400, click_rate=0.4, expected_click_rate=0.5, mean_score=0.5, log_loss=0.6,
            expected_log_loss=0.6, measures=(measure,), drifted=drifted,
        ),
    )  # fmt: skip
    return DriftSeen(checked_ms=5000, report=report)
