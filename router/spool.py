"""Records that the broker could not take, on disk in order until it can. Library: msgspec (MessagePack).

A spool is a folder of segments, each a row of frames: length and CRC-32 of the payload (big-endian, 4 bytes each), then
the payload. Nothing counts as written before `fsync` has returned, once for all records of an `append`. A segment is
deleted when all of it is on the broker, so after a crash a part of one segment may be sent again; nothing is lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from sluice.errors import ConfigError, TransportError

__all__ = ["Record", "Spool"]

log = logging.getLogger(__name__)

_HEADER = struct.Struct(">II")
SEGMENT_BYTES = 1024 * 1024
MAX_RECORD_BYTES = 16 * 1024 * 1024
SUFFIX = ".spool"
DIGITS = 12


class Record(NamedTuple):
    """One record for Kafka."""

    topic: str
    key: str
    value: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode


class Spool:
    """A bounded queue of records on disk. Safe to use from several threads, by one process at a time."""

    def __init__(self, folder: Path, *, max_bytes: int = 256 * 1024 * 1024, segment_bytes: int = SEGMENT_BYTES) -> None:
        """What an earlier process left in `folder` comes first. Raises ConfigError when another one uses it."""
        self._folder = folder
        self.max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._mutex = threading.RLock()
        self._owner = _own(folder)
        found = sorted(folder.glob(f"{'[0-9]' * DIGITS}{SUFFIX}"))
        self._segments: deque[Path] = deque(found)
        self._sizes = {path: path.stat().st_size for path in found}
        self._number = int(found[-1].stem) if found else 0
        self._open: FileIO | None = None
        self._damaged: set[Path] = set()

    @property
    def bytes(self) -> int:
        """Size of all segments"""
        with self._mutex:
            return sum(self._sizes.values())

    @property
    def empty(self) -> bool:
        return not self._segments

    def append(self, records: Sequence[Record]) -> None:
        """Return once all `records` are on the disk. Raises TransportError when it is full: then none of them count."""
        frames = bytearray()
        for record in records:
            payload = _encode(record)
            frames += _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        with self._mutex:
            if self.bytes + len(frames) > self.max_bytes:
                raise TransportError(f"spool {self._folder}: {self.max_bytes} bytes are in use")
            try:
                self._write(frames)
            except OSError as error:
                raise TransportError(f"spool {self._folder}: {(error.strerror or str(error)).lower()}") from error

    def oldest(self) -> tuple[Path, list[Record]] | None:
        """The first segment and its records; `drop` it when they are delivered. None when the spool is empty.

        Raises TransportError when the disk does not give it.
        """
        with self._mutex:
            if not self._segments:
                return None
            path = self._segments[0]
            if len(self._segments) == 1:
                self._rotate()
        try:
            records, whole = _read(path)
        except FileNotFoundError:
            log.error("spool: %s is gone, and the records in it", path)
            return path, []
        except OSError as error:
            raise TransportError(f"spool {path}: {(error.strerror or str(error)).lower()}") from error
        if not whole:
            self._damaged.add(path)
        return path, records

    def drop(self, path: Path) -> None:
        """Delete a segment that `oldest` returned; one that is damaged is kept beside the others, for a person."""
        with self._mutex:
            self._segments.remove(path)
            self._sizes.pop(path, None)
            try:
                if path in self._damaged:
                    self._damaged.remove(path)
                    # Never acknowledged when it is the torn end of an append that a crash interrupted.
                    kept = path.rename(path.with_suffix(".damaged"))
                    log.warning("spool: %s is damaged, kept as %s", path, kept.name)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:  # it will be sent again by the next process
                log.error("spool: %s: %s", path, (error.strerror or str(error)).lower())

    def close(self) -> None:
        """What is in the spool stays there for the next process."""
        with self._mutex:
            self._rotate()
            self._owner.close()

    def _write(self, frames: bytearray) -> None:
        out = self._open
        if out is None or self._sizes[self._segments[-1]] >= self._segment_bytes:
            self._rotate()
            self._number += 1
            path = self._folder / f"{self._number:0{DIGITS}d}{SUFFIX}"
            out = self._open = path.open("xb", buffering=0)
            self._segments.append(path)
            self._sizes[path] = 0
            _sync_folder(self._folder)
        path = self._segments[-1]
        size = self._sizes[path]
        view = memoryview(frames)
        try:
            while view:
                view = view[out.write(view) :]
            os.fsync(out.fileno())
        except OSError:
            self._undo(out, size)
            raise
        self._sizes[path] = size + len(frames)

    def _undo(self, out: FileIO, size: int) -> None:
        """Take back what a full disk holds of an append: else each try would leave a torn segment and fill it more."""
        try:
            out.truncate(size)
            out.seek(size)
        except OSError:
            self._rotate()  # a torn frame may end this segment: what follows goes to another

    def _rotate(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _own(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = (folder / "owner").open("w")
    except OSError as error:
        raise ConfigError(f"spool {folder}: {(error.strerror or str(error)).lower()}") from error
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner.close()
        raise ConfigError(f"spool {folder} is in use by another router: give this one another folder") from None
    return owner


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> tuple[list[Record], bool]:
    """The whole records of a segment up to a damaged one, and whether there is none."""
    data = path.read_bytes()
    records: list[Record] = []
    place = 0
    while place < len(data):
        try:
            length, checksum = _HEADER.unpack_from(data, place)
            payload = data[place + _HEADER.size : place + _HEADER.size + length]
            if length > MAX_RECORD_BYTES or len(payload) < length or zlib.crc32(payload) != checksum:
                return records, False
            records.append(Record(*_decode(payload)))
        except (struct.error, msgspec.DecodeError):
            return records, False
        place += _HEADER.size + length
    return records, True
