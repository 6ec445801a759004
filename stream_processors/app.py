"""The Faust application: a channel of record batches, the agent that counts them, and a web page.

`faust -A stream_processors.app worker` and `sluice process` both start it. A plain Faust agent hands
every event through asyncio several times; here librdkafka hands over whole batches, a service feeds
them to a channel, and one agent works a batch at a time.

Library: faust-streaming. Its own `exactly_once` is not used: the counting guarantee is in
`stream_processors.partition` and the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import faust
from mode import Service

from sluice.adapters.metrics import Metrics, Reading
from sluice.names import EXPERIMENTS
from sluice.settings import Settings
from stream_processors.faust_auth import credentials
from stream_processors.readings import Lags, lag_readings
from stream_processors.shadow import run_shadow
from stream_processors.worker import Batch, CountingWorker

__all__ = ["app", "build"]

log = logging.getLogger(__name__)

OFFER_AGAIN_S = 1.0


def build(
    settings: Settings, *, web_port: int | None = None, batch_size: int = 10_000, metrics: Metrics | None = None
) -> faust.App:
    """The application, unconnected until it is started. It tells `metrics` what it does."""
    told = metrics or Metrics("process")
    application = faust.App(
        f"sluice-process-{os.getpid()}",
        broker=[f"kafka://{address}" for address in (settings.kafka or "127.0.0.1:9092").split(",")],
        broker_credentials=credentials(settings.kafka_config),
        store="memory://",
        # Faust makes this folder whether or not anything is kept; by default in the working directory.
        datadir=str(Path(tempfile.gettempdir()) / f"sluice-faust-{os.getuid()}"),
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=1,
        web_enabled=web_port is not None,
        web_host="127.0.0.1",
        web_bind="127.0.0.1",
        web_port=web_port or 6066,
        broker_session_timeout=6,
        broker_heartbeat_interval=2,
        broker_request_timeout=30,
        autodiscover=False,
    )
    batches = application.channel(maxsize=1)
    # One thread for consuming and counting: a rebalance never meets a batch half done, and the event loop
    # stays free for the web page and Faust's own heartbeats.
    hands = ThreadPoolExecutor(1, thread_name_prefix="counting")
    known: dict[str, int] = {}
    working: dict[str, CountingWorker] = {}
    offered: list[Batch] = []
    taken = asyncio.Event()
    shadow_lags: Lags = {}

    def readings(worker: CountingWorker) -> Reading:
        yield from worker.readings()
        yield from lag_readings("shadow", shadow_lags)

    async def stop_loudly(error: Exception) -> None:
        # Faust would restart the agent and lose the batch from memory. The next start takes the partitions up
        # from the store.
        log.error("stopped counting: %s", error)
        if not log.isEnabledFor(logging.DEBUG):
            for framework in ("faust", "mode"):  # which would tell the same again, with tracebacks
                logging.getLogger(framework).setLevel(logging.CRITICAL + 1)
        await application.crash(error)

    class Feed(Service):
        """Fetches batches and feeds them to the channel; owns the worker."""

        async def on_start(self) -> None:
            loop = asyncio.get_running_loop()
            worker = working["worker"] = await loop.run_in_executor(
                hands, lambda: CountingWorker(settings, stopping=lambda: self.should_stop, metrics=told)
            )
            told.read_from(lambda: readings(worker), ready=lambda: worker.assigned)

        @Service.task
        async def _feed(self) -> None:
            loop = asyncio.get_running_loop()
            while not self.should_stop:
                try:
                    batch = await loop.run_in_executor(hands, working["worker"].poll, batch_size)
                except Exception as error:  # noqa: BLE001 - told, and the process ends
                    await stop_loudly(error)
                    return
                await self._hand_over(batch)

        async def _hand_over(self, batch: Batch) -> None:
            # Faust empties its channels, and never wakes who waits to put something in, whenever its own consumer
            # group rebalances: a batch is sent until the agent has it.
            offered[:] = [batch]
            taken.clear()
            while offered and not self.should_stop:
                with suppress(TimeoutError):
                    async with asyncio.timeout(OFFER_AGAIN_S):
                        await batches.send(value=batch)
                        await taken.wait()

        async def on_stop(self) -> None:
            told.stop_reading()
            if "worker" in working:
                await asyncio.get_running_loop().run_in_executor(hands, working["worker"].close)
            hands.shutdown(wait=False)

    application.service(Feed)

    class Shadows(Service):
        """Sums up what shadows said, in a thread of its own."""

        async def on_start(self) -> None:
            self.ending = threading.Event()
            self.thread = threading.Thread(
                target=run_shadow, args=(settings, self.ending, shadow_lags), name="shadow", daemon=True
            )
            self.thread.start()

        async def on_stop(self) -> None:
            self.ending.set()
            await asyncio.get_running_loop().run_in_executor(None, self.thread.join, 10)

    application.service(Shadows)

    @application.agent(batches, name="count")
    async def count(stream: Any) -> None:
        loop = asyncio.get_running_loop()
        async for batch in stream:
            if batch not in offered:
                continue  # a copy that was sent before it was known that the first one had arrived
            offered.clear()
            taken.set()
            try:
                await loop.run_in_executor(hands, working["worker"].process, batch)
            except Exception as error:  # noqa: BLE001 - told, and the process ends
                await stop_loudly(error)
                return

    @application.agent(application.topic(EXPERIMENTS, value_type=bytes, value_serializer="raw"), name="catalogue")
    async def catalogue(stream: Any) -> None:
        # Counting does not consult the catalogue; the page says which experiments it knows.
        async for event in stream.events():
            name = (event.message.key or b"").decode(errors="replace")
            if event.value is None:
                known.pop(name, None)
            else:
                known[name] = event.message.offset

    @application.page("/state/")
    async def state(self: Any, request: Any) -> Any:
        worker = working.get("worker")
        return self.json({"experiments": sorted(known), **(worker.state() if worker else {})})

    return application


app = build(Settings.load())
