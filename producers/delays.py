"""How long after an impression its outcome comes: distributions as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sluice.errors import ConfigError

__all__ = ["Delay", "parse_delay", "parse_duration_ms"]

Delay = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"""Uniform draws from (0, 1) → milliseconds, ≥ 0."""

MAX_DELAY_MS = 30 * 24 * 3600 * 1000
"""A heavy tail ends here: every outcome that waits keeps its slate open."""
ALLOWED = "none, fixed:TIME, exponential:MEAN, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA (times as 500ms, 30s, 5m, 2h)"
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration_ms(text: str) -> int:
    """`500ms`, `30s`, `5m`, `2h`, `1d` → milliseconds. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if not match:
        raise ConfigError(f"{text!r}: not a duration: allowed are 500ms, 30s, 5m, 2h, 1d")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def parse_delay(text: str) -> Delay:
    """A delay distribution. Raises ConfigError that lists what is allowed."""
    kind, _, rest = text.strip().partition(":")
    values = rest.split(",") if rest else []
    try:
        if kind == "none" and not values:
            return lambda u: np.zeros(len(u), dtype=np.int64)
        if kind == "fixed" and len(values) == 1:
            constant = parse_duration_ms(values[0])
            return lambda u: np.full(len(u), constant, dtype=np.int64)
        if kind == "exponential" and len(values) == 1:
            mean = parse_duration_ms(values[0])
            return lambda u: _whole(-mean * np.log(u))
        if kind == "uniform" and len(values) == 2:
            low, high = map(parse_duration_ms, values)
            return lambda u: _whole(low + (high - low) * u)
        if kind == "lognormal" and len(values) == 2:
            median, sigma = parse_duration_ms(values[0]), float(values[1])
            if 0 <= sigma <= 10:
                from scipy.special import ndtri  # slow to load, and needed here only

                return lambda u: _whole(median * np.exp(sigma * ndtri(u)))
    except (ValueError, ConfigError):
        pass
    raise ConfigError(f"--delay: {text!r}: allowed are {ALLOWED}")


def _whole(delay_ms: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(delay_ms, 0, MAX_DELAY_MS).astype(np.int64)
