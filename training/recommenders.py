"""Two candidates from the recommender tradition: item-based collaborative filtering, and content. Libraries: scipy,
scikit-learn.

Both score an item by its similarity to what the user rated above or below the own mean, as far as that was known at
the request, and calibrate this score together with the user's mean and the item's by a logistic regression.
Sources: Sarwar et al. 2001 (item-based, shrunk cosine of mean-centred ratings); Lops et al. 2011 (content-based).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sluice.features import release_year
from sluice.features.definition import Floats, Ints
from training.dataset import Dataset
from training.models import Examples, validation_split

__all__ = ["ContentBased", "ItemBased", "fit_content_based", "fit_item_based"]

MAX_HISTORY = 500
"""Latest ratings of a user that count."""
NEIGHBOURS = 100
SHRINKAGE = 10.0
"""Common raters with which a similarity counts half."""
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class _Recommender(ABC):
    item_mean: Floats
    """(i,) mean level of the item's ratings in training, in stars above their raters' means"""
    calibration: Any

    def predict(self, examples: Examples, slates: Ints) -> Floats:
        """P(click) of the rows of `slates`."""
        return np.asarray(self.calibration.predict_proba(self.inputs(examples, slates))[:, 1])

    def inputs(self, examples: Examples, slates: Ints) -> Floats:
        """(m, 3) similarity score, the item's mean, the user's mean."""
        rows = examples.data.rows(slates)
        score = self.similarity(examples.data, slates)
        return np.column_stack([
            score, self.item_mean[examples.data.log.item[rows]], examples.column("user_rating")[rows],
        ])  # fmt: skip

    @abstractmethod
    def similarity(self, data: Dataset, slates: Ints) -> Floats:
        """(m,) of the slates' rows to the histories of their users."""


@dataclass(frozen=True, eq=False)
class ItemBased(_Recommender):
    """Items are similar when the same users rate them alike."""

    similar: Any
    """(i, i) sparse: row j holds j's similarity to its nearest neighbours"""

    def similarity(self, data: Dataset, slates: Ints) -> Floats:
        scores = []
        for block, history in _histories(data, slates):
            near = history @ self.similar
            weight = abs(history).sign() @ abs(self.similar)
            sizes = np.diff(data.log.offsets)[block]
            row, item = np.repeat(np.arange(len(block)), sizes), data.log.item[data.rows(block)]
            scores.append(_at(near, row, item) / (_at(weight, row, item) + 1.0))
        return np.concatenate(scores)


@dataclass(frozen=True, eq=False)
class ContentBased(_Recommender):
    """Items are similar when their titles, tags and genres are."""

    terms: Any
    """(i, t) sparse TF-IDF rows of length 1"""

    def similarity(self, data: Dataset, slates: Ints) -> Floats:
        scores = []
        for block, history in _histories(data, slates):
            sizes = np.diff(data.log.offsets)[block]
            profile = (history @ self.terms)[np.repeat(np.arange(len(block)), sizes)]
            score = np.asarray(profile.multiply(self.terms[data.log.item[data.rows(block)]]).sum(axis=1)).ravel()
            length = np.repeat(np.diff(history.indptr), sizes)
            scores.append(score / np.sqrt(length + SHRINKAGE))
        return np.concatenate(scores)


def fit_item_based(examples: Examples, train: Ints, seed: int = 0) -> ItemBased:
    """Similarities from all of `train`; their calibration from the last part, with similarities of the first."""
    data = examples.data
    early, late = validation_split(data, train)
    first = ItemBased(_item_means(data, early), None, _similarities(data, early))
    calibration = _calibrate(first, examples, late, seed)
    return ItemBased(_item_means(data, train), calibration, _similarities(data, train))


