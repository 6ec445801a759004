"""The spool: order, bounds, what a crash or a bad disk leaves."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.spool import Record, Spool
from sluice.errors import ConfigError, TransportError

records = st.builds(Record, st.sampled_from(["impressions", "clicks"]), st.text(max_size=8), st.binary(max_size=60))


def drain(spool: Spool) -> list[Record]:
    found: list[Record] = []
    while (segment := spool.oldest()) is not None:
        found += segment[1]
        spool.drop(segment[0])
    return found


def drain_first(spool: Spool) -> list[Record]:
    segment = spool.oldest()
    assert segment is not None
    spool.drop(segment[0])
    return segment[1]


@given(st.lists(st.lists(records, max_size=5), max_size=12), st.sets(st.integers(0, 11)))
def test_everything_comes_back_in_order_also_after_restarts(batches: list[list[Record]], restarts: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), segment_bytes=100)
        for number, batch in enumerate(batches):
            spool.append(batch)
            if number in restarts:
                spool.close()
                spool = Spool(Path(folder), segment_bytes=100)
        assert drain(spool) == [record for batch in batches for record in batch]
        assert spool.empty
        assert spool.bytes == 0
        spool.close()


@given(st.lists(records, min_size=1, max_size=6), st.data())
def test_a_torn_end_loses_nothing_before_it(batch: list[Record], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder)
        sizes = []
        for record in batch:
            spool.append([record])
            sizes.append(spool.bytes)
        spool.close()
        (segment,) = folder.glob("*.spool")
        kept = data.draw(st.integers(0, sizes[-1]))
        segment.write_bytes(segment.read_bytes()[:kept])
        spool = Spool(folder)
        whole = [record for record, size in zip(batch, sizes, strict=True) if size <= kept]
        assert drain(spool) == whole
        assert bool(list(folder.glob("*.damaged"))) == (kept not in (0, *sizes))
        spool.close()


def test_a_flipped_bit_is_noticed_and_the_segment_kept_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    good, bad, after = (Record("clicks", "u", bytes([n]) * 40) for n in (1, 2, 3))
    for record in (good, bad, after):
        spool.append([record])
    spool.close()
    (segment,) = tmp_path.glob("*.spool")
    content = bytearray(segment.read_bytes())
    content[len(content) // 3 + 20] ^= 1
    segment.write_bytes(content)
    spool = Spool(tmp_path)
    assert drain(spool) == [good]
    (kept,) = tmp_path.glob("*.damaged")
    assert kept.read_bytes() == content
    spool.close()


def test_a_full_spool_takes_all_of_an_append_or_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200)
    small = Record("clicks", "u", b"x" * 50)
    spool.append([small])
    with pytest.raises(TransportError, match="200 bytes are in use"):
        spool.append([small, small, small])
    spool.append([small])
    assert drain(spool) == [small, small]
    spool.append([small])  # there is room again
    spool.close()


def test_a_full_disk_keeps_what_was_taken_and_nothing_of_what_was_not(tmp_path: Path) -> None:
    small, large = Record("clicks", "u", b"x" * 50), Record("clicks", "u", b"y" * 5000)
    spool = Spool(tmp_path)
    spool.append([small])
    size, (soft, hard) = spool.bytes, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # as a full disk: writes a part, then refuses
    try:
        for _ in range(3):
            with pytest.raises(TransportError):
                spool.append([small, large])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.bytes == size
    assert [path.stat().st_size for path in tmp_path.glob("*.spool")] == [size]
    spool.append([large])
    assert drain(spool) == [small, large]
    assert not list(tmp_path.glob("*.damaged"))
    spool.close()


def test_what_is_no_segment_or_cannot_be_read_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "notes.spool").write_text("not ours")
    spool = Spool(tmp_path, segment_bytes=1)
    for number in range(3):
        spool.append([Record("clicks", "u", bytes([number]))])
    first, second, _ = sorted(tmp_path.glob("0*.spool"))
    first.unlink()
    second.unlink()
    second.mkdir()
    assert drain_first(spool) == []
    with pytest.raises(TransportError, match="is a directory"):
        spool.oldest()
    second.rmdir()
    assert drain(spool) == [Record("clicks", "u", b"\x02")]
    spool.close()


def test_records_that_are_being_sent_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second = Record("clicks", "u", b"1"), Record("clicks", "u", b"2")
    spool.append([first])
    segment = spool.oldest()
    assert segment is not None
    spool.append([second])
    assert segment[1] == [first]
    spool.drop(segment[0])
    assert drain(spool) == [second]
    spool.close()


def test_two_routers_do_not_share_a_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(ConfigError, match="in use by another router"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()
