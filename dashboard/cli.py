"""`sluice dashboard`. Libraries: click, uvicorn (uvloop, httptools)."""

from __future__ import annotations

import json
import logging
import threading
import webbrowser
from types import FrameType

import click

from sluice.console.listening import listen
from sluice.console.options import metrics_port_option

__all__ = ["dashboard"]

GRACE_S = 2
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8050, show_default=True, help="0 takes a free one.")
@click.option("--open/--no-browser", "open_browser", default=False, help="Open it in a browser, or not (default).")
@metrics_port_option
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object when it listens.")
def dashboard(host: str, port: int, open_browser: bool, metrics_port: int | None, as_json: bool) -> None:
    """Serve the page that shows experiments as they run.

    It reads topics and Redis and writes nothing, so it may be started, ended and looked at at any time. The page is
    there while Kafka or Redis are away, and says so. SLUICE_TOKEN asks every viewer for it. Runs until Ctrl-C.
    """
    import uvicorn

    from dashboard.app import LOOPBACK, create_app
    from dashboard.service import Service
    from sluice.adapters import logs
    from sluice.adapters.exporter import exporting
    from sluice.settings import Settings

    settings = Settings.load()
    logs.configure("dashboard", settings)
    service = Service(settings)
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    app = create_app(settings, service=service, hosts=LOOPBACK if host in _LOOPBACK else None)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not the inherited one, which ends the process by the signal: being asked to end is no failure.
            service.hub.close()  # streams never end by themselves
            self.force_exit, self.should_exit = self.should_exit, True

    server = Server(
        uvicorn.Config(
            app, access_log=False, log_level="warning", log_config=None, server_header=False, proxy_headers=False,
            lifespan="on", timeout_graceful_shutdown=GRACE_S,
        )
    )  # fmt: skip
    click.echo(json.dumps({"url": url}) if as_json else f"dashboard at {url}")
    if not settings.token and host not in _LOOPBACK:
        logging.getLogger("dashboard").warning("anybody who reaches %s may look: set SLUICE_TOKEN", host)
    if open_browser:
        # The socket listens already. A thread, since a browser in the terminal returns when it is closed.
        threading.Thread(target=_open, args=(url, settings.token), daemon=True).start()
    with exporting(service.metrics, settings, metrics_port):
        server.run(sockets=[listening])


def _open(url: str, token: str) -> None:
    if not webbrowser.open(f"{url}/?token={token}" if token else url):
        logging.getLogger("dashboard").warning("no browser was found: open %s yourself", url)
