"""Settings of every service: from the environment (`SLUICE_*`), else from a running `sluice infra up`, else defaults.

| variable | meaning |
|---|---|
| `SLUICE_KAFKA` | bootstrap servers, `host:port,host:port` |
| `SLUICE_KAFKA_CONFIG` | further client properties, `security.protocol=SASL_SSL,sasl.username=…` |
| `SLUICE_REDIS` | `redis://[user:password@]host:port/db`, `rediss://` for TLS |
| `SLUICE_STATE` | folder of `sluice infra`, prepared data and models, `.sluice` by default |
| `SLUICE_MLFLOW` | MLflow server (`http://host:5000`) or database; SQLite in the state folder by default |
| `SLUICE_TOKEN` | bearer token that the HTTP API of the router asks for, and that `sluice.Client` sends |
| `SLUICE_METRICS` | `host:port` at which a service also serves `/metrics`, `/health` and `/ready`, without a token |
| `SLUICE_LOG` | `json` or `text`, and a level: `json,debug`; by default text on a terminal, else JSON |
| `SLUICE_PREFIX` | prefix of all Redis keys |
| `SLUICE_PARTITIONS` | partitions of the topics keyed by the user, when they are created |
| `SLUICE_WINDOW_MS`, `SLUICE_LATENESS_MS` | attribution window and allowed lateness |
| `SLUICE_SKEW_MS` | how far event time may lie ahead of the broker's clock |
| `SLUICE_BUCKET_MS` | width of the time-bucketed counters |
| `SLUICE_MAX_HELD` | open impressions and waiting clicks a processor holds before it reads only the topic behind |
| `SLUICE_ACCEPT_TRUNCATED` | `1`: count from where a log starts when its beginning is gone |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import unquote

from sluice.errors import ConfigError

__all__ = ["INFRA_FILE", "Settings", "masked_url"]

INFRA_FILE = "infra.json"
"""In the state folder: {"kafka": …, "redis": …, …} of the infrastructure that `sluice infra up` started."""
MLFLOW_FILE = "mlflow.db"


@dataclass(frozen=True)
class Settings:
    kafka: str = ""
    kafka_config: Mapping[str, str] = field(default_factory=dict)
    redis: str = ""
    state: Path = Path(".sluice")
    mlflow: str = ""
    """Tracking URI; see `mlflow_uri`"""
    token: str = ""
    """Without one the HTTP API is open to whoever reaches it, and changes no experiment"""
    metrics: str = ""
    prefix: str = "sluice:"
    partitions: int = 4
    window_ms: int = 30 * 60 * 1000
    lateness_ms: int = 60 * 1000
    skew_ms: int = 5 * 60 * 1000
    bucket_ms: int = 3600 * 1000
    max_held: int = 4_000_000
    accept_truncated: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Raises ConfigError, naming the variable, the value and what is allowed."""
        env = os.environ if environ is None else environ
        state = Path(env.get("SLUICE_STATE", ".sluice"))
        found: dict[str, str] = {}
        if not (env.get("SLUICE_KAFKA") and env.get("SLUICE_REDIS")):
            found = _running_infra(state)
        numbers = {
            name: _whole(env, f"SLUICE_{name.upper()}", getattr(cls, name), minimum)
            for name, minimum in (
                ("partitions", 1), ("window_ms", 0), ("lateness_ms", 0), ("skew_ms", 0), ("bucket_ms", 1),
                ("max_held", 1),
            )
        }  # fmt: skip
        return cls(
            kafka=env.get("SLUICE_KAFKA") or found.get("kafka", ""),
            kafka_config=_pairs(env.get("SLUICE_KAFKA_CONFIG", "")),
            redis=env.get("SLUICE_REDIS") or found.get("redis", ""),
            state=state,
            mlflow=env.get("SLUICE_MLFLOW", ""),
            token=env.get("SLUICE_TOKEN", ""),
            metrics=env.get("SLUICE_METRICS", ""),
            prefix=env.get("SLUICE_PREFIX", "sluice:"),
            accept_truncated=env.get("SLUICE_ACCEPT_TRUNCATED", "") not in ("", "0"),
            **numbers,
        )

    def require_kafka(self) -> str:
        if not self.kafka:
            raise ConfigError("no broker: start one with `sluice infra up`, or set SLUICE_KAFKA=host:port")
        return self.kafka

    def require_redis(self) -> str:
        if not self.redis:
            raise ConfigError("no Redis: start one with `sluice infra up`, or set SLUICE_REDIS=redis://host:port/0")
        return self.redis

    @property
    def mlflow_uri(self) -> str:
        """Where runs and models are kept: `mlflow`, else a database in the state folder."""
        return self.mlflow or f"sqlite:///{(self.state / MLFLOW_FILE).absolute()}"

    def secrets(self) -> tuple[str, ...]:
        """Passwords and tokens, as they are written and as they are meant; longest first."""
        found = {self.token, *(value for key, value in self.kafka_config.items() if _is_secret(key))}
        for url in (self.redis, self.mlflow):
            credentials, _, place = url.partition("://")[2].rpartition("@")
            found |= {credentials.partition(":")[2], *re.findall(r"password=([^&]*)", place)}
        return tuple(sorted((found | {unquote(secret) for secret in found}) - {""}, key=len, reverse=True))

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown["kafka_config"] = {key: _mask(key, value) for key, value in self.kafka_config.items()}
        shown["redis"], shown["mlflow"] = masked_url(self.redis), masked_url(self.mlflow)
        shown["token"] = self.token and "***"
        return f"Settings({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def masked_url(url: str) -> str:
    """The URL without its password, for logs. Whatever stands before the last `@` is taken for credentials."""
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    place = re.sub(r"(password=)[^&]*", r"\1***", place)
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{place}"


def _mask(key: str, value: str) -> str:
    return "***" if _is_secret(key) else value


def _is_secret(key: str) -> bool:
    return any(word in key for word in ("password", "secret", "key", "token", "jaas"))


def _running_infra(state: Path) -> dict[str, str]:
    try:
        data = json.loads((state / INFRA_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{state / INFRA_FILE}: {error}") from error
    return {key: value for key, value in data.items() if isinstance(value, str)}


def _whole(env: Mapping[str, str], name: str, default: int, minimum: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise ConfigError(f"{name}: {text!r}: allowed are whole numbers from {minimum}")
    return value


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for number, part in enumerate(filter(None, (piece.strip() for piece in text.split(","))), 1):
        key, separator, value = part.partition("=")
        if not separator or not key:
            # Not shown: it may be what follows a comma in a password.
            raise ConfigError(
                f"SLUICE_KAFKA_CONFIG: item {number} has no key: allowed is key=value,key=value, no commas in a value"
            )
        pairs[key.strip()] = value.strip()
    return pairs
