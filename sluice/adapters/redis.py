"""Redis clients and what Sluice keeps there. Library: redis-py. Scripts run on Redis 6.2 to 8."""

from __future__ import annotations

import time

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from sluice.errors import ConfigError, TransportError
from sluice.settings import Settings, masked_url

__all__ = ["RedisError", "connect", "ping", "server_info", "wait_for_redis"]


def connect(settings: Settings, *, timeout_s: float = 10.0) -> redis.Redis:
    """A client that answers bytes. Connects at the first command; retries are the caller's. Raises ConfigError.

    timeout_s: longest wait for an answer, and for a connection (5 s at most).
    """
    url = settings.require_redis()
    try:
        return redis.Redis.from_url(
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
