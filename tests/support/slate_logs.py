"""Slates with planted tastes, and the driver that runs the online features over them as a replay does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sluice.features import Catalogue, OnlineFeatures, SlateLog, make_catalogue

GENRES = ("Action", "Comedy", "Drama", "Horror", "War")


def make_log(
    slates: int, *, seed: int, users: int = 40, items: int = 120, size: int = 10, hour_ms: int = 3_600_000
) -> tuple[SlateLog, Catalogue]:
    """Overlapping slates of 1 … `size` items with ties in time; users like some genres and some items are good."""
    rng = np.random.default_rng(seed)
    ids = [str(100 + item) for item in range(items)]
    genres = {i: tuple(rng.choice(GENRES, rng.integers(0, 4), replace=False)) for i in ids}
    titles = {i: f"Film {i} ({rng.integers(1950, 2000)})" if rng.random() < 0.9 else f"Film {i}" for i in ids}
    good, generous = rng.normal(0, 0.7, items), rng.normal(0, 0.5, users)
    taste, kind = rng.normal(0, 1, (users, 3)), rng.normal(0, 0.6, (items, 3))

    at_ms = np.sort(rng.integers(0, slates // 2 + 1, slates)) * (hour_ms // 4) + 850_000_000_000
    end_ms = at_ms + rng.integers(0, 3, slates) * (hour_ms // 4)
    user = rng.integers(0, users, slates)
    sizes = rng.integers(1, size + 1, slates)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    item = np.concatenate([rng.choice(items, count, replace=False) for count in sizes])
    rows = np.repeat(user, sizes)
    stars = 3.5 + good[item] + generous[rows] + (taste[rows] * kind[item]).sum(axis=1) + rng.normal(0, 0.8, len(item))
    rating = (np.clip(np.rint(2 * stars), 1, 10) * 500).astype(np.int64)
    log = SlateLog(
        user=user, at_ms=at_ms, end_ms=end_ms, offsets=offsets, item=item, liked=rating >= 4000, rating_milli=rating,
        items=ids,
    )  # fmt: skip
    return log, make_catalogue(ids, genres, titles)


def with_ratings(log: SlateLog, rating_milli: NDArray[np.int64]) -> SlateLog:
    return replace(log, rating_milli=rating_milli, liked=rating_milli >= 4000)


def until(log: SlateLog, slate: int) -> SlateLog:
    """The log cut after the request of `slate`."""
    rows = log.offsets[slate + 1]
    return replace(
        log,
        user=log.user[: slate + 1], at_ms=log.at_ms[: slate + 1], end_ms=log.end_ms[: slate + 1],
        offsets=log.offsets[: slate + 2], item=log.item[:rows], liked=log.liked[:rows],
        rating_milli=log.rating_milli[:rows],
    )  # fmt: skip


def online_features(log: SlateLog, catalogue: Catalogue, *, leak: bool = False) -> NDArray[np.float32]:
    """As `batch_features`, slate by slate. leak: outcomes of a slate are learned just before it is scored."""
    online = OnlineFeatures(catalogue)
    by_end = np.argsort(log.end_ms, kind="stable").tolist()
    blocks, done = [], 0

    def ids(slate: int) -> list[str]:
        return [log.items[code] for code in log.item[log.offsets[slate] : log.offsets[slate + 1]]]

    def observe(slate: int) -> None:
        rows = slice(log.offsets[slate], log.offsets[slate + 1])
        outcomes = log.liked[rows].tolist(), log.rating_milli[rows].tolist()
        online.observe(str(log.user[slate]), ids(slate), *outcomes, int(log.end_ms[slate]))

    for slate in range(len(log)):
        while done < len(log) and log.end_ms[by_end[done]] < log.at_ms[slate]:
            observe(by_end[done])
            done += 1
        if leak:
            observe(slate)
        blocks.append(online.rows(str(log.user[slate]), ids(slate), int(log.at_ms[slate])))
    return np.concatenate(blocks)
