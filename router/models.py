"""The registered models that variants rank with, kept up to date with their aliases.

A variant whose `ranker` is `models:/NAME@ALIAS` or `models:/NAME/VERSION` is scored by that model. An alias that is
moved is followed within seconds: the new version is loaded and tried beside the one in force, then one reference
changes, so nobody ever waits for a model or sees half of one. Whatever goes wrong, the one in force goes on serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Protocol

import numpy as np

from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry, parse_model_uri
from sluice.errors import ConfigError, ModelUnusable, SluiceError
from sluice.models import TrainedModel
from sluice.settings import Settings

__all__ = ["POLL_S", "ModelFollower", "ModelSource", "Served", "follow_models"]

log = logging.getLogger(__name__)

POLL_S = 2.0
RETRY_REFUSED_S = 30.0
"""A version that cannot be served is tried again after so long: its files may have been away."""


class ModelSource(Protocol):
    """Where models come from: `sluice.adapters.mlflow.Registry`."""

    def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that `ref` points to now. Raises ModelUnusable, TransportError."""

    def load(self, version: ModelVersion) -> TrainedModel:
        """Raises ModelUnusable, TransportError, and ConfigError when a library is missing."""


class Served(NamedTuple):
    """A model in force."""

    version: ModelVersion
    model: TrainedModel


class _Refused(NamedTuple):
    version: ModelVersion
    again_s: float
    """Monotonic time to try it again"""


def follow_models(settings: Settings, variants: Mapping[str, str]) -> ModelFollower:
    """The models of `variants` (name → `models:/…`) from MLflow's registry, as `ModelFollower` starts with them."""
    return ModelFollower(Registry(settings), variants)


class ModelFollower:
    """Serves every variant's model and follows the aliases in a background thread. Close it, or use it with `with`.

    `in_force` is one reference to an immutable mapping: whoever takes it once for a batch scores all of the batch with
    the same versions.
    """

    def __init__(
        self,
        source: ModelSource,
        variants: Mapping[str, str],
        *,
        prepare: Callable[[Served], None] = lambda served: None,
        poll_s: float = POLL_S,
    ) -> None:
        """`variants`: name → `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Returns once all are loaded.

        `prepare` gets a model before it serves, in the thread that loaded it; what it raises refuses the model.
        Raises ConfigError for a model that does not exist or cannot be served, TransportError when MLflow is away.
        """
        self._source = source
        self._prepare = prepare
        self._poll_s = poll_s
        self._refs = {name: parse_model_uri(uri) for name, uri in variants.items()}
        self._refused: dict[str, _Refused] = {}
        self._said: dict[str, str] = {}
        self.in_force: Mapping[str, Served] = MappingProxyType({})
        """Variant → the model that scores it now"""
        for name, ref in self._refs.items():
            try:
                self._serve(name, source.resolve(ref))
            except ModelUnusable as error:
                raise ConfigError(
                    f"variant {name}: {error}; `sluice register` trains and registers models, `mlflow` shows them"
                ) from error
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router-models", daemon=True)
        if any(ref.alias for ref in self._refs.values()):
            self._thread.start()

    def close(self) -> None:
        """Stop following; what is in force stays. Closing twice does nothing."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def __enter__(self) -> ModelFollower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.wait(self._poll_s):
            for name, ref in self._refs.items():
                if ref.alias and not self._closing.is_set():
                    self._follow(name, ref)

    def _follow(self, name: str, ref: ModelRef) -> None:
        current = self.in_force[name].version
        try:
            version = self._source.resolve(ref)
            if _same(version, current):
                self._refused.pop(name, None)
            elif not self._waits(name, version):
                self._serve(name, version)
                log.info("variant %s: %s serves now, before it version %s", name, version, current.version)
            else:
                return
        except SluiceError as error:
            self._say(name, f"variant {name}: {current} goes on serving: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a model or a client library does, the one in force serves on
            self._say(name, f"variant {name}: {current} goes on serving: {type(error).__name__}: {error}")
        else:
            self._said.pop(name, None)

    def _serve(self, name: str, version: ModelVersion) -> None:
        """Load `version`, unless another variant has it, try it, and let it score `name` from now on."""
        self._refused[name] = _Refused(version, time.monotonic() + RETRY_REFUSED_S)
        same = [served for served in self.in_force.values() if _same(served.version, version)]
        served = same[0] if same else Served(version, self._source.load(version))
        if not same:
            _try(served)
            self._prepare(served)
        self.in_force = MappingProxyType({**self.in_force, name: served})
        del self._refused[name]

    def _waits(self, name: str, version: ModelVersion) -> bool:
        refused = self._refused.get(name)
        return refused is not None and _same(refused.version, version) and time.monotonic() < refused.again_s

    def _say(self, name: str, line: str) -> None:
        """Once, until it is about something else."""
        line = " ".join(line.split())
        if self._said.get(name) != line:
            self._said[name] = line
            log.warning("%s", line)


def _same(one: ModelVersion, other: ModelVersion) -> bool:
    """Whatever their tags are now."""
    return (one.name, one.version, one.run_id) == (other.name, other.version, other.run_id)


def _try(served: Served) -> None:
    """Raises ModelUnusable unless the model scores."""
    score = served.model.score(np.zeros((2, len(served.model.columns)), dtype=np.float32))
    if score.shape != (2,) or not np.isfinite(score).all():
        raise ModelUnusable(f"{served.version}: its scores are not finite numbers")
