"""Files of a data set, in a folder or a zip. Members of a zip are read in place: nothing is ever extracted, so
paths inside the archive are names to look up and no places to write to."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from sluice.errors import ConfigError

__all__ = ["MAX_MEMBER_BYTES", "Archive", "open_archive"]

MAX_MEMBER_BYTES = 4 * 1024**3
"""A larger file is refused: the largest MovieLens file has 0.9 GB."""
MAX_RATIO = 200
"""A zip member that unpacks to more than this many times its size is refused; ratings compress about 5 : 1."""
MIN_SUSPECT_BYTES = 50_000_000
"""Smaller members are never suspect."""


class Archive:
    """Names and contents of the files in one folder, or in the one folder that a zip holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        if path.is_dir():
            self.names = frozenset(entry.name for entry in path.iterdir() if entry.is_file())
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: neither a folder nor a zip: {error}") from error
        for info in self._zip.infolist():
            parts = PurePosixPath(info.filename).parts
            # MovieLens zips hold one folder; `__MACOSX` and deeper ones are not data.
            if not info.is_dir() and len(parts) <= 2 and parts[0] != "__MACOSX":
                self._members.setdefault(parts[-1], info)
        self.names = frozenset(self._members)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file `name` for reading bytes. Raises ConfigError when it is missing, too large or suspect."""
        label = f"{self.path}: {name}"
        try:
            if self._zip is None:
                file = self.path / name
                if file.stat().st_size > MAX_MEMBER_BYTES:
                    raise ConfigError(f"{label}: more than {MAX_MEMBER_BYTES} bytes")
                with file.open("rb") as stream:
                    yield stream
                return
            info = self._members[name]
            if info.file_size > MAX_MEMBER_BYTES:
                raise ConfigError(f"{label}: {info.file_size} bytes exceed the limit of {MAX_MEMBER_BYTES}")
            if info.file_size > max(MIN_SUSPECT_BYTES, MAX_RATIO * info.compress_size):
                raise ConfigError(f"{label}: unpacks to {info.file_size // max(1, info.compress_size)} times its size")
            # zipfile itself never returns more than the size that the directory of the zip promised.
            with self._zip.open(info) as stream:
                yield stream
        except (KeyError, FileNotFoundError) as error:
            raise ConfigError(f"{label}: no such file") from error
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise ConfigError(f"{label}: cannot be read: {error}") from error

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The folder or zip at `path`. Raises ConfigError when it is neither."""
    archive = Archive(path)
    try:
        yield archive
    finally:
        archive.close()
