"""Did the units arrive as the allocations promised? If not, something loses or repeats them, and no estimate holds.

`sample_ratio` is the chi-square test, right for one look; `sample_ratio_always` stays right however often one looks.
Both take the allocation of each unit into account, so a bandit may change it.

Library: numpy, scipy (chi-square distribution).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from analyzer.engine.moments import Floats
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import StatsCell
from sluice.errors import InvalidEvent

__all__ = [
    "LEAST_EXPECTED",
    "log_tilt_mixture",
    "sample_ratio",
    "sample_ratio_always",
    "sample_ratio_chi_square",
    "sample_ratio_sequential",
]

LEAST_EXPECTED = 5
"""Expected units of a variant below which a chi-square is no approximation (Cochran 1954)."""

_STEPS = 2.0 ** np.arange(-10, 2)
_TILTS: Floats = np.concatenate([-_STEPS, _STEPS])
"""λ: log odds by which a variant gets less or more than promised, from a thousandth up. Between two, evidence grows
at least 8/9 as fast as with the best λ."""
_LOG_PRIOR: Floats = 0.5 * np.log(np.abs(_TILTS)) - math.log(np.sqrt(np.abs(_TILTS)).sum())
"""Weights ∝ √|λ|: small tilts take many units anyway, beside which the price of a small weight is small"""
_COST: Floats = np.log1p(np.arange(101.0)[:, None] / 100 * np.expm1(_TILTS))
"""(101, λ): log(1 − θ + θ·e^λ), by whole percent θ"""


def sample_ratio(cells: Iterable[StatsCell]) -> float | None:
    """`sample_ratio_chi_square` of the cells of one experiment. None while there are too few units."""
    p = float(sample_ratio_chi_square(*_arrays(cells)))
    return None if math.isnan(p) else p


def sample_ratio_always(cells: Iterable[StatsCell]) -> float | None:
    """`sample_ratio_sequential` of the cells of one experiment. None where no allocation leaves anything to chance."""
    p = float(sample_ratio_sequential(*_arrays(cells)))
    return None if math.isnan(p) else p


def sample_ratio_chi_square(units: ArrayLike, percent: ArrayLike) -> Floats:
    """units, percent: (…, a, k) of allocations and variants → p-value (…) of the units per variant, for one look.

    With T_a units under allocation a of shares p_a: expected Σ_a T_a·p_a, covariance
    Σ_a T_a·(diag p_a − p_a p_aᵀ), and the statistic (O − E)ᵀ C⁺ (O − E) is chi-square with rank(C) degrees. With one
    allocation that is Pearson's test. A unit of a variant to which its allocation gives 0 % makes it 0. nan while less
    than `LEAST_EXPECTED` units are expected of a variant, or fewer than two variants have a share.

    Allocations whose percents do not sum to 100 are left out. Raises ValueError unless units are finite and ≥ 0 and
    percents whole numbers from 0 to 100. Source: Fabijan et al. 2019; docs/statistics.md.
    """
    n, share, impossible = _checked(units, percent)
    p = share / 100
    drawn = n.sum(axis=-1)
    weighted = p * drawn[..., None]
    expected = weighted.sum(axis=-2)
    offered = (p > 0).any(axis=-2)
    covariance = expected[..., None] * np.eye(p.shape[-1]) - np.swapaxes(p, -1, -2) @ weighted
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[..., -1:] * 1e-9
    away = ((n.sum(axis=-2) - expected)[..., None, :] @ vectors)[..., 0, :]
    statistic = np.where(kept, away * away / np.where(kept, values, 1.0), 0.0).sum(axis=-1)
    enough = (offered.sum(axis=-1) >= 2) & (np.where(offered, expected, np.inf).min(axis=-1) >= LEAST_EXPECTED)
    freedom = np.where(enough, kept.sum(axis=-1), 1)
    return np.asarray(
        np.where(impossible, 0.0, np.where(enough & kept.any(axis=-1), chdtrc(freedom, statistic), np.nan))
    )


def sample_ratio_sequential(units: ArrayLike, percent: ArrayLike) -> Floats:
    """units, percent: (…, a, k) of allocations and variants → p-value (…), valid at all times at once.

    If variant j gets its units with odds e^λ times those promised, whatever the allocation, the likelihood ratio is Π_a
    e^(λ N_aj) / (1 − θ_aj + θ_aj e^λ)^T_a. Under the promised shares each factor has mean 1 given the past, also when
    the past chose the allocation, so the ratio is a martingale, and so is its mean over all j and a grid of λ: the
    chance that this mean, 1 / p, ever exceeds 1 / α is at most α. Evidence adds up over allocations. A unit of a
    variant to which its allocation gives 0 % makes p 0. nan where no allocation leaves anything to chance.

    Allocations whose percents do not sum to 100 are left out. Raises ValueError as `sample_ratio_chi_square` does.
    Source: Lindon, Malek 2022 (sequential multinomial test; there one allocation and a Dirichlet mixture); Ville 1939.
    """
    log_e = log_tilt_mixture(units, percent)
    return np.asarray(np.exp(-np.maximum(log_e, 0.0)))


def log_tilt_mixture(units: ArrayLike, percent: ArrayLike) -> Floats:
    """ln of the ratio that `sample_ratio_sequential` explains, (…); inf and nan where its p is 0 and nan."""
    n, share, impossible = _checked(units, percent)
    *lead, _, k = n.shape
    whole = share.astype(np.int64)
    place = np.arange(math.prod(lead) * k).reshape(*lead, 1, k) * 101 + whole
    drawn = np.broadcast_to(n.sum(axis=-1, keepdims=True), n.shape)
    by_percent = np.bincount(place.ravel(), drawn.ravel(), math.prod(lead) * k * 101).reshape(*lead, k, 101)
    log_ratio = n.sum(axis=-2)[..., None] * _TILTS - by_percent @ _COST + _LOG_PRIOR
    most = log_ratio.max(axis=(-2, -1), keepdims=True)
    log_e = most[..., 0, 0] + np.log(np.exp(log_ratio - most).sum(axis=(-2, -1)) / k)
    chance = ((share > 0) & (share < 100)).any(axis=(-2, -1))
    return np.asarray(np.where(impossible, np.inf, np.where(chance, log_e, np.nan)))


def _checked(units: ArrayLike, percent: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Units and percents without allocations that are none, and whether there are units that could not be drawn."""
    n, share = np.broadcast_arrays(np.asarray(units, dtype=np.float64), np.asarray(percent, dtype=np.float64))
    if n.ndim < 2 or n.shape[-1] == 0:
        raise ValueError(f"units: must have axes (…, allocations, variants), got shape {n.shape}")
    if not (np.isfinite(n) & (n >= 0)).all():
        raise ValueError("units: must be finite and ≥ 0")
    if not ((share >= 0) & (share <= 100) & (share == np.floor(share))).all():
        raise ValueError("percent: must be whole numbers from 0 to 100")
    fair = share.sum(axis=-1, keepdims=True) == 100
    n, share = np.where(fair, n, 0.0), np.where(fair, share, 0.0)
    return n, share, ((n > 0) & (share == 0)).any(axis=(-2, -1))


def _arrays(cells: Iterable[StatsCell]) -> tuple[Floats, Floats]:
    """Units and percents (a, k); allocations that cannot be read get no percents."""
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        of = found.setdefault(cell.allocation, {})
        of[cell.variant] = of.get(cell.variant, 0) + cell.statistics.units
    shares = {key: _shares(key) for key in found}
    names = sorted({name for of in found.values() for name in of} | {name for of in shares.values() for name in of})
    if not names:
        return np.zeros((1, 1)), np.zeros((1, 1))
    table = np.array(
        [[[of.get(n, 0) for n in names], [shares[key].get(n, 0) for n in names]] for key, of in found.items()]
    )
    return table[:, 0].astype(np.float64), table[:, 1].astype(np.float64)


def _shares(key: str) -> dict[str, int]:
    try:
        shares = parse_allocation_key(key)
    except InvalidEvent:
        return {}
    return shares if all(0 <= share <= 100 for share in shares.values()) else {}
