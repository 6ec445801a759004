"""Which data is found, mapped columns, the synthetic generator."""

from __future__ import annotations

import csv
import functools
import hashlib
import http.server
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producers import sources
from producers.candidates import LIKED_MILLI, RankedSlates
from producers.slates import cut_slates
from producers.sources import find_data, read_ratings
from producers.synthetic import SyntheticSlates, SyntheticSpec, parse_synthetic
from router import make_ranker
from sluice.errors import ConfigError, TransportError

CSV = "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n"


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text(CSV)
    return folder


def offline(url: str, target: Path) -> None:
    raise TransportError(f"{url}: no route")


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    given, env, folder = make(tmp_path / "given"), make(tmp_path / "env"), tmp_path / "data"
    notices: list[str] = []

    def find(given: str | None, environ: dict[str, str]) -> str:
        return find_data(given, notice=notices.append, environ=environ, folder=folder, download=offline)

    assert find(str(given), {"SLUICE_DATA": str(env)}) == str(given)
    assert find(None, {"SLUICE_DATA": str(env)}) == str(env)
    assert not notices
    assert find(None, {}) == "synthetic"
    assert len(notices) == 1
    assert "SYNTHETIC" in notices[0] and "no route" in notices[0]
    make(folder / "ml-x")
    assert find(None, {}) == str(folder / "ml-x")
    assert find("synthetic:a=0.5", {}) == "synthetic:a=0.5"


def test_a_named_source_is_never_replaced(tmp_path: Path) -> None:
    for given, environ, name in [("/no/such", {}, "--data"), (None, {"SLUICE_DATA": "/no/such"}, "SLUICE_DATA")]:
        with pytest.raises(ConfigError, match=f"{name}: /no/such: no such file"):
            find_data(given, notice=print, environ=environ, folder=tmp_path)


def test_a_download_that_is_not_what_it_should_be_is_not_kept(tmp_path: Path) -> None:
    def wrong(url: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"<html>captive portal</html>")

    notices: list[str] = []
    assert find_data(None, notice=notices.append, environ={}, folder=tmp_path / "d", download=wrong) == "synthetic"
    assert not list((tmp_path / "d").iterdir())


def test_a_table_with_mapped_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["when", "who", "what", "stars", "kinds"])
        rows.writerow(["2020-01-01T00:00:00Z", "ann", "x,y", "4.5", "a|b"])
        rows.writerow(["1577836801", "bob", "z", "-1", ""])
    columns = {"user": "who", "item": "what", "rating": "stars", "time": "when", "genres": "kinds"}
    log = read_ratings(str(path), columns)
    assert (log.users, log.items) == (["ann", "bob"], ["x,y", "z"])
    assert log.at_ms.tolist() == [1577836800000, 1577836801000]
    assert log.rating_milli.tolist() == [4500, -1000]
    assert log.genres["x,y"] == ("a", "b")
    path.write_text(path.read_text() + "yesterday,ann,x,1,\n")
    with pytest.raises(ConfigError, match=r"log\.csv, line 4: .*yesterday"):
        read_ratings(str(path), columns)
    with pytest.raises(ConfigError, match="no column 'nope': it has when, who"):
        read_ratings(str(path), {**columns, "item": "nope"})
    with pytest.raises(ConfigError, match="say which columns"):
        read_ratings(str(path))


def test_parquet_with_mapped_columns(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"u": [1, 2], "i": ["a", "b"], "r": [4.0, 2.0], "t": [1577836800, 1577836801]})
    parquet.write_table(table, tmp_path / "log.parquet")
    log = read_ratings(str(tmp_path / "log.parquet"), {"user": "u", "item": "i", "rating": "r", "time": "t"})
    assert (log.users, log.rating_milli.tolist()) == (["1", "2"], [4000, 2000])


def test_planted_rates_are_met_and_drift_is_straight() -> None:
    spec = parse_synthetic("synthetic:slates=6000,users=50,gap=10s,a=0.5,b=0.4..0.8")
    source = SyntheticSlates(spec, ["b", "a"], k=3, seed=4)
    clicks = np.zeros((6000, 2))
    slates = source.block(0, 6000)
    for slate, items in zip(slates, source.shown(slates), strict=True):
        for column, variant in enumerate(("a", "b")):
            clicks[slate.number, column] = np.mean([item.rating_milli >= LIKED_MILLI for item in items[variant]])
    assert clicks[:, 0].mean() == pytest.approx(0.5, abs=0.015)
    assert clicks[:2000, 1].mean() == pytest.approx(0.4667, abs=0.03)
    assert clicks[4000:, 1].mean() == pytest.approx(0.7333, abs=0.03)
    assert np.diff(source.at_ms).mean() == pytest.approx(10_000, rel=0.1)


