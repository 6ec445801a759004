"""MovieLens folders with planted tastes, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GENRES = ("Action", "Comedy", "Drama", "Horror", "War")


def write_movielens(folder: Path, *, users: int = 60, items: int = 150, each: int = 80, seed: int = 0) -> Path:
    """The csv layout: `each` ratings of every user, users one after another but overlapping in time."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    genres = [rng.choice(GENRES, rng.integers(1, 4), replace=False) for _ in range(items)]
    flags = np.array([[genre in own for genre in GENRES] for own in genres]).astype(float)
    good, generous = rng.normal(0, 0.6, items), rng.normal(0, 0.5, users)
    taste = rng.normal(0, 0.6, (users, len(GENRES)))
    movies = ["movieId,title,genres"]
    for item, own in enumerate(genres):
        movies.append(f'{item + 1},"Film, The No. {item} ({rng.integers(1950, 1996)})",{"|".join(own)}')
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(users):
        rated = rng.choice(items, min(each, items), replace=False)
        start = 850_000_000 + user * 40_000
        times = start + np.sort(rng.integers(0, 80_000, len(rated)))
        stars = 3.4 + good[rated] + generous[user] + flags[rated] @ taste[user] + rng.normal(0, 0.7, len(rated))
        for item, star, time in zip(rated, np.clip(np.rint(2 * stars) / 2, 0.5, 5), times, strict=True):
            ratings.append(f"{user + 1},{item + 1},{star},{time}")
    tags = ["userId,movieId,tag,timestamp", "1,1,early and good,850000000", "1,1,tag of the future,899999999"]
    for name, lines in (("movies.csv", movies), ("ratings.csv", ratings), ("tags.csv", tags)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
