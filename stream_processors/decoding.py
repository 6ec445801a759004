"""Records of the two logs, decoded and validated in one pass. Pure.

Library: msgspec. An impression's assignments stay bytes here: those of one slate are equal, so that
`stream_processors.attribution` parses them once a slate.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from sluice.domain.events import MAX_EVENT_BYTES, Assignment, Heartbeat, ImpressionShown, OutcomeObserved

__all__ = ["MALFORMED", "Record", "decode_click", "decode_impression", "offset_of", "parse_assignments", "size_problem"]

MAX_ASSIGNMENTS = 32
MALFORMED = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding raises for bytes that are not a well-formed event"""


class Record(Protocol):
    """What is used of a consumed record."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def offset(self) -> int | None: ...
    def timestamp(self) -> tuple[int, int]: ...


class _Impression(ImpressionShown, frozen=True, kw_only=True, tag_field="type", tag="impression", gc=False):
    assignments: msgspec.Raw  # type: ignore[assignment]


decode_impression = msgspec.json.Decoder(_Impression | Heartbeat).decode
decode_click = msgspec.json.Decoder(OutcomeObserved | Heartbeat).decode
_decode_assignments = msgspec.json.Decoder(tuple[Assignment, ...]).decode


def parse_assignments(data: bytes | msgspec.Raw) -> tuple[Assignment, ...]:
    """The list of assignments of one impression. Raises msgspec.MsgspecError when it is not one."""
    made = _decode_assignments(data)
    if len(made) > MAX_ASSIGNMENTS:
        raise msgspec.ValidationError(f"Expected `array` of length <= {MAX_ASSIGNMENTS} - at `$.assignments`")
    if len(made) > 1 and len({assignment.experiment for assignment in made}) < len(made):
        raise msgspec.ValidationError("an experiment is named twice - at `$.assignments`")
    return made


def size_problem(data: bytes | None) -> str:
    """Why `data` is not even looked into: it is missing or too large."""
    return "empty record" if data is None else f"{len(data)} bytes exceed the limit of {MAX_EVENT_BYTES}"


def offset_of(record: Record) -> int:
    offset = record.offset()
    assert offset is not None, "a consumed record has an offset"
    return offset
