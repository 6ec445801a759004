"""Shadows of a service over HTTP: whatever they do, answers are the same, and what they did is on the topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shadow_works
from http_service import Running, serving

from infra import stack as stacks
from router.shadow import WAITING, Work
from sluice.adapters import catalogue
from sluice.adapters.reader import TopicReader
from sluice.domain.events import decode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.experiment_parts import Shadow
from sluice.domain.shadow import ShadowCompared
from sluice.names import SHADOW
from sluice.settings import Settings

VARIANTS = (Variant(name="a", ranker="random"), Variant(name="b", ranker="random"))
PLAIN = Experiment(name="plain", variants=VARIANTS, seed=5, salt="s")
SHADOWED = Experiment(
    name="shadowed", variants=VARIANTS, seed=5, salt="s", shadow=(Shadow(name="next", ranker="models:/m@next"),)
)
ITEMS = [str(number) for number in range(6)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("shadow"))) as stack:
        catalogue.apply(stack.settings, [PLAIN, SHADOWED])
        yield stack.settings


def rank(api: Running, experiment: str, user: str) -> Any:
    body = {"user_id": user, "items": ITEMS, "top": 2, "experiment": experiment, "slate_id": f"s{user}", "at_ms": 5}
    answer = api.post("/rank", body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    del told["experiment"]
    told["assignments"] = [one for one in told["assignments"] if one[0] == "plain"]
    return told


def first_record(settings: Settings, act: Callable[[str], None], user: str) -> ShadowCompared:
    """What the shadow said first; it is asked from when its process has started, and what waits too long is dropped."""
    with TopicReader(settings, SHADOW, from_start=False) as reader:
        for number in range(1200):
            act(f"{user}{number}")
            for message in reader.poll(0.05):
                record = decode(message.value(), ShadowCompared)
                assert isinstance(record, ShadowCompared)
                return record
    raise AssertionError("no record")


def outcome(api: Running, name: str) -> float:
    return api.metric("sluice_shadow_requests_total", experiment="shadowed", shadow="next", outcome=name)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (shadow_works.reverse, ""),
        (shadow_works.hang, "timeout"),
        (shadow_works.die, "crash"),
        (shadow_works.fail, "raised"),
        (shadow_works.not_a_number, "unusable"),
    ],
)
def test_answers_are_the_same_and_what_the_shadow_did_is_told(settings: Settings, work: Work, error: str) -> None:
    with serving(settings, shadow_work=work) as api:

        def same(user: str) -> None:
            assert rank(api, "shadowed", user) == rank(api, "plain", user)

        first = first_record(settings, same, work.__name__)
        for number in range(20):
            same(f"afterwards{number}")
        assert (first.experiment, first.shadow, first.shadow_version, first.error) == ("shadowed", "next", "7", error)
        assert first.user_id.startswith(work.__name__)
        assert outcome(api, error or "compared") >= 1
        if error:
            assert (first.agreement, first.shadow_us) == (None, None)
        else:
            assert first.agreement is not None and first.agreement.top == 2 and first.shadow_us is not None


def test_a_shadow_that_never_starts_leaves_requests_dropped(settings: Settings, wait_until: Callable[..., Any]) -> None:
    with serving(settings, shadow_work=shadow_works.no_start) as api:
        for number in range(WAITING + 40):
            rank(api, "shadowed", f"u{number}")
        wait_until(lambda: outcome(api, "dropped") >= 40, 10, "the queue is full")
        assert rank(api, "shadowed", "x") == rank(api, "plain", "x")


def test_a_shadow_that_is_taken_out_is_asked_no_more(settings: Settings, wait_until: Callable[..., Any]) -> None:
    with serving(settings, shadow_work=shadow_works.reverse) as api:
        first_record(settings, lambda user: rank(api, "shadowed", user), "before")
        catalogue.apply(settings, [Experiment(name="shadowed", variants=VARIANTS, seed=5, salt="s")])
        wait_until(lambda: not api.service.shadows._of, 10, "the service follows")
        before = outcome(api, "compared")
        for number in range(20):
            rank(api, "shadowed", f"after{number}")
        assert outcome(api, "compared") == before
    catalogue.apply(settings, [SHADOWED])
