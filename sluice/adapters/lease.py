"""Who leads, of several processes that could: a lock in Redis that expires unless it is renewed. Library: redis-py.

It spares doubled work and says who is at it; it does not make that safe. A process that was suspended finds out only
afterwards that another one leads: what it writes must stand that.
"""

from __future__ import annotations

import threading
import uuid
from typing import cast

import redis
from redis.exceptions import LockError

from sluice.adapters.redis import RedisError
from sluice.errors import TransportError

__all__ = ["Lease", "holder"]

SECONDS = 15.0
"""After so long without a sign of life another one takes over"""


class Lease:
    """One for each `name`. Use as a context manager: it is renewed in the background, and given back at the end."""

    def __init__(self, client: redis.Redis, name: str, who: str = "", *, seconds: float = SECONDS) -> None:
        """who: for people (`holder`)."""
        self._seconds, self._token = seconds, f"{uuid.uuid4().hex} {who}"
        self._lock = client.lock(name, timeout=seconds, thread_local=False)
        self._using = threading.Lock()
        self._held = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> bool:
        """Whether it is held here; taken when it is free. Raises TransportError when Redis is away."""
        with self._using:
            if not self._held:
                try:
                    self._held = bool(self._lock.acquire(blocking=False, token=self._token))
                except RedisError as error:
                    raise TransportError(f"Redis does not say who leads: {error}") from error
            return self._held

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 3):
            with self._using:
                if self._held:
                    self._held = self._renewed()

    def _renewed(self) -> bool:
        try:
            return bool(self._lock.reacquire())
        except LockError:
            return False
        except RedisError:
            return True  # nobody else can take it where nobody can ask

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            if self._held:
                self._lock.release()
        except RedisError:
            pass  # it expires


def holder(client: redis.Redis, name: str) -> str | None:
    """Who holds the lease at this moment; None: nobody. Raises TransportError when Redis is away."""
    try:
        token = cast("bytes | None", client.get(name))
    except RedisError as error:
        raise TransportError(f"Redis does not say who leads: {error}") from error
    return None if token is None else token.decode().partition(" ")[2]
