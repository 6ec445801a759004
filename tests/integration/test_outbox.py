"""A snapshot that has grown too large stops nothing: it is said once, and the next ones go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sluice.adapters.reader import TopicReader
from sluice.domain.events import StatsCell, StatsPublished
from sluice.domain.statistics import CellStatistics
from sluice.names import VARIANT_STATS
from sluice.settings import Settings
from stream_processors.outbox import Outbox


def snapshot(cells: int, offset: int) -> StatsPublished:
    return StatsPublished(
        partition=3, impressions_offset=offset, clicks_offset=0, window_ms=1000, lateness_ms=0, at_ms=0, watermark_ms=0,
        cells=tuple(
            StatsCell(experiment="e" * 64, variant="v" * 64, allocation=f"{n:0900}", statistics=CellStatistics(1, 1, 1))
            for n in range(cells)
        ),
        records={},
    )  # fmt: skip


def test_what_is_too_large_is_said_once_and_the_rest_is_published(
    stack: Settings, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(stack, lambda: False)
    with caplog.at_level(logging.ERROR), TopicReader(stack, VARIANT_STATS, from_start=True) as reader:
        outbox.publish(snapshot(2000, 1))
        for offset in (2, 3):
            outbox.publish(snapshot(5000, offset))
        outbox.publish(snapshot(1, 4))
        outbox.close()
        found: list[bytes] = []

        def both() -> bool:
            found.extend(message.value() or b"" for message in reader.poll(0.1))
            return len(found) >= 2

        wait_until(both, 20, "two snapshots")
    assert [b'"impressions_offset":1,' in found[0], b'"impressions_offset":4,' in found[1]] == [True, True]
    assert len(found[0]) > 2_000_000
    assert [record.message.split(":")[0] for record in caplog.records] == ["partition 3"]
