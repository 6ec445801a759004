"""Who may look: hosts, tokens, and the headers of every answer."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from dashboard.app import LOOPBACK, create_app
from dashboard.cli import dashboard
from dashboard.guard import COOKIE, HEADERS
from sluice.settings import Settings

TOKEN = "open-sesame-1234"
NOWHERE = "127.0.0.1:9"


class Client:
    """A browser's worth of cookies; nothing is connected, for the application's lifespan does not run."""

    def __init__(self, token: str = "", hosts: frozenset[str] | None = LOOPBACK) -> None:
        settings = Settings(kafka=NOWHERE, redis=f"redis://{NOWHERE}/0", token=token)
        transport = httpx.ASGITransport(create_app(settings, hosts=hosts))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8050")
        self.cookies = self._client.cookies

    def get(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._client.post(path, **more))


@pytest.fixture
def guarded() -> Client:
    return Client(TOKEN)


@pytest.mark.parametrize("path", ["/", "/api/experiments", "/health", "/nowhere", "/static/nowhere.js"])
def test_every_answer_has_the_headers(path: str) -> None:
    found = Client().get(path)
    assert {name: found.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost", "LOCALHOST:1", "[::1]:8050", "[::1]"])
def test_the_names_of_a_loopback_address_are_ours(host: str) -> None:
    assert Client().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8050", "127.0.0.1.evil.com", "localhost.evil.com:1", "", "[::2]:1"]
)
def test_a_name_that_points_here_is_not(host: str) -> None:
    found = Client().get("/api/experiments", headers={"Host": host})
    assert found.status_code == 421 and "127.0.0.1" in found.json()["error"]
    assert Client(hosts=None).get("/health", headers={"Host": host}).status_code == 200


def test_without_the_token_there_is_a_form_and_nothing_else(guarded: Client) -> None:
    page = guarded.get("/")
    assert page.status_code == 401 and '<form method="post"' in page.text and TOKEN not in page.text
    for path in ("/api/experiments", "/api/stream", "/static/nowhere.js", "/nowhere"):
        assert guarded.get(path).status_code == 401, path
    assert guarded.get("/health").status_code == 200


def admitted(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and answer.headers["location"] == "/" and COOKIE in answer.cookies


def test_the_token_in_the_address_becomes_a_cookie(guarded: Client) -> None:
    answer = guarded.get("/", params={"token": TOKEN})
    assert admitted(answer)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert guarded.get("/api/experiments").status_code == 200


def test_the_form_does_the_same(guarded: Client) -> None:
    assert guarded.post("/login", data={"token": "wrong"}).status_code == 401
    assert guarded.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413
    assert admitted(guarded.post("/login", data={"token": TOKEN}))
    assert guarded.get("/api/experiments").status_code == 200


def test_scripts_send_it(guarded: Client) -> None:
    for header, status in ((f"Bearer {TOKEN}", 200), (f"bearer {TOKEN}", 200), ("Bearer wrong", 401), (TOKEN, 401)):
        assert guarded.get("/api/experiments", headers={"Authorization": header}).status_code == status


@pytest.mark.parametrize("given", ["", "wrong", TOKEN + "x", "\x00", "ü"])
def test_what_is_not_the_token_opens_nothing(guarded: Client, given: str) -> None:
    assert guarded.get("/", params={"token": given}).status_code == 401
    guarded.cookies.set(COOKIE, given.encode().hex())
    assert guarded.get("/api/experiments").status_code == 401


def test_without_a_token_nothing_is_asked() -> None:
    assert Client().get("/api/experiments").status_code == 200
    assert Client().get("/login").status_code == 303


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {"SLUICE_KAFKA": NOWHERE, "SLUICE_REDIS": f"redis://{NOWHERE}/0", "SLUICE_STATE": str(tmp_path)}
        found = CliRunner().invoke(dashboard, ["--port", str(taken.getsockname()[1])], env=env)
    assert "address already in use; --port 0 takes a free one" in str(found.exception)


def test_without_servers_the_way_out_is_said(tmp_path: Path) -> None:
    found = CliRunner().invoke(dashboard, ["--port", "0"], env={"SLUICE_STATE": str(tmp_path)})
    assert "start one with `sluice infra up`" in str(found.exception)
