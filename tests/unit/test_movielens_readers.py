"""Every MovieLens layout, as a folder and as a zip, made here; and what is wrong with a line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from producers import archive
from producers.movielens import is_movielens, read_movielens
from sluice.errors import ConfigError

# Four ratings: (user, item, rating, time); item 1 is Comedy|Drama, item 20 Drama, item 3 has no genre.
RATINGS = [("1", "1", "4", "964982703"), ("1", "3", "2.5", "964982931"), ("2", "20", "5", "964981247")]
GENRES = {"1": ("Comedy", "Drama"), "3": (), "20": ("Drama",)}


def csv_layout() -> dict[str, bytes]:
    rows = "\r\n".join(",".join(row) for row in RATINGS)
    movies = 'movieId,title,genres\r\n1,"Comma, The (1995)",Comedy|Drama\r\n'
    movies += '3,Nò,(no genres listed)\r\n20,"A ""q""",Drama\r\n'
    return {
        "ratings.csv": f"userId,movieId,rating,timestamp\r\n{rows}\r\n".encode(),
        "movies.csv": movies.encode(),
    }


def dat_layout(encoding: str) -> dict[str, bytes]:
    rows = "\n".join("::".join(row) for row in RATINGS)
    # Latin-1 0x85 is a line break to Unicode, and a title may hold "::".
    movies = "1::Déjà\x85 vu: a::b (1995)::Comedy|Drama\n3::X (1990)::\n20::Y (1991)::Drama\n"
    return {"ratings.dat": f"{rows}\n".encode(), "movies.dat": movies.encode(encoding)}


def tab_layout() -> dict[str, bytes]:
    rows = "\n".join("\t".join(row) for row in RATINGS)
    names = ["unknown", "Action", "Comedy", "Drama", *[f"G{i}" for i in range(4, 19)]]
    flags = {"1": (2, 3), "3": (0,), "20": (3,)}
    items = "".join(
        f"{item}|Title é|01-Jan-1995||http://x|{'|'.join(str(int(g in flags[item])) for g in range(19))}\n"
        for item in flags
    )
    return {
        "u.data": f"{rows}\n".encode(),
        "u.item": items.encode("latin-1"),
        "u.genre": "".join(f"{name}|{i}\n" for i, name in enumerate(names)).encode() + b"\n",
    }


LAYOUTS = {
    "ml-latest-small": csv_layout(),
    "ml-1m": dat_layout("latin-1"),
    "ml-10M100K": dat_layout("utf-8"),
    "ml-100k": tab_layout(),
}


