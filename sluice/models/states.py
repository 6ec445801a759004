"""The states of users and items as one Parquet file: a snapshot that a model can carry with it. Library: pyarrow."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sluice.errors import ModelUnusable
from sluice.features import Catalogue, ItemState, OnlineFeatures, UserState

__all__ = ["STATES_FILE", "read_states", "write_states"]

STATES_FILE = "states.parquet"
_USER, _ITEM = "user", "item"
# Field by field as in the Redis hash of the same user or item.
_SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.string()), ("fields", pa.map_(pa.string(), pa.binary()))])


def write_states(path: Path, online: OnlineFeatures) -> None:
    """Write all states of `online`; equal states give equal bytes."""
    states: list[tuple[str, str, UserState | ItemState]] = [
        *((_USER, user, state) for user, state in sorted(online.users.items())),
        *((_ITEM, item, state) for item, state in sorted(online.items.items())),
    ]
    rows = [{"kind": kind, "id": name, "fields": list(state.to_hash().items())} for kind, name, state in states]
    parquet.write_table(pa.Table.from_pylist(rows, _SCHEMA), path, compression="zstd")


def read_states(path: Path, catalogue: Catalogue) -> OnlineFeatures:
    """What `write_states` wrote. Raises ModelUnusable when it cannot be read."""
    online = OnlineFeatures(catalogue)
    try:
        table = parquet.read_table(path, schema=_SCHEMA)
        for kind, name, fields in zip(*(table[column].to_pylist() for column in _SCHEMA.names), strict=True):
            state = {key.encode(): value for key, value in fields}
            if kind not in (_USER, _ITEM) or name is None:
                raise ValueError(f"{kind} {name} is neither a user nor an item")
            if kind == _USER:
                online.users[name] = UserState.from_hash(state)
            else:
                online.items[name] = ItemState.from_hash(name, state)
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ModelUnusable(f"{path}: no states of users and items: {' '.join(str(error).split())}") from error
    return online
