"""A cluster as it is in earnest: Kafka with TLS and passwords, a Redis user who may do only what the manual grants."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import own_port

from infra import server
from infra.kafka import broker, jars
from sluice.adapters.counters import CounterStore
from sluice.adapters.kafka import cluster_id
from sluice.adapters.redis import connect, server_info
from sluice.errors import TransportError
from sluice.names import Keys
from sluice.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PASSWORD = "correct-horse"
LISTENER = """
listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  username="broker" password="{password}" user_broker="{password}" user_sluice="{password}";
ssl.keystore.location={keys}
ssl.keystore.password={password}
ssl.keystore.type=PKCS12
ssl.truststore.location={keys}
ssl.truststore.password={password}
ssl.truststore.type=PKCS12
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    if reason := jars.missing():
        pytest.fail(f"CI skips nothing: {reason}") if os.environ.get("CI") else pytest.skip(reason)
    folder, port = tmp_path_factory.mktemp("kafka"), own_port()
    keys, authority = folder / "keys.p12", folder / "ca.crt"
    keytool = shutil.which("keytool") or str(Path(jars.java()).resolve().with_name("keytool"))
    store = ["-keystore", str(keys), "-storepass", PASSWORD, "-storetype", "PKCS12", "-alias", "broker"]
    subject = ["-dname", "CN=localhost", "-ext", "SAN=ip:127.0.0.1", "-keyalg", "EC", "-validity", "2"]
    subprocess.run([keytool, "-genkeypair", *store, *subject], check=True, capture_output=True, timeout=60)
    export = [keytool, "-exportcert", "-rfc", *store, "-file", str(authority)]
    subprocess.run(export, check=True, capture_output=True, timeout=60)
    controller = own_port()
    plain = broker.PROPERTIES.format(host=server.HOST, port=port, controller=controller, data=folder / "log")
    secured = LISTENER.format(port=port, controller=controller, keys=keys, password=PASSWORD)
    kept = [line for line in plain.splitlines() if not re.match(r"(advertised\.)?listener(s|\.security)", line)]
    config = folder / "server.properties"
    config.write_text("\n".join(kept) + secured)
    broker._format(jars.java(), f"{jars.find()}/*", config)
    settings = Settings(
        kafka=f"127.0.0.1:{port}",
        kafka_config={
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "sluice",
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(authority),
        },
    )
    command = [jars.java(), "-Xmx512m", *broker.JVM, *broker.LOGGING, "-cp", f"{jars.find()}/*", "kafka.Kafka"]
    started = server.start("Apache Kafka", settings.kafka, [*command, str(config)], folder / "log.txt", cwd=folder)
    server.wait_for(started, lambda: _answers(lambda: cluster_id(settings, 1.0)), 120)
    yield settings
    started.stop()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from infra import redis_server

    executable = redis_server.installed() or redis_server.bundled()
    assert executable
    folder, port = tmp_path_factory.mktemp("redis"), own_port()
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    granted = re.search(r"\(`(~sluice:\*)`\) with `([^`]*)`", re.sub(r"\s+", " ", page))
    assert granted, "the manual says which rights a user of Redis needs"
    rules = f"user default off\nuser sluice on >{PASSWORD} {granted[1]} {granted[2]}\n"
    (folder / "redis.conf").write_text(f"port {port}\nbind 127.0.0.1\nsave ''\nmaxmemory-policy noeviction\n{rules}")
    url = f"redis://sluice:{PASSWORD}@127.0.0.1:{port}/0"
    command = [executable, str(folder / "redis.conf")]
    started = server.start("Redis", f"127.0.0.1:{port}", command, folder / "log.txt", cwd=folder)
    server.wait_for(started, lambda: _answers(lambda: server_info(Settings(redis=url))), 60)
    yield url
    started.stop()


def _answers(ask: Callable[[], Any]) -> bool:
    try:
        return bool(ask())
    except TransportError:
        return False


def test_everything_runs_with_passwords_and_tls(
    kafka: Settings, redis_url: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    environment = {
        **os.environ,
        "SLUICE_KAFKA": kafka.kafka,
        "SLUICE_KAFKA_CONFIG": ",".join(f"{key}={value}" for key, value in kafka.kafka_config.items()),
        "SLUICE_REDIS": redis_url,
        "SLUICE_STATE": str(tmp_path / "state"),
        "SLUICE_LOG": "text",
    }
    settings = Settings.load(environment)

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "sluice", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    logs, children = {}, []
    said = run("infra", "topics") + run("infra", "status")
    try:
        for name in ("process", "analyze", "features"):
            logs[name] = tmp_path / f"{name}.log"
            with logs[name].open("wb") as out:
                command = [sys.executable, "-m", "sluice", name]
                children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
        said += run("replay", "--data", "synthetic:slates=200", "--speed", "max", "--json")
        store = CounterStore(connect(settings), Keys(settings.prefix))
        wait_until(lambda: sum(map(sum, store.offsets(range(4)).values())) > 600, 60, "the events are counted")
        said += run("watch", "decisions", "--from-start", "--limit", "1", "--json")
        said += run("verify")
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(60)
    assert "verify: exact" in said
    assert PASSWORD not in said + "".join(path.read_text() for path in logs.values())
