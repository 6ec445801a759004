"""Trained models in a replay: every item of the log has its features, and a block of slates is one call a model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from producers.candidates import CANDIDATE, Floats, Known
from producers.slates import Slates, slate_log
from router.models import POLL_S, ModelFollower, ModelSource, Served
from sluice.adapters.mlflow import ModelVersion, parse_model_uri
from sluice.domain.rankings import columns_digest
from sluice.errors import ConfigError
from sluice.features import Catalogue, batch_features

__all__ = ["LogModels"]

Features = NDArray[np.float32]


class LogModels:
    """Scores the slates of one log with the registered models of its variants (port `Scorer`). Close it.

    The features of the whole log are made in one pass, point in time: those of a slate rest on what had ended when it
    was requested. They belong to the catalogue of a model; models with equal ones share them.
    """

    def __init__(
        self,
        slates: Slates,
        liked_milli: int,
        source: ModelSource,
        variants: Mapping[str, str],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """`variants`: name → `models:/…`. Raises ConfigError and TransportError as `ModelFollower` does."""
        self.variants: Sequence[str] = tuple(variants)
        self._log = slate_log(slates, liked_milli)
        self._name = slates.log.name
        self._made: list[tuple[Catalogue, Features]] = []
        self._features: dict[ModelVersion, Features] = {}
        self._columns: dict[ModelVersion, str] = {}
        self._source = source
        self._candidate: Served | None = None
        self._took_us: dict[ModelVersion, int] = {}
        self._follower = ModelFollower(source, variants, prepare=self._prepare, poll_s=poll_s)
        self._latest: Mapping[str, Served] = self._follower.in_force
        self._scored: tuple[int, Mapping[str, Floats]] = (0, {})

    def scores(self, first: int, last: int) -> Mapping[str, Floats]:
        """Variant → scores of all items of the slates first … last, by the versions in force now."""
        rows = slice(self._log.offsets[first], self._log.offsets[last + 1])
        in_force = self._follower.in_force
        if self._candidate is not None:
            in_force = {**in_force, CANDIDATE: self._candidate}
        by_version = {}
        for version, model in set(in_force.values()):
            begun = time.perf_counter()
            by_version[version] = model.score(self._features[version][rows])
            self._took_us[version] = round(1e6 * (time.perf_counter() - begun) / (last - first + 1))
        scores = {name: by_version[served.version] for name, served in in_force.items()}
        self._latest, self._scored = in_force, (int(rows.start), scores)
        return scores

    def known(self, variant: str, number: int) -> Known:
        """Of slate `number`, by the versions that `scores` used last; for a rule, by the first model."""
        low, high = self._log.offsets[number : number + 2].tolist()
        served = self._latest.get(variant)
        version = (served or self._latest[self.variants[0]]).version
        features, columns = self._features[version][low:high], self._columns[version]
        if served is None:
            return Known(features, columns)
        first, scores = self._scored
        return Known(
            features, columns, scores[variant][low - first : high - first].tolist(), version.name, version.version
        )

    def release(self, uri: str | None) -> None:
        """Score this version too, as `CANDIDATE`, from the next block on; None: no more.

        Raises ModelUnusable, TransportError and ConfigError, and then scores none.
        """
        self._candidate = None
        if uri is None:
            return
        version = self._source.resolve(parse_model_uri(uri))
        served = Served(version, self._source.load(version))
        self._prepare(served)
        self._candidate = served

    def took_us(self, variant: str) -> int:
        """Microseconds that the latest block took a slate, by the model of `variant`."""
        return self._took_us[self._latest[variant].version]

    def trained_otherwise(self, options: Mapping[str, float]) -> Sequence[str]:
        """A line for each of `options` that a model in force was trained with another value of.

        Models of other slates rank, but not as well as when they were measured.
        """
        lines = []
        for name, value in options.items():
            trained = {
                variant: served.model.about.get(name, f"{value:g}")
                for variant, served in self._follower.in_force.items()
            }
            others = [f"{variant} with {text}" for variant, text in trained.items() if text != f"{value:g}"]
            if others:
                option = name.replace("_", "-")
                lines.append(f"--{option} {value:g}: models were trained otherwise ({', '.join(others)})")
        return lines

    def close(self) -> None:
        """Stop following the aliases."""
        self._follower.close()

    def _prepare(self, served: Served) -> None:
        """Features for `served`, before it scores."""
        catalogue = served.model.catalogue
        made = next((features for known, features in self._made if known == catalogue), None)
        if made is None:
            try:
                made = batch_features(self._log, catalogue)
            except ValueError as error:
                raise ConfigError(f"{self._name}: trained models cannot rank it: {error}") from error
            self._made.append((catalogue, made))
        self._columns[served.version] = columns_digest(served.model.columns)
        self._features[served.version] = made
