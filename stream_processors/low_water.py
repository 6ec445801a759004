"""Where a rebuild of the open window may begin. Pure."""

from __future__ import annotations

__all__ = ["NEVER", "Marks"]

NEVER = -(2**62)
"""A watermark before any event"""


class Marks:
    """Batch starts of one topic: (offset, watermark before it), both ascending."""

    def __init__(self, offset: int, step_ms: int) -> None:
        """`offset`: where reading begins, with nothing known. Marks closer than `step_ms` are not kept."""
        self._marks = [(offset, NEVER)]
        self._step_ms = step_ms

    def add(self, offset: int, watermark: int) -> None:
        """Note a batch start. Marks that lie close tell nothing new: the list stays as short as the open window."""
        last_offset, last_watermark = self._marks[-1]
        if offset > last_offset and watermark - last_watermark >= self._step_ms:
            self._marks.append((offset, watermark))

    def low(self, limit: int) -> int:
        """Offset of the latest mark whose watermark is < `limit`, else of the oldest; older ones are dropped."""
        best = 0
        for place, (_, watermark) in enumerate(self._marks):
            if watermark < limit:
                best = place
        del self._marks[:best]
        return self._marks[0][0]