def test_each_synthetic_user_is_new_once() -> None:
    source = SyntheticSlates(SyntheticSpec(slates=500, users=40), ["a", "b"], k=2, seed=1)
    met: set[str] = set()
    for slate in [*source.block(0, 300), *source.block(300, 500)]:
        assert slate.attributes == {"history": "returning" if slate.user_id in met else "new"}
        met.add(slate.user_id)
    assert len(met) == 40


def test_the_generator_depends_on_its_seed_alone() -> None:
    one, same, other = (SyntheticSlates(SyntheticSpec(slates=50), ["a", "b"], k=2, seed=s) for s in (1, 1, 2))
    assert one.block(10, 20) == same.block(0, 50)[10:20]
    assert one.block(0, 50) != other.block(0, 50)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_wrong_synthetic_text_is_named() -> None:
    for text in ("synthetic:slates=0", "synthetic:a=1.5", "synthetic:a", "synthetic:=0.5", "synthetic:a=0.5..2"):
        with pytest.raises(ConfigError, match="--data"):
            parse_synthetic(text)
    with pytest.raises(ConfigError, match="no click rate for variant 'b'"):
        SyntheticSlates(parse_synthetic("synthetic:a=0.5"), ["a", "b"], k=1, seed=0)


def test_another_scale_of_ratings_has_its_own_click(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    rows = [f"u,{item},{int(item == 'b')},{1577836800 + n}" for n, item in enumerate("ab" * 10)]
    path.write_text("\n".join(["u,i,r,t", *rows]))
    log = read_ratings(str(path), {"user": "u", "item": "i", "rating": "r", "time": "t"})
    slates = cut_slates(log, size=2, top_k=1)
    source = RankedSlates(slates, {"p": make_ranker("popularity", 0, {})}, k=1, liked_milli=1000)
    best = [shown["p"][0].item_id for shown in source.shown(source.block(0, 10))]
    assert best[2:] == ["b"] * 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of our own with one small data set, as MovieLens serves it."""
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "ml-latest-small.zip", "w") as zipped:
        zipped.writestr("ml-latest-small/ratings.csv", CSV)
        zipped.writestr("ml-latest-small/movies.csv", "movieId,title,genres\n1,T,Drama\n")
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join(10)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_download_is_checked_and_kept(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    monkeypatch.setattr(sources, "DOWNLOAD_URL", f"{server}/ml-latest-small.zip")
    notices: list[str] = []
    assert find_data(None, notice=notices.append, environ={}, folder=folder) == "synthetic"
    assert "SHA-256" in notices[0]
    assert not list(folder.iterdir())

    digests = {
        "ratings.csv": CSV.encode(),
        "movies.csv": b"movieId,title,genres\n1,T,Drama\n",
    }
    monkeypatch.setattr(sources, "SHA256", {n: hashlib.sha256(data).hexdigest() for n, data in digests.items()})
    found = find_data(None, notice=notices.append, environ={}, folder=folder)
    assert found == str(folder / "ml-latest-small.zip")
    assert len(read_ratings(found)) == 1
    assert find_data(None, notice=notices.append, environ={}, folder=folder, download=offline) == found
    assert len(notices) == 1


def test_a_download_that_is_too_large_or_away_is_given_up(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "data" / "x.zip"
    with pytest.raises(TransportError, match=r"(?i)not found"):
        sources.download_zip(f"{server}/nothing.zip", target)
    monkeypatch.setattr(sources, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(TransportError, match="more than 10 bytes"):
        sources.download_zip(f"{server}/ml-latest-small.zip", target)
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
    ],
    ids=["no HTTP", "cut off", "wrong chunk"],
)
def test_a_server_that_breaks_off_is_as_good_as_away(tmp_path: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        target = tmp_path / "data" / "x.zip"
        with pytest.raises(TransportError, match="http://127"):
            sources.download_zip(f"http://127.0.0.1:{listening.getsockname()[1]}/x.zip", target)
        thread.join(10)
    assert not list(tmp_path.glob("data/*"))
