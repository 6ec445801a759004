"""The counters of a partition and the offsets they include, in Redis, moved on by one atomic call.

`counts:{p}` is one hash, readable with `HGETALL`:

| field | value |
|---|---|
| `offsets`, `low`, `start` | `impressions,clicks`: next offsets counted; where a rebuild starts; first ones counted |
| `definitions` | `window_ms,lateness_ms,skew_ms,bucket_ms,rules` |
| `time` | `at_ms,watermark_ms`: the larger and the smaller of the two topics' watermarks |
| `gauges` | `waiting,open`: clicks that wait for an impression, impressions that wait for clicks |
| `outcomes` | JSON list of outcome names; vectors below are in this order |
| `impressions.counted`, `clicks.late`, … | records by outcome |
| `["experiment","variant","allocation"]` | `units,Σn,Σn²` |
| `["experiment","variant","allocation","outcome"]` | `Σc,Σc²,Σnc,Σv,Σv²,Σnv` |
| `["experiment","variant"]` | `units,impressions` that were shown this variant and had another one before |

`buckets:{p}` holds running totals of time buckets, `["experiment","variant",start_ms]` → `n,c₀,v₀,c₁,v₁,…` in the
order of `outcomes`; `units:{p}` those of users and sessions, `["experiment","user","unit"]` →
`[["experiment","variant","allocation"],["experiment","variant"],…];n,c₀,v₀,…`: the cell it counts in, the other
variants it was shown, its total. Numbers are decimal strings: sums of squares outgrow Lua's doubles, so the
script only ever compares and writes text.

Library: redis-py. The script runs on Redis 6.2 to 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import redis
from msgspec import Struct

from sluice.domain.definitions import Definitions
from sluice.domain.events import MovedUnits, StatsCell
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.errors import Fenced
from sluice.names import Keys

__all__ = ["CounterStore", "PartitionCounts", "PartitionUpdate"]

_COMMIT = """
local found = redis.call('HMGET', KEYS[1], 'offsets', 'definitions')
if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then
  return {found[1] or 'nothing', found[2] or ''}
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) end
local at = 7
for k = 1, 3 do
  local last = at + 2 * tonumber(ARGV[3 + k]) - 1
  while at <= last do
    local upto = math.min(at + 1999, last)
    redis.call('HSET', KEYS[k], unpack(ARGV, at, upto))
    at = upto + 1
  end
