"""What `import sluice` offers, and that it stays quick."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sluice

EXPORTED = [
    "AssignmentMade",
    "AsyncClient",
    "AsyncSubscription",
    "BucketCounts",
    "Client",
    "ConfigError",
    "DeadLetter",
    "DecisionMade",
    "Experiment",
    "ExperimentCounts",
    "Fenced",
    "ImpressionShown",
    "InvalidEvent",
    "LiveCounters",
    "LogTruncated",
    "Malformed",
    "OutcomeObserved",
    "RawImpressionShown",
    "RecordCounts",
    "RequestRefused",
    "Settings",
    "SluiceError",
    "Snapshot",
    "StatsPublished",
    "Subscription",
    "TransportError",
    "VariantCounts",
    "subscribe",
    "subscribe_async",
]

HEAVY = ("confluent_kafka", "redis", "faust", "mlflow", "numpy", "rich", "msgspec", "yaml", "httpx")


def test_the_exported_names_are_these() -> None:
    assert sluice.__all__ == EXPORTED


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(sluice, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(sluice)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sluice.nonsense


@pytest.mark.parametrize(
    "code", ["import sluice", "import sys; from sluice.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"]
)
def test_nothing_heavy_is_imported_before_it_is_used(code: str) -> None:
    script = f"{code}\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_function_survives_the_import_of_its_module() -> None:
    # A module named like the function would take its place in the package.
    script = "import sluice, sluice.subscription; assert callable(sluice.subscribe), sluice.subscribe"
    subprocess.run([sys.executable, "-c", script], check=True)
