"""Versions of a registered model, and the aliases that say which of them serve. Library: mlflow (through its client).

An alias remembers the version it pointed to before in a tag of the registered model. A version that was rolled back
carries a tag, too: it comes back only by hand. Versions made from the same run, which two commands at once can leave,
are one and the same model: none of them is what was there before another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry
from sluice.errors import ConfigError, ModelUnusable
from sluice.settings import Settings
from training.tracking import LoggedModel, Tracking

__all__ = ["ROLLED_BACK", "Aliases", "Moved"]

PREVIOUS, ROLLED_BACK = "sluice.previous", "sluice.rolled_back"


class Moved(NamedTuple):
    """An alias that was moved."""

    before: ModelVersion
    after: ModelVersion


class Aliases:
    """Of the registered model `name`, which is made with the first version. Errors are MLflow's own."""

    def __init__(self, tracking: Tracking, settings: Settings, name: str, about: str) -> None:
        """about: what the registered model is, in Markdown."""
        self.name = name
        self._client, self._registry, self._about = tracking.client, Registry(settings), about

    def in_force(self, alias: str) -> ModelVersion | None:
        """The version `alias` points to now."""
        return self._resolve(ModelRef(self.name, alias=alias))

    def made_from(self, run_id: str) -> ModelVersion | None:
        """The latest version that was made from a run."""
        return max(self._made_from(run_id), key=lambda one: int(one.version), default=None)

    def tagged(self, tags: Mapping[str, str]) -> ModelVersion | None:
        """The latest version with all these tags."""
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        found = self._client.search_model_versions(" and ".join([f"name = '{self.name}'", *wanted]))
        return max(map(_version, found), key=lambda one: int(one.version), default=None)

    def make(self, logged: LoggedModel, description: str, tags: Mapping[str, str]) -> ModelVersion:
        """A version of `logged`, without alias; the one that exists already is described anew."""
        existing = self.made_from(logged.run_id)
        if existing is None:
            return self._make(logged, description, tags)
        self._client.update_model_version(self.name, existing.version, description)
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, existing.version, key, value)
        return existing

    def move(self, alias: str, version: ModelVersion) -> None:
        """Point `alias` to `version`."""
        before = self.in_force(alias)
        if before is not None and not _same_model(before, version):
            self._client.set_registered_model_tag(self.name, _previous(alias), before.version)
        self._client.set_registered_model_alias(self.name, alias, version.version)

    def roll_back(self, alias: str) -> Moved:
        """Let `alias` and the version before it change places. Raises ConfigError when there is none."""
        now = self.in_force(alias)
        if now is None:
            raise ConfigError(f"{alias}: {self.name} has no such alias: nothing to roll back")
        previous = self._client.get_registered_model(self.name).tags.get(_previous(alias), now.version)
        if previous == now.version:
            raise ConfigError(
                f"{alias}: version {now.version} is the first this alias points to: nothing to go back to"
            )
        before = self._resolve(ModelRef(self.name, version=previous))
        if before is None:
            raise ConfigError(f"{alias}: version {previous} was deleted: version {now.version} stays in force")
        if _same_model(before, now):
            raise ConfigError(
                f"{alias}: versions {previous} and {now.version} are the same model, of one training: "
                "nothing to go back to"
            )
        returns = ROLLED_BACK in dict(before.tags)  # it was left by hand: this takes that back
        if not returns:
            for one in self._same(now):
                self._client.set_model_version_tag(self.name, one.version, ROLLED_BACK, "true")
        self._client.set_registered_model_alias(self.name, alias, before.version)
        self._client.set_registered_model_tag(self.name, _previous(alias), now.version)
        if returns:
            for one in self._same(before):
                self._client.delete_model_version_tag(self.name, one.version, ROLLED_BACK)
        return Moved(now, before)

    def _make(self, logged: LoggedModel, description: str, tags: Mapping[str, str]) -> ModelVersion:
        if not self._client.search_registered_models(f"name = '{self.name}'"):
            self._client.create_registered_model(self.name, description=self._about)
        model_id = logged.model_uri.removeprefix("models:/")
        made = _version(
            self._client.create_model_version(
                self.name, logged.model_uri, logged.run_id, dict(tags), description=description, model_id=model_id
            )
        )
        # As `mlflow.register_model` does: the UI links the logged model to its versions by this tag.
        links = json.dumps([{"name": self.name, "version": made.version}])
        self._client.set_logged_model_tags(model_id, {"mlflow.modelVersions": links})
        return made

    def _made_from(self, run_id: str) -> list[ModelVersion]:
        found = self._client.search_model_versions(f"name = '{self.name}' and run_id = '{run_id}'")
        return list(map(_version, found))

    def _same(self, version: ModelVersion) -> list[ModelVersion]:
        """All versions of the same model."""
        return self._made_from(version.run_id) if version.run_id else [version]

    def _resolve(self, ref: ModelRef) -> ModelVersion | None:
        try:
            return self._registry.resolve(ref)
        except ModelUnusable:
            return None


def _previous(alias: str) -> str:
    return f"{PREVIOUS}.{alias}"


def _same_model(one: ModelVersion, other: ModelVersion) -> bool:
    return one.version == other.version or (bool(one.run_id) and one.run_id == other.run_id)


def _version(found: object) -> ModelVersion:
    tags = tuple(sorted(found.tags.items()))  # type: ignore[attr-defined]
    return ModelVersion(found.name, str(found.version), found.run_id or "", tags)  # type: ignore[attr-defined]
