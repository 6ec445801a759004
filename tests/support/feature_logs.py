"""Logs of slates and their outcomes by partition, and what the features must learn of them, by one plain pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, Heartbeat, ImpressionShown, OutcomeObserved, encode
from stream_processors.features import EndedSlate

BROKER_MS = 10**6
Rows = list[bytes | None]
"""The values of one topic partition, by offset"""


@dataclass
class Record:
    """As a consumer returns it, long ago."""

    at: int
    data: bytes | None

    def value(self) -> bytes | None:
        return self.data

    def key(self) -> bytes | None:
        return None

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return (2, BROKER_MS)


DEFINITIONS = Definitions(100, 10, 1000, 1000)
BROKEN = (
    None,
    b"",
    b"{",
    b'{"type":"impression","at_ms":"soon"}',
    b"\xff" * 9,
    encode(Heartbeat(at_ms=9_999_999_999_999)),
)


def random_feature_logs(
    rng: random.Random, *, partitions: int, slates: int, span: int = 2000, definitions: Definitions = DEFINITIONS
) -> tuple[list[Rows], list[Rows]]:
    """(impressions, clicks), each by partition: disorder, lateness, repetitions, broken records, ids that come back."""
    window, slack = definitions.window_ms, definitions.lateness_ms
    logs: list[list[list[tuple[float, bytes | None]]]] = [[[] for _ in range(partitions)] for _ in range(2)]

    def put(topic: int, partition: int, at: int, data: bytes | None) -> None:
        for _ in range(1 + (rng.random() < 0.1)):
            delay = 4 * slack if rng.random() < 0.03 else 0
            logs[topic][partition].append((at + delay + rng.random() * slack, data))

    for number in range(slates):
        user = rng.randrange(max(2, slates // 4))
        partition, at = user % partitions, rng.randrange(span)
        name = f"s{number if rng.random() < 0.95 else rng.randrange(number + 1)}"
        slate = name if rng.random() < 0.8 else ""
        for place in range(rng.randint(1, 4)):
            impression = f"{name}.{place}"
            shown = ImpressionShown(
                impression_id=impression, user_id=f"u{user}", item_id=f"m{rng.randrange(12)}", at_ms=at,
                assignments=(Assignment("e", "a", "a=100", f"u{user}"),), slate_id=slate, position=place,
            )  # fmt: skip
            put(0, partition, at, encode(shown))
            for outcome, chance in (("rating", 0.8), ("click", 0.5), ("purchase", 0.1), ("rating", 0.1)):
                if rng.random() < chance:
                    after = (
                        at + rng.randrange(window // 4) if rng.random() < 0.9 else at + rng.randrange(-5, 2 * window)
                    )
                    value = rng.randrange(11) * 500 if outcome == "rating" and rng.random() < 0.97 else None
                    told = OutcomeObserved(
                        click_id=f"{impression}{outcome}", impression_id=impression, user_id=f"u{user}",
                        at_ms=max(0, after), outcome=outcome, value_milli=value,
                    )  # fmt: skip
                    put(1, partition, max(0, after), encode(told))
    for topic in logs:
        for log in topic:
            for _ in range(slates // 10):
                at = rng.randrange(span)
                log.append((rng.random() * span, rng.choice(BROKEN)))
                log.append((at, encode(Heartbeat(at_ms=at))))
            log.sort(key=lambda row: row[0])
            if rng.random() < 0.8:
                log.append((0, encode(Heartbeat(at_ms=span + 2 * window))))
    impressions, clicks = ([[data for _, data in log] for log in topic] for topic in logs)
    return impressions, clicks


def ended_slates(logs: tuple[Sequence[Rows], Sequence[Rows]], definitions: Definitions) -> list[EndedSlate]:
    """What has ended for good at the end of the logs, in order: the definitions, written down a second time."""
    window, slack = definitions.window_ms, definitions.lateness_ms
    marks, found = [], []
    for partition, (impressions, clicks) in enumerate(zip(*logs, strict=True)):
        shown, shown_to = _on_time(impressions, ImpressionShown | Heartbeat, definitions)
        told, told_to = _on_time(clicks, OutcomeObserved | Heartbeat, definitions)
        marks += [shown_to, told_to]
        slates: dict[tuple[str, str, int, bool], dict[str, str]] = {}
        for event in shown:
            key = (event.user_id, event.slate_id or event.impression_id, event.at_ms, not event.slate_id)
            slates.setdefault(key, {}).setdefault(event.impression_id, event.item_id)
        for (user, name, at, single), items in slates.items():
            inside = [event for event in told if at <= event.at_ms <= at + window]
            grades: dict[str, OutcomeObserved] = {}
            for event in inside:
                if event.outcome == "rating" and event.value_milli is not None and 0 <= event.value_milli <= 5000:
                    grades.setdefault(event.impression_id, event)
            graded = all(impression in grades for impression in items)
            end = max(grades[impression].at_ms for impression in items) if graded else at + window
            clicked = {e.impression_id for e in inside if e.outcome == "click" and e.at_ms <= end}
            liked = tuple(impression in clicked for impression in items)
            ratings = tuple(
                value if (grade := grades.get(i)) and (value := grade.value_milli) is not None else 5000 * one
                for i, one in zip(items, liked, strict=True)
            )
            order = (end, at, len(name), name, user, partition, single)
            found.append(EndedSlate(order, user, tuple(items.values()), liked, ratings))
    final = min(marks) - slack - 1
    return sorted(slate for slate in found if slate.end_ms <= final)


def _on_time(rows: Rows, kind: object, definitions: Definitions) -> tuple[list, int]:  # type: ignore[type-arg]
    watermark, events = -(2**62), []
    for data in rows:
        try:
            event = msgspec.json.decode(data or b"", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if event.at_ms > BROKER_MS + definitions.skew_ms:
            continue
        watermark = max(watermark, event.at_ms)
        if not isinstance(event, Heartbeat) and event.at_ms >= watermark - definitions.lateness_ms:
            events.append(event)
    return events, watermark