def fit_content_based(examples: Examples, train: Ints, seed: int = 0) -> ContentBased:
    """Terms from titles without the year, genres, and tags that were given before the test part."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    data = examples.data
    texts = [_text(data, item) for item in data.log.items]
    if any(texts):
        terms = TfidfVectorizer(min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w[\w:-]+\b").fit_transform(texts)
    else:
        terms = sparse.csr_matrix((len(texts), 1))
    early, late = validation_split(data, train)
    first = ContentBased(_item_means(data, early), None, terms)
    calibration = _calibrate(first, examples, late, seed)
    return ContentBased(_item_means(data, train), calibration, terms)


def _text(data: Dataset, item: str) -> str:
    title = data.titles.get(item, "")
    words = title.replace(f"({release_year(title)})", "")
    genres = " ".join("genre:" + genre.replace(" ", "_") for genre in data.genres.get(item, ()))
    return f"{words} {genres} {data.tags.get(item, '')}".strip()


def _calibrate(model: _Recommender, examples: Examples, slates: Ints, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    return pipeline.fit(model.inputs(examples, slates), examples.liked[examples.data.rows(slates)])


def _levels(data: Dataset, slates: Ints) -> Any:
    """(u, i) sparse: ratings above their user's mean, in stars; both over `slates`."""
    log, rows = data.log, data.rows(slates)
    user = np.repeat(log.user[slates], np.diff(log.offsets)[slates])
    stars = log.rating_milli[rows] / 1000
    count = np.bincount(user, minlength=len(data.users))
    mean = np.bincount(user, stars, minlength=len(data.users)) / np.maximum(count, 1)
    shape = len(data.users), len(log.items)
    return sparse.csr_matrix((stars - mean[user], (user, log.item[rows])), shape=shape)


def _item_means(data: Dataset, slates: Ints) -> Floats:
    levels = _levels(data, slates)
    count = np.bincount(levels.indices, minlength=levels.shape[1])
    return np.asarray(np.asarray(levels.sum(axis=0)).ravel() / (count + 5.0))


def _similarities(data: Dataset, slates: Ints) -> Any:
    """(i, i) sparse: shrunk cosines, of each row the `NEIGHBOURS` largest by size."""
    levels = _levels(data, slates).tocsc()
    rated = levels.copy()
    rated.data = np.ones_like(rated.data)
    norm = np.sqrt(np.asarray(levels.multiply(levels).sum(axis=0)).ravel()) + 1e-9
    blocks = []
    for start in range(0, levels.shape[1], _BLOCK):
        part = slice(start, min(start + _BLOCK, levels.shape[1]))
        near = (levels[:, part].T @ levels).tocsr()
        # Products leave out pairs whose sum is 0; the counts hold all pairs and are cut to those.
        pairs = near.copy()
        pairs.data = np.ones_like(pairs.data)
        counts = pairs.multiply(rated[:, part].T @ rated).tocsr()
        near.sort_indices()
        counts.sort_indices()
        row = np.repeat(np.arange(near.shape[0]), np.diff(near.indptr))
        near.data *= counts.data / (counts.data + SHRINKAGE) / (norm[part][row] * norm[near.indices])
        near.data[near.indices == row + start] = 0.0
        blocks.append(_largest(near))
    return sparse.vstack(blocks).tocsr()


def _largest(matrix: Any) -> Any:
    """Of each row the `NEIGHBOURS` values that are largest by size."""
    for low, high in zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True):
        if high - low > NEIGHBOURS:
            own = matrix.data[low:high]
            own[np.argpartition(np.abs(own), -NEIGHBOURS)[:-NEIGHBOURS]] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _histories(data: Dataset, slates: Ints) -> list[tuple[Ints, Any]]:
    """Blocks of slates, each with (b, i) sparse histories: what their users had rated above their own means so far.

    "So far" is what had ended before the request, the latest `MAX_HISTORY` ratings.
    """
    log = data.log
    by_end = np.argsort(log.end_ms, kind="stable")
    order = by_end[np.argsort(log.user[by_end], kind="stable")]  # slates by user, then by end
    begin = np.searchsorted(log.user[order], log.user[slates], side="left")
    code = log.user[order] * (int(log.end_ms.max()) + 2) + log.end_ms[order]
    end = np.searchsorted(code, log.user[slates] * (int(log.end_ms.max()) + 2) + log.at_ms[slates], side="left")
    rows = data.rows(order)
    first = np.concatenate(([0], np.cumsum(np.diff(log.offsets)[order])))
    item, stars = log.item[rows], log.rating_milli[rows] / 1000
    blocks = []
    for start in range(0, len(slates), _BLOCK):
        part = slice(start, start + _BLOCK)
        stop = first[end[part]]
        low = np.maximum(first[begin[part]], stop - MAX_HISTORY)
        length = stop - low
        pointer = np.concatenate(([0], np.cumsum(length)))
        places = np.repeat(low - pointer[:-1], length) + np.arange(pointer[-1])
        owner = np.repeat(np.arange(len(length)), length)
        mean = np.bincount(owner, stars[places], minlength=len(length)) / np.maximum(length, 1)
        values = stars[places] - mean[owner]
        shape = len(length), len(log.items)
        blocks.append((slates[part], sparse.csr_matrix((values, item[places], pointer), shape=shape)))
    return blocks


def _at(matrix: Any, row: Ints, column: Ints) -> Floats:
    return np.asarray(matrix.toarray()[row, column])
