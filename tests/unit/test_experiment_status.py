"""The life of an experiment: which changes are allowed, what they leave behind, and which records stand."""

from __future__ import annotations

from itertools import product
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.adapters.catalogue import Catalogue
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.status import ACTIONS, KEPT_CHANGES, Action, State, Status, changed
from sluice.errors import ConfigError, Conflict

E = Experiment(name="e", variants=(Variant(name="a"), Variant(name="b")))
ALLOWED = {
    ("draft", "start"): "running",
    ("paused", "start"): "running",
    ("running", "pause"): "paused",
    ("draft", "stop"): "stopped",
    ("running", "stop"): "stopped",
    ("paused", "stop"): "stopped",
    ("running", "ship"): "shipped",
    ("paused", "ship"): "shipped",
    ("stopped", "ship"): "shipped",
}


@pytest.mark.parametrize(("status", "action"), list(product(get_args(Status), ACTIONS)))
def test_the_table_of_transitions(status: Status, action: Action) -> None:
    before = State(status=status, revision=4)
    if (status, action) in ALLOWED:
        after = changed("e", before, action, by="ann", why="because", at_ms=7, variant="b" if action == "ship" else "")
        assert (after.status, after.revision) == (ALLOWED[status, action], 5)
        (change,) = after.changes
        assert (change.by, change.why, change.at_ms, change.action) == ("ann", "because", 7, action)
        assert after.variant == ("b" if action == "ship" else "")
    else:
        with pytest.raises(Conflict, match=f"^experiment e is {status}: cannot {action} it; ") as caught:
            changed("e", before, action, by="ann", why="", at_ms=7)
        assert len(str(caught.value).splitlines()) == 1


def test_creating_makes_a_draft_and_applying_keeps_the_status() -> None:
    assert changed("e", None, "create", by="", why="", at_ms=0).status == "draft"
    assert changed("e", None, "apply", by="", why="", at_ms=0).status == "running"
    shipped = State(status="shipped", variant="b", revision=3)
    after = changed("e", shipped, "apply", by="", why="", at_ms=0)
    assert (after.status, after.variant, after.revision) == ("shipped", "b", 4)
    with pytest.raises(Conflict, match="experiment e exists and is running; `apply` changes"):
        changed("e", State(), "create", by="", why="", at_ms=0)


def test_the_last_changes_are_kept_and_texts_are_bounded() -> None:
    state = State()
    for at_ms in range(30):
        state = changed("e", state, "pause" if state.status == "running" else "start", by="x", why="", at_ms=at_ms)
    assert [change.revision for change in state.changes] == list(range(31 - KEPT_CHANGES, 31))
    with pytest.raises(ConfigError, match="at most 100 characters say who"):
        changed("e", state, "stop", by="x" * 101, why="", at_ms=0)
    with pytest.raises(ConfigError, match="and 500 why"):
        changed("e", state, "stop", by="x", why="y" * 501, at_ms=0)


def at(revision: int, seed: int = 0) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(E, seed=seed, state=State(revision=revision)))


@given(st.lists(st.integers(0, 6), max_size=20))
def test_the_first_record_of_the_highest_revision_stands(revisions: list[int]) -> None:
    catalogue = Catalogue()
    for number, revision in enumerate(revisions):
        catalogue.offer(b"e", at(revision, number))
    if not revisions:
        assert not catalogue.experiments
        return
    best = max(revisions)
    # Records without a revision were written around the control plane: the last of them stands, as it always did.
    where = revisions.index(best) if best else len(revisions) - 1
    assert (catalogue.experiments["e"].seed, catalogue.experiments["e"].state.revision) == (where, best)


@given(st.lists(st.integers(1, 6), max_size=20))
def test_what_compaction_would_lose_is_known(revisions: list[int]) -> None:
    catalogue = Catalogue()
    for number, revision in enumerate(revisions):
        catalogue.offer(b"e", at(revision, number))
    kept = Catalogue()
    if revisions:
        kept.offer(b"e", at(revisions[-1], len(revisions) - 1))
    assert catalogue.behind == (set() if kept.experiments == catalogue.experiments else {"e"})
    if catalogue.behind:
        assert catalogue.offer(b"e", msgspec.json.encode(catalogue.experiments["e"])) is None
        assert catalogue.behind == set()


def test_a_record_says_what_it_changed() -> None:
    catalogue = Catalogue()
    assert catalogue.offer(b"e", at(3)) == "e"
    assert catalogue.offer(b"e", at(3, 1)) is None
    assert catalogue.offer(b"e", at(2, 1)) is None
    for key, value in [(b"e", b"{"), (b"f", at(4)), (None, at(4))]:
        with pytest.raises(ConfigError):
            catalogue.offer(key, value)
    assert catalogue.offer(b"e", None) == "e"
    assert catalogue.offer(b"e", None) is None
    assert catalogue.offer(b"e", at(1)) == "e", "deleted: it begins anew"
