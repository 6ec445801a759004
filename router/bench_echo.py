"""The baseline of `sluice bench route`: the smallest FastAPI service that takes and answers JSON."""

from __future__ import annotations

import json
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

__all__ = ["app"]

app = FastAPI()


@app.post("/echo")
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    """What came."""
    return body


if __name__ == "__main__":
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    print(json.dumps({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None)).run(sockets=[listening])
