"""Where a page goes: asked before the work, written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sluice.errors import ConfigError, SluiceError

__all__ = ["check_place", "write_whole"]


def check_place(option: str, place: Path) -> None:
    """Before the work, so that nobody waits for nothing. Raises ConfigError, which names `option`."""
    if place.is_dir():
        raise ConfigError(f"{option}: {place}: is a folder; name a file in it")
    if not place.parent.is_dir():
        raise ConfigError(f"{option}: {place}: the folder {place.parent} does not exist")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise ConfigError(f"{option}: {place}: cannot be written")


def write_whole(place: Path, data: bytes) -> None:
    """Whoever opens the file meanwhile sees the old one. Raises SluiceError."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(place)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SluiceError(f"{place}: cannot be written: {error.strerror}") from error