def write(place: Path, files: dict[str, bytes], *, as_zip: bool) -> Path:
    if not as_zip:
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
        return place
    path = place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{place.name}/", b"")
        for name, data in files.items():
            zipped.writestr(f"{place.name}/{name}", data)
    return path


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_gives_the_same_log(tmp_path: Path, layout: str, as_zip: bool) -> None:
    path = write(tmp_path / layout, LAYOUTS[layout], as_zip=as_zip)
    assert is_movielens(path)
    log = read_movielens(path)
    rows = [
        (log.users[u], log.items[i], r / 1000, t // 1000)
        for u, i, r, t in zip(log.user, log.item, log.rating_milli, log.at_ms, strict=True)
    ]
    assert rows == [(u, i, float(r), int(t)) for u, i, r, t in RATINGS]
    assert {item: log.genres[item] for item in GENRES} == GENRES
    assert log.name == layout
    assert len(log) == 3


USERS = {
    "ml-100k": ("u.user", b"1|17|M|student|85711\n2|56|F|other|94043\n"),
    "ml-1m": ("users.dat", b"1::M::1::10::48067\n2::F::56::16::70072\n"),
}


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("layout", sorted(USERS))
def test_users_have_gender_and_age_group_where_the_layout_knows_them(tmp_path: Path, layout: str, as_zip: bool) -> None:
    name, data = USERS[layout]
    plain = read_movielens(write(tmp_path / "plain", LAYOUTS[layout], as_zip=as_zip))
    log = read_movielens(write(tmp_path / layout, {**LAYOUTS[layout], name: data}, as_zip=as_zip))
    assert log.about == {"1": {"gender": "M", "age": "under-18"}, "2": {"gender": "F", "age": "56-and-over"}}
    assert plain.about == {}
    assert log.fingerprint != plain.fingerprint


@pytest.mark.parametrize("age", [17, 18, 24, 25, 34, 35, 44, 45, 49, 50, 55, 56])
def test_years_fall_into_the_groups_of_ml_1m(tmp_path: Path, age: int) -> None:
    files = {**LAYOUTS["ml-100k"], "u.user": f"1|{age}|F|x|1\n".encode()}
    group = read_movielens(write(tmp_path / "ml-100k", files, as_zip=False)).about["1"]["age"]
    first, _, last = group.partition("-")
    assert {"under": age < 18, "56": age >= 56}.get(first) or int(first) <= age <= int(last)


@pytest.mark.parametrize("line", ["1|24|M|x", "1|24|X|x|1", "1|old|M|x|1", "1|M|24|x|1", ""])
def test_a_malformed_user_is_named(tmp_path: Path, line: str) -> None:
    files = {**LAYOUTS["ml-100k"], "u.user": f"9|30|F|x|1\n{line}\n8|30|F|x|1\n".encode()}
    with pytest.raises(ConfigError, match=r"u\.user, line 2: .*expected 5 fields that begin with id\|age\|gender"):
        read_movielens(write(tmp_path / "ml-100k", files, as_zip=False))


def test_users_of_another_layout_are_not_read(tmp_path: Path) -> None:
    files = {**LAYOUTS["ml-latest-small"], "users.dat": b"whatever\n"}
    assert read_movielens(write(tmp_path / "ml", files, as_zip=False)).about == {}


def test_a_file_without_its_last_line_break_is_whole(tmp_path: Path) -> None:
    files = {name: data.rstrip() for name, data in csv_layout().items()}
    assert len(read_movielens(write(tmp_path / "ml", files, as_zip=False))) == 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,2,3.0", "line 3: '1,2,3.0': expected 4 fields, got 3"),
        ("1,2,3.0,964982703,9", "expected 4 fields, got 5"),
        ("1,x,3.0,964982703", "line 3: 'x': not a number"),
        ("1,2,,964982703", "line 3: '': not a number"),
        ("1,2,nan,964982703", "line 3: 1, 2, nan, 964982703: ratings go"),
        ("1,2,6.0,964982703", "line 3: 1, 2, 6, 964982703: ratings go from 0.5 to 5"),
        ("1,2,3.0,964982703000", "line 3: 1, 2, 3, 9.64982703e+11: timestamps are seconds"),
        ("-1,2,3.0,964982703", "line 3: -1, 2, 3, 964982703: ids are whole numbers"),
        ("", "line 3: '': expected 4 fields, got 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    text = f"userId,movieId,rating,timestamp\n1,1,4.0,964982703\n{line}\n1,1,4.0,964982703\n"
    path = write(tmp_path / "ml", {"ratings.csv": text.encode()}, as_zip=False)
    with pytest.raises(ConfigError) as error:
        read_movielens(path)
    assert expected in str(error.value)
    assert "ratings.csv" in str(error.value)


def test_two_broken_lines_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    text = "userId,movieId,rating,timestamp\n1,1,4.0\n964982703,1,1,4.0,964982703\n"
    with pytest.raises(ConfigError, match=r"line 2: '1,1,4\.0': expected 4 fields, got 3"):
        read_movielens(write(tmp_path / "ml", {"ratings.csv": text.encode()}, as_zip=False))


def test_a_foreign_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1: 'a,b': expected the header"):
        read_movielens(write(tmp_path / "ml", {"ratings.csv": b"a,b\n1,2\n"}, as_zip=False))


def test_chunks_join_and_lines_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.numbers.CHUNK_BYTES", 64)
    good = "".join(f"{n},1,4.0,964982703\n" for n in range(1, 51))
    head = "userId,movieId,rating,timestamp\n"
    path = write(tmp_path / "ml", {"ratings.csv": (head + good).encode()}, as_zip=False)
    assert len(read_movielens(path)) == 50
    (path / "ratings.csv").write_text(head + good + "1,2\n")
    with pytest.raises(ConfigError, match="line 52: '1,2'"):
        read_movielens(path)


def test_a_zip_bomb_and_a_huge_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MIN_SUSPECT_BYTES", 1000)
    path = write(tmp_path / "ml", {"ratings.csv": b"0" * 1_000_000}, as_zip=True)
    with pytest.raises(ConfigError, match="times its size"):
        read_movielens(path)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(ConfigError, match="exceed the limit of 1000"):
        read_movielens(path)


def test_names_that_climb_out_of_a_zip_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("../../ratings.csv", b"evil")
        zipped.writestr("/etc/ratings.csv", b"evil")
        zipped.writestr("ml/ratings.csv", csv_layout()["ratings.csv"])
    assert len(read_movielens(path)) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ml.zip"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip"])
def test_what_is_no_zip_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ml.zip"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="neither a folder nor a zip"):
        read_movielens(path)
