"""A child of the demo that stands still ends like any other."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.console.demo.children import Child, Children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def state(child: Child) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def serving(children: Children, wait_until: Callable[..., Any]) -> Child:
    child = children.start("files", "0", "--bind", "127.0.0.1", module="http.server", env={"PYTHONUNBUFFERED": "1"})
    wait_until(lambda: "Serving" in child.output(), 30, "it serves")
    return child


def test_a_child_stands_still_until_it_goes_on(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    with Children(os.environ, tmp_path) as children:
        child = serving(children, wait_until)
        child.hold()
        wait_until(lambda: state(child) == "T", 30, "it stands still")
        children.check()  # that is no failure
        child.go_on()
        wait_until(lambda: state(child) != "T", 30, "it goes on")


def test_one_that_stands_still_is_stopped_in_order(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    with Children(os.environ, tmp_path) as children:
        child = serving(children, wait_until)
        child.hold()
        wait_until(lambda: state(child) == "T", 30, "it stands still")
    assert child.code == -signal.SIGTERM, "not killed, after the time that is left to all of them"
