"""Slates joined with their outcomes: rules by drawing, and every schedule against a plain pass over the whole log."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from feature_logs import DEFINITIONS, Record, Rows, ended_slates, random_feature_logs

from sluice.domain.events import Assignment, Heartbeat, ImpressionShown, OutcomeObserved, encode
from stream_processors.features import EndedSlate, Resume, SlateJoiner, decode_resume, encode_resume
from stream_processors.low_water import NEVER

WINDOW, LATENESS = DEFINITIONS.window_ms, DEFINITIONS.lateness_ms  # 100, 10
MADE = (Assignment("e", "a", "a=100", "u"),)


class Logs:
    """Both logs of one partition, read as they are written."""

    def __init__(self) -> None:
        self.joiner = SlateJoiner(DEFINITIONS, [(0, 0)], Resume())

    def show(self, at_ms: int, *items: str, slate: str = "s", user: str = "u") -> None:
        for item in items:
            event = ImpressionShown(
                impression_id=f"{slate}{item}", user_id=user, item_id=item, at_ms=at_ms, assignments=MADE,
                slate_id=slate,
            )  # fmt: skip
            self.write(0, encode(event))

    def rate(self, at_ms: int, item: str, value: int | None, slate: str = "s", outcome: str = "rating") -> None:
        event = OutcomeObserved(
            click_id=f"{slate}{item}{outcome}{at_ms}", impression_id=f"{slate}{item}", user_id="u", at_ms=at_ms,
            outcome=outcome, value_milli=value,
        )  # fmt: skip
        self.write(1, encode(event))

    def click(self, at_ms: int, item: str, slate: str = "s") -> None:
        self.rate(at_ms, item, None, slate, "click")

    def write(self, topic: int, data: bytes | None) -> None:
        read = self.joiner.read_clicks if topic else self.joiner.read_impressions
        read(0, [Record(self.joiner.offset(topic, 0), data)])

    def until(self, at_ms: int) -> list[EndedSlate]:
        """Everything up to `at_ms` is final."""
        for topic in (0, 1):
            self.write(topic, encode(Heartbeat(at_ms=at_ms + LATENESS + 1)))
        assert self.joiner.final_ms == at_ms
        return self.joiner.ended(100)


@pytest.fixture
def logs() -> Logs:
    return Logs()


def test_a_slate_ends_with_its_last_rating(logs: Logs) -> None:
    # a b shown at 0 |---- b 20 ------ a 30, clicked ----
    logs.show(0, "a", "b")
    logs.rate(20, "b", 2000)
    logs.click(30, "a")
    logs.rate(30, "a", 4500)
    assert logs.until(29) == []
    (slate,) = logs.until(30)
    assert slate[1:] == ("u", ("a", "b"), (True, False), (4500, 2000))
    assert slate.end_ms == 30
    assert logs.until(1000) == []


def test_a_slate_without_all_ratings_ends_with_its_window(logs: Logs) -> None:
    # a b c shown at 0 |-- a 20, rated 3.5 -- b clicked ---- 100|   c: nothing
    logs.show(0, "a", "b", "c")
    logs.rate(20, "a", 3500)
    logs.click(100, "b")
    logs.click(101, "c")
    assert logs.until(99) == []
    (slate,) = logs.until(100)
    assert (slate.end_ms, slate.liked, slate.ratings_milli) == (100, (False, True, False), (3500, 5000, 0))


def test_an_impression_without_a_slate_is_one(logs: Logs) -> None:
    for item in "ab":
        event = ImpressionShown(impression_id=item, user_id="u", item_id=item, at_ms=0, assignments=MADE)
        logs.write(0, encode(event))
    assert [slate.items for slate in logs.until(100)] == [("a",), ("b",)]


def test_slates_of_one_id_at_two_times_are_two(logs: Logs) -> None:
    logs.show(0, "a")
    logs.show(7, "b")
    assert [(slate.end_ms, slate.items) for slate in logs.until(200)] == [(100, ("a",)), (107, ("b",))]


def test_outcomes_that_come_first_wait_for_their_impression(logs: Logs) -> None:
    logs.rate(30, "a", 1000)
    logs.show(20, "a", "b")
    logs.rate(25, "b", 2000)
    (slate,) = logs.until(40)
    assert (slate.end_ms, slate.ratings_milli) == (30, (1000, 2000))


def test_repetitions_and_nonsense_change_nothing(logs: Logs) -> None:
    logs.show(0, "a", "a", "b")
    for at_ms, value in ((5, 5001), (6, -1), (7, None)):
        logs.rate(at_ms, "a", value)
    logs.rate(8, "a", 4000)
    logs.rate(9, "a", 1000)
    logs.rate(3, "a", 500, outcome="purchase")
    for data in (None, b"", b"{", b'{"type":"impression"}', encode(Heartbeat(at_ms=10**7))):
        logs.write(0, data)
        logs.write(1, data)
    logs.write(0, encode(ImpressionShown(
        impression_id="x", user_id="u", item_id="x", at_ms=0, assignments=MADE * 2, slate_id="s")))  # fmt: skip
    logs.rate(9, "b", 0)
    (slate,) = logs.until(9)
    assert (slate.items, slate.ratings_milli, slate.end_ms) == (("a", "b"), (4000, 0), 9)


def test_late_records_are_ignored(logs: Logs) -> None:
    # watermark 50 - lateness 10 = 40
    logs.show(50, "a", slate="t")
    logs.show(40, "a", slate="in")
    logs.show(39, "a", slate="out")
    logs.click(60, "a", "t")
    logs.click(49, "a", "in")
    assert [(slate.end_ms, slate.liked) for slate in logs.until(200)] == [(140, (False,)), (150, (True,))]


def test_ended_slates_come_in_order_of_their_ends_and_numbers(logs: Logs) -> None:
    for at_ms, slate in ((0, "s10"), (0, "s9"), (0, "s8"), (5, "s7")):
        logs.show(at_ms, "a", slate=slate)
    for end_ms, slate in ((45, "s8"), (50, "s10"), (50, "s9"), (50, "s7")):
        logs.rate(end_ms, "a", 100, slate)
    assert [slate.order[3] for slate in logs.until(50)] == ["s8", "s9", "s10", "s7"]


def test_a_silent_partition_holds_everything_back() -> None:
    joiner = SlateJoiner(DEFINITIONS, [(0, 0), (0, 0)], Resume())
    beat = Record(0, encode(Heartbeat(at_ms=500)))
    joiner.read_impressions(0, [beat])
    joiner.read_clicks(0, [beat])
    joiner.read_impressions(1, [beat])
    assert joiner.behind() == (1, 1)
    assert joiner.final_ms < NEVER
    assert joiner.ended(10) == []
    joiner.read_clicks(1, [Record(0, encode(Heartbeat(at_ms=300)))])
    assert joiner.final_ms == 300 - LATENESS - 1
    assert joiner.ahead(0, 0) == 200


def test_states_of_a_snapshot_are_not_learned_again(logs: Logs) -> None:
    logs.joiner = SlateJoiner(DEFINITIONS, [(0, 0)], Resume.after(30))
    for slate, end_ms in (("s1", 30), ("s2", 31)):
        logs.show(0, "a", slate=slate)
        logs.rate(end_ms, "a", 1000, slate)
    assert [slate.end_ms for slate in logs.until(100)] == [31]


def test_other_definitions_learn_no_slate_twice(logs: Logs) -> None:
    logs.show(0, "a", slate="learned")
    logs.show(95, "a", slate="open")
    logs.show(150, "a", slate="new")
    assert len(logs.until(100)) == 1
    resume = logs.joiner.resume()
    other = type(DEFINITIONS)(50, LATENESS, DEFINITIONS.skew_ms, DEFINITIONS.bucket_ms)
    joiner = SlateJoiner(other, [(0, 0)], resume)
    assert joiner.resume().floor_ms == 101


@pytest.mark.parametrize("seed", range(60))
def test_every_schedule_and_every_restart_learns_what_the_logs_say(seed: int) -> None:
    rng = random.Random(seed)
    logs = random_feature_logs(rng, partitions=rng.randint(1, 3), slates=rng.randint(1, 60))
    wanted = ended_slates(logs, DEFINITIONS)
    joiner = SlateJoiner(DEFINITIONS, [(0, 0)] * len(logs[0]), Resume())
    found: list[EndedSlate] = []
    kept = found[:], encode_resume(joiner.resume())
    restarts = 0
    while any(joiner.offset(t, p) < len(logs[t][p]) for t, p in joiner.places()):
        unread = [(t, p) for t, p in joiner.places() if joiner.offset(t, p) < len(logs[t][p])]
        topic, partition = rng.choice(unread)
        feed(joiner, logs, topic, partition, rng.randint(1, 12))
        if rng.random() < 0.3:
            found += joiner.ended(rng.choice((1, 3, 100)))
            kept = found[:], encode_resume(joiner.resume())
        elif rng.random() < 0.2:  # killed: what was taken since the last commit is lost
            joiner.ended(2)
            found, resume = kept[0][:], decode_resume(kept[1])
            joiner = SlateJoiner(DEFINITIONS, [(0, 0)] * len(logs[0]), resume)
            restarts += 1
            assert restarts < 2000
    while more := joiner.ended(5):
        found += more
    assert found == wanted
    assert joiner.resume().slates == len(wanted)


def test_a_restart_reads_only_the_open_window_again() -> None:
    rng = random.Random(1)
    logs = random_feature_logs(rng, partitions=2, slates=3000, span=200 * (WINDOW + LATENESS))
    joiner = SlateJoiner(DEFINITIONS, [(0, 0)] * 2, Resume())
    for step in range(1, 101):
        for topic, p in joiner.places():
            feed(joiner, logs, topic, p, len(logs[topic][p]) * step // 100 - joiner.offset(topic, p))
        joiner.ended(10_000)
        resume = joiner.resume()
        if step > 10:
            again = [joiner.offset(0, p) - resume.impressions[p] for p in (0, 1)]
            again += [joiner.offset(1, p) - resume.clicks[p] for p in (0, 1)]
            assert max(again) < 250  # of a window of about 60 records, read about 50 at a time
    assert joiner.open < 200


def feed(joiner: SlateJoiner, logs: Sequence[Sequence[Rows]], topic: int, partition: int, count: int) -> None:
    start = joiner.offset(topic, partition)
    records = [Record(start + n, data) for n, data in enumerate(logs[topic][partition][start : start + count])]
    read = joiner.read_clicks if topic else joiner.read_impressions
    read(partition, records)
