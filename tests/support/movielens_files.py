"""MovieLens folders with planted tastes, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GENRES = ("Action", "Comedy", "Drama", "Horror", "War")
MORE_GENRES = (*GENRES, "Crime", "Musical", "Western")


def write_movielens(folder: Path, *, users: int = 60, items: int = 150, each: int = 80, seed: int = 0) -> Path:
    """The csv layout: `each` ratings of every user, users one after another but overlapping in time."""
    rng = np.random.default_rng(seed)
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
    return _written(folder, movies, ratings, tags)


def write_shared_tastes(folder: Path, *, users: int = 450, each: int = 80, seed: int = 0) -> Path:
    """The same layout, in which genres promise the same to everybody and films come and go: who no longer knows what
    genres promise loses clicks, and few slates are enough to learn it. Ten users at a time rate the latest films."""
    rng = np.random.default_rng(seed)
    latest, a_user = 200, 2.5
    items = latest + int(a_user * users)
    genres = [rng.choice(MORE_GENRES, rng.integers(1, 3), replace=False) for _ in range(items)]
    flags = np.array([[genre in own for genre in MORE_GENRES] for own in genres]).astype(float)
    promise = flags / flags.sum(axis=1, keepdims=True) @ np.linspace(-1, 1, len(MORE_GENRES))
    good, generous = rng.normal(0, 0.2, items), rng.normal(0, 0.3, users)
    movies = ["movieId,title,genres", *(f"{item + 1},Film {item},{'|'.join(own)}" for item, own in enumerate(genres))]
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(users):
        rated = int(a_user * user) + rng.choice(latest, each, replace=False)
        times = 850_000_000 + user * 20_000 + np.sort(rng.integers(0, 200_000, each))
        stars = 3.4 + good[rated] + generous[user] + promise[rated] + rng.normal(0, 0.7, each)
        for item, star, time in zip(rated, np.clip(np.rint(2 * stars) / 2, 0.5, 5), times, strict=True):
            ratings.append(f"{user + 1},{item + 1},{star},{time}")
    return _written(folder, movies, ratings, ["userId,movieId,tag,timestamp"])


def _written(folder: Path, movies: list[str], ratings: list[str], tags: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("movies.csv", movies), ("ratings.csv", ratings), ("tags.csv", tags)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
