"""Where the ratings come from: `--data`, `SLUICE_DATA`, `data/`, MovieLens' own server, else a generator."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from producers.archive import open_archive
from producers.columns import is_table, read_table
from producers.movielens import is_movielens, read_movielens
from producers.ratings import RatingsLog
from sluice.errors import ConfigError, TransportError

__all__ = ["DOWNLOAD_URL", "Notice", "find_data", "read_ratings"]

log = logging.getLogger(__name__)

DOWNLOAD_URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
FOLDER = Path("data")
SYNTHETIC = "synthetic"
MAX_DOWNLOAD_BYTES = 20_000_000
TIMEOUT_S = 5.0
# The set of September 2018. MovieLens may replace `latest`, and results would no longer compare.
SHA256 = {
    "ratings.csv": "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
    "movies.csv": "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
}

Notice = Callable[[str], None]
"""Takes one line for a person."""
Download = Callable[[str, Path], None]


def find_data(
    given: str | None,
    *,
    notice: Notice,
    environ: Mapping[str, str] | None = None,
    folder: Path = FOLDER,
    download: Download | None = None,
) -> str:
    """The path to read, or text that starts with `synthetic`.

    In this order: `given`, `SLUICE_DATA`, a MovieLens set below `folder`, a download to it, the generator.
    Raises ConfigError when `given` or `SLUICE_DATA` does not exist: a named source is never replaced silently.
    """
    env = os.environ if environ is None else environ
    for origin, text in (("--data", given), ("SLUICE_DATA", env.get("SLUICE_DATA"))):
        if text:
            if text.partition(":")[0] != SYNTHETIC and not Path(text).exists():
                raise ConfigError(f"{origin}: {text}: no such file or folder")
            return text
    if found := _in_folder(folder):
        return str(found)
    target = folder / Path(DOWNLOAD_URL).name
    try:
        (download or download_zip)(DOWNLOAD_URL, target)
        _verify(target)
    except (TransportError, ConfigError, OSError) as error:
        target.unlink(missing_ok=True)
        notice(f"no MovieLens data ({error}): using SYNTHETIC data with planted click rates")
        return SYNTHETIC
    return str(target)


def read_ratings(path: str, columns: Mapping[str, str] | None = None) -> RatingsLog:
    """A MovieLens folder or zip; with `columns`, a CSV or Parquet file. Raises ConfigError."""
    place = Path(path)
    if columns:
        return read_table(place, columns)
    if is_movielens(place):
        return read_movielens(place)
    if is_table(place):
        raise ConfigError(f"{path}: say which columns it has: --columns user=…,item=…,rating=…,time=…")
    inner = _in_folder(place) if place.is_dir() else None
    if inner is not None:
        return read_movielens(inner)
    return read_movielens(place)  # raises, saying what it looked for


def download_zip(url: str, target: Path) -> None:
    """Fetch `url`, with a progress bar when a person is watching. Raises TransportError when it is away."""
    from rich.console import Console
    from rich.progress import Progress

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    console = Console(stderr=True)
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,
            part.open("wb") as file,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task(f"download {url}", total=int(response.headers.get("Content-Length") or 0) or None)
            size = 0
            while chunk := response.read(65_536):
                size += len(chunk)
                if size > MAX_DOWNLOAD_BYTES:
                    raise TransportError(f"{url}: more than {MAX_DOWNLOAD_BYTES} bytes")
                file.write(chunk)
                bar.advance(task, len(chunk))
        part.replace(target)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise TransportError(f"{url}: {getattr(error, 'reason', error)}") from error
    finally:
        part.unlink(missing_ok=True)


def _verify(path: Path) -> None:
    with open_archive(path) as archive:
        for name, expected in SHA256.items():
            with archive.open(name) as stream:
                found = hashlib.sha256(stream.read()).hexdigest()
            if found != expected:
                raise ConfigError(f"{path}/{name}: SHA-256 is {found[:16]}…, expected {expected[:16]}…")


def _in_folder(folder: Path) -> Path | None:
    """`folder` itself or the first set below it, by name."""
    if not folder.is_dir():
        return None
    for place in (folder, *sorted(folder.iterdir()), *sorted(folder.glob("movielens/*"))):
        try:
            if is_movielens(place):
                return place
        except ConfigError as error:
            log.warning("%s", error)
    return None
