"""Any supported log → slates with outcomes, split by time, checked and stored. Steps: read, cut, check, write."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from producers.ratings import RatingsLog
from producers.slates import cut_slates, slate_log
from producers.sources import read_ratings
from sluice.errors import ConfigError
from training.dataset import MANIFEST, Dataset, load_dataset, write_dataset
from training.texts import Texts, read_texts

__all__ = ["PrepareOptions", "make_dataset", "prepare"]

FORMAT = 1
"""Of the prepared files: changes with anything that changes them for the same log and options."""
_TOP_K = 3
"""Slates that a replay would skip, because there is nothing to choose, are skipped here as well."""


@dataclass(frozen=True)
class PrepareOptions:
    slate_size: int = 10
    click_from: float = 4.0
    """Ratings from here on are clicks"""
    train_share: float = 0.6
    """Of the slates, by time of request"""
    seed: int = 0
    """Of the order inside a slate, as in a replay"""


def prepare(
    source: str, folder: Path, options: PrepareOptions, columns: Mapping[str, str] | None = None
) -> tuple[Dataset, Path]:
    """The dataset of the ratings at `source`, and its folder below `folder`, named by its fingerprint.

    What is already there is read instead of made again. Raises ConfigError, in one line, when the data are unfit.
    """
    log = read_ratings(source, columns)
    texts = read_texts(Path(source))
    fingerprint = fingerprint_of(log, texts, options)
    place = folder / fingerprint
    if not (place / MANIFEST).exists():
        # Imported late: pandera takes a second to load.
        from training.validation import check_balance, check_ratings

        check_ratings(log, texts.titles)
        data = make_dataset(log, texts, options)
        check_balance(data)
        write_dataset(data, place)
    return load_dataset(place), place


def fingerprint_of(log: RatingsLog, texts: Texts, options: PrepareOptions) -> str:
    """16 hex digits that change with any rating, attribute, genre, title, tag or option."""
    digest = hashlib.blake2b(log.fingerprint.encode(), digest_size=8)
    rest = [FORMAT, log.name, sorted(log.genres.items()), sorted(texts.titles.items()), texts.tags, asdict(options)]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def make_dataset(log: RatingsLog, texts: Texts, options: PrepareOptions) -> Dataset:
    """`log` cut in slates, the first `train_share` of them for training. Raises ConfigError."""
    if not 0 < options.train_share < 1:
        raise ConfigError(f"--train-share: must lie in (0, 1), got {options.train_share:g}")
    if not math.isfinite(options.click_from):
        raise ConfigError(f"--click-from: a rating, got {options.click_from:g}")
    slates = cut_slates(log, size=options.slate_size, top_k=min(_TOP_K, options.slate_size - 1), seed=options.seed)
    test_from = int(len(slates) * options.train_share)
    begin = int(slates.at_ms[test_from])
    tags: dict[str, list[str]] = {}
    for tag in texts.tags:
        # Later tags are not yet given when the models are trained.
        if tag.at_ms < begin:
            tags.setdefault(tag.item, []).append(tag.words)
    return Dataset(
        name=log.name,
        fingerprint=fingerprint_of(log, texts, options),
        log=slate_log(slates, round(options.click_from * 1000)),
        users=log.users,
        titles=texts.titles,
        genres=log.genres,
        tags={item: " ".join(words) for item, words in tags.items()},
        about=log.about,
        test_from=test_from,
        options=asdict(options),
    )
