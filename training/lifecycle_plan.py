"""What `sluice lifecycle` is told in its file: which model, when it is trained again, how it is released.

Libraries: PyYAML (safe loader), msgspec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta, Struct

from sluice.domain.canary import Canary
from sluice.domain.experiment import Experiment
from sluice.domain.experiment_parts import Bandit, Shadow, Stopping, Variant
from sluice.domain.lifecycle import Policy, check_schedule
from sluice.errors import ConfigError
from training.model_tests import DEFAULT_BOUNDS, Bounds

__all__ = ["CANDIDATE", "CONTROL", "Plan", "load_plan"]

CONTROL, CANDIDATE = "current", "next"
MAX_FILE_BYTES = 100_000


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As the options of `sluice retrain`."""

    experiment: str = ""
    holdout: Annotated[float, Meta(ge=0.05, le=0.9)] = 0.25
    weights: bool = False
    seconds: Annotated[float, Meta(ge=1)] = 1800
    memory_mb: Annotated[int, Meta(ge=512)] = 4096
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    bounds: Bounds = DEFAULT_BOUNDS


class ShadowRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a shadow must show."""

    requests: Annotated[int, Meta(ge=1)] = 200
    """So many rankings must have been compared"""
    max_errors: Annotated[float, Meta(ge=0, le=1)] = 0.01
    max_p99_ms: Annotated[float, Meta(gt=0)] = 100.0
    min_overlap: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Of the best items with those of the version in force; a model that learned a new world differs"""


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One life. The experiments of its releases are named `{name}-{version}`."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,50}$")]
    model: Annotated[str, Meta(min_length=1, max_length=256)]
    alias: Annotated[str, Meta(min_length=1, max_length=256)]
    policy: Policy = Policy()
    training: Training = Training()
    shadow: ShadowRule = ShadowRule()
    canary: Canary = Canary()
    stopping: Stopping = Stopping()
    unit: str = "user"

    @property
    def serving(self) -> str:
        return f"models:/{self.model}@{self.alias}"

    def release(self, version: str, *, canary: bool) -> Experiment:
        """The experiment of a version: all see the version in force, and its shadow is asked; or the canary."""
        candidate = f"models:/{self.model}/{version}"
        shares = (None, None) if canary else (100, 0)
        definition = {
            "name": f"{self.name}-{version}", "unit": self.unit, "stopping": self.stopping, "assignment": "rollout",
            "bandit": Bandit(policy="fixed", floor=0.0), "canary": self.canary if canary else None,
            "variants": [
                Variant(name=CONTROL, ranker=self.serving, share=shares[0]),
                Variant(name=CANDIDATE, ranker=candidate, share=shares[1]),
            ],
            "shadow": [] if canary else [Shadow(name="candidate", ranker=candidate)],
        }  # fmt: skip
        return msgspec.convert(msgspec.to_builtins(definition), Experiment)


def load_plan(path: Path) -> Plan:
    """Raises ConfigError, in one line."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        plan = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Plan)
        if plan.policy.schedule:
            check_schedule(plan.policy.schedule)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return plan
