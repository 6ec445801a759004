"""Of very many users some are enough: which of them a drift monitor is told of. Pure.

A user's hash begins with some zeros. The level of a window is the least number of zeros that no more than so many of
its users have; those are kept, with all they were shown. So the sample depends on the set of users alone, in whatever
order they are read, and as a level only rises, who is left out once need not be looked at again. Source: adaptive
sampling, Flajolet 1990, after Wegman.
"""

from __future__ import annotations

import zlib

__all__ = ["MOST_USERS", "UserSample", "zeros_of"]

MOST_USERS = 4096
"""Of a window. Of more about half as many may be left: they tell a mean rank to 0.007, and a click rate to a point"""
_SPREAD = 0x9E3779B1
"""Neighbours in a row of ids differ in few bits of a CRC: multiplied (Knuth), in the first ones as well"""


class UserSample:
    """Tumbling windows of `window_ms` of event time, each with the users that it keeps."""

    def __init__(self, window_ms: int, most: int = MOST_USERS) -> None:
        self._window_ms, self._most = window_ms, most
        self._levels: dict[int, int] = {}
        self._users: dict[int, dict[str, int]] = {}
        """Begin of the window → user → zeros"""

    def keeps(self, at_ms: int, zeros: int) -> bool:
        """Whether the window keeps such users, as far as it is known."""
        return zeros >= self._levels.get(at_ms - at_ms % self._window_ms, 0)

    def add(self, at_ms: int, user: str, zeros: int) -> bool:
        """The user was shown something. Whether the window keeps it, as far as it is known."""
        begin = at_ms - at_ms % self._window_ms
        level = self._levels.setdefault(begin, 0)
        if zeros < level:
            return False
        users = self._users.setdefault(begin, {})
        users[user] = zeros
        while len(users) > self._most:
            level += 1
            users = {name: found for name, found in users.items() if found >= level}
        self._levels[begin], self._users[begin] = level, users
        return zeros >= level

    def keeps_any(self, since_ms: int, until_ms: int, zeros: int) -> bool:
        """Whether one of the windows from one time to another, both inclusive, keeps such users."""
        begin, length = since_ms - since_ms % self._window_ms, self._window_ms
        return any(zeros >= self._levels.get(at_ms, 0) for at_ms in range(begin, until_ms + 1, length))

    def forget(self, until_ms: int) -> None:
        """Nothing more is asked of windows that begin before."""
        for begin in [begin for begin in self._levels if begin < until_ms]:
            del self._levels[begin]
            self._users.pop(begin, None)


def zeros_of(user: str) -> int:
    """Zeros that the user's hash of 32 bits begins with: n or more of them has one user of 2^n."""
    return 32 - (zlib.crc32(user.encode()) * _SPREAD & 0xFFFFFFFF).bit_length()
