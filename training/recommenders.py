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
from sluice.features.definition import PRIOR_RATING, WEIGHT, Floats, Ints
from sluice.models import Linear
from training.dataset import Dataset
from training.models import Examples, validation_split

__all__ = ["INPUTS", "ContentBased", "ItemBased", "Recommender", "fit_content_based", "fit_item_based"]

INPUTS = ("similarity", "item_mean", "user_rating")
"""What the calibration sees."""

MAX_HISTORY = 500
"""Latest ratings of a user that count."""
NEIGHBOURS = 100
SHRINKAGE = 10.0
"""Common raters with which a similarity counts half."""
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Recommender(ABC):
    """Similarity to what the user rated, calibrated to P(click)."""

    item_mean: Floats
    """(i,) mean level of the item's ratings in training, in stars above their raters' means"""
    calibration: Linear | None
    """On the columns of `inputs`; None while it is not fitted"""

    def predict(self, examples: Examples, slates: Ints) -> Floats:
        """P(click) of the rows of `slates`."""
        return self.score(self.inputs(examples, slates))

    def score(self, inputs: Floats) -> Floats:
        """inputs: (m, 3) as `inputs` makes them. Returns (m,) P(click)."""
        assert self.calibration is not None
        return self.calibration.score(inputs)

    def inputs(self, examples: Examples, slates: Ints) -> Floats:
        """(m, 3) similarity score, the item's mean, the user's mean: `INPUTS`."""
        data = examples.data
        rows, sizes = data.rows(slates), np.diff(data.log.offsets)
        similarity = [
            self.similarity(history, np.repeat(np.arange(len(block)), sizes[block]), data.log.item[data.rows(block)])
            for block, history in _histories(data, slates)
        ]
        return np.column_stack([
            np.concatenate(similarity), self.item_mean[data.log.item[rows]], examples.column("user_rating")[rows],
        ])  # fmt: skip

    def inputs_of(self, items: Ints, stars: Floats, candidates: Ints) -> Floats:
        """The same for one slate. items: (n,) what the user rated with `stars`, latest last; candidates: (c,).

        Items are codes, −1 for unknown ones.
        """
        latest, levels = items[-MAX_HISTORY:], stars[-MAX_HISTORY:]
        levels = levels - (levels.mean() if len(levels) else 0.0)
        latest, levels = latest[latest >= 0], levels[latest >= 0]
        history = sparse.csr_matrix((levels, latest, [0, len(latest)]), shape=(1, len(self.item_mean)))
        found = candidates >= 0
        known = candidates[found]
        table = np.zeros((len(candidates), len(INPUTS)))
        table[found, 0] = self.similarity(history, np.zeros(len(known), dtype=np.int64), known)
        table[found, 1] = self.item_mean[known]
        mean = (1000 * stars.sum() + WEIGHT * PRIOR_RATING) / (len(stars) + WEIGHT) / 1000
        table[:, 2] = np.float32(mean)  # as in the table of features
        return table

    @abstractmethod
    def similarity(self, history: Any, row: Ints, item: Ints) -> Floats:
        """(m,) of items to histories. history: (b, i) sparse, stars above the user's mean; row: (m,) which of them."""


@dataclass(frozen=True, eq=False)
class ItemBased(Recommender):
    """Items are similar when the same users rate them alike."""

    similar: Any
    """(i, i) sparse: row j holds j's similarity to its nearest neighbours"""

    def similarity(self, history: Any, row: Ints, item: Ints) -> Floats:
        near = history @ self.similar
        weight = abs(history).sign() @ abs(self.similar)
        return np.asarray(_at(near, row, item) / (_at(weight, row, item) + 1.0))


@dataclass(frozen=True, eq=False)
class ContentBased(Recommender):
    """Items are similar when their titles, tags and genres are."""

    terms: Any
    """(i, t) sparse TF-IDF rows of length 1"""

    def similarity(self, history: Any, row: Ints, item: Ints) -> Floats:
        profile = (history @ self.terms)[row]
        score = np.asarray(profile.multiply(self.terms[item]).sum(axis=1)).ravel()
        return np.asarray(score / np.sqrt(np.diff(history.indptr)[row] + SHRINKAGE))


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


def _calibrate(model: Recommender, examples: Examples, slates: Ints, seed: int) -> Linear:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    scaler, regression = pipeline.fit(model.inputs(examples, slates), examples.liked[examples.data.rows(slates)])
    return Linear(scaler.mean_, scaler.scale_, regression.coef_[0], float(regression.intercept_[0]))


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
