"""The drift monitor of `sluice bench count --drift`: `python -m stream_processors.bench_drift paced|unpaced`.

It reads `rankings` and `clicks` as one that starts behind does, and gives way as `sluice drift --follow` does: `paced`
with its share of a core, `unpaced` as fast as it can. On SIGTERM it prints what it did; the unpaced one first reads the
log to its end. Libraries: msgspec, numpy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import cache

import msgspec
import numpy as np

from sluice.adapters.mlflow import ModelVersion, Registry
from sluice.domain.drift import DriftOptions, Outcomes, Reference, Rows, make_reference
from sluice.domain.rankings import RankedItem, SlateRanked, columns_digest, pack_features
from sluice.features import VERSION, names
from sluice.settings import Settings
from stream_processors.drift import DriftWatch
from stream_processors.drift_command import NICE
from stream_processors.drift_pace import Pace

__all__ = ["ranking"]

MODEL = ModelVersion("bench", "1", "bench")
COLUMNS = names(tuple(f"g{number}" for number in range(18)))
"""As many as a model of ml-100k has"""
WINDOW_MS = 3_600_000
"""The log tells of fourteen hours: of the usual windows none would be closed"""
_DIGEST = columns_digest(COLUMNS)


def ranking(user: str, slate: str, at_ms: int, items: int) -> bytes:
    """A record of topic `rankings` as a model with so many features leaves it."""
    shown = tuple(
        RankedItem(item_id=f"m{place}", impression_id=f"{slate}-{place}", score=0.5, shown=0.5, features=features)
        for place, features in enumerate(_pool()[(at_ms + place) % len(_pool())] for place in range(items))
    )
    return msgspec.json.encode(
        SlateRanked(
            experiment="bench", variant="affinity", model=MODEL.name, model_version=MODEL.version,
            features_version=VERSION, columns=_DIGEST, user_id=user, slate_id=slate, at_ms=at_ms, items=shown,
        )
    )  # fmt: skip


@cache
def _pool() -> list[bytes]:
    rng = np.random.default_rng(1)
    # As in real records: single precision, and about half of it zero.
    rows = rng.random((997, len(COLUMNS)), dtype=np.float32) * rng.integers(0, 2, (997, len(COLUMNS)))
    return [pack_features(row.astype(np.float32)) for row in rows]


class _Given(Registry):
    """Knows one version, which was never registered."""

    def reference(self, version: ModelVersion) -> Reference:
        rng, n = np.random.default_rng(1), 8000
        users = [f"r{row // 10}" for row in range(n)]
        rows = Rows(users, np.zeros(n, dtype=np.int64), rng.random((n, len(COLUMNS))), rng.random(n))
        return make_reference(COLUMNS, rows, Outcomes(*rows, clicked=rng.random(n) < 0.6))


def main(paced: bool) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.nice(NICE)
    settings = Settings.load()
    watch = DriftWatch(settings, _Given(settings), MODEL, DriftOptions(window_ms=WINDOW_MS))
    go_on = Pace(stop) if paced else lambda: True
    print("ready", flush=True)
    begun = time.process_time()
    while not stop.wait(0.05):
        watch.advance(go_on)
    print(json.dumps({"records": watch.records, "cpu_s": time.process_time() - begun}))


if __name__ == "__main__":
    main(sys.argv[1] == "paced")
