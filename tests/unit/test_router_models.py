"""Models that follow their aliases: a moved one serves soon, and whatever goes wrong, the one in force serves on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from registered_models import NAME, ModelsInMemory, likes

from router.models import ModelFollower, Served
from sluice.errors import ConfigError, ModelUnusable, TransportError
from sluice.features import make_catalogue
from sluice.models import Linear, TrainedModel

CATALOGUE = make_catalogue(["1"], {"1": ("Drama",)}, {"1": "Glory (1989)"})
A, B = likes("item_like_rate", CATALOGUE), likes("item_history", CATALOGUE)
URI_A, URI_B = f"models:/{NAME}@PolicyA", f"models:/{NAME}@PolicyB"
SOON_S = 0.01
LONG_S = 10


@pytest.fixture
def source() -> ModelsInMemory:
    made = ModelsInMemory()
    made.add(A, "PolicyA")
    made.add(B, "PolicyB")
    return made


def version(follower: ModelFollower, variant: str) -> str:
    return follower.in_force[variant].version.version


def test_every_variant_has_the_model_its_address_points_to(source: ModelsInMemory) -> None:
    variants = {"a": URI_A, "b": URI_B, "pinned": f"models:/{NAME}/1"}
    with ModelFollower(source, variants) as follower:
        assert {name: served.model for name, served in follower.in_force.items()} == {"a": A, "b": B, "pinned": A}
        assert source.loads == 2, "one version is loaded once, however many variants have it"


def test_a_moved_alias_is_served_and_said_once(
    source: ModelsInMemory, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "router.models")
    with ModelFollower(source, {"a": URI_A, "b": URI_B}, poll_s=SOON_S) as follower:
        before = follower.in_force
        source.add(B, "PolicyA")
        wait_until(lambda: version(follower, "a") == "3", LONG_S, "version 3 serves")
        assert (version(follower, "b"), follower.in_force["a"].model) == ("2", B)
        assert before["a"].model is A, "a batch that is under way keeps what it began with"
        source.aliases["PolicyA"] = 1
        wait_until(lambda: version(follower, "a") == "1", LONG_S, "version 1 serves again")
    assert [record.getMessage() for record in caplog.records] == [
        f"variant a: {NAME} version 3 serves now, before it version 1",
        f"variant a: {NAME} version 1 serves now, before it version 3",
    ]


def broken() -> TrainedModel:
    columns = len(A.columns)
    return replace(A, model=Linear(np.zeros(columns), np.ones(columns), np.full(columns, np.nan), 0.0))


def narrow() -> TrainedModel:
    return replace(A, model=Linear(np.zeros(3), np.ones(3), np.ones(3), 0.0))


@pytest.mark.parametrize(
    "bad",
    [ModelUnusable("version 3: files are gone"), ConfigError("no libgomp"), RuntimeError("a bug"), broken(), narrow()],
    ids=["unusable", "no library", "any error", "not finite", "other columns"],
)
def test_a_version_that_cannot_be_served_leaves_the_one_in_force(
    source: ModelsInMemory, bad: Any, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ModelFollower(source, {"a": URI_A}, poll_s=SOON_S) as follower:
        source.add(bad, "PolicyA")
        asked = wait_until(lambda: caplog.records and source.asked, LONG_S, "it is said")
        wait_until(lambda: source.asked > asked + 5, LONG_S, "it goes on asking")
        assert follower.in_force["a"].model is A
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith(f"variant a: {NAME} version 1 goes on serving: ")
        assert "\n" not in record.getMessage()
        source.add(B, "PolicyA")
        wait_until(lambda: follower.in_force["a"].model is B, LONG_S, "the next good version serves")


def test_a_model_that_was_refused_is_tried_again_later(
    source: ModelsInMemory, wait_until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.models.RETRY_REFUSED_S", 0.0)
    with ModelFollower(source, {"a": URI_A}, poll_s=SOON_S) as follower:
        source.add(TransportError("the files are away"), "PolicyA")
        wait_until(lambda: source.loads > 2, LONG_S, "it is tried again")
        source.models[2] = B
        wait_until(lambda: follower.in_force["a"].model is B, LONG_S, "the files are back")


def test_a_registry_that_is_away_changes_nothing(
    source: ModelsInMemory, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ModelFollower(source, {"a": URI_A, "b": URI_B}, poll_s=SOON_S) as follower:
        source.away = TransportError("MLflow: connection refused")
        wait_until(lambda: len(caplog.records) == 2, LONG_S, "each variant says so")
        source.add(B, "PolicyA")
        asked = source.asked
        wait_until(lambda: source.asked > asked + 6, LONG_S, "it goes on asking")
        assert (version(follower, "a"), len(caplog.records)) == ("1", 2)
        source.away = None
        wait_until(lambda: version(follower, "a") == "3", LONG_S, "the alias is followed again")


def test_whoever_prepares_may_refuse(
    source: ModelsInMemory, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def prepare(served: Served) -> None:
        seen.append(served.version.version)
        if len(seen) > 1:
            raise ModelUnusable("no features for it")

    with ModelFollower(source, {"a": URI_A}, prepare=prepare, poll_s=SOON_S) as follower:
        source.add(B, "PolicyA")
        wait_until(lambda: caplog.records, LONG_S, "it is said")
        assert (seen, version(follower, "a")) == (["1", "3"], "1")


@pytest.mark.parametrize(
    ("uri", "kind", "words"),
    [
        (f"models:/{NAME}@Nobody", ConfigError, "variant a: .*Nobody.*sluice register"),
        (f"models:/{NAME}/9", ConfigError, "no such model"),
        ("models:/", ConfigError, "allowed are models:/NAME@ALIAS and models:/NAME/VERSION"),
    ],
)
def test_at_the_start_a_model_that_is_missing_is_one_line(
    source: ModelsInMemory, uri: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        ModelFollower(source, {"a": uri})
    assert "\n" not in str(caught.value)


def test_at_the_start_a_registry_that_is_away_is_not_a_mistake_in_the_options(source: ModelsInMemory) -> None:
    source.away = TransportError("MLflow: connection refused")
    with pytest.raises(TransportError, match="refused"):
        ModelFollower(source, {"a": URI_A})


def test_a_fixed_version_is_not_asked_for_again(source: ModelsInMemory, wait_until: Callable[..., Any]) -> None:
    with ModelFollower(source, {"fixed": f"models:/{NAME}/1", "a": URI_A}, poll_s=SOON_S) as follower:
        wait_until(lambda: source.asked > 6, LONG_S, "the alias is asked for")
        source.aliases["PolicyA"] = 2
        wait_until(lambda: version(follower, "a") == "2", LONG_S, "the alias is followed")
        assert version(follower, "fixed") == "1"
