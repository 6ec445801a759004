"""Who gets which variant, as Sluice or another experimentation tool would decide it.

Every algorithm is a row of `ALGORITHMS`: how it hashes a unit, what it calls the unit's bucket, and where weights cut.
Where doubles decide (a sum of weights like 0.1 + 0.2), the sums are those the tool computes, not better ones.

Library: msgspec.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from sluice.domain.bucketing import growthbook, hashes
from sluice.errors import ConfigError

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmName",
    "Bucketing",
    "Gate",
    "drawing",
    "number",
    "picker",
    "place",
    "told",
]

AlgorithmName = Literal[
    "sluice",
    "growthbook-v1",
    "growthbook-v2",
    "planout",
    "optimizely",
    "split",
    "split-legacy",
    "launchdarkly",
    "eppo",
]
Fraction = Annotated[float, Meta(ge=0, le=1)]

_BELOW_ONE = 1.0 - 2.0**-53
_MANY = float(0xFFFFFFFFFFFFFFF)
"""The largest number of 15 hex digits as a double, which is 2^60: what PlanOut and LaunchDarkly divide by."""


class Algorithm(NamedTuple):
    """One way of placing units, and of cutting their places into variants."""

    summary: str
    seed: str
    """What the tool puts there."""
    hasher: Callable[[str], hashes.Hasher]
    first: int
    """Smallest integer that `hasher` gives."""
    buckets: int
    """How many integers it gives."""
    told: Callable[[int], float]
    """The integer → the bucket as the tool itself reports it."""
    width: Callable[[float], float]
    """Percents of one variant → what it adds to the upper bounds that the tool compares buckets with."""
    scale: int = 1
    """What the tool multiplies its bucket by before it compares."""
    per_percent: int | None = None
    """Into how many steps the tool divides a percent; None: any fraction."""
    inclusive: bool = False
    """A bucket on the upper bound of a variant is still in it."""
    last_takes_rest: bool = False
    """Buckets beyond the last bound (sums of doubles) belong to the last variant; otherwise to none."""
    by_name: bool = False
    """Variants lie in order of name; otherwise in the order they are given."""

    def place(self, integer: int) -> float:
        """`integer` of `hasher` → place in [0, 1); the few that a double would round to 1 lie just below."""
        return min((integer - self.first) / self.buckets, _BELOW_ONE)


def _itself(number: float) -> float:
    return number


def _hundredth(percents: float) -> float:
    return percents / 100


def _hundredfold(percents: float) -> int:
    return round(percents * 100)


ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    "sluice": Algorithm(
        "BLAKE2b, 53 bits: the default", "salt of the experiment",
        hashes.blake2b_53, first=0, buckets=2**53, told=lambda n: n * 2.0**-53,
        width=round, scale=100, per_percent=1, by_name=True,
    ),
    "growthbook-v1": Algorithm(
        "FNV-1a 32, 1,000 buckets (hashVersion 1)", "seed of the experiment, else its key",
        hashes.growthbook_v1, first=0, buckets=1000, told=lambda n: n / 1000, width=_hundredth,
    ),
    "growthbook-v2": Algorithm(
        "FNV-1a 32 twice, 10,000 buckets (hashVersion 2)", "seed of the experiment, else its key",
        hashes.growthbook_v2, first=0, buckets=10_000, told=lambda n: n / 10_000, width=_hundredth,
    ),
    "planout": Algorithm(
        "SHA-1, 60 bits (WeightedChoice)", "salt of the experiment, a dot, salt or name of the parameter",
        hashes.sha1_60, first=0, buckets=2**60, told=lambda n: n / _MANY,
        width=_itself, scale=100, inclusive=True, last_takes_rest=True,
    ),
    "optimizely": Algorithm(
        "MurmurHash3 x86 32, 10,000 buckets", "id of the experiment",
        hashes.murmur_shard, first=0, buckets=10_000, told=_itself, width=_hundredfold, per_percent=100,
    ),
    "split": Algorithm(
        "MurmurHash3 x86 32, buckets 1 to 100 (algo 2)", "seed of the flag, a whole number",
        hashes.split_murmur, first=1, buckets=100, told=_itself, width=round, per_percent=1, inclusive=True,
    ),
    "split-legacy": Algorithm(
        "Java's string hash, buckets 1 to 100 (algo 1)", "seed of the flag, a whole number",
        hashes.split_legacy, first=1, buckets=100, told=_itself, width=round, per_percent=1, inclusive=True,
    ),
    "launchdarkly": Algorithm(
        "SHA-1, 60 bits", "key of the flag, a dot, its salt; or the seed of the rollout",
        hashes.sha1_60, first=0, buckets=2**60, told=lambda n: n / _MANY,
        width=lambda percents: round(percents * 1000) / 100_000.0, per_percent=1000, last_takes_rest=True,
    ),
    "eppo": Algorithm(
        "MD5, 10,000 shards", "salt of the shard",
        hashes.md5_shard, first=0, buckets=10_000, told=_itself, width=_hundredfold, per_percent=100,
    ),
}  # fmt: skip


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lets through the units whose place under another seed lies in one of `ranges`.

    GrowthBook's namespace `[id, a, b]` is `{algorithm: growthbook-v1, seed: __id, ranges: [[a, b]]}`, its filter has
    the same fields; a group of Optimizely has its group's id as seed, Split's traffic allocation its own seed, and
    Eppo's traffic shard its own salt.
    """

    seed: str
    ranges: Annotated[tuple[tuple[Fraction, Fraction], ...], Meta(min_length=1, max_length=100)]
    """Each [start, end), as fractions of all places."""
    algorithm: AlgorithmName | None = None
    """That of the experiment, unless another is named."""


