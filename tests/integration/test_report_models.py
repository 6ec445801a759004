"""Online figures stand on the page of the model that a variant served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from online_evidence import decisions, evidence, experiment

from dashboard.report import make_report
from dashboard.report_models import log_report, served_models
from sluice.settings import Settings


def test_figures_are_logged_against_the_model_that_was_served(
    tmp_path: Path, mlflow_store: Callable[[Path], str]
) -> None:
    import mlflow
    from mlflow import MlflowClient

    settings = Settings(state=tmp_path / "state", mlflow=mlflow_store(tmp_path))
    # A version is made from a logged model of the tracking server that the process has set, whatever the client's.
    mlflow.set_tracking_uri(settings.mlflow_uri)
    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    trained_in = client.create_experiment("training", artifact_location=(tmp_path / "files").as_uri())
    run = client.create_run(trained_in).info.run_id
    model = client.create_logged_model(trained_in, name="PolicyA", source_run_id=run)
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("films")
    version = client.create_model_version("films", f"models:/{model.model_id}", run).version
    client.set_registered_model_alias("films", "PolicyA", version)

    read = evidence(decisions(experiment(), (1000,)))
    found = served_models(settings, read.decision)
    assert {name: (one.name, one.version, one.run_id) for name, one in found.items()} == {
        "PolicyA": ("films", str(version), run)
    }
    logged = log_report(settings, read, make_report(read), found)
    online = {one.key: one.value for one in client.get_logged_model(model.model_id).metrics}
    assert online["online_rate"] == read.decision.results[1].rate
    tags = client.get_run(logged).data.tags
    assert (tags["sluice.model.PolicyA"], tags["sluice.model_run.PolicyA"]) == (f"films/{version}", run)
