"""The log of an experiment as a table: what was shown with which propensity, and what came of it.

Plainer than the counting: an impression counts with the first record of its id, an outcome when it follows that
within the attribution window. Lateness is not judged, and a unit that moved to another variant keeps all its rows
(each has its propensity), so a log with late records or moved units has rows that the counters leave out; without
them both agree. Impressions whose window is still open are left out: their outcome is not known.

Libraries: pyarrow, msgspec, confluent-kafka (through sluice.adapters).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec
import pyarrow as pa
from msgspec import Struct

from sluice.adapters.reader import TopicReader
from sluice.domain.events import (
    MAX_EVENT_BYTES,
    VALUE_SCALE,
    Assignment,
    Heartbeat,
    ImpressionShown,
    clicks_decoder,
    impressions_decoder,
)
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings

__all__ = ["Exposures", "Joined", "join_topics"]


class Joined(Struct, frozen=True):
    """The table and what is not in it."""

    table: pa.Table
    """A row an impression: impression_id, user_id, unit, item_id, position, at_ms, variant, allocation, propensity,
    reward. `unit` is unique: a slate is named by user, unit and time, as the counting knows it"""
    open: int
    """Impressions whose attribution window is still open"""
    malformed: int
    """Records of both topics that are no events"""


class Exposures:
    """Joins the two topics: first all impressions, then all clicks. About 400 bytes an impression."""

    def __init__(self, experiment: str, *, outcome: str, window_ms: int, lateness_ms: int, value: bool = False) -> None:
        """value: the reward is the sum of the outcome's values, each `click_id` once, instead of 1 or 0."""
        self._experiment, self._outcome, self._value = experiment, outcome, value
        self._window_ms, self._lateness_ms = window_ms, lateness_ms
        self._rows: dict[tuple[int, str], int] = {}
        self._partition = array("l")
        self._at_ms = array("q")
        self._propensity, self._reward = array("d"), array("d")
        self._text: dict[str, list[str]] = {name: [] for name in _TEXT}
        self._position = array("q")
        self._names: dict[str, str] = {}
        self._seen: set[tuple[int, str]] = set()
        self._watermark: dict[int, int] = {}
        self.malformed = 0

    def impression(self, partition: int, value: bytes | None) -> None:
        try:
            event = impressions_decoder.decode(_bounded(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return
        if isinstance(event, Heartbeat):
            return
        mine = [given for given in event.assignments if given.experiment == self._experiment]
        if len(mine) > 1:
            self.malformed += 1
        if len(mine) != 1 or (partition, event.impression_id) in self._rows:
            return
        (given,) = mine
        self._rows[partition, event.impression_id] = len(self._at_ms)
        self._partition.append(partition)
        self._at_ms.append(event.at_ms)
        self._propensity.append(given.propensity)
        self._reward.append(0.0)
        self._position.append(event.position)
        row = (event.user_id, _unit(event, given), event.item_id, given.variant, given.allocation)
        self._text["impression_id"].append(event.impression_id)
        for name, text in zip(_TEXT[1:], row, strict=True):
            # One string for all rows that say the same.
            self._text[name].append(self._names.setdefault(text, text))

    def click(self, partition: int, value: bytes | None) -> None:
        try:
            event = clicks_decoder.decode(_bounded(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return
        self._watermark[partition] = max(self._watermark.get(partition, -1), event.at_ms)
        if isinstance(event, Heartbeat) or event.outcome != self._outcome:
            return
        row = self._rows.get((partition, event.impression_id))
        if row is None or not 0 <= event.at_ms - self._at_ms[row] <= self._window_ms:
            return
        if not self._value:
            self._reward[row] = 1.0
        elif event.value_milli is not None and (row, event.click_id) not in self._seen:
            self._seen.add((row, event.click_id))
            self._reward[row] += event.value_milli / VALUE_SCALE

    def joined(self) -> Joined:
        """Everything given so far."""
        table = pa.table(
            {name: pa.array(self._text[name]).dictionary_encode() if name in _REPEATED else pa.array(self._text[name])
             for name in _TEXT}
            | {"at_ms": pa.array(self._at_ms), "position": pa.array(self._position)}
            | {"propensity": pa.array(self._propensity), "reward": pa.array(self._reward)}
        )  # fmt: skip
        settled = [
            self._watermark.get(partition, -1) - self._lateness_ms > at_ms + self._window_ms
            for partition, at_ms in zip(self._partition, self._at_ms, strict=True)
        ]
        kept = table.filter(pa.array(settled, pa.bool_()))
        about = {"experiment": self._experiment, "outcome": self._outcome, "window_ms": str(self._window_ms)}
        return Joined(kept.replace_schema_metadata(about), table.num_rows - kept.num_rows, self.malformed)


_TEXT = ("impression_id", "user_id", "unit", "item_id", "variant", "allocation")
_REPEATED = ("variant", "allocation")


def join_topics(
    settings: Settings, experiment: str, *, outcome: str = "click", value: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Joined:  # fmt: skip
    """Everything the two topics hold now about `experiment`; `progress` is given records read and to read.

    Raises TransportError when the broker is away.
    """
    log = Exposures(
        experiment, outcome=outcome, value=value, window_ms=settings.window_ms, lateness_ms=settings.lateness_ms
    )
    with (
        TopicReader(settings, IMPRESSIONS, from_start=True) as impressions,
        TopicReader(settings, CLICKS, from_start=True) as clicks,
    ):
        # The clicks' end is read second: of all impressions read, it knows the clicks up to then.
        total = sum(impressions.ends.values()) + sum(clicks.ends.values())
        done = 0
        for reader, take in ((impressions, log.impression), (clicks, log.click)):
            for message in reader.rest():
                take(message.partition() or 0, message.value())
                done += 1
                if done % 10_000 == 0:
                    progress(done, total)
    progress(total, total)
    return log.joined()


def _bounded(value: bytes | None) -> bytes:
    return value if value is not None and len(value) <= MAX_EVENT_BYTES else b""


def _unit(event: ImpressionShown, given: Assignment) -> str:
    """One name for what was randomised; ids may hold any character, so the parts are written as JSON."""
    if given.unit_kind == "user" and given.unit == event.user_id:
        return given.unit
    parts = (event.user_id, given.unit, event.at_ms) if given.unit_kind == "slate" else (event.user_id, given.unit)
    return msgspec.json.encode(parts).decode()
