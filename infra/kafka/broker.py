"""One node of Apache Kafka (KRaft): broker and controller in one process, on 127.0.0.1 only."""

from __future__ import annotations

import base64
import subprocess
import uuid
from pathlib import Path

from infra import server
from infra.kafka import jars
from infra.probes import broker_answers
from infra.server import HOST, Server
from sluice.errors import TransportError

__all__ = ["start"]

# Class-data sharing and the serial collector: half a second less at the start, no threads for two cores to share.
JVM = ["-Xshare:auto", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]
LOGGING = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
FORMAT_DEADLINE_S = 60.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
# A topic made by accident has the wrong partitions and retention: ours are made by name, before anything starts.
auto.create.topics.enable=false
delete.topic.enable=true
# One node: every internal topic has one copy.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A first member need not wait three seconds for others.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""


def start(folder: Path, log: Path, port: int, *, memory: str, deadline_s: float) -> Server:
    """A broker that has answered, its log in `folder`. What an earlier run left there is kept and served again.

    memory: the heap, as Java says it (`512m`). Raises ConfigError without Java or Kafka, ServerDied or TransportError.
    """
    java, classpath = jars.java(), f"{jars.find()}/*"
    folder.mkdir(parents=True, exist_ok=True)
    data, config = folder / "log", folder / "server.properties"
    config.write_text(PROPERTIES.format(host=HOST, port=port, controller=server.free_port(), data=data.resolve()))
    if not (data / "meta.properties").is_file():
        _format(java, classpath, config)
    address = f"{HOST}:{port}"
    command = [java, f"-Xmx{memory}", *JVM, *LOGGING, "-cp", classpath, "kafka.Kafka", str(config.resolve())]
    broker = server.start("Apache Kafka", address, command, log, cwd=folder)
    broker.graceful = True
    cluster = _cluster(data)
    return server.wait_for(broker, lambda: broker_answers(address, cluster), deadline_s)


def _format(java: str, classpath: str, config: Path) -> None:
    cluster = "-"
    while cluster.startswith("-"):  # which the tool would take for an option
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [java, *JVM, "-XX:TieredStopAtLevel=1", "-cp", classpath, "kafka.tools.StorageTool", "format"]
    done = subprocess.run(
        [*command, "-t", cluster, "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=FORMAT_DEADLINE_S,
    )
    if done.returncode != 0:
        raise TransportError(f"Apache Kafka cannot format its storage: {' '.join(done.stderr.split())[-300:]}")


def _cluster(data: Path) -> str:
    lines = (data / "meta.properties").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))
