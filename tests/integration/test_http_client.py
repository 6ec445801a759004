"""`sluice.Client` and `sluice.AsyncClient` against a running service, and the OpenAPI document against schemathesis."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from http_service import Running, decision_of, serving

import sluice
from infra import stack as stacks
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.domain.api import UnitBody
from sluice.domain.experiment import Experiment, Variant
from sluice.names import DECISIONS
from sluice.settings import Settings

TOKEN = "secret"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("client"))) as stack:
        variants = (Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity"))
        catalogue.apply(stack.settings, [Experiment(name="demo", variants=variants)])
        client = producer(stack.settings)
        client.produce(DECISIONS, decision_of("demo", 1, {"a": 50, "b": 50}), "demo")
        assert client.flush(10) == 0
        yield replace(stack.settings, token=TOKEN)


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Running]:
    with serving(settings) as running:
        yield running


def test_the_client_speaks_to_the_service(api: Running) -> None:
    with sluice.Client(api.url, token=TOKEN) as client:
        assert client.ready().status == "ready"
        one = client.assign("u1").units[0]
        assert one.given[0].variant in ("a", "b")
        assert one.assignments[0].experiment == "demo"
        several = client.assign([UnitBody(user_id="u1", attributes={"country": "NZ"}), "u2"], experiments=["demo"])
        assert several.units[0].given[0].sticky
        ranked = client.rank("u1", ["1", "2", "3"], top=2, record=True)
        assert (len(ranked.items), ranked.recorded, ranked.variant) == (2, True, one.given[0].variant)
        assert client.click("c1", ranked.items[0].impression_id, "u1").accepted == 1
        assert [found.experiment.name for found in client.experiments()] == ["demo"]
        assert [decision.version for decision in client.decisions()] == [1]
        assert client.counters("demo").known
        with pytest.raises(sluice.RequestRefused, match="404 Not found: name: experiment 'a\\?b&c d'") as refused:
            client.counters("a?b&c d")
        assert refused.value.status == 404
        with pytest.raises(sluice.RequestRefused, match="422 Not valid: items: "):
            client.rank("u1", [])


def test_the_same_with_asyncio(api: Running) -> None:
    async def run() -> None:
        async with sluice.AsyncClient(api.url, token=TOKEN) as client:
            answers = await asyncio.gather(*[client.assign(f"v{n}") for n in range(20)])
            assert {answer.units[0].user_id for answer in answers} == {f"v{n}" for n in range(20)}
            ranked = await client.rank("v1", ["1", "2"])
            assert (await client.click("c", ranked.items[0].impression_id, "v1")).accepted == 1
            assert (await client.ready()).status == "ready"
            assert len(await client.experiments()) == len(await client.decisions()) == 1
            assert (await client.counters("demo")).experiment == "demo"
            with pytest.raises(sluice.RequestRefused):
                await client.rank("u1", [])

    asyncio.run(run())


def test_errors_ask_for_their_reaction(api: Running) -> None:
    with pytest.raises(sluice.RequestRefused, match="401"):
        sluice.Client(api.url, token="wrong").experiments()
    with pytest.raises(sluice.TransportError, match=r"no router answers at http://127\.0\.0\.1:1"):
        sluice.Client("http://127.0.0.1:1").ready()
    with pytest.raises(sluice.ConfigError, match="allowed is http"):
        sluice.Client("127.0.0.1:8000")


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        # A stream never ends.
        ["--exclude-tag", "control", "--exclude-path", "/decisions/stream"],
        # Which experiments are right is more than a schema can say; last, as it stops what the others ask about.
        ["--include-tag", "control", "--exclude-checks", "positive_data_acceptance"],
    ],
    ids=["traffic", "control"],
)
def test_schemathesis_runs_clean(api: Running, part: list[str], tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{api.url}/openapi.json", *part]
    command += ["--header", f"Authorization: Bearer {TOKEN}", "--seed", "1", "--max-examples", "15", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://[::1", "ftp://router"])
def test_addresses_and_tokens_that_cannot_be_are_wrong_use(url: str) -> None:
    with pytest.raises(sluice.ConfigError, match="url: "):
        sluice.Client(url, token="")
    with pytest.raises(sluice.ConfigError, match="token: "):
        sluice.AsyncClient(token="a\nb")


def test_what_is_no_text_is_wrong_use_and_what_is_no_answer_a_failure(api: Running) -> None:
    with sluice.Client(api.url, token="gehe\u00efm") as client:
        with pytest.raises(sluice.ConfigError, match="no text"):
            client.assign("\ud800")
        with pytest.raises(sluice.RequestRefused, match="401"):
            client.assign("u")


@pytest.mark.parametrize("body", [b'{"status":"\xff"}', b"<html>", b"{}", b"[" * 100_000])
def test_what_no_router_answers_is_a_failure(body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with (
            sluice.Client(f"http://127.0.0.1:{server.getsockname()[1]}", token="") as client,
            pytest.raises(sluice.TransportError, match="no answer of a router"),
        ):
            client.ready()
        thread.join(60)
