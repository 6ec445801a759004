"""What is remembered of an assignment, and the claims by which a router asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from sluice.errors import InvalidEvent

__all__ = ["AssignmentClaims", "Claim", "StoredAssignment", "decode_assignment", "encode_assignment"]


class StoredAssignment(Struct, frozen=True, array_like=True, gc=False):
    """The variant a unit keeps, with what it was drawn from. A JSON array where it is stored, in this order."""

    variant: str
    allocation: str
    """Key of the allocation vector (`sluice.domain.allocation`)."""
    version: int
    """Version of that allocation; 0 is the experiment's starting one."""
    propensity: float


class Claim(Struct, frozen=True, gc=False):
    """A router's wish to give `unit` the assignment `wanted`, unless somebody gave it one before."""

    experiment: str
    unit: str
    wanted: StoredAssignment
    ttl_ms: int


class AssignmentClaims(Protocol):
    """The port behind which assignments are sticky: Redis for services, memory for simulations."""

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        """(assignment in force, made by this call) of every claim, in order; the first writer wins.

        `claims` name each (experiment, unit) at most once. Raises TransportError when the store is away.
        """

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        """As `claim`, but each also overwrites the stored assignment it is paired with, if that still stands."""


_decoder = msgspec.json.Decoder(StoredAssignment)
encode_assignment = msgspec.json.Encoder().encode


def decode_assignment(data: bytes) -> StoredAssignment:
    """Inverse of `encode_assignment`. Raises InvalidEvent when the bytes are not an assignment."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"not an assignment: {data[:80]!r}: {error}") from error
