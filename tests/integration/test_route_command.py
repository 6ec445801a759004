"""`sluice route` as a person starts it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluice.settings import Settings


def test_it_says_where_it_is_and_ends_when_asked(
    embedded: Settings, service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> None:
    environment = service_env(replace(embedded, state=tmp_path))
    command = [sys.executable, "-m", "router", "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        assert httpx.get(f"{told['url']}/ready").json()["status"] == "ready"
        assert httpx.get(told["docs"]).text.startswith("<!doctype html>")
        with httpx.stream("GET", f"{told['url']}/decisions/stream") as stream:
            next(stream.iter_lines())
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--port", "PORT"], 2, "address already in use"),
        (["--host", "192.0.2.1"], 2, "--host 192.0.2.1"),
        (["--port", "70000"], 2, "70000"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], code: int, said: str, service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = [argument.replace("PORT", str(taken.getsockname()[1])) for argument in arguments]
        environment = service_env(Settings(kafka="127.0.0.1:1", redis="redis://127.0.0.1:1/0", state=tmp_path))
        command = [sys.executable, "-m", "sluice", "route", *given]
        done: Any = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("sluice: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_tells_the_options_and_loads_no_server() -> None:
    script = "import sys; from sluice.cli import main\ntry: main(['route', '--help'])\nexcept SystemExit: pass\n"
    script += "print('loaded', [name for name in ('fastapi', 'uvicorn', 'mlflow', 'lightgbm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--spool-mb" in done.stdout
    assert done.stdout.rstrip().endswith("loaded []"), done.stdout