class Bucketing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an experiment places its units: its own way, or that of the tool it came from."""

    algorithm: AlgorithmName = "sluice"
    seed: str = ""
    """What the tool hashes with the unit; the salt of the experiment by default."""
    coverage: Fraction = 1.0
    """GrowthBook alone: the first part of each variant's range that takes part."""
    gates: Annotated[tuple[Gate, ...], Meta(max_length=8)] = ()
    """A unit takes part only when all of these let it through."""


def number(algorithm: AlgorithmName, seed: str, unit: str) -> int:
    """The integer that the tool's hash gives `unit`: 0 to 9999 for Optimizely, 1 to 100 for Split, and so on.

    Raises ConfigError for a seed the tool cannot have, UnicodeError for text that is none.
    """
    return ALGORITHMS[algorithm].hasher(seed)(unit)


def told(algorithm: AlgorithmName, seed: str, unit: str) -> float:
    """The bucket of `unit` as the tool itself reports it: a fraction for GrowthBook, PlanOut, LaunchDarkly and Sluice
    (PlanOut's and LaunchDarkly's may be 1), a whole number for the others. Raises as `number`."""
    return ALGORITHMS[algorithm].told(number(algorithm, seed, unit))


def place(algorithm: AlgorithmName, seed: str, unit: str) -> float:
    """Place of `unit` in [0, 1): the same scale for all tools. Raises as `number`."""
    return ALGORITHMS[algorithm].place(number(algorithm, seed, unit))


def drawing(bucketing: Bucketing, weights: Mapping[str, float], salt: str = "") -> Callable[[str], str | None]:
    """A function that gives a unit its variant, or None where the tool would leave it out; made once an allocation.

    weights: variant → percents, in the order that the tool has them; they sum to 100. salt: the seed, where
    `bucketing` has none. Raises ConfigError where the tool could not have such weights, seed or coverage.
    """
    rule = ALGORITHMS[bucketing.algorithm]
    names = tuple(sorted(weights) if rule.by_name else weights)
    hasher = rule.hasher(bucketing.seed or salt)
    pick = picker(bucketing, _checked(bucketing.algorithm, weights, names))
    gates = [_gate(gate, bucketing.algorithm) for gate in bucketing.gates]

    def draw(unit: str) -> str | None:
        for gate in gates:
            if not gate(unit):
                return None
        index = pick(hasher(unit))
        return names[index] if 0 <= index < len(names) else None

    return draw


def picker(bucketing: Bucketing, percents: Sequence[float]) -> Callable[[int], int]:
    """The tool's integer → index into `percents`; -1 or their count: none of them. Raises ConfigError."""
    rule = ALGORITHMS[bucketing.algorithm]
    told, scale, widths = rule.told, rule.scale, [rule.width(share) for share in percents]
    if bucketing.algorithm.startswith("growthbook"):
        ranges = growthbook.bucket_ranges(len(widths), bucketing.coverage, widths)
        return lambda integer: growthbook.choose_variation(told(integer), ranges)
    if bucketing.coverage != 1:
        raise ConfigError(f"coverage: {bucketing.coverage}: only GrowthBook has it; leave it out")
    bounds = list(accumulate(widths))
    if rule.last_takes_rest:
        del bounds[-1]
    search = bisect_left if rule.inclusive else bisect_right
    return lambda integer: search(bounds, told(integer) * scale)


def _checked(algorithm: AlgorithmName, weights: Mapping[str, float], names: Sequence[str]) -> list[float]:
    percents = [weights[name] for name in names]
    if not percents or not all(0 <= share <= 100 for share in percents) or abs(sum(percents) - 100) > 1e-6:
        raise ConfigError(
            f"weights: {', '.join(f'{n}={w:g}' for n, w in weights.items()) or 'none'}: percents ≥ 0 that sum to 100"
        )
    steps = ALGORITHMS[algorithm].per_percent
    for name, share in zip(names, percents, strict=True):
        if steps and abs(share * steps - round(share * steps)) > 1e-6:
            raise ConfigError(f"weights: {name}={share:g}: {algorithm} has multiples of {1 / steps:g} percent")
    return percents


def _gate(gate: Gate, algorithm: AlgorithmName) -> Callable[[str], bool]:
    for start, end in gate.ranges:
        if start >= end:
            raise ConfigError(f"gates: ranges: [{start:g}, {end:g}]: nobody lies there; the end comes after the start")
    rule = ALGORITHMS[gate.algorithm or algorithm]
    hasher = rule.hasher(gate.seed)

    def passes(unit: str) -> bool:
        at = rule.place(hasher(unit))
        return any(start <= at < end for start, end in gate.ranges)

    return passes
