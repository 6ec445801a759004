"""Prepared data: the split, the files, the fingerprint, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from movielens_files import write_movielens
from pyarrow import parquet

from sluice.errors import ConfigError
from sluice.features import batch_features
from training.dataset import MANIFEST, load_dataset
from training.prepare import PrepareOptions, prepare
from training.texts import read_texts


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("set") / "ml-tiny", users=20, items=40, each=30)


def edited(source: Path, target: Path, file: str, old: str, new: str) -> Path:
    """A copy of the set with the first `old` in `file` replaced."""
    target.mkdir()
    for path in source.iterdir():
        text = path.read_text(encoding="utf-8")
        assert path.name != file or old in text
        (target / path.name).write_text(text.replace(old, new, 1) if path.name == file else text, encoding="utf-8")
    return target


def test_the_split_is_by_time_and_training_knows_nothing_of_the_test(source: Path, tmp_path: Path) -> None:
    data, _ = prepare(str(source), tmp_path, PrepareOptions())
    log = data.log
    assert (np.diff(log.at_ms) >= 0).all()
    assert data.test_from == int(0.6 * len(log))
    assert log.at_ms[data.test].min() >= log.at_ms[data.train].max()
    assert log.end_ms[data.train].max() < log.at_ms[data.test_from]
    parts = data.parts
    assert set(parts) == {"train", "gap", "test"}
    assert (log.end_ms[parts == "gap"] >= log.at_ms[data.test_from]).all()
    rows = data.rows(data.train[[2, 0]])
    low, high = log.offsets[:-1], log.offsets[1:]
    two, first = data.train[[2, 0]]
    assert rows.tolist() == [*range(low[two], high[two]), *range(low[first], high[first])]


def test_files_hold_the_dataset(source: Path, tmp_path: Path) -> None:
    made, place = prepare(str(source), tmp_path, PrepareOptions())
    again = load_dataset(place)
    table = parquet.read_table(place / "impressions.parquet").to_pandas()
    assert len(table) == len(made.log.item) == 600
    assert (table.liked == (table.rating_milli >= 4000)).all()
    assert (table.groupby("slate").user.nunique() == 1).all()
    assert sorted(map(str, table.part.unique())) == ["gap", "test", "train"]
    for name in ("user", "at_ms", "end_ms", "offsets", "item", "liked", "rating_milli"):
        assert getattr(again.log, name).tolist() == getattr(made.log, name).tolist(), name
    assert again.titles["1"].startswith("Film, The No. 0 (")
    assert again.genres == made.genres
    assert batch_features(again.log, again.catalogue).tobytes() == batch_features(made.log, made.catalogue).tobytes()


def test_tags_given_after_the_split_are_not_known(source: Path, tmp_path: Path) -> None:
    data, _ = prepare(str(source), tmp_path, PrepareOptions())
    assert data.tags == {"1": "early and good"}


def test_the_fingerprint_names_the_folder_and_changes_with_any_input(source: Path, tmp_path: Path) -> None:
    data, place = prepare(str(source), tmp_path / "out", PrepareOptions())
    assert place.name == data.fingerprint
    line = (source / "ratings.csv").read_text().splitlines()[1]
    variants = [
        edited(source, tmp_path / "rating", "ratings.csv", line, line[:-1] + str(9 - int(line[-1]))),
        edited(source, tmp_path / "title", "movies.csv", "The No. 0", "The No. 00"),
        edited(source, tmp_path / "tag", "tags.csv", "early", "late"),
    ]
    found = {prepare(str(path), tmp_path / "out", PrepareOptions())[0].fingerprint for path in variants}
    for options in (PrepareOptions(slate_size=5), PrepareOptions(click_from=4.5), PrepareOptions(train_share=0.5)):
        found.add(prepare(str(source), tmp_path / "out", options)[0].fingerprint)
    assert len(found | {data.fingerprint}) == 7


def test_prepared_data_are_read_and_not_made_again(source: Path, tmp_path: Path) -> None:
    _, place = prepare(str(source), tmp_path, PrepareOptions())
    before = (place / MANIFEST).stat().st_mtime_ns
    prepare(str(source), tmp_path, PrepareOptions())
    assert (place / MANIFEST).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_changed_files_are_refused(source: Path, tmp_path: Path) -> None:
    _, place = prepare(str(source), tmp_path, PrepareOptions())
    file = place / "items.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="changed since it was prepared"):
        prepare(str(source), tmp_path, PrepareOptions())
    (place / MANIFEST).write_text("{")
    with pytest.raises(ConfigError, match="no prepared data"):
        load_dataset(place)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "movies.csv",
            '\n7,"Film',
            '\n700,"Film',
            "item is not among the items of the data set; first: user .*, item 7,",
        ),
        ("ratings.csv", "userId,movieId", "user,movie", "expected the header"),
        ("ratings.csv", "\n", "\n1,2,5.5,850000000\n", "line 2: .*ratings go from 0.5 to 5"),
        (
            "ratings.csv",
            "\n",
            "\n1,2,4.0,850000000\n1,2,4.0,850000000\n",
            "1 rating is a duplicate; first: user 1, item 2",
        ),
        ("tags.csv", "850000000", "yesterday", "tags.csv, line 2: 'yesterday'"),
        ("ratings.csv", "\n", "\n1,2,", "expected 4 fields"),
        ("movies.csv", "\n", '\n0,"' + "never closed " * 20_000, "movies.csv, line 2: field larger"),
        ("tags.csv", "\n", '\n1,1,"' + "never closed " * 20_000, "tags.csv, after line 0: field larger"),
    ],
)
def test_unfit_data_are_refused_in_one_line(
    source: Path, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    broken = edited(source, tmp_path / "set", file, old, new)
    with pytest.raises(ConfigError, match=message) as refused:
        prepare(str(broken), tmp_path / "out", PrepareOptions())
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PrepareOptions(click_from=5.5), "0.0% of the impressions of the train part are clicks"),
        (PrepareOptions(click_from=0.5), "100.0% of the impressions"),
        (PrepareOptions(train_share=0.001), "the train part has no slates"),
        (PrepareOptions(train_share=0.95), "the test part is of one user only"),
        (PrepareOptions(train_share=1.0), "--train-share"),
    ],
)
def test_unfit_options_are_refused(source: Path, tmp_path: Path, options: PrepareOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(str(source), tmp_path, options)
    assert not list(tmp_path.iterdir())


def test_tables_with_their_own_columns(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    lines = [f"u{n % 5},i{n % 37},{1 + n * 7 % 5},{850_000_000 + n * 100}" for n in range(400)]
    file.write_text("who,what,stars,when\n" + "\n".join(lines) + "\n")
    columns = {"user": "who", "item": "what", "rating": "stars", "time": "when"}
    data, _ = prepare(str(file), tmp_path / "out", PrepareOptions(), columns)
    assert len(data.log.item) == 400
    assert data.catalogue.genres == ()
    file.write_text("who,what,stars,when\nu,i,50,850000000\n")
    with pytest.raises(
        ConfigError, match=r"1 rating breaks a rule: rating must lie in \[0, 5\]; first: user u, item i"
    ):
        prepare(str(file), tmp_path / "out", PrepareOptions(), columns)


def test_a_train_part_that_models_cannot_be_validated_on_is_refused(tmp_path: Path) -> None:
    # One slate a user, one after the other; nothing is liked before user `first`.
    columns = {name: name for name in ("user", "item", "rating", "time")}
    for users, first in ((4, 0), (100, 50)):
        rows = [
            f"{user},{item},{5 if item % 2 and user >= first else 1},{10**9 + 100_000 * user + item}"
            for user in range(users)
            for item in range(6)
        ]
        file = tmp_path / f"{users}.csv"
        file.write_text("user,item,rating,time\n" + "\n".join(rows) + "\n")
        with pytest.raises(ConfigError, match="missing from a stretch of the train part"):
            prepare(str(file), tmp_path / "out", PrepareOptions(), columns)


def test_a_null_is_no_id(tmp_path: Path) -> None:
    file, columns = tmp_path / "log.parquet", {name: name for name in ("user", "item", "rating", "time")}
    table = pa.table({"user": ["a", "b"], "item": ["i", None], "rating": [1.0, 2.0], "time": [10**9, 10**9]})
    parquet.write_table(table, file)
    with pytest.raises(ConfigError, match=r"log\.parquet, line 2: user and item must not be null"):
        prepare(str(file), tmp_path / "out", PrepareOptions(), columns)


def test_titles_and_tags_of_every_layout(tmp_path: Path) -> None:
    title = "Cité des enfants perdus, La (1995)"
    layouts = {
        "ml-100k": {"u.data": "1\t2\t3\t880000000", "u.item": f"2|{title}|01-Jan-1995||url|" + "|".join("0" * 19)},
        "ml-1m": {"ratings.dat": "1::2::3::978300760", "movies.dat": f"2::{title}::Fantasy"},
        "ml-10M100K": {"ratings.dat": "1::2::3.5::978300760", "movies.dat": f"2::{title}::Fantasy",
                       "tags.dat": "1::2::dream::978300761"},
        "ml-25m": {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.5,978300760",
                   "movies.csv": f'movieId,title,genres\n2,"{title}",Fantasy',
                   "tags.csv": "userId,movieId,tag,timestamp\n1,2,dream,978300761"},
    }  # fmt: skip
    for name, files in layouts.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text + "\n", "latin-1" if name in ("ml-100k", "ml-1m") else "utf-8")
        texts = read_texts(tmp_path / name)
        assert texts.titles == {"2": title}, name
        assert [tuple(tag) for tag in texts.tags] == ([("2", "dream", 978300761000)] if "tags" in str(files) else [])
    broken = tmp_path / "ml-1m" / "movies.dat"
    broken.write_text("2\n")
    with pytest.raises(ConfigError, match="line 1: expected 2 fields"):
        read_texts(tmp_path / "ml-1m")
    assert read_texts(tmp_path) == ({}, [])


def test_rows_of_no_slates(source: Path, tmp_path: Path) -> None:
    data, _ = prepare(str(source), tmp_path, PrepareOptions())
    assert data.rows(np.array([], dtype=np.int64)).tolist() == []