end
return 0
"""


class PartitionCounts(Struct, frozen=True, kw_only=True):
    """Everything `counts:{p}` holds, typed."""

    partition: int
    impressions_offset: int
    clicks_offset: int
    impressions_low: int
    clicks_low: int
    impressions_start: int
    clicks_start: int
    definitions: Definitions
    at_ms: int
    watermark_ms: int
    waiting: int
    open: int
    outcomes: tuple[str, ...]
    records: dict[str, int]
    cells: tuple[StatsCell, ...]
    """Every cell that was named, also those that nothing counts in"""
    moved: tuple[MovedUnits, ...] = ()

    @property
    def window_ms(self) -> int:
        return self.definitions.window_ms

    @property
    def lateness_ms(self) -> int:
        return self.definitions.lateness_ms


class PartitionUpdate(Struct, kw_only=True):
    """One commit: what must stand there now, and the absolute values that shall stand there after."""

    partition: int
    expected_offsets: str
    """`a,b`; empty when the partition has no counts yet"""
    expected_definitions: str
    reset: bool
    """Drop what is there first: it was counted with other definitions, or its counts are gone."""
    counts: dict[str, str]
    units: dict[str, str]
    buckets: dict[str, str]


class CounterStore:
    """Reads and writes the counters of every partition under one prefix."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._commit = client.register_script(_COMMIT)

    def _of(self, partition: int) -> list[str]:
        return [self._keys.counts(partition), self._keys.units(partition), self._keys.buckets(partition)]

    def commit(self, updates: Sequence[PartitionUpdate]) -> list[Fenced | None]:
        """One atomic call a partition, all in one round trip. Returns for each None, or Fenced if it was refused."""
        with self._client.pipeline(transaction=False) as pipe:
            for update in updates:
                parts = (update.counts, update.units, update.buckets)
                arguments: list[Any] = [
                    update.expected_offsets,
                    update.expected_definitions,
                    int(update.reset),
                    *map(len, parts),
                ]
                for part in parts:
                    for item in part.items():
                        arguments += item
                self._commit(keys=self._of(update.partition), args=arguments, client=pipe)
            answers = pipe.execute()
        return [
            None
            if answer == 0
            else Fenced(
                f"partition {update.partition}: expected offsets {update.expected_offsets or 'none'}, "
                f"found {answer[0].decode()}: another worker has moved it on, or the counts were deleted"
            )
            for update, answer in zip(updates, answers, strict=True)
        ]

    def rows(self, partition: int, units: Sequence[str], buckets: Sequence[str]) -> list[str | None]:
        """What was committed for `units`, then for `buckets`, in one round trip; None where there is nothing."""
        with self._client.pipeline(transaction=True) as pipe:
            for key, fields in ((self._keys.units(partition), units), (self._keys.buckets(partition), buckets)):
                for start in range(0, len(fields), 5000):
                    pipe.hmget(key, list(fields[start : start + 5000]))
            answers = pipe.execute()
        return [text.decode() if text else None for answer in answers for text in answer]

    def partitions(self) -> list[int]:
        """The partitions that have counts, ascending."""
        # A prefix may hold characters that mean something in a pattern.
        literal = re.sub(r"([*?\[\]\\])", r"\\\1", self._keys.counts(0))
        pattern = literal.replace("{0}", "{*}")
        found = (key.decode() for key in self._client.scan_iter(match=pattern, count=1000))
        return sorted(int(key.rpartition("{")[2].rstrip("}")) for key in found)

    def offsets(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Partition → (impressions, clicks) next offsets counted; (0, 0) where nothing is counted yet."""
        wanted = list(partitions)
        with self._client.pipeline(transaction=False) as pipe:
            for partition in wanted:
                pipe.hget(self._keys.counts(partition), "offsets")
            answers = pipe.execute()
        return {p: _pair(text) if text else (0, 0) for p, text in zip(wanted, answers, strict=True)}

    def read(self, partition: int) -> PartitionCounts | None:
        """Counters and offsets of one moment; None when the partition was never counted."""
        return decode_counts(partition, self._client.hgetall(self._keys.counts(partition)))

    def read_all(self, partition: int) -> tuple[PartitionCounts | None, dict[str, tuple[int, ...]]]:
        """Counters, offsets and the time buckets (field → vector) of one moment."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._keys.counts(partition))
            pipe.hgetall(self._keys.buckets(partition))
            counts, buckets = pipe.execute()
        vectors = {key.decode(): tuple(map(int, value.split(b","))) for key, value in buckets.items()}
        return decode_counts(partition, counts), vectors


def _pair(text: bytes) -> tuple[int, int]:
    first, _, second = text.partition(b",")
    return int(first), int(second)


def decode_counts(partition: int, fields: Mapping[Any, Any]) -> PartitionCounts | None:
    """The hash `counts:{p}` → typed; None when it is empty."""
    if not fields:
        return None
    records: dict[str, int] = {}
    plain: dict[tuple[str, ...], list[int]] = {}
    outcomes: dict[tuple[str, ...], dict[str, OutcomeStatistics]] = {}
    moved: dict[tuple[str, str], list[int]] = {}
    for name, value in fields.items():
        if name.startswith(b"["):
            *cell, last = msgspec.json.decode(name, type=tuple[str, ...])
            numbers = [int(number) for number in value.split(b",")]
            if len(cell) == 1:
                moved[cell[0], last] = numbers
            elif len(cell) == 2:
                plain[*cell, last] = numbers
            else:
                outcomes.setdefault(tuple(cell), {})[last] = OutcomeStatistics(*numbers)
        elif b"." in name:
            records[name.decode()] = int(value)
    cells = tuple(
        StatsCell(
            experiment=key[0],
            variant=key[1],
            allocation=key[2],
            statistics=CellStatistics(plain[key][0], plain[key][1], plain[key][2], outcomes.get(key, {})),
        )
        for key in sorted(plain)
    )
    (a, b), (low_a, low_b) = _pair(fields[b"offsets"]), _pair(fields[b"low"])
    start_a, start_b = _pair(fields[b"start"])
    at_ms, watermark_ms = _pair(fields[b"time"])
    waiting, opened = _pair(fields[b"gauges"])
    return PartitionCounts(
        partition=partition,
        impressions_offset=a,
        clicks_offset=b,
        impressions_low=low_a,
        clicks_low=low_b,
        impressions_start=start_a,
        clicks_start=start_b,
        definitions=Definitions.decode(fields[b"definitions"].decode()),
        at_ms=at_ms,
        watermark_ms=watermark_ms,
        waiting=waiting,
        open=opened,
        outcomes=msgspec.json.decode(fields[b"outcomes"], type=tuple[str, ...]),
        records=dict(sorted(records.items())),
        cells=cells,
        moved=tuple(
            MovedUnits(experiment=pair[0], variant=pair[1], units=numbers[0], impressions=numbers[1])
            for pair, numbers in sorted(moved.items())
        ),
    )
