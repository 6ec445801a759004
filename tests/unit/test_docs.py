"""The pages under docs/ keep their word: commands exist with their options, links reach a heading that is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from sluice.cli import sluice

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page: Path) -> list[str]:
    """`sluice …` in its shell blocks, without comments, redirections and the rest of a pipeline."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    found = re.findall(r"^(?:\$ )?(?:[^#\n]*\| *)?(sluice .*)$", joined, re.MULTILINE)
    return [re.split(r"[#>|&]", line)[0].strip() for line in found if not line.startswith("sluice: ")]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "command"), [(p.name, command) for p in PAGES for command in commands(p)])
def test_its_commands_exist_with_their_options(page: str, command: str) -> None:
    _, *words = shlex.split(command)
    context = click.Context(sluice, info_name="sluice")
    found: click.Command = sluice
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, resolved, words = found.resolve_command(context, words)
        assert resolved is not None, name
        found = resolved
    found.make_context("sluice", list(words), parent=context)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=["README.md", *NAMES])
def test_its_links_reach_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        reached = page.parent / file if file else page
        assert reached.exists(), target
        if anchor:
            assert anchor in anchors(reached), target


def test_there_are_commands_to_look_at() -> None:
    """So that a change of how pages are written does not leave the first test empty."""
    assert {"train", "register", "bucket", "route"} <= {line.split()[1] for page in PAGES for line in commands(page)}
