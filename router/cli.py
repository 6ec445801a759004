"""`sluice route`. Libraries: click, uvicorn (uvloop, httptools)."""

from __future__ import annotations

import gc
import json
import logging
import sys
from types import FrameType

import click

from sluice.console.listening import listen
from sluice.console.options import metrics_port_option

__all__ = ["route"]

SWITCH_S = 0.0005
"""The event loop and the threads that wait for Redis take turns this often at the least; 5 ms would be seen"""
GRACE_S = 3


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--spool-mb", type=click.IntRange(1, 100_000), default=256, show_default=True,
    help="Disk for events while Kafka is away, in the state folder.",
)  # fmt: skip
@metrics_port_option
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object when ready.")
def route(host: str, port: int, spool_mb: int, metrics_port: int | None, as_json: bool) -> None:
    """Serve assignments, rankings and events over HTTP.

    The experiments of the catalogue, sticky assignments in Redis, the exposure log on Kafka. Goes on answering while
    Redis or Kafka are away. SLUICE_TOKEN asks every caller for a bearer token. Runs until Ctrl-C or SIGTERM.
    """
    import uvicorn

    from router.api import create_app
    from router.serving import build_service
    from sluice.adapters import logs
    from sluice.adapters.exporter import exporting
    from sluice.settings import Settings

    settings = Settings.load()
    logs.configure("router", settings)
    listening = listen(host, port)
    sys.setswitchinterval(SWITCH_S)
    try:
        service = build_service(settings, spool_bytes=spool_mb * 1024 * 1024)
    except BaseException:
        listening.close()
        raise
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not the inherited one, which ends the process by the signal: being asked to end is no failure.
            service.begin_closing()
            self.force_exit, self.should_exit = self.should_exit, True

    app = create_app(settings, service=service)
    app.openapi()  # now, and not while requests wait
    # What is loaded now stays for good: to look for garbage among it would stop every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    server = Server(
        uvicorn.Config(
            app, access_log=False, log_level="warning", log_config=None, server_header=False, proxy_headers=False,
            lifespan="on", timeout_graceful_shutdown=GRACE_S,
        )
    )  # fmt: skip
    click.echo(json.dumps({"url": url, "docs": f"{url}/docs"}) if as_json else f"router at {url} · API: {url}/docs")
    if not settings.token and host not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger("router").warning("anybody who reaches %s may use it: set SLUICE_TOKEN", host)
    try:
        with exporting(service.metrics, settings, metrics_port):
            server.run(sockets=[listening])
    finally:
        service.close()  # the application has, unless it never came up
