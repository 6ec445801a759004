"""How the demo's children end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sluice.console.demo.children import Children

DEAF = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)\n"
)


def test_one_that_does_not_listen_is_killed_and_the_others_end_in_order(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    (tmp_path / "deaf.py").write_text(DEAF, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with Children({**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, tmp_path) as children:
        files = children.start("files", "0", "--bind", "127.0.0.1", module="http.server")
        deaf = children.start("deaf", module="deaf")
        wait_until(lambda: "Serving" in files.output() and deaf.output(), 30, "both run")
    assert (deaf.code, files.code) == (-signal.SIGKILL, -signal.SIGTERM)
