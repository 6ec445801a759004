"""Which models the variants served, and online results beside them in MLflow. Library: mlflow (`sluice.adapters`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from dashboard.report import Report
from dashboard.report_design import design_of
from dashboard.report_format import moment
from dashboard.report_reading import Evidence
from sluice.adapters.mlflow import parse_model_uri
from sluice.adapters.mlflow_runs import OnlineRun, ServedModel, log_online, served_model
from sluice.domain.events import DecisionMade, VariantResult
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["in_words", "log_report", "served_models"]

REPORT_FILE = "report.html"
RECORD_FILE = "decision.json"


def served_models(settings: Settings, decision: DecisionMade) -> dict[str, ServedModel]:
    """Variant → the version that its alias points to now; variants that are rules, or unknown to MLflow, are left out.

    Raises TransportError when MLflow does not answer, ConfigError when it cannot be used.
    """
    it = design_of(decision).experiment
    found: dict[str, ServedModel] = {}
    for variant in it.variants if it is not None else ():
        try:
            ref = parse_model_uri(variant.ranker)
        except ConfigError:
            continue  # a rule
        model = served_model(settings, ref.name, alias=ref.alias, version=ref.version)
        if model is not None:
            found[variant.name] = model
    return found


def in_words(models: Mapping[str, ServedModel]) -> dict[str, str]:
    """Variant → version, for the page."""
    return {name: f"version {model.version} when this page was made" for name, model in models.items()}


def log_report(settings: Settings, evidence: Evidence, report: Report, models: Mapping[str, ServedModel]) -> str:
    """The id of the run in MLflow; a decision that was logged before keeps its run. Raises as `served_models`."""
    with tempfile.TemporaryDirectory(prefix="sluice-report-") as folder:
        place = Path(folder)
        (place / REPORT_FILE).write_text(report.page, encoding="utf-8")
        (place / RECORD_FILE).write_bytes(evidence.record)
        charts = place / "charts"
        charts.mkdir()
        for drawing in report.drawings:
            (charts / f"{drawing.name}.png").write_bytes(drawing.png())
        return log_online(settings, _run(evidence.decision, report, models), place)


def _run(decision: DecisionMade, report: Report, models: Mapping[str, ServedModel]) -> OnlineRun:
    design = design_of(decision)
    name = decision.experiment
    served = {variant: f"{model.name}/{model.version}" for variant, model in models.items()}
    return OnlineRun(
        experiment=f"sluice/{name}",
        name=f"{name} decision {decision.version}",
        key={
            "sluice.kind": "online", "sluice.experiment": name, "sluice.decision": str(decision.version),
            "sluice.config_hash": decision.config_hash, "sluice.evidence_ms": str(decision.at_ms),
        },
        tags={
            "sluice.verdict": decision.verdict,
            **{f"sluice.model.{variant}": shown for variant, shown in served.items()},
        },
        params={
            "config_hash": decision.config_hash, "primary": design.metric.outcome, "unit": design.unit,
            "control": design.control, "seed": str(decision.seed), "decision": str(decision.version),
            **{f"model.{variant}": shown for variant, shown in served.items()},
        },
        metrics={key: value for one in decision.results for key, value in _metrics(one, f"{one.variant}.").items()},
        of_models={
            one.variant: (models[one.variant], _metrics(one, "online_")) for one in decision.results
            if one.variant in models
        },
        note=(
            f"{decision.reasons[0] if decision.reasons else report.headline}\n\nEvidence up to "
            f"{moment(decision.at_ms)}; reproduce with `sluice explain {decision.version} --experiment {name}`."
        ),
    )  # fmt: skip


def _metrics(one: VariantResult, prefix: str) -> dict[str, float]:
    """Figures of one variant, by name; what is not known is left out."""
    contrast = one.contrast
    known = {
        "units": one.units,
        "impressions": one.impressions,
        "rate": one.rate,
        "weighted_rate": one.weighted_rate,
        "rate_low": one.sequence[0] if one.sequence else None,
        "rate_high": one.sequence[1] if one.sequence else None,
        "p_best": one.p_best,
        "expected_loss": one.expected_loss,
        "difference": contrast.difference if contrast else None,
        "difference_low": contrast.interval[0] if contrast else None,
        "difference_high": contrast.interval[1] if contrast else None,
        "always_valid_p": contrast.always_valid_p if contrast else None,
    }
    return {f"{prefix}{key}": float(value) for key, value in known.items() if value is not None}
