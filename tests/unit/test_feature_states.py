"""What a log leaves behind: states learned from all of it, and their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from slate_logs import make_log

from sluice.errors import ModelUnusable
from sluice.features import batch_features, learn_log
from sluice.models.states import read_states, write_states

LOG, CATALOGUE = make_log(400, seed=5)
USERS = [f"user {code}" for code in range(int(LOG.user.max()) + 1)]


def test_learned_states_give_the_features_of_the_batch_pass_for_what_comes_next() -> None:
    at_ms, sizes = int(LOG.end_ms.max()) + 1, np.array([7, 1, 10])
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.choice(len(LOG.items), size, replace=False) for size in sizes])
    user = np.array([3, 0, 3])
    longer = replace(
        LOG,
        user=np.append(LOG.user, user), at_ms=np.append(LOG.at_ms, [at_ms] * 3),
        end_ms=np.append(LOG.end_ms, [at_ms] * 3), offsets=np.append(LOG.offsets, LOG.offsets[-1] + np.cumsum(sizes)),
        item=np.append(LOG.item, item), liked=np.append(LOG.liked, np.zeros(len(item), dtype=bool)),
        rating_milli=np.append(LOG.rating_milli, np.zeros(len(item), dtype=np.int64)),
    )  # fmt: skip
    online = learn_log(LOG, USERS, CATALOGUE)
    ids = [[LOG.items[code] for code in codes] for codes in np.split(item, np.cumsum(sizes)[:-1])]
    rows = [online.rows(USERS[one], own, at_ms) for one, own in zip(user, ids, strict=True)]
    assert np.concatenate(rows).tobytes() == batch_features(longer, CATALOGUE)[-sizes.sum() :].tobytes()


def test_only_what_had_ended_is_learned() -> None:
    at_ms = int(LOG.at_ms[200])
    known = learn_log(LOG, USERS, CATALOGUE, before_ms=at_ms)
    rows = slice(LOG.offsets[200], LOG.offsets[201])
    items = [LOG.items[code] for code in LOG.item[rows]]
    found = known.rows(USERS[LOG.user[200]], items, at_ms)
    assert found.tobytes() == batch_features(LOG, CATALOGUE)[rows].tobytes()


def test_states_are_read_as_they_were_written(tmp_path: Path) -> None:
    online = learn_log(LOG, USERS, CATALOGUE)
    write_states(tmp_path / "a", online)
    read = read_states(tmp_path / "a", CATALOGUE)
    assert {name: state.to_hash() for name, state in read.users.items()} == {
        name: state.to_hash() for name, state in online.users.items()
    }
    assert {name: state.to_hash() for name, state in read.items.items()} == {
        name: state.to_hash() for name, state in online.items.items()
    }
    write_states(tmp_path / "b", read)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", None])
def test_what_is_no_file_of_states_is_refused_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "states.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelUnusable, match="no states") as error:
        read_states(path, CATALOGUE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "name"), [("user", None), ("item", None), (None, "1"), ("visitor", "1")])
def test_what_is_neither_user_nor_item_is_refused(kind: str | None, name: str | None, tmp_path: Path) -> None:
    path = tmp_path / "states.parquet"
    write_states(path, learn_log(LOG, USERS, CATALOGUE))
    table = parquet.read_table(path)
    kinds, names = (table[column].to_pylist() for column in ("kind", "id"))
    kinds[0], names[0] = kind, name
    parquet.write_table(pa.table({"kind": kinds, "id": names, "fields": table["fields"]}, table.schema), path)
    with pytest.raises(ModelUnusable, match="neither a user nor an item"):
        read_states(path, CATALOGUE)
