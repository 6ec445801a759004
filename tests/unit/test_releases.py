"""A release beside a replay: whose slates are drawn once more, by whom they are ranked, what a shadow says."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from movielens_files import write_movielens
from registered_models import NAME, ModelsInMemory, likes

from producers.candidates import CANDIDATE, RankedSlates
from producers.rankings import RankingLog
from producers.releases import Releases, Turn
from producers.scoring import LogModels
from producers.slates import Slate, Slates, cut_slates
from producers.sources import read_ratings
from router import AssignmentRequest, MemoryAssignments, Router, make_ranker
from sluice.domain.experiment import Experiment
from sluice.domain.experiment_parts import Bandit, Shadow, Variant
from sluice.domain.rankings import SlateRanked
from sluice.domain.status import State
from sluice.features import make_catalogue

K = 3
ALIAS = f"models:/{NAME}@liked"
FILMS = Experiment(
    name="films", unit="slate", rankings=True,
    variants=(Variant(name="chance", ranker="random", share=30), Variant(name="model", ranker=ALIAS, share=70)),
)  # fmt: skip


def release(version: str, share: int, *, shadow: bool = False, control: str = ALIAS) -> Experiment:
    uri = f"models:/{NAME}/{version}"
    return Experiment(
        name=f"films-{version}", unit="slate", assignment="rollout", bandit=Bandit(policy="fixed", floor=0.0),
        variants=(
            Variant(name="current", ranker=control, share=100 - share), Variant(name="next", ranker=uri, share=share),
        ),
        shadow=(Shadow(name="candidate", ranker=uri),) if shadow else (), state=State(status="running"),
    )  # fmt: skip


class Replayed:
    """The parts of a replay that meet a release, and one block of slates."""

    def __init__(self, slates: Slates, source: ModelsInMemory) -> None:
        self.models = LogModels(slates, 4000, source, FILMS.models)
        self.candidates = RankedSlates(slates, {"chance": make_ranker("random", 0, {})}, k=K, models=self.models)
        self.block = list(self.candidates.block(0, 300))
        self.asked = [AssignmentRequest(s.user_id, {"slate": s.slate_id}, s.at_ms) for s in self.block]
        self.router = Router([], MemoryAssignments())
        self.releases = Releases(FILMS, self.router, self.models, top_k=K)
        with Router([FILMS], MemoryAssignments()) as ranking:
            self.routed = ranking.assign(self.asked)


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Slates:
    folder = write_movielens(tmp_path_factory.mktemp("ml") / "tiny", users=60, items=120, each=80, seed=5)
    return cut_slates(read_ratings(str(folder)))


@pytest.fixture
def source(slates: Slates) -> ModelsInMemory:
    catalogue = make_catalogue(slates.log.items, slates.log.genres)
    source = ModelsInMemory()
    source.add(likes("item_like_rate", catalogue), "liked")
    source.add(likes("item_history", catalogue, sign=-1.0), "new")
    return source


@pytest.fixture
def replayed(slates: Slates, source: ModelsInMemory) -> Iterator[Replayed]:
    made = Replayed(slates, source)
    yield made
    made.releases.close()
    made.models.close()


def test_without_a_release_nothing_is_drawn_again(replayed: Replayed) -> None:
    replayed.releases.follow()
    assert not any(replayed.releases.turns(replayed.asked, replayed.routed))
    assert CANDIDATE not in replayed.candidates.shown(replayed.block)[0]


@pytest.mark.parametrize(
    "other",
    [
        release("2", 25, control=f"models:/{NAME}@other"),
        msgspec.structs.replace(release("2", 25), state=State(status="stopped")),
    ],
)
def test_what_is_no_release_of_its_model_concerns_nobody(replayed: Replayed, other: Experiment) -> None:
    replayed.router.define(other)
    replayed.releases.follow()
    assert replayed.releases.candidate is None


def test_only_slates_of_the_released_variant_are_drawn_and_the_candidate_gets_its_share(replayed: Replayed) -> None:
    replayed.router.define(release("2", 25))
    replayed.releases.follow()
    replayed.candidates.shown(replayed.block)
    turns = replayed.releases.turns(replayed.asked, replayed.routed)
    drawn = [turn.routed is not None for turn in turns if turn]
    assert drawn == [answer[0].variant == "model" for answer in replayed.routed]
    share = np.mean([turn.shown for turn in turns if turn and turn.routed])
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / sum(drawn))
    assert {(turn.variant, turn.share) for turn in turns if turn} == {("model", 0.25)}
    assert {turn.routed.experiment for turn in turns if turn and turn.routed} == {"films-2"}


def test_the_log_names_the_version_and_the_probability_of_both_draws(replayed: Replayed) -> None:
    replayed.router.define(release("2", 25))
    replayed.releases.follow()
    shown = replayed.candidates.shown(replayed.block)
    turns = replayed.releases.turns(replayed.asked, replayed.routed)
    log, versions = RankingLog(FILMS, replayed.candidates), set()
    for place, slate in enumerate(replayed.block):
        turn, everything = turns[place], shown[place]
        for record in _records(log, slate, replayed, place, everything, turn):
            tops = {name: {item.item_id for item in items} for name, items in everything.items()}
            for item in record.items:
                chance = 0.3 * K / len(slate.items)
                own = 0.7 * ((item.item_id in tops["model"]) * 0.75 + (item.item_id in tops[CANDIDATE]) * 0.25)
                assert item.shown == pytest.approx(chance + own)  # whoever ranked the slate in the end
            assert record.variant == replayed.routed[place][0].variant
            assert [item.item_id for item in record.items] == [
                item.item_id for item in everything[CANDIDATE if turn is not None and turn.shown else record.variant]
            ]
            versions.add((record.variant, record.model_version))
    assert versions == {("chance", ""), ("model", "1"), ("model", "2")}


def test_a_shadow_is_asked_about_every_slate_of_the_variant_and_shown_to_nobody(replayed: Replayed) -> None:
    replayed.router.define(release("2", 0, shadow=True))
    replayed.releases.follow()
    replayed.candidates.shown(replayed.block)
    turns = replayed.releases.turns(replayed.asked, replayed.routed)
    assert not any(turn.shown or turn.share for turn in turns if turn)
    told = [
        replayed.releases.compared(slate, "s", turn) for slate, turn in zip(replayed.block, turns, strict=True) if turn
    ]
    assert [one is not None for one in told] == [answer[0].variant == "model" for answer in replayed.routed]
    compared = [one for one in told if one is not None]
    assert {(one.experiment, one.version, one.shadow_version) for one in compared} == {("films-2", "1", "2")}
    assert all(one.agreement is not None and one.agreement.top == K for one in compared)


def test_a_candidate_that_cannot_be_loaded_is_shown_to_nobody(
    replayed: Replayed, caplog: pytest.LogCaptureFixture
) -> None:
    replayed.router.define(release("9", 25))
    replayed.releases.follow()
    replayed.releases.follow()
    assert not any(replayed.releases.turns(replayed.asked, replayed.routed))
    assert sum("its candidate is not shown" in line for line in caplog.messages) == 1


def test_a_release_that_ends_leaves_the_alias_alone(replayed: Replayed) -> None:
    replayed.router.define(release("2", 25))
    replayed.releases.follow()
    replayed.router.define(msgspec.structs.replace(release("2", 25), state=State(status="stopped")))
    replayed.releases.follow()
    assert CANDIDATE not in replayed.candidates.shown(replayed.block)[0]
    assert not any(replayed.releases.turns(replayed.asked, replayed.routed))


def _records(
    log: RankingLog, slate: Slate, replayed: Replayed, place: int, everything: object, turn: Turn | None
) -> list[SlateRanked]:
    made = log.records(slate, slate.slate_id, replayed.routed[place][0], everything, turn)  # type: ignore[arg-type]
    return [msgspec.json.decode(record, type=SlateRanked) for record in made]
