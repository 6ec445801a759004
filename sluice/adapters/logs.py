"""Logs of every service, on stderr: text for people, one JSON object a line for programs. Library: logging.

A line is JSON unless stderr is a terminal. It has `ts` (RFC 3339, UTC), `level`, `logger`, `service` and `message`, and
the fields that the call gave by `extra=`: `experiment`, `variant`, `partition`, `offsets`, … `SLUICE_LOG` overrides
form and level: `json`, `text`, `debug`, or both, `text,debug`. Passwords and tokens of the settings are masked.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from sluice.adapters.telemetry import Service
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["Seldom", "configure", "is_json"]

LEVELS = ("debug", "info", "warning", "error")
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MASK = "***"
_CREDENTIALS = re.compile(r"(\w://[^\s:/@]*:)[^\s@]+@")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    service: Service,
    settings: Settings,
    *,
    level: str = "info",
    text: str = TEXT,
    environ: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send all that is logged in this process to `stream` (stderr), in the form that `SLUICE_LOG` asks for.

    level: one of debug, info, warning, error, unless `SLUICE_LOG` names one. text: format for people. Raises
    ConfigError for a value of `SLUICE_LOG` that is neither form nor level.
    """
    out = sys.stderr if stream is None else stream
    form, wished = _wishes((os.environ if environ is None else environ).get("SLUICE_LOG", ""))
    if form is None:
        form = "text" if out.isatty() else "json"
    handler = logging.StreamHandler(out)
    secrets = settings.secrets()
    handler.setFormatter(_Text(text, secrets) if form == "text" else _Json(service, secrets))
    logging.basicConfig(level=(wished or level).upper(), handlers=[handler], force=True)


def is_json() -> bool:
    """Whether `configure` chose JSON in this process."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


class Seldom:
    """Which of many equal lines are worth telling: the first, then one each half minute. For what a request can cause.

    `again = seldom(key)`: None when it is not to be told, else what the line ends with. Safe to use from several
    threads, that may then tell it twice.
    """

    EVERY_S = 30.0
    MOST = 1000
    """Keys that are remembered"""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[Hashable, tuple[float, int]] = {}

    def __call__(self, key: Hashable) -> str | None:
        now = self._clock()
        last = self._told.get(key)
        if last is not None and now - last[0] < self.EVERY_S:
            self._told[key] = last[0], last[1] + 1
            return None
        if last is None and len(self._told) >= self.MOST:
            self._told.clear()
        self._told[key] = now, 0
        return f" ({last[1]} more like this since)" if last is not None and last[1] else ""


def _wishes(text: str) -> tuple[str | None, str | None]:
    form = level = None
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        if word in ("json", "text"):
            form = word
        elif word in LEVELS:
            level = word
        else:
            raise ConfigError(f"SLUICE_LOG: {text!r}: allowed are json or text, and one of {', '.join(LEVELS)}")
    return form, level


class _Text(logging.Formatter):
    def __init__(self, form: str, secrets: tuple[str, ...]) -> None:
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return _masked(super().format(record), self._secrets)


class _Json(logging.Formatter):
    def __init__(self, service: str, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._service = service
        self._secrets = secrets
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "service": self._service,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Masked before it is encoded: a quote or a backslash in a password would not look the same afterwards.
        return self._encoder.encode({key: _clean(value, self._secrets) for key, value in line.items()}).decode()


def _clean(value: object, secrets: tuple[str, ...]) -> object:
    if isinstance(value, str):
        # What a broken client was given may hold half of a surrogate pair, which is no UTF-8.
        return _masked(value, secrets).encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {str(key): _clean(one, secrets) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(one, secrets) for one in value]
    return value


def _masked(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _CREDENTIALS.sub(rf"\1{MASK}@", text)
