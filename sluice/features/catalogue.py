"""What is known of the items themselves: genres and year of release. Never changes with what users do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["MAX_GENRES", "Catalogue", "ItemFacts", "make_catalogue", "release_year"]

MAX_GENRES = 32
"""Genres that become features, the most frequent ones; MovieLens has 18 to 20."""
# The last one: "Shanghai Triad (Yao a yao) (1995)". A range, "(2003-2010)", counts by its first year.
_YEAR = re.compile(r"\((\d{4})(?:[-–]\d{0,4})?\)")


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """One item."""

    genres: tuple[int, ...] = ()
    """Indices into `Catalogue.genres`, ascending"""
    year: int = 0
    """Of release; 0: unknown"""

    @property
    def decade(self) -> int:
        """1990 for 1990 … 1999; 0: unknown."""
        return self.year - self.year % 10


@dataclass(frozen=True)
class Catalogue:
    """Items by id, and the genres that the features know, in the order of their columns."""

    genres: tuple[str, ...] = ()
    items: Mapping[str, ItemFacts] = field(default_factory=dict)

    def facts(self, item: str) -> ItemFacts:
        """Of an item that is not in the catalogue nothing is known."""
        return self.items.get(item, _UNKNOWN)


_UNKNOWN = ItemFacts()


def make_catalogue(
    items: Iterable[str], genres: Mapping[str, Sequence[str]], titles: Mapping[str, str] | None = None
) -> Catalogue:
    """The catalogue of `items`, with the `MAX_GENRES` genres that most of them have; years are read from titles."""
    ids = list(items)
    counts = Counter(genre for item in ids for genre in set(genres.get(item, ())))
    kept = sorted(sorted(counts, key=lambda genre: (-counts[genre], genre))[:MAX_GENRES])
    code = {genre: index for index, genre in enumerate(kept)}
    names = titles or {}
    return Catalogue(
        tuple(kept),
        {
            item: ItemFacts(
                tuple(sorted({code[genre] for genre in genres.get(item, ()) if genre in code})),
                release_year(names.get(item, "")),
            )
            for item in ids
        },
    )


def release_year(title: str) -> int:
    """`Toy Story (1995)` → 1995; 0 when the title names no year from 1880 to 2099."""
    found = _YEAR.findall(title)
    year = int(found[-1]) if found else 0
    return year if 1880 <= year <= 2099 else 0
