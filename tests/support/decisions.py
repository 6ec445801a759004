"""Decision records for tests, as the analyzer writes them."""

from __future__ import annotations

from typing import Any

from sluice.domain.events import Contrast, DecisionMade, GuardrailResult, VariantResult, encode


def result(variant: str, impressions: int, clicks: int, **given: Any) -> VariantResult:
    rate = clicks / impressions if impressions else 0.0
    values: dict[str, Any] = {
        "variant": variant, "units": impressions, "impressions": impressions, "outcomes": clicks, "rate": rate,
        "alpha": clicks + 1.0, "beta": impressions - clicks + 1.0, "design_effect": 1.0,
        "effective_impressions": float(impressions), "interval": (max(0.0, rate - 0.02), min(1.0, rate + 0.02)),
        "p_best": 0.5, "expected_loss": 0.01, "weighted_rate": rate,
        "sequence": (max(0.0, rate - 0.05), min(1.0, rate + 0.05)),
    }  # fmt: skip
    return VariantResult(**{**values, **given})


def decision(version: int, experiment: str = "demo", **given: Any) -> DecisionMade:
    """Two variants; a of `version` × 10 impressions, every second of which was clicked."""
    shown = 10 * version
    contrast = Contrast(
        difference=0.1, interval=(0.0, 0.2), always_valid_p=0.04, lift=0.2, lift_interval=None, p_better=0.9,
        p_rope=None, fixed_horizon_p=0.01,
    )  # fmt: skip
    values: dict[str, Any] = {
        "experiment": experiment, "version": version, "at_ms": 1000 * version, "offsets": {"0": (shown, shown // 2)},
        "config_hash": "0123456789abcdef", "seed": 7, "evidence": (),
        "config": {"name": experiment, "control": "a", "primary": "click", "unit": "user", "measure": "rate"},
        "results": (result("a", shown, shown // 2), result("b", shown, shown // 2 + version, contrast=contrast)),
        "sample_ratio_p": 0.4, "sample_ratio_always_valid_p": 0.9, "allocation": {"a": 50, "b": 50},
        "allocation_version": 1, "verdict": "continue", "reasons": ("No winner yet.",),
        "guardrails": (
            GuardrailResult(outcome="rating", variant="b", margin=0.02, difference=None, interval=None, status="open"),
        ),
    }  # fmt: skip
    return DecisionMade(**{**values, **given})


def record(version: int, experiment: str = "demo", **given: Any) -> bytes:
    return encode(decision(version, experiment, **given))
