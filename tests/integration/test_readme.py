"""The README keeps its word: its Python runs, its commands exist, its links resolve, real output comes early."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from http_service import serving

from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.cli import COMMANDS, sluice
from sluice.domain.events import DecisionMade, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_output_of_the_demo_comes_by_line_60() -> None:
    lines = README.splitlines()
    assert lines.index("    make demo") < 20
    assert "verify    exact" in lines[:60]


@pytest.fixture(scope="module")
def decided(embedded: Settings) -> Settings:
    """A broker on which experiment `demo` has been decided on."""
    out = producer(embedded)
    for version, verdict in ((1, "no-traffic"), (2, "continue")):
        decision = DecisionMade(
            experiment="demo", version=version, at_ms=0, offsets={}, config_hash="", config={}, seed=0, evidence=(),
            results=(), sample_ratio_p=None, allocation={"a": 50, "b": 50}, allocation_version=1,
            verdict=verdict, reasons=("because",),  # type: ignore[arg-type]
        )  # fmt: skip
        out.produce("decisions", key=b"demo", value=encode(decision))
    assert out.flush(10) == 0
    return embedded


@pytest.fixture(scope="module")
def router(decided: Settings) -> Iterator[str]:
    """Address of a router that ranks by a rule."""
    demo = Experiment(
        name="demo", variants=(Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity"))
    )
    catalogue.apply(decided, [demo])
    with serving(decided) as running:
        yield running.url


@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_runs(
    code: str, decided: Settings, router: str, service_env: Callable[[Settings], dict[str, str]]
) -> None:
    code = code.replace("http://127.0.0.1:8000", router)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=service_env(decided)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def shell_commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line[:2] == "$ "]
    return [line.partition("#")[0].removesuffix("&").strip() for line in lines]


@pytest.mark.parametrize("command", [line for line in shell_commands() if line.startswith("sluice")])
def test_its_commands_and_their_options_exist(command: str) -> None:
    _, *words = shlex.split(command)
    context = click.Context(sluice, info_name="sluice")
    found: click.Command = sluice
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, found, words = found.resolve_command(context, words)  # type: ignore[assignment]
        assert found is not None, name
    found.make_context("sluice", list(words), parent=context)


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {line.split()[1] for line in shell_commands() if line.startswith("make ")} | {"demo"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_table_has_every_command() -> None:
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"`sluice (\w+)", table)) == set(COMMANDS)


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
