"""Redis clients and what Sluice keeps there. Library: redis-py. Scripts run on Redis 6.2 to 8."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from sluice.errors import ConfigError, TransportError
from sluice.settings import Settings, masked_url

__all__ = ["RedisError", "connect", "failed_calls", "is_away", "ping", "server_info", "wait_for_redis"]


class _Calls:
    """How the calls of this process went, whichever client made them."""

    failed = 0
    away = False

    def note(self, error: RedisError) -> None:
        if not isinstance(error, NoScriptError):  # the answer to the first call of every script
            self.failed += 1
            self.away = True


_calls = _Calls()


def failed_calls() -> int:
    """Calls that failed since the process began, each try by itself."""
    return _calls.failed


def is_away() -> bool:
    """Whether the last call of this process failed."""
    return _calls.away


class _Client(redis.Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            answer = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisError as error:
            _calls.note(error)
            raise
        _calls.away = False
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        try:
            answers: list[Any] = super().execute(raise_on_error)
        except RedisError as error:
            _calls.note(error)
            raise
        _calls.away = False
        return answers


def connect(settings: Settings, *, timeout_s: float = 10.0) -> redis.Redis:
    """A client that answers bytes. Connects at the first command; retries are the caller's. Raises ConfigError.

    timeout_s: longest wait for an answer, and for a connection (5 s at most).
    """
    url = settings.require_redis()
    try:
        return _Client.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(5.0, timeout_s),
            health_check_interval=30,
            # Once, for a connection that went stale; redis-py's own default would block a caller for seconds.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
    except ValueError:
        # Neither the value nor redis-py's reason is shown: with "/" in a password both hold a part of it.
        raise ConfigError(
            "SLUICE_REDIS: not a Redis URL: allowed are redis://[user:password@]host:port/db and rediss:// for TLS, "
            "with %-escapes in the password"
        ) from None


def wait_for_redis(settings: Settings, timeout_s: float = 15.0) -> redis.Redis:
    """A client whose server has answered. Raises TransportError after `timeout_s`."""
    client = connect(settings)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client.ping()
            return client
        except redis.RedisError as error:
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"no Redis answers at {masked_url(settings.redis)} within {timeout_s:g} s: {error}"
                ) from error
            time.sleep(0.05)


def server_info(settings: Settings) -> dict[str, str]:
    """What the server says of itself and its memory (`INFO`). Raises TransportError when none answers."""
    client = connect(settings)
    try:
        found = {**client.info("server"), **client.info("memory")}
    except redis.RedisError as error:
        raise TransportError(f"no Redis answers at {masked_url(settings.redis)}: {error}") from error
    finally:
        client.close()
    return {key: str(value) for key, value in found.items()}


def ping(client: redis.Redis) -> None:
    """Raises TransportError unless the server answers."""
    try:
        client.ping()
    except redis.RedisError as error:
        raise TransportError(f"Redis does not answer: {error}") from error
