"""An Airflow DAG that trains a model again from the log: the command that the Kubernetes CronJob `retrain` runs, too.

It registers a version with its verdict and moves no alias. Where `sluice lifecycle run` leads the model, its own
schedule does this and releases what passed; then this DAG is not needed. Copy it into the folder of DAGs; `sluice` must
be on the PATH of the workers, and SLUICE_KAFKA, SLUICE_KAFKA_CONFIG and SLUICE_MLFLOW in their environment: nothing of
them is here. Library: apache-airflow 3 (with its standard provider).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

with DAG(
    "sluice_retrain",
    description="Train a model of Sluice again from the log of what was shown, and judge it",
    schedule="0 3 * * 1",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(
            "movielens_ctr_ab@PolicyA", type="string", maxLength=512, pattern="^[^@/]+@[^@/]+$",
            description="NAME@ALIAS of the version in force",
        ),
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
    doc_md=__doc__,
    tags=["sluice"],
) as dag:  # fmt: skip
    # The model goes by the environment, so that what somebody types is never a part of the script. What the command
    # prints, one JSON object, is the task's XCom: version, verdict, figures.
    BashOperator(
        task_id="retrain",
        bash_command='exec sluice retrain "$MODEL" --seconds 1800 --memory 2048 --json',
        env={"MODEL": "{{ params.model }}"},
        append_env=True,
        execution_timeout=timedelta(minutes=35),
    )
