"""Logs: one JSON object a line, or text; no secret in either; what repeats is told seldom."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.adapters import logs
from sluice.errors import ConfigError
from sluice.settings import Settings

PASSWORDS = ('p"w\\1', "sasl-pw", "token-1", "ml%2Fpw", "ml/pw")
SETTINGS = Settings(
    redis=f"redis://sluice:{PASSWORDS[0]}@cache:6379/0",
    kafka_config={"sasl.password": PASSWORDS[1], "sasl.username": "shown"},
    mlflow=f"postgresql://ml:{PASSWORDS[3]}@db/mlflow",
    token=PASSWORDS[2],
    state=Path("state"),
)


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(wanted: str, act: Any, **options: Any) -> str:
    out = io.StringIO()
    logs.configure("process", SETTINGS, environ={"SLUICE_LOG": wanted}, stream=out, **options)
    act(logging.getLogger("some.place"))
    return out.getvalue()


def test_a_line_is_an_object_with_the_fields_that_were_given() -> None:
    extra = {"experiment": "e", "variant": "b", "partition": 3, "offsets": {"clicks": (1, 2)}, "path": Path("x")}
    (line,) = written("json", lambda log: log.warning("moved\nto %s", "b", extra=extra)).splitlines()
    found = json.loads(line)
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "warning", "logger": "some.place", "service": "process", "message": "moved\nto b",
        "experiment": "e", "variant": "b", "partition": 3, "offsets": {"clicks": [1, 2]}, "path": "x",
    }  # fmt: skip


def test_json_is_the_default_where_nobody_watches_and_text_can_be_had() -> None:
    assert written("", lambda log: log.info("x")).startswith("{")
    assert written("text", lambda log: log.info("x"), text="%(name)s|%(message)s") == "some.place|x\n"
    assert not logs.is_json()


def test_a_terminal_gets_text() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    logs.configure("process", SETTINGS, environ={}, stream=out)
    logging.getLogger("x").info("hello")
    assert out.getvalue().endswith("INFO x: hello\n")


@pytest.mark.parametrize(("wanted", "lines"), [("json,debug", 4), ("INFO", 3), ("warning", 2), (" error , json", 1)])
def test_the_level_can_be_chosen(wanted: str, lines: int) -> None:
    def all_levels(log: logging.Logger) -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "x")

    assert len(written(wanted, all_levels).splitlines()) == lines


def test_what_is_neither_form_nor_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="SLUICE_LOG: 'loud': allowed are json or text"):
        written("loud", lambda log: None)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_is_written(form: str) -> None:
    def careless(log: logging.Logger) -> None:
        log.info("settings %s", vars(SETTINGS))
        for secret in PASSWORDS:
            log.error("cannot connect with %s", secret, extra={"tried": {"deep": [secret]}})
        log.error("redis://other:unknown-pw@host is away")
        try:
            raise ValueError(f"bad {PASSWORDS[1]}")
        except ValueError:
            log.exception("failed")

    text = written(form, careless)
    for secret in (*PASSWORDS, "unknown-pw", repr(PASSWORDS[0])[1:-1], json.dumps(PASSWORDS[0])[1:-1]):
        assert secret not in text
    assert "redis://other:***@host" in text
    assert "shown" in text
    assert "Traceback" in text


@pytest.mark.parametrize("hostile", ["\ud800 half a pair", "\x00\x1b[31m", '"}\n{"level":"error"', "é" * 10_000])
def test_whatever_a_message_holds_a_line_is_one_object(hostile: str) -> None:
    (line,) = written("json", lambda log: log.info("%s", hostile, extra={"experiment": hostile})).splitlines()
    assert json.loads(line)["level"] == "info"


def test_what_repeats_is_told_again_after_half_a_minute() -> None:
    now = 0.0
    seldom = logs.Seldom(lambda: now)
    assert [seldom("a"), seldom("a"), seldom("b"), seldom("a")] == ["", None, "", None]
    now = 30.0
    assert seldom("a") == " (2 more like this since)"
    now = 90.0
    assert seldom("a") == ""


def test_what_seldom_remembers_is_bounded() -> None:
    seldom = logs.Seldom(lambda: 0.0)
    assert all(seldom(number) == "" for number in range(3 * seldom.MOST))
    assert len(seldom._told) <= seldom.MOST
