"""The hashes that experimentation tools place their units with, each as seed → (unit → the tool's own integer).

Text is hashed as UTF-8, where the tool hashes bytes, and as UTF-16 code units, where it walks over the characters of
a JavaScript or Java string. Libraries: hashlib (BLAKE2b, SHA-1, MD5), mmh3 (MurmurHash3).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from hashlib import blake2b, md5, sha1

import mmh3

from sluice.errors import ConfigError

__all__ = [
    "Hasher",
    "blake2b_53",
    "bucket",
    "fnv1a_32",
    "growthbook_v1",
    "growthbook_v2",
    "java_31",
    "md5_shard",
    "murmur_shard",
    "sha1_60",
    "split_legacy",
    "split_murmur",
]

Hasher = Callable[[str], int]

_SCALE = 2.0**-53
_WORD = 0xFFFFFFFF
_FNV_BASIS, _FNV_PRIME = 0x811C9DC5, 0x01000193


def bucket(salt: str, unit: str) -> float:
    """Place of `unit` in [0, 1) under `salt`: 53 bits of BLAKE2b, so exact in a double and uniform.

    Different salts give independent places. The separator cannot occur in UTF-8 text, so
    ("ab", "c") and ("a", "bc") differ.
    """
    digest = blake2b(salt.encode() + b"\xff" + unit.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * _SCALE


def blake2b_53(seed: str) -> Hasher:
    """Sluice's own: `bucket` as an integer below 2^53."""
    prefix = seed.encode() + b"\xff"
    return lambda unit: int.from_bytes(blake2b(prefix + unit.encode(), digest_size=8).digest(), "big") >> 11


def growthbook_v1(seed: str) -> Hasher:
    """FNV-1a of unit then seed, modulo 1000. The seed at the end makes experiments with like seeds correlate."""
    return lambda unit: fnv1a_32(unit + seed) % 1000


def growthbook_v2(seed: str) -> Hasher:
    """FNV-1a of the decimal digits of the FNV-1a of seed then unit, modulo 10,000."""
    started = fnv1a_32(seed)
    return lambda unit: fnv1a_32(str(fnv1a_32(unit, started))) % 10_000


def sha1_60(seed: str) -> Hasher:
    """The first 15 hex digits of the SHA-1 of `seed.unit`: PlanOut and LaunchDarkly."""
    prefix = f"{seed}.".encode()
    return lambda unit: (
        int.from_bytes(sha1(prefix + unit.encode(), usedforsecurity=False).digest()[:8], "big") >> 4
    )  # 64 bits less one hex digit


def md5_shard(seed: str) -> Hasher:
    """The first 4 bytes of the MD5 of `seed-unit`, modulo 10,000: Eppo, with its usual number of shards."""
    prefix = f"{seed}-".encode()
    return lambda unit: int.from_bytes(md5(prefix + unit.encode(), usedforsecurity=False).digest()[:4], "big") % 10_000


def murmur_shard(seed: str) -> Hasher:
    """MurmurHash3 x86 32 (seed 1) of unit then seed, scaled to 0 to 9999: Optimizely.

    The tool computes floor(hash / 2^32 · 10,000) in doubles, where that product is exact: integers give the same.
    """
    suffix = seed.encode()
    return lambda unit: (mmh3.hash(unit.encode() + suffix, 1, signed=False) * 10_000) >> 32


def split_murmur(seed: str) -> Hasher:
    """MurmurHash3 x86 32 of the unit under a whole number as seed, to 1 to 100: Split. Raises ConfigError."""
    start = _split_seed(seed) & _WORD
    return lambda unit: mmh3.hash(unit.encode(), start, signed=False) % 100 + 1


def split_legacy(seed: str) -> Hasher:
    """Java's string hash xor a whole number as seed, to 1 to 100: Split's first algorithm. Raises ConfigError."""
    start = _split_seed(seed) & _WORD
    return lambda unit: abs(_signed(java_31(unit) ^ start)) % 100 + 1


def fnv1a_32(text: str, state: int = _FNV_BASIS) -> int:
    """32-bit FNV-1a over the UTF-16 code units of `text`, continued from `state`."""
    for unit in _code_units(text):
        state = ((state ^ unit) * _FNV_PRIME) & _WORD
    return state


def java_31(text: str) -> int:
    """`String.hashCode` of Java, modulo 2^32."""
    state = 0
    for unit in _code_units(text):
        state = (31 * state + unit) & _WORD
    return state


def _code_units(text: str) -> Iterable[int]:
    return text.encode() if text.isascii() else array("H", text.encode("utf-16"))[1:]  # less the byte-order mark


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _split_seed(seed: str) -> int:
    number = int(seed) if re.fullmatch(r"-?[0-9]{1,10}", seed) else 1 << 32
    if not -(1 << 31) <= number < 1 << 32:
        raise ConfigError(f"seed: {seed[:80]!r}: Split seeds its hash with a whole number of 32 bits")
    return number
