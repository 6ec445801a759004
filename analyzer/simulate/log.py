"""The log that simulations take activity, order and outcomes from: a recorded one, or a fit of MovieLens' activity.

Ratings are ranked by `sluice replay --truth`, in a process of its own: services do not import one another.
Libraries: numpy, pyarrow.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sluice.errors import ConfigError

__all__ = ["CONCENTRATION", "Log", "find_log", "fitted_log"]

Ints: TypeAlias = NDArray[np.int64]

CONCENTRATION = 5.0
"""κ of the users' own rates, Beta(mκ, (1 − m)κ) around a mean m, where no log says another (ml-latest-small: 4.9)."""
# Of ml-latest-small, cut into slates of ten: log slates per user, and users that come back after their first session.
_MEAN_LOG, _SD_LOG, _BACK = 2.165, 1.053, 0.25
_USERS = 610


@dataclass(frozen=True, eq=False)
class Log:
    """Slates in event order. Without recorded outcomes, k = 0."""

    name: str
    user: Ints
    """(s,) codes from 0"""
    variants: tuple[str, ...]
    clicks: Ints
    """(s, k) had the variant ranked the slate"""
    shown: Ints
    """(s, k)"""

    @property
    def users(self) -> int:
        return int(self.user.max()) + 1

    @property
    def concentration(self) -> float:
        """κ of the users' own rates of what the variants showed, by moments (Kleinman 1973), at most 1000."""
        if not self.variants:
            return CONCENTRATION
        found = []
        for n, c in zip(self.shown.T, self.clicks.T, strict=True):
            per_n, per_c = np.bincount(self.user, n), np.bincount(self.user, c)
            per_n, per_c = per_n[per_n > 0], per_c[per_n > 0]
            p = per_c.sum() / per_n.sum()
            # Σ n(r − p)² has mean p(1−p)[(G − 1) + ρ(Σn − Σn²/Σn − (G − 1))], with ρ = 1/(κ + 1).
            spread = np.sum(per_n * (per_c / per_n - p) ** 2) / (p * (1 - p))
            g, total = len(per_n) - 1, per_n.sum()
            rho = (spread - g) / (total - np.sum(per_n * per_n) / total - g)
            found.append(1 / min(max(rho, 1e-3), 0.999) - 1)
        return float(min(np.mean(found), 1000.0))


def fitted_log() -> Log:
    """Seeded users with lognormal activity as in ml-latest-small, most of them in one session. No outcomes."""
    rng = np.random.default_rng(610)
    slates = np.maximum(np.rint(rng.lognormal(_MEAN_LOG, _SD_LOG, _USERS)), 1).astype(np.int64)
    user = np.repeat(np.arange(_USERS), slates)
    first = rng.random(_USERS)
    back = rng.random(_USERS) < _BACK
    later = first[user] + (1 - first[user]) * rng.random(len(user))
    at = np.where(back[user], later, first[user])
    order = np.lexsort((user, at))
    none = np.empty((len(user), 0), dtype=np.int64)
    return Log("SYNTHETIC activity, a lognormal fit of ml-latest-small", user[order], (), none, none)


def find_log(given: str | None) -> Log:
    """`given`, else SLUICE_DATA, else the fit: a Parquet file of `sluice replay --truth`, or ratings to be ranked.

    Raises ConfigError.
    """
    source = given or os.environ.get("SLUICE_DATA")
    if not source:
        return fitted_log()
    if source.partition(":")[0] != "synthetic" and not Path(source).exists():
        raise ConfigError(f"{'--data' if given else 'SLUICE_DATA'}: {source}: no such file or folder")
    if Path(source).suffix.lower() == ".parquet":
        return read_truth(Path(source))
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        file = Path(folder) / "truth.parquet"
        command = [sys.executable, "-m", "sluice", "replay", "--json", "--data", source, "--truth", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(
                (done.stderr.strip().splitlines() or ["sluice replay failed"])[-1].removeprefix("sluice: ")
            )
        return read_truth(file)


def read_truth(path: Path) -> Log:
    """The file of `sluice replay --truth`. Raises ConfigError."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    names = tuple(column[len("clicks.") :] for column in table.column_names if column.startswith("clicks."))
    wanted = ["user_id", *(f"{kind}.{name}" for kind in ("shown", "clicks") for name in names)]
    missing = [column for column in wanted if column not in table.column_names]
    if missing or not names or not table.num_rows:
        what = f"no column {missing[0]!r}" if missing else "no variants" if not names else "no slates"
        raise ConfigError(f"{path}: {what}: expected a file of `sluice replay --truth FILE`")
    _, user = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    about = (table.schema.metadata or {}).get(b"sluice.data", path.stem.encode()).decode()
    return Log(about, user.astype(np.int64), names, _matrix(table, "clicks", names), _matrix(table, "shown", names))


def _matrix(table: Any, kind: str, names: tuple[str, ...]) -> Ints:
    return np.stack([table[f"{kind}.{name}"].to_numpy().astype(np.int64) for name in names], axis=1)
