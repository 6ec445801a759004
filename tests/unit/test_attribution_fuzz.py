"""Whatever bytes a topic holds: reading never fails, rejects them whole, and agrees with the recount."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_store import MemoryStore

from sluice.domain.definitions import Definitions
from sluice.domain.events import (
    MAX_EVENT_BYTES,
    Assignment,
    DeadLetter,
    Heartbeat,
    ImpressionShown,
    OutcomeObserved,
    encode,
)
from stream_processors.partition import PartitionCounter
from stream_processors.recount import recount

BY = Definitions(1000, 100, 1000, 500)
BROKER_MS = 10_000

IMPRESSION = encode(
    ImpressionShown(
        impression_id="i1",
        user_id="u1",
        item_id="x",
        at_ms=5000,
        assignments=(Assignment("e", "a", "a=50,b=50", "u1"), Assignment("f", "x", "", "s1", 0.5, "slate")),
        slate_id="s",
    )
)
CLICK = encode(OutcomeObserved(click_id="c1", impression_id="i1", user_id="u1", at_ms=5100, value_milli=700))
HEARTBEAT = encode(Heartbeat(at_ms=5200))
WELL_FORMED = (IMPRESSION, CLICK, HEARTBEAT)

DIGITS = "9" * 5000  # more than int() takes by default
LITERALS = [
    "null", "true", "0", "-1", "-0", "1.0", "5e3", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809", DIGITS, f"-{DIGITS}",
    f"0.{DIGITS}", "10000000000000", '""', '"x"', '"5000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x"',
    '"é"', "'" + "k" * 9, '"' + "k" * 129 + '"', "[]", "{}", "[[]]", "[null]", "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '[["e","a","","u"]]', '[["e","a","","u",0]]', '[["e","a","","u",1.5]]', '[["e","a","","u",NaN]]', '[["e","a"]]',
    '[["e","a","","u",1,"user","more"]]', '[["e","a","","u",1,"planet"]]', '[["","a","","u"]]',
    '[["e","a","","u"],["e","b","","u"]]', '[{"experiment":"e"}]',
    "[" + ",".join(f'["e{n}","a","","u"]' for n in range(33)) + "]",
]  # fmt: skip
"""JSON, and what looks like it."""

RAW = [
    b"", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf" + HEARTBEAT, b"null", b"[]", b"5", b"{}", b"{", b"[", b'"', b"\\",
    b'{"type":"impression"}', b'{"type":"purchase","at_ms":5}', b'{"type":5,"at_ms":5}', b'{"at_ms":5}',
    b'{"type":null}', b"[" * MAX_EVENT_BYTES, b'{"a":' * (MAX_EVENT_BYTES // 5), b" " * (MAX_EVENT_BYTES + 1),
    b"{" + b'"a":1,' * 9000 + b"}", HEARTBEAT + b"\x00", HEARTBEAT + HEARTBEAT,
    HEARTBEAT + b" " * (MAX_EVENT_BYTES - len(HEARTBEAT)),
    HEARTBEAT + b" " * (MAX_EVENT_BYTES - len(HEARTBEAT) + 1), b'{"type":"heartbeat","type":"impression","at_ms":5000}',
    b'{"type":"heartbeat","at_ms":5000,"x":"\xff"}', b'{"type":"heartbeat","at_ms":5000,"\xed\xa0\x80":1}',
    IMPRESSION.replace(b'"u1"', b'"\xed\xa0\x80"'), IMPRESSION.replace(b'"e"', b'"\xff"'),
]  # fmt: skip


class Consumed:
    """A record with the methods of a consumed message."""

    def __init__(self, offset: int, value: bytes | None, key: bytes | None, timestamp: tuple[int, int]) -> None:
        self._record = offset, value, key, timestamp

    def offset(self) -> int:
        return self._record[0]

    def value(self) -> bytes | None:
        return self._record[1]

    def key(self) -> bytes | None:
        return self._record[2]

    def timestamp(self) -> tuple[int, int]:
        return self._record[3]


def check(impressions: list[bytes | None], clicks: list[bytes | None], batch: int = 10**6) -> dict[str, int]:
    """Count both logs in batches and compare with the recount. Returns the records by outcome."""
    logs = [
        [Consumed(n, value, b"\xff\x00 key", (2, BROKER_MS)) for n, value in enumerate(log)]
        for log in (impressions, clicks)
    ]
    store, counter = MemoryStore(), PartitionCounter(0, BY, None)
    letters = []
    for start in range(0, max(map(len, logs)), batch):
        counter.read_impressions(logs[0][start : start + batch])
        counter.read_clicks(logs[1][start : start + batch])
        update, rejected = counter.prepare(store)
        assert store.commit([update]) == [None]
        counter.committed(update)
        letters += rejected
    encode(counter.snapshot())

    wanted = recount(*([(m.offset(), m.value(), BROKER_MS) for m in log] for log in logs), BY)
    found = store.read(0)
    assert found is not None
    assert found.records == {name: n for name, n in sorted(wanted.records.items()) if n}
    cells = {(c.experiment, c.variant, c.allocation): c.statistics for c in found.cells}
    assert {key: (s.units, s.impressions, s.impressions_squared) for key, s in cells.items()} == wanted.cells
    assert {
        (key, name): msgspec.structs.astuple(sums) for key, s in cells.items() for name, sums in s.outcomes.items()
    } == wanted.outcomes
    assert {(m.experiment, m.variant): (m.units, m.impressions) for m in found.moved} == wanted.moved
    assert found.waiting == wanted.waiting
    assert {(letter.topic, letter.offset, letter.reason) for letter in letters} == wanted.rejected
    for letter in letters:
        log = logs[letter.topic == "clicks"]
        assert (letter.key, letter.value) == (b"\xff\x00 key", log[letter.offset].value() or b"")
        # It can be written and read back as it was.
        told = DeadLetter(
            topic=letter.topic, partition=0, offset=letter.offset, reason=letter.reason, detail=letter.detail,
            key=letter.key, value=letter.value,
        )  # fmt: skip
        assert msgspec.json.decode(encode(told), type=DeadLetter) == told
    return dict(wanted.records)


def with_literal(event: bytes, field: str, literal: str) -> bytes:
    """The event with the value of one field replaced by a piece of text that may not be JSON at all."""
    content = {**json.loads(event), field: "@"}
    return json.dumps(content).replace('"@"', literal, 1).encode()


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_raw_bytes(raw: bytes) -> None:
    check([IMPRESSION, raw, IMPRESSION], [raw, CLICK, raw])


def test_an_empty_record_is_malformed() -> None:
    assert check([None], [None]) == {"impressions.malformed": 1, "clicks.malformed": 1}


@pytest.mark.parametrize("event", WELL_FORMED, ids=("impression", "click", "heartbeat"))
def test_every_field_with_every_literal(event: bytes) -> None:
    for field in (*json.loads(event), "unknown"):
        for literal in LITERALS:
            changed = with_literal(event, field, literal)
            # A key that stands twice, before and after: whichever counts, both sides agree.
            body = event[:-1] + f',"{field}":{literal}}}'.encode()
            front = f'{{"{field}":{literal},'.encode() + event[1:]
            for value in (changed, body, front):
                check([value, IMPRESSION], [CLICK, value])


@pytest.mark.parametrize(
    ("topic", "value", "outcome"),
    [
        ("impressions", b"{not json", "malformed"),
        ("impressions", CLICK, "malformed"),
        ("clicks", IMPRESSION, "malformed"),
        ("impressions", with_literal(IMPRESSION, "at_ms", "-1"), "malformed"),
        ("impressions", with_literal(IMPRESSION, "at_ms", str(BROKER_MS + BY.skew_ms)), "counted"),
        ("impressions", with_literal(IMPRESSION, "at_ms", str(BROKER_MS + BY.skew_ms + 1)), "malformed"),
        ("impressions", with_literal(IMPRESSION, "at_ms", "1700000000000000000"), "malformed"),
        ("impressions", with_literal(IMPRESSION, "at_ms", '"5000"'), "malformed"),
        ("impressions", with_literal(IMPRESSION, "user_id", "7"), "malformed"),
        ("impressions", with_literal(IMPRESSION, "user_id", '"\\ud800"'), "malformed"),
        ("impressions", with_literal(IMPRESSION, "assignments", '[["e","a","","u"],["e","b","","u"]]'), "malformed"),
        ("impressions", with_literal(IMPRESSION, "assignments", "[]"), "counted"),
        ("impressions", with_literal(IMPRESSION, "new_in_a_later_version", '{"a":[1]}'), "counted"),
        ("clicks", with_literal(CLICK, "value_milli", "1.5"), "malformed"),
        ("clicks", with_literal(CLICK, "value_milli", "NaN"), "malformed"),
        ("clicks", with_literal(CLICK, "value_milli", str(10**15 + 1)), "malformed"),
        ("clicks", with_literal(CLICK, "outcome", '""'), "malformed"),
        ("clicks", with_literal(HEARTBEAT, "at_ms", "4000"), "heartbeat"),
    ],
)
def test_what_each_is_called(topic: str, value: bytes, outcome: str) -> None:
    logs: dict[str, list[bytes | None]] = {"impressions": [], "clicks": [], topic: [value]}
    assert check(logs["impressions"], logs["clicks"]) == {f"{topic}.{outcome}": 1}


def test_assignments_named_twice_are_read_as_json_reads_them() -> None:
    """The last one of two equal keys counts, whatever the first was: both sides must take the same one."""
    twice = IMPRESSION[:-1] + b',"assignments":[["g","z","","u1"]]}'
    broken_first = twice.replace(b'"assignments":[[', b'"assignments":[[[', 1).replace(b'"slate"]]', b'"slate"]]]', 1)
    json.loads(broken_first)
    assert check([twice], []) == {"impressions.counted": 1}
    assert check([broken_first], []) == {"impressions.counted": 1}


def mutated(rng: random.Random, event: bytes) -> bytes:
    data = bytearray(event)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                del data[at : at + rng.choice((1, 2, 20))]
            case 1:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
            case 2:
                data[at : at + 1] = rng.choice((b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\xed\xa0\x80", b"-"))
            case 3:
                data[at:at] = rng.choice(LITERALS).encode()
            case _:
                data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_events(seed: int) -> None:
    rng = random.Random(seed)

    def log() -> list[bytes | None]:
        return [
            rng.choice(WELL_FORMED) if rng.random() < 0.2 else mutated(rng, rng.choice(WELL_FORMED)) for _ in range(60)
        ]

    check(log(), log(), batch=rng.choice((1, 7, 60)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn) -> bytes | None:
    """Bytes, JSON of any shape, or an event with some fields replaced by JSON of any shape."""
    kind = draw(st.sampled_from(("none", "bytes", "json", "event", "event", "event")))
    if kind == "none":
        return None
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "json":
        return json.dumps(draw(_JSON)).encode()
    content = json.loads(draw(st.sampled_from(WELL_FORMED)))
    replaced = draw(st.dictionaries(st.sampled_from((*content, "unknown")), _JSON, max_size=2))
    ascii_only = draw(st.booleans())
    text = json.dumps({**content, **replaced}, ensure_ascii=ascii_only)
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(events(), min_size=1, max_size=12), st.lists(events(), max_size=12), st.integers(1, 12))
def test_anything(impressions: list[bytes | None], clicks: list[bytes | None], batch: int) -> None:
    check(impressions, clicks, batch)
